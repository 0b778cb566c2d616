"""Depths: asks SQS once a minute how deep the queues are, where somebody reads it."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Mapping, MutableMapping, Sequence

import gevent

from millpond.engine.consumer import Consumer
from millpond.errors import AccessDenied, QueueError
from millpond.foreign.number import number_within
from millpond.foreign.text import shown
from millpond.observe import log
from millpond.process.core import Core
from millpond.process.snapshot import QueueDepth
from millpond.sqs.sqs_queue import SqsQueue

#: Between two times that a queue is asked: a call a minute for it, and one for its dead letters, are 3.5 cents a month.
DEPTH_SECONDS = 60.0
#: The first time comes within this: workers of one deploy do not ask at the same moment.
FIRST_DEPTH_SECONDS = 10.0
#: Who looks waits this long for SQS.
DEPTH_LOOK_SECONDS = 2.0
#: More than that in one queue is no number of messages.
MAX_MESSAGES = 10**15

Waited = Callable[[str], float | None]


class Depths:
    """Asks for the depth of each queue, and puts it into `found`. A queue that denies it is not asked again.

    `waited_seconds(queue)`: how long the last messages of a queue have waited in it.
    """

    def __init__(self, core: Core, found: MutableMapping[str, QueueDepth], waited_seconds: Waited) -> None:
        self._core = core
        self._found = found
        self._waited_seconds = waited_seconds
        self._denied: set[str] = set()
        self._consumers: Sequence[Consumer] = ()
        self._asking: gevent.Greenlet | None = None

    def watch(self, consumers: Sequence[Consumer]) -> None:
        """These are the queues."""
        self._consumers = consumers

    def refresh(self) -> None:
        """Somebody looks: ask now for what is older than a minute. What is not answered soon is not waited for."""
        if self._asking is None or self._asking.ready():
            self._asking = gevent.spawn(self._ask_all)
        self._asking.join(DEPTH_LOOK_SECONDS)

    def _ask_all(self) -> None:
        oldest = self._core.clock.time() - DEPTH_SECONDS
        for consumer in self._consumers:
            if consumer.name not in self._found or self._found[consumer.name].asked <= oldest:
                self._found[consumer.name] = self._ask(consumer)

    def run(self) -> None:
        """Ask each minute, until the drain begins."""
        seconds = random.uniform(1.0, FIRST_DEPTH_SECONDS)
        while not self._core.wait(seconds):
            for consumer in self._consumers:
                self._found[consumer.name] = self._ask(consumer)
            seconds = DEPTH_SECONDS

    def _ask(self, consumer: Consumer) -> QueueDepth:
        counts, dead = self._counts(consumer, consumer.queue), consumer.dead_letters
        letters = self._counts(consumer, dead) if dead is not None else {}
        waited, now = self._waited_seconds(consumer.name), self._core.clock.time()
        return depth_of(counts, letters, consumer.in_hand, waited, now)

    def _counts(self, consumer: Consumer, queue: SqsQueue) -> dict[str, int]:
        """What SQS says; nothing where it does not."""
        if queue.url in self._denied:
            return {}
        try:
            return counts_in(queue.attributes())
        except AccessDenied as error:
            self._denied.add(queue.url)
            text = f"the depth of {shown(queue.url)} is not known: allow sqs:GetQueueAttributes there ({shown(error)})"
            log.event(logging.INFO, "queue.depth_unknown", text, queue=consumer.name, code=error.code)
        except QueueError:
            pass  # the polls say what is wrong
        return {}


def depth_of(
    counts: Mapping[str, int], letters: Mapping[str, int], in_hand: int, waited_seconds: float | None, now: float
) -> QueueDepth:
    """The depth of a queue by SQS's `counts` of it and of its dead letters, and by what is in hand here."""
    visible, in_flight = counts.get("visible"), counts.get("in_flight", 0)
    return QueueDepth(
        asked=now,
        visible=visible,
        in_flight=counts.get("in_flight"),
        delayed=counts.get("delayed"),
        oldest_seconds=0.0 if visible == 0 else waited_seconds,
        dead_letters=sum(letters.values()) if letters else None,
        backlog_per_worker=None if visible is None else visible * share_of(in_hand, in_flight),
    )


def share_of(in_hand: int, in_flight: int) -> float:
    """This worker's part of the work: of what all have, what it has. Nobody has anything: all of it, since it may be
    the only one."""
    return min(1.0, in_hand / in_flight) if in_flight else 1.0


def counts_in(attributes: Mapping[str, str]) -> dict[str, int]:
    """The three numbers of messages that SQS tells: visible, in flight and delayed."""
    names = {"visible": "", "in_flight": "NotVisible", "delayed": "Delayed"}
    found = {name: attributes.get(f"ApproximateNumberOfMessages{part}") for name, part in names.items()}
    return {name: number_within(count, 0, MAX_MESSAGES, 0) for name, count in found.items()}
