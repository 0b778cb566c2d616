"""Delivery: one message in this worker's hands, and the only way to interrupt its handler."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gevent import getcurrent

from millpond.clock import Clock, Timer
from millpond.envelope import Envelope
from millpond.errors import Interrupt, TimeLimitExceeded
from millpond.lease import Lease
from millpond.message import Message, Outcome
from millpond.queue import Received

#: A handler that is still inside after an interrupt gets it again each second ...
REPEAT_SECONDS = 1.0
#: ... this often; then it is stuck, and its slot is written off.
MAX_INTERRUPTS = 10


class Delivery:
    """One message in one pair of hands.

    1. It knows whether a greenlet is inside its handler: between `enter` and `leave`.
    2. `interrupt` reaches that greenlet, and no other: the throw comes from the hub, which checks in the same step
       that the greenlet is still inside; there is no switch between the handler's end and `leave`.
    3. It is settled once: by whoever comes first to `claim` it.

    `work` is what a slot of the pool does with it. `stuck` is told where a handler swallows every interrupt.
    """

    lease: Lease
    outcome: Outcome  # set when it is settled
    work: Callable[[Delivery], object]
    stuck: Callable[[Delivery], object]

    __slots__ = (
        "_clock",
        "_limit_at",
        "_timer",
        "_times",
        "_wanted",
        "claimed",
        "ended",
        "envelope",
        "greenlet",
        "interrupted",
        "lease",
        "message",
        "outcome",
        "received",
        "received_time",
        "settling_since",
        "started",
        "stuck",
        "unsent",
        "work",
    )

    def __init__(self, received: Received, clock: Clock) -> None:
        self.received = received
        self.received_time = clock.time()
        # Both are known once the envelope is open; the engine reads the envelope, for the message is its handler's.
        self.envelope: Envelope | None = None
        self.message: Message | None = None
        self.greenlet: Any = None  # the one inside the handler
        self.interrupted: Interrupt | None = None  # what was thrown into the handler, first of all
        self.started = 0.0  # on the clock; 0.0 where the handler never ran
        self.ended = 0.0
        self.settling_since = 0.0
        self.unsent = 0  # copies and follow-ups to confirm before the delete
        self._clock = clock
        self.claimed = False  # its outcome is known, and somebody settles it
        self._limit_at = 0.0
        self._timer: Timer | None = None
        self._wanted: Callable[[], Interrupt] | None = None
        self._times = 0

    def seconds_left(self) -> float:
        """Until the handler's time limit."""
        return self._limit_at - self._clock.now()

    def enter(self, limit_seconds: float) -> None:
        """This greenlet goes into the handler, for so long."""
        self.started = self._clock.now()
        self._wanted = TimeLimitExceeded
        self._timer = self._clock.timer(limit_seconds, self._throw)
        self._limit_at = self.started + limit_seconds
        self.greenlet = getcurrent()

    def leave(self) -> None:
        """The handler is over. From here on no interrupt can land."""
        self.greenlet = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.ended = self._clock.now()

    def interrupt(self, kind: Callable[[], Interrupt]) -> None:
        """Throw into the handler, if it still runs by then. From any greenlet, or the hub; returns at once."""
        if self.greenlet is not None and self.interrupted is None:
            self._wanted = kind
            self._clock.soon(self._throw_first)

    def claim(self) -> bool:
        """True for the first who wants to settle this delivery."""
        first, self.claimed = not self.claimed, True
        return first

    def _throw_first(self) -> None:
        if self.interrupted is None:
            self._throw()

    def _throw(self) -> None:
        """In the hub."""
        greenlet, kind = self.greenlet, self._wanted
        if greenlet is None or kind is None:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._times += 1
        if self._times > MAX_INTERRUPTS:
            self._timer = None
            self.stuck(self)
            return
        self._timer = self._clock.timer(REPEAT_SECONDS, self._throw)
        error = kind()
        if self.interrupted is None:
            self.interrupted = error
        greenlet.throw(error)
