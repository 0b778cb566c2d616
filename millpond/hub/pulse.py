"""Pulse: shows when the hub is blocked, and how much time it has had."""

from __future__ import annotations

import math
from collections.abc import Callable

from millpond.hub.clock import Clock, Timer

#: The hub shows this often that it turns.
PULSE_SECONDS = 0.25
#: A timer is always a little late: only what goes beyond this counts as blocked.
SLACK_SECONDS = 0.05
LATE_SECONDS = PULSE_SECONDS + SLACK_SECONDS


class Pulse:
    """The hub's pulse, and a clock that stops with it.

    1. While the hub turns, `last` is never much older than PULSE_SECONDS. The watchdog's thread reads it.
    2. `now` and `timer` are for time limits of handlers: time in which one of them blocked the hub (what a pulse is
       late by) is charged to nobody.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lost_seconds = 0.0  # in which the hub was blocked, so far
        self._worst_seconds = 0.0
        self.last = clock.now()
        self._blocked = (self.last, -math.inf)  # the last block: from and to

    def start(self) -> None:
        """Start to tick. Call it in the hub's own thread."""
        self.last = self._clock.now()
        self._clock.timer(PULSE_SECONDS, self._tick)

    def _tick(self) -> None:
        now = self._clock.now()
        self._worst_seconds = max(self._worst_seconds, now - self.last - PULSE_SECONDS)
        if late := self._late(now):
            self._lost_seconds += late
            self._blocked = (self.last, now)
        self.last = now
        self._clock.timer(PULSE_SECONDS, self._tick)

    def _late(self, now: float) -> float:
        return max(0.0, now - self.last - LATE_SECONDS)

    def now(self) -> float:
        """Seconds that the hub has had: they stop while it is blocked."""
        now = self._clock.now()
        late = now - self.last - LATE_SECONDS  # as in _late, which would cost as much again, each message
        return now - self._lost_seconds - late if late > 0 else now - self._lost_seconds

    def unread_since(self, now: float) -> float:
        """Since when something that is read now may have been there: while the hub is blocked nothing is read."""
        if self._late(now):
            return self.last
        began, ended = self._blocked
        return began if now - ended < PULSE_SECONDS else now

    def timer(self, seconds: float, call: Callable[[], object]) -> Timer:
        """A timer of the real clock: after a block it rings early, and whoever set it looks at `now` again."""
        return self._clock.timer(seconds, call)

    def take_lag_ms(self) -> float:
        """The longest block since the last call, in milliseconds."""
        worst, self._worst_seconds = self._worst_seconds, 0.0
        return worst * 1000
