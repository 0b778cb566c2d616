"""Receiving: whether the pollers of a queue may begin a receive."""

from __future__ import annotations

from enum import Enum

from millpond.hub.clock import Clock, Event


class ReceivingState(Enum):
    """Whether a queue receives.

    | from | to | when |
    |---|---|---|
    | RECEIVING | QUIET | `Receiving.quiet`: an operator asks for it; what is in hand goes on |
    | QUIET | RECEIVING | `Receiving.resume`: an operator asks for that |
    | RECEIVING, QUIET | STOPPED | `Receiving.stop`: the drain begins; it has no end |
    """

    RECEIVING = "receiving"
    QUIET = "quiet"
    STOPPED = "stopped"


RECEIVING, QUIET, STOPPED = ReceivingState


class Receiving:
    """The state of one queue, and those of its pollers that wait for another one."""

    def __init__(self, clock: Clock) -> None:
        self.state: ReceivingState = RECEIVING
        self._changed: Event = clock.event()  # not QUIET any more
        self._changed.set()
        self._stopped: Event = clock.event()

    def quiet(self) -> None:
        """Let no receive begin until `resume`. Once it is stopped, nothing changes that."""
        if self.state is RECEIVING:
            self.state = QUIET
            self._changed.clear()

    def resume(self) -> None:
        """Let receives begin again."""
        if self.state is QUIET:
            self.state = RECEIVING
            self._changed.set()

    def stop(self) -> None:
        """Let no receive begin any more: the drain begins."""
        self.state = STOPPED
        self._changed.set()
        self._stopped.set()

    def may_begin(self) -> bool:
        """Wait while it is quiet. False: it is stopped."""
        if self.state is QUIET:
            self._changed.wait()
        return self.state is not STOPPED

    def rest(self, seconds: float) -> None:
        """Wait, but not past the stop."""
        self._stopped.wait(seconds)
