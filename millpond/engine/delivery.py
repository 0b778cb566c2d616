"""Delivery: one message in this worker's hands, and the only way to interrupt its handler."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, cast

import msgspec
from gevent import getcurrent

from millpond.app.envelope import Envelope
from millpond.engine.lease import Lease
from millpond.errors import Interrupt, LeaseLost, TimeLimitExceeded
from millpond.hub.clock import Clock, Timer
from millpond.hub.countdown import Countdown
from millpond.message import FollowUp, Message, Outcome
from millpond.observe import log
from millpond.sqs.queue import Received

#: A handler that is still inside after an interrupt gets it again each second ...
REPEAT_SECONDS = 1.0
#: ... this often; then it is stuck, and its slot is written off.
MAX_INTERRUPTS = 10


class Hands(Protocol):
    """Who holds a delivery: the consumer of the queue `name`, which takes messages of up to `max_bytes`."""

    name: str
    max_bytes: int

    def stuck(self, delivery: Delivery) -> object:
        """Its handler swallows every interrupt. In the hub: must not block."""
        ...

    def is_last(self, delivery: Delivery) -> bool:
        """SQS hands it out no more: given back, it goes to the dead-letter queue, without a reason."""
        ...


class Delivery(msgspec.Struct, eq=False):
    """One message in one pair of hands.

    1. It knows whether a greenlet is inside its handler: between `enter` and `leave`.
    2. `interrupt` reaches that greenlet, and no other: the throw comes from the hub, which checks in the same step
       that the greenlet is still inside; there is no switch between the handler's end and `leave`.
    3. It is settled once: by whoever comes first and marks it as `claimed`.
    """

    received: Received
    hands: Hands
    _clock: Clock
    received_time: float  # since the epoch
    lease: Lease = None  # type: ignore[assignment]  # taken at once, by the consumer
    outcome: Outcome = None  # type: ignore[assignment]  # given when it is settled
    envelope: Envelope | None = None  # until it is opened
    greenlet: Any = None  # the one inside the handler
    interrupted: Interrupt | None = None  # by what, first of all
    started: float = 0.0  # on the clock; 0.0 where the handler never ran
    ended: float = 0.0
    settling_since: float = 0.0
    unsent: int = 0  # copies and follow-ups to confirm before the delete
    claimed: bool = False  # its outcome is known, and somebody settles it
    spared: int = 0  # of its receives, those that were no failure, as far as this worker knows
    finishes: bool = False  # its handler may end where the lease is lost (on_lease_lost = "finish")
    jobs: list[FollowUp] | None = None  # what the run of its handler leaves behind, so far
    _limit: Countdown[Delivery] | None = None  # the time limits that this one's is among
    _timer: Timer | None = None
    _wanted: Callable[[], Interrupt] | None = None
    _times: int = 0

    def __repr__(self) -> str:  # gevent writes it to the log where a greenlet fails: without any body
        return f"<Delivery {self.received.message_id}>"

    @property
    def spared_receives(self) -> int:
        """How many of its receives have used up no attempt; one that had to wait for its time was put off once."""
        waited = self.envelope is not None and self.envelope.not_before and self.received.receive_count > 1
        return max(self.spared, 1 if waited else 0)

    def message(self) -> Message:
        """As a run of its handler sees it, with no job of an earlier run. It is not kept: as it asks this delivery for
        the time that is left, both, and the body, would stay in memory until the garbage collector comes."""
        received, envelope, self.jobs = self.received, cast("Envelope", self.envelope), []
        return Message(
            received.message_id,
            str(envelope.event_id),
            envelope.event_type,
            self.hands.name,
            received.body,
            received.receive_count,
            received.sent_ms,
            self.received_time,
            received.group_id,
            {name: attribute.value for name, attribute in received.attributes.items()},
            self.seconds_left,
            self.hands.max_bytes,
            self.jobs,
        )

    def identity(self) -> dict[str, object]:
        """What a line of the log says of it."""
        envelope, received = self.envelope, self.received
        return {
            "queue": self.hands.name,
            "type": log.printable(envelope.event_type) if envelope is not None else "",
            "attempt": received.receive_count,
            "event_id": log.printable(str(envelope.event_id)) if envelope is not None else "",
            "message_id": log.printable(received.message_id),
        }

    @property
    def follow_ups(self) -> tuple[FollowUp, ...]:
        """What its handler has left behind."""
        return tuple(self.jobs) if self.jobs else ()

    def wall_time(self) -> float:
        """Now, since the epoch."""
        return self._clock.time()

    def is_last(self) -> bool:
        """This is the last receive that its queue permits (maxReceiveCount)."""
        return self.hands.is_last(self)

    def seconds_left(self) -> float:
        """Until the handler's time limit."""
        return self._limit.left(self) if self._limit is not None else 0.0

    def enter(self, finishes: bool = False, limit: Countdown[Delivery] | None = None) -> Any:
        """This greenlet, which is returned, goes into the handler: it can be interrupted from here on.

        `limit`: see there; None where its time does not count yet.
        """
        self.started = self._clock.now()
        self.finishes = finishes
        self.greenlet = greenlet = getcurrent()
        if limit is not None:
            self._limit = limit
            limit.add(self)
        return greenlet

    def limit(self, limit: Countdown[Delivery]) -> None:
        """From now on its time counts. `limit`: those with the same limit, whose `due` is `exceed_limit`."""
        self._limit = limit
        limit.add(self)

    def leave(self) -> None:
        """The handler is over. From here on no interrupt can land."""
        self.greenlet = None
        if self._limit is not None:
            self._limit.remove(self)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.ended = self._clock.now()

    def exceed_limit(self) -> None:
        """In the hub: its handler has had its time."""
        if self.interrupted is None:
            self._wanted = TimeLimitExceeded
            self._throw()

    def lose(self) -> None:
        """The lease is lost: the handler is interrupted, unless it asked to finish."""
        if not self.finishes:
            self.interrupt(LeaseLost)

    def interrupt(self, kind: Callable[[], Interrupt]) -> None:
        """Throw into the handler, if it still runs by then. From any greenlet, or the hub; returns at once."""
        if self.greenlet is not None and self.interrupted is None:
            self._wanted = kind
            self._clock.soon(self._throw_first)

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
            self.hands.stuck(self)
            return
        self._timer = self._clock.timer(REPEAT_SECONDS, self._throw)
        if self.interrupted is None:
            self.interrupted = kind()  # another one than is thrown, whose traceback has this delivery
        greenlet.throw(kind())
