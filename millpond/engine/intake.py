"""Intake: whether a queue receives at its full width, or only looks now and then."""

from __future__ import annotations

from enum import Enum
from typing import Protocol

from millpond.engine.delivery import Line
from millpond.engine.permits import Share
from millpond.hub.clock import Clock, Event

#: Where a message of another type began within this time, receiving goes on.
BESIDE_SECONDS = 5.0
#: This often is looked whether one did: that counts all in hand.
BESIDE_LOOK_SECONDS = 0.5
#: This many in a row for which there was no room are enough where no other type has begun since the boot: each further
#: one loses a receive. Where one has, receiving goes on for BESIDE_SECONDS: it may stand behind a long row of these.
NO_ROOM_IN_A_ROW = 500
#: Seconds between two looks: the first time, and at most.
FIRST_GAP_SECONDS, MAX_GAP_SECONDS = 1.0, 20.0
#: This soon after a look it is known whether its message began.
BEGUN_SECONDS = 0.1


class IntakeState(Enum):
    """How a queue receives.

    | from | to | when |
    |---|---|---|
    | WIDE | NARROW | `Intake.full`: a line is full, and none of another type has begun for a while, or has come |
    | NARROW | WIDE | `Intake.widen`: a line is half empty, or a look has brought a message that began |
    """

    WIDE = "wide"
    NARROW = "narrow"


WIDE, NARROW = IntakeState


class Traffic(Protocol):
    """What the consumer of a queue knows of its messages."""

    def taken(self) -> int:
        """How many of those received so far have reached a slot, or wait for the one before in their group."""

    def may_begin_beside(self, line: Line | None) -> bool:
        """Whether the breaker of any other type than this line's is closed."""

    def begun_beside(self, line: Line | None) -> int:
        """How many of these types have begun so far."""


class Intake:
    """The intake of one queue.

    A breaker that is open and goes on receiving uses up the receives of messages that it cannot hold (maxReceiveCount).
    So where nothing else is in sight, receiving stops, but for a look: one receive of one message. While no other type
    of the process may begin, there is no look either.
    """

    def __init__(self, traffic: Traffic, share: Share, clock: Clock) -> None:
        self.state: IntakeState = WIDE
        self._traffic = traffic
        self._share = share
        self._clock = clock
        self._line: Line | None = None  # that is full
        self._came = 0  # messages that were held as they came, or found no room
        self._seen_others = 0  # messages that were not
        self._in_a_row = 0  # messages since the last of these, that came with a full line
        self._begun: dict[Line | None, int] = {}  # beside each line, by the last look
        self._begun_at = clock.now()
        self._looked_at = clock.now()
        self._gap_seconds: float
        self._wider: Event = clock.event()

    @property
    def is_narrow(self) -> bool:
        return self.state is NARROW

    def count_held(self) -> None:
        """Count a message that was held as it came, or found no room."""
        self._came += 1
        others = self._others()  # fewer, while one that was held is on its way to a slot
        if others > self._seen_others:
            self._seen_others, self._in_a_row = others, 0

    def _others(self) -> int:
        return self._traffic.taken() - self._came

    def full(self, line: Line | None, in_any_case: bool = False) -> None:
        """This line is full, or the whole hold: look only, unless others begin (`in_any_case`: or not)."""
        self._in_a_row += 1
        if self.state is WIDE and (in_any_case or not self._others_begin(line, self._clock.now())):
            self.state = NARROW
            self._line = line
            self._gap_seconds = FIRST_GAP_SECONDS
            self._wider.clear()
            self._share.dismiss()  # pollers that wait for permits for more

    def _others_begin(self, line: Line | None, now: float) -> bool:
        if not self._traffic.may_begin_beside(line) or self._is_alone(line):
            return False
        if now >= self._looked_at + BESIDE_LOOK_SECONDS:
            self._looked_at = now
            begun = self._traffic.begun_beside(line)
            if begun > self._begun.get(line, 0):
                self._begun_at = now
            self._begun[line] = begun
        return now < self._begun_at + BESIDE_SECONDS

    def _is_alone(self, line: Line | None) -> bool:
        """Whether this line's type is the only one in sight, since the boot and for long enough."""
        long_enough = self._in_a_row >= NO_ROOM_IN_A_ROW
        return long_enough and not self._begun.get(line) and not self._traffic.begun_beside(line)

    def widen(self) -> None:
        """Receive as before."""
        if self.state is NARROW:
            self.state = WIDE
            self._wider.set()

    def wait_for_look(self) -> bool:
        """Wait until a look is due. False: it is not due, the queue may be wide again."""
        if not self._wider.wait(BEGUN_SECONDS) and self._others() > self._seen_others:
            self._begun_at = self._clock.now()
            self.widen()
        may_begin = self._traffic.may_begin_beside(self._line)
        self._wider.wait(self._gap_seconds if may_begin else MAX_GAP_SECONDS)
        return self.is_narrow and may_begin

    def looked(self, got: int) -> None:
        """A look is over. One that brings nothing has waited long enough."""
        self._gap_seconds = min(MAX_GAP_SECONDS, max(FIRST_GAP_SECONDS, 2 * self._gap_seconds)) if got else 0.0

    def stop(self) -> None:
        """Let nobody wait: the drain begins."""
        self._wider.set()
