"""Drain: from the signal to the exit. Handlers finish; what cannot finish is given back."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence

import gevent

from millpond.engine.consumer import Consumer
from millpond.errors import Stopped
from millpond.hub.clock import Clock, Event
from millpond.observe import log
from millpond.observe.screen import counted
from millpond.process.core import Core

#: The end of drain_seconds that is kept for giving back what was interrupted: a fifth, 3 s at the most.
RESERVE_SHARE, MAX_RESERVE_SECONDS = 0.2, 3.0
#: teardown() has this long at the most.
TEARDOWN_SECONDS = 10.0


def reserve_seconds(drain_seconds: float) -> float:
    """How long before the end of the drain handlers are interrupted."""
    return min(MAX_RESERVE_SECONDS, drain_seconds * RESERVE_SHARE)


class Drain:
    """Ends the work of one process, by a deadline.

    1. No receive begins. Handlers go on, their beats too; what no slot has taken is held until no poll is open.
    2. Some seconds before the deadline (`reserve_seconds`) handlers are interrupted, and their messages given back.
    3. A slot whose handler still runs is written off, and its message given back; then come the teardowns.
    """

    def __init__(self, core: Core, consumers: Sequence[Consumer]) -> None:
        self._core = core
        self._consumers = consumers
        self._deadline = core.stopped_at + core.drain_seconds
        self._reserve = reserve_seconds(core.drain_seconds)

    def run(self, close_polls: Callable[[], object]) -> None:
        """Settle or give back all that is in hand. `close_polls`: the local queue answers its open polls."""
        core = self._core
        self._log_beginning()
        for consumer in self._consumers:
            consumer.drain(self._deadline)
        close_polls()
        if self._is_idle_at_emulators():
            for consumer in self._consumers:
                consumer.pollers.abandon()
        for work, delivery in core.pool.take_ready():
            work(delivery)  # a consumer that drains holds it back
        settled = gevent.spawn(gevent.joinall, [core.spawn(_settle, consumer) for consumer in self._consumers])
        settled.rawlink(lambda _: core.over.set())
        self._wait(core.over, self._deadline - self._reserve)
        if not settled.ready():
            self._interrupt()

    def _is_idle_at_emulators(self) -> bool:
        """Nothing is in hand, and no poll is open but at emulators on this machine: to wait 20 s for one serves nobody.

        What such a poll takes when its worker has gone is visible again after its visibility time-out.
        """
        return all(consumer.at_loopback and not consumer.in_hand for consumer in self._consumers)

    def _interrupt(self) -> None:
        clock = self._core.clock
        give_back_running(self._consumers, min(self._deadline - clock.now(), self._reserve), clock)

    def _wait(self, event: Event, until: float) -> None:
        event.wait(None if math.isinf(until) else max(0.0, until - self._core.clock.now()))

    def tear_down(self, teardowns: Sequence[Callable[[], object]]) -> None:
        """Call each teardown(), side by side, and end the slots."""
        left = self._deadline - self._core.clock.now() - 0.1
        greenlets = [gevent.spawn(teardown) for teardown in teardowns]
        gevent.joinall(greenlets, timeout=max(0.1, min(TEARDOWN_SECONDS, left)))
        self._core.pool.close(0.0 if any(consumer.in_hand for consumer in self._consumers) else 0.1)

    def _log_beginning(self) -> None:
        core, in_hand = self._core, sum(consumer.in_hand for consumer in self._consumers)
        limit = "until all is done" if math.isinf(core.drain_seconds) else f"for at most {core.drain_seconds:g} s"
        why = "no queue has a message left" if core.why == "empty" else core.why
        text = f"{why}: the worker finishes {counted(in_hand, 'message')} in hand, {limit}"
        if not in_hand:
            text = f"{why}: nothing is in hand"
        now = core.clock.now()
        no_wait = self._is_idle_at_emulators()
        at_sqs = [one for one in self._consumers if not (one.in_memory or no_wait)]  # the local queue answers at once
        polls = max((consumer.pollers.open_until() - now for consumer in at_sqs), default=0.0)
        if polls > 0:
            text += f"; SQS may hold the worker's long poll open for {polls:.0f} s, and the worker waits for it"
            text += "" if in_hand else f" {limit}"
        if core.why == "SIGINT":
            text += "; Ctrl-C again gives everything back at once"
        log.event(logging.INFO, "worker.draining", text, why=core.why, in_hand=in_hand)


def give_back_running(consumers: Sequence[Consumer], seconds: float, clock: Clock) -> None:
    """Interrupt what runs, and give back what has not begun; then give back what still runs as well."""
    for consumer in consumers:
        consumer.interrupt(Stopped)
        consumer.give_back_held()
    idle = clock.event()
    waiting = gevent.spawn(lambda: [consumer.hand.idle.wait() for consumer in consumers])
    waiting.rawlink(lambda _: idle.set())
    idle.wait(max(0.0, seconds / 2))
    for consumer in consumers:
        consumer.write_off_running()
    idle.wait(max(0.0, seconds / 2 - min(0.1, seconds / 10)))


def _settle(consumer: Consumer) -> None:
    """What no slot has taken waits until no open poll of its own queue could fetch it again."""
    consumer.pollers.ended.wait()
    consumer.give_back_held()
    consumer.hand.idle.wait()
