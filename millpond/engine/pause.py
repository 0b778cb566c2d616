"""Pause: whether a queue receives after a handler said Unavailable."""

from __future__ import annotations

import math
from enum import Enum, auto

from millpond.hub.clock import Clock, Event

#: While nothing gets through the pauses grow up to this.
MAX_PAUSE_SECONDS = 60.0


class PausePhase(Enum):
    """See the table of Pause."""

    RECEIVING = auto()
    PAUSED = auto()
    PROBING = auto()


class Pause:
    """The pause of one queue.

    | from | to | when |
    |---|---|---|
    | RECEIVING | PAUSED | a handler says Unavailable (`begin`) |
    | PAUSED | PAUSED | another one says it (`begin`): the later end counts |
    | PAUSED | PROBING | its time is over: one message at a time is received, the probe |
    | PROBING | PAUSED | a handler says Unavailable again (`begin`): the least time doubles, from 1 s to 60 s |
    | PROBING | RECEIVING | a message that began after the pause got through (`end`) |
    """

    def __init__(self, clock: Clock) -> None:
        self.is_on = False  # PAUSED or PROBING: an attribute, since it is looked at for each message
        self._until = -math.inf
        self._least_seconds: float  # while it is on: the longer the more probes have not got through
        self._clock = clock
        self._probe_over: Event = clock.event()

    @property
    def phase(self) -> PausePhase:
        """Where it is in the table."""
        if not self.is_on:
            return PausePhase.RECEIVING
        return PausePhase.PAUSED if self.seconds_left() else PausePhase.PROBING

    def seconds_left(self) -> float:
        """Seconds until a probe may begin."""
        return max(0.0, self._until - self._clock.now())

    def is_probe(self, started: float) -> bool:
        """Whether a handler that started then is a probe; what began before the pause was over shows nothing."""
        return started >= self._until

    def begin(self, seconds: float) -> None:
        """Receive nothing for these seconds, and for longer where probes have failed already."""
        match self.phase:
            case PausePhase.RECEIVING:
                self._least_seconds = 1.0
            case PausePhase.PROBING:
                self._least_seconds = min(MAX_PAUSE_SECONDS, 2 * self._least_seconds)
        self.is_on = True
        self._until = max(self._until, self._clock.now() + max(seconds, self._least_seconds))
        self.end_probe()

    def end(self) -> None:
        """Receive as before: a probe got through."""
        self.is_on = False
        self.end_probe()

    # The probe: one message at a time

    def begin_probe(self) -> None:
        """Let the next probe wait until this one has ended."""
        self._probe_over.clear()

    def end_probe(self) -> None:
        """Let the next probe begin: this one has ended, whatever it has shown."""
        self._probe_over.set()

    def wait_for_probe(self, seconds: float) -> None:
        """Wait until the probe has ended, these seconds at the most."""
        self._probe_over.wait(seconds)
