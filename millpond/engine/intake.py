"""Intake: whether a queue receives at its full width, or only looks now and then."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum

from millpond.engine.permits import Share
from millpond.hub.clock import Clock, Event

#: This many messages in a row were all held: the queue has no others, as far as can be seen.
HELD_IN_A_ROW = 50
#: Seconds between two looks: the first time, and at most.
FIRST_GAP_SECONDS, MAX_GAP_SECONDS = 1.0, 20.0
#: This soon after a look it is known whether its message began.
BEGUN_SECONDS = 0.1


class IntakeState(Enum):
    """How a queue receives.

    | from | to | when |
    |---|---|---|
    | WIDE | NARROW | `Intake.narrow`: a line is full, and the last messages that came were all held |
    | NARROW | WIDE | `Intake.widen`: a line is half empty, or a look has brought a message that began |
    """

    WIDE = "wide"
    NARROW = "narrow"


WIDE, NARROW = IntakeState


class Intake:
    """The intake of one queue.

    An open breaker that goes on receiving uses up the receives of messages that it cannot hold (maxReceiveCount). So
    where nothing else is in sight, receiving stops, but for a look: one receive of one message. While no type of the
    process may begin, there is no look either.

    `taken`: how many of the messages received so far have reached a slot, or wait for the one before in their group.
    """

    def __init__(self, taken: Callable[[], int], may_any_begin: Callable[[], bool], share: Share, clock: Clock) -> None:
        self.state = WIDE
        self._taken = taken
        self._came = 0  # that were held as they came, or found no room
        self._may_any_begin = may_any_begin
        self._share = share
        self._seen_others = 0
        self._held_in_a_row = 0
        self._gap_seconds: float
        self._wider: Event = clock.event()

    @property
    def is_narrow(self) -> bool:
        return self.state is NARROW

    def _others(self) -> int:
        return self._taken() - self._came

    def count_held(self) -> None:
        """Count a message that was held as it came, or found no room."""
        self._came += 1
        others = self._others()
        self._held_in_a_row = 1 if others > self._seen_others else self._held_in_a_row + 1
        self._seen_others = others

    def narrow(self) -> None:
        """A line of this queue is full: look only, unless there were other messages."""
        if self.state is WIDE and self._held_in_a_row >= HELD_IN_A_ROW:
            self.state = NARROW
            self._gap_seconds = FIRST_GAP_SECONDS
            self._wider.clear()
            self._share.dismiss()  # pollers that wait for permits for more

    def widen(self) -> None:
        """Receive as before."""
        if self.state is NARROW:
            self.state = WIDE
            self._wider.set()

    def wait_for_look(self) -> bool:
        """Wait until a look is due. False: it is not due, the queue may be wide again."""
        if not self._wider.wait(BEGUN_SECONDS) and self._others() > self._seen_others:
            self.widen()
        may_begin = self._may_any_begin()
        self._wider.wait(self._gap_seconds if may_begin else MAX_GAP_SECONDS)
        return self.is_narrow and may_begin

    def looked(self, got: int) -> None:
        """A look is over. One that brings nothing has waited long enough."""
        self._gap_seconds = min(MAX_GAP_SECONDS, 2 * self._gap_seconds) if got else 0.0

    def stop(self) -> None:
        """Let nobody wait: the drain begins."""
        self._wider.set()
