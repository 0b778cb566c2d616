"""Report: what a process says of its work: each half minute, and at its end, with the exit code."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import gevent

from millpond.engine.consumer import Consumer
from millpond.engine.delivery_state import SETTLING
from millpond.errors import FINISHED, QueueError
from millpond.observe import log
from millpond.observe.screen import counted
from millpond.process.core import Core
from millpond.process.depths import counts_in
from millpond.process.refusals import Refusals

#: SQS's counts lag behind: what they say is left is asked for again this often.
LEFT_CHECKS, LEFT_CHECK_SECONDS = 3, 0.5
#: The most messages of a queue that are named, of what is left in hand.
MOST_NAMED = 100


def log_progress(consumer: Consumer) -> None:
    """Log the numbers of a queue that has something in hand."""
    if consumer.in_hand:
        numbers, name = numbers_of(consumer), consumer.name
        done = f"{numbers.get('succeeded', 0):,} succeeded"
        ready, held = consumer.ready, consumer.hold.number
        of_them = f"{ready:,} of them ready, {held:,} held" if held else f"{ready:,} of them ready"
        text = f"{name}: {consumer.in_hand:,} in hand, {of_them}, {done}"
        log.event(logging.INFO, "worker.progress", text, **numbers)


def log_end(core: Core, consumers: Sequence[Consumer], refusals: Refusals, until_empty: bool) -> int:
    """Log what became of all that was received; return the exit code. `until_empty`: what is left in queues counts."""
    end = {"why": core.why, "seconds": round(core.clock.now() - core.started, 1)}
    left = any(consumer.hand.left() for consumer in consumers)
    if until_empty and not left and core.exit_code == FINISHED:  # else the answers, 10 s each at worst, decide nothing
        found = [_log_what_is_left(core, consumer, refusals) for consumer in consumers]
        left = any(found)
    core.exit_code = core.end_code(left)
    end |= {"stuck": core.pool.written_off, "exit_code": core.exit_code}
    for consumer in consumers:
        requests = {"requests": consumer.requests, "requests_per_1000": consumer.requests_per_1000}
        numbers = numbers_of(consumer)
        done = f"{numbers.get('succeeded', 0):,} of {consumer.books.received:,} messages succeeded"
        text = f"{consumer.name}: stopped ({core.why}); {done}"
        log_what_is_unsettled(consumer, "the worker ended")
        log.event(logging.INFO, "worker.stopped", text, **numbers, **requests, **end)
        _log_what_is_gone(consumer)
    if not consumers:
        log.event(logging.INFO, "worker.stopped", f"stopped ({core.why}) before a queue was ready", **end)
    return core.exit_code


def _log_what_is_left(core: Core, consumer: Consumer, refusals: Refusals) -> bool:
    """Log what --until-empty could not do: messages with other consumers, delayed ones, dead letters."""
    found: list[tuple[str, dict[str, int]]] = []
    if letters := _dead_letter_count(consumer):
        found.append((f"{counted(letters, 'message')} went to the dead-letter queue, with the reasons", {}))
    if refusals.refuses(consumer):
        found.append(("nothing could be received from this queue", {}))
    counts = _counts_left(core, consumer)
    if any(counts.values()):
        found.append(("messages are left in the queue", counts))
    for text, fields in found:
        log.event(logging.WARNING, "queue.left", text, queue=consumer.name, **fields)
    return bool(found)


def log_what_is_unsettled(consumer: Consumer, end: str) -> None:
    """Name what has ended and is left in hand: where it was done, only this line says whose effect may come twice."""
    ended = [delivery for delivery in consumer.hand.deliveries.values() if delivery.state is SETTLING]
    for delivery in ended[:MOST_NAMED]:
        name = delivery.outcome.name
        text = f"its outcome ({name}) could not be settled before {end}: it comes back, and may run again"
        log.event(logging.ERROR, "message.unsettled", text, **delivery.identity(), outcome=name)


def _counts_left(core: Core, consumer: Consumer) -> dict[str, int]:
    counts = _counts(consumer)
    for _ in range(LEFT_CHECKS if core.why == "empty" else 0):  # a signal leaves no time to ask again
        if not any(counts.values()):
            break
        gevent.sleep(LEFT_CHECK_SECONDS)
        counts = _counts(consumer)
    return counts


def _log_what_is_gone(consumer: Consumer) -> None:
    """The local queue keeps messages in memory only."""
    if not consumer.in_memory:
        return
    waiting, letters = sum(_counts(consumer).values()), _dead_letter_count(consumer)
    if waiting or letters:
        gone = f"{counted(waiting, 'waiting message')} and {counted(letters, 'dead letter')}"
        text = f"{gone} are gone: the local queue was in the memory of this process"
        log.event(logging.WARNING, "local.gone", text, queue=consumer.name)


def numbers_of(consumer: Consumer) -> dict[str, Any]:
    """The books of a queue, and what is in hand of it."""
    books = consumer.books
    numbers = {"queue": consumer.name, "received": books.received, **books.outcomes, **books.causes}
    numbers |= {"follow_ups_dead_lettered": books.follow_ups_dead_lettered} if books.follow_ups_dead_lettered else {}
    numbers |= {"redelivered": books.redelivered} if books.redelivered else {}
    return {**numbers, "in_hand": consumer.in_hand, "abandoned": books.abandoned}


def _dead_letter_count(consumer: Consumer) -> int:
    return consumer.books.outcomes["dead_lettered"] + consumer.books.follow_ups_dead_lettered


def _counts(consumer: Consumer) -> dict[str, int]:
    """How many messages SQS says there are; nothing where it does not say."""
    try:
        attributes = consumer.queue.attributes()
    except QueueError:
        return {}
    return counts_in(attributes)
