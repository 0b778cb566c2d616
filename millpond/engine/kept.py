"""Kept: messages at their last permitted receive, which wait in hand for what they could not have yet."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable

from millpond.engine.delivery import Delivery
from millpond.hub.clock import Clock, Timer
from millpond.observe import log

#: What goes on is told this often.
LOG_SECONDS = 60.0


class Kept:
    """SQS buries without a word what is given back at its last permitted receive. What did not fail stays here instead.

    1. What waits for its time (`wait`) is given to `again` then.
    2. What waits for a server that is down stands in line (`stand_in_line`): one after another is the probe (`next`).
       Whoever cannot be held any longer before its turn has come is given up.

    The leases are held meanwhile, by their own heartbeats.
    """

    def __init__(self, queue: str, again: Callable[[Delivery], object], clock: Clock) -> None:
        self._queue = queue
        self._again = again
        self._clock = clock
        self._waiting: dict[Delivery, Timer] = {}
        self._line: dict[Delivery, Timer] = {}  # in its order
        self._told = -math.inf

    def wait(self, delivery: Delivery, seconds: float) -> None:
        """It is due in so many seconds."""
        self._waiting[delivery] = self._clock.timer(seconds, lambda: self._due(delivery))

    def stand_in_line(self, delivery: Delivery, seconds: float, give_up: Callable[[], object]) -> None:
        """Its turn must come in so many seconds."""

        def end() -> None:
            del self._line[delivery]
            give_up()

        self._line[delivery] = self._clock.timer(seconds, end)

    def next(self) -> Delivery | None:
        """Take out the first of the line."""
        if not self._line:
            return None
        delivery = next(iter(self._line))
        self._line.pop(delivery).cancel()
        return delivery

    def end_line(self) -> None:
        """The server is back: all in line are due."""
        while (delivery := self.next()) is not None:
            self.wait(delivery, 0.0)

    def take_all(self) -> list[Delivery]:
        """Take out all of them."""
        timers = self._waiting | self._line
        for timer in timers.values():
            timer.cancel()
        self._waiting.clear()
        self._line.clear()
        return list(timers)

    def tell(self, max_receive_count: int) -> None:
        """At once, and each minute in which there is one more."""
        if (now := self._clock.now()) < self._told + LOG_SECONDS:
            return
        self._told = now
        number = len(self._waiting) + len(self._line)
        stay = "1 message stays in hand until it" if number == 1 else f"{number} messages stay in hand until they"
        text = f"maxReceiveCount = {max_receive_count} is reached: {stay} can run; raise maxReceiveCount"
        log.event(logging.WARNING, "queue.kept", text, queue=self._queue)

    def _due(self, delivery: Delivery) -> None:
        del self._waiting[delivery]
        self._again(delivery)
