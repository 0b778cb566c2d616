"""Delivery: one receive of one message in this worker, and the only way to interrupt its handler."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from typing import Any, Protocol, cast

import msgspec
from gevent import getcurrent

from millpond.app.envelope import Envelope, Pointer
from millpond.engine.attempts import Attempts
from millpond.engine.delivery_state import HANDLED, INTERRUPTED, RUNNING, SETTLING, WAITING, DeliveryState
from millpond.engine.lease import Lease
from millpond.engine.own_claim import OwnClaim
from millpond.errors import Interrupt, TimeLimitExceeded
from millpond.foreign.trace import own_frames, place_of_frame
from millpond.foreign.trace_context import TraceContext, read_trace
from millpond.hub.clock import Clock
from millpond.hub.countdown import Countdown
from millpond.hub.interruption import Interruption
from millpond.message import FollowUp, LargeMessage, Message, Outcome
from millpond.observe import log
from millpond.sqs.queue import Attribute, Received

#: What is below it in a stack is the handler's.
_CALL_FILE = os.path.join(os.path.dirname(__file__), "handler_call.py")


class Line(Protocol):
    """What deliveries of one type stand in until they may begin: a Gate's."""

    @property
    def bound(self) -> int:
        """How many in line are enough for one queue."""

    @property
    def reason(self) -> str:
        """Why they stand there."""

    def leave_line(self, delivery: Delivery) -> object:
        """It waits no longer: its queue has taken it out."""


class DeliveryOwner(Protocol):
    """Who holds a delivery: the consumer of the queue `name` at `url`, which takes messages of up to `max_bytes`."""

    name: str
    url: str
    max_bytes: int

    def stuck(self, delivery: Delivery) -> object:
        """Called in the hub: its handler swallows every interrupt. Must not block."""

    def is_last(self, delivery: Delivery) -> bool:
        """Whether SQS delivers it no more: given back, it goes to the dead-letter queue, without a reason."""

    def hold_in_line(self, delivery: Delivery, line: Line) -> bool:
        """Hold it for its turn in this line. False: there is no room for it."""

    def run_again(self, delivery: Delivery) -> object:
        """Make ready what was held: its time has come."""

    def number_inside(self, line: Line) -> int:
        """How many messages whose line this is are in their handlers."""
        ...

    def take_bytes(self, size: int) -> bool:
        """Count a body that is fetched beside its message. False: there is no memory for it now."""
        ...

    def leave_bytes(self, size: int) -> object:
        """A body that was counted is not in hand."""


class DeliveryKeeper(DeliveryOwner, Protocol):
    """Who makes deliveries ready and ends them: the consumer, for its InHand, Groups and Hold."""

    def make_ready(self, *deliveries: Delivery) -> object:
        """Make them ready."""

    def park_behind(self, delivery: Delivery) -> object:
        """Hold it behind a message of its group that is held."""

    def give_back(self, delivery: Delivery) -> object:
        """Give it back: a handler that has lost it still runs, and it must not run beside itself."""

    def end_soon(self, delivery: Delivery, outcome: Outcome) -> object:
        """End it, from another greenlet: this one may be in the middle of its group, or in its handler."""


class Delivery(msgspec.Struct, eq=False):
    """One receive of one message, until it is settled.

    An interrupt reaches the greenlet inside the handler, and no other: `throw` is called from the hub, and looks in the
    same step whether the state is RUNNING; there is no switch between the handler's end and `leave`
    (`test_interrupts.py`).
    """

    received: Received
    owner: DeliveryOwner
    clock: Clock
    received_time: float  # since the epoch
    lease: Lease = None  # type: ignore[assignment]  # taken at once, by the consumer
    outcome: Outcome = None  # type: ignore[assignment]  # given when it is settled
    envelope: Envelope | None = None  # until it is opened
    state: DeliveryState = WAITING
    greenlet: Any = None  # the slot that is inside the handler, or was
    interruption: Interruption | None = None
    started: float = 0.0  # on the clock; 0.0 where the handler never ran
    ended: float = 0.0
    settling_since: float = 0.0  # on the clock; 0.0 where it succeeded without more: then `ended` says it
    spared: int = 0  # of its receives, those that were no failure, as far as this worker knows
    seen_failures: int = 0  # of its receives, those that failed in this worker, before this one
    failures: int | None = None  # how often it failed before, in any worker; None where nobody counts that
    attempts: Attempts | None = None  # where this one has failed
    thread: int = 0  # the real one in which its handler runs now; 0: in its slot
    stood_at: str = ""  # where its handler stood as it was interrupted; "" where that is not known
    is_asking: bool = False  # its slot waits for the store of claims, for its body in S3, or between two records
    claim: OwnClaim | None = None  # of its event, where its handler is idempotent
    desk: Any = None  # the Desk of its type, once that is known
    record_desk: Any = None  # the Desk of the record that is handled now, where its message has several
    was_held: bool = False
    bodies: tuple[Pointer, ...] = ()  # where its body was found in S3
    left_behind: list[FollowUp] | None = None  # by this run of its handler, so far
    span: TraceContext | None = None  # of the last run of its handler, where OpenTelemetry traces it
    _limit: Countdown[Delivery] | None = None  # the time limits that this one's is among

    def __repr__(self) -> str:  # gevent writes it to the log where a greenlet fails: without any body
        return f"<Delivery {self.received.message_id}>"

    @property
    def spared_receives(self) -> int:
        """How many of its receives have used up no attempt; one that had to wait for its time was given back once."""
        waited = self.envelope is not None and self.envelope.not_before and self.received.receive_count > 1
        return max(self.spared, 1 if waited else 0)

    def attempts_now(self, max_attempts: int) -> Attempts:
        """Its attempts, where this one fails."""
        return Attempts(
            self.received.receive_count,
            min(self.seen_failures + 1, self.received.receive_count),
            self.spared_receives,
            None if self.failures is None else self.failures + 1,
            max_attempts,
        )

    def message(self) -> Message:
        """Make what a run of its handler sees, with no follow-up of an earlier run.

        It is not kept: as it asks this delivery for the time that is left, both, and the body, would stay in memory
        until the garbage collector comes.
        """
        received, envelope, self.left_behind = self.received, cast("Envelope", self.envelope), []
        make: Any = Message if isinstance(received.body, str) else LargeMessage
        message: Message = make(
            received.message_id,
            str(envelope.event_id),
            envelope.event_type,
            self.owner.name,
            received.body,
            received.receive_count,
            received.sent_ms,
            self.received_time,
            received.group_id,
            {name: attribute.value for name, attribute in self.attributes.items()},
            self.seconds_left,
            self.owner.max_bytes,
            self.left_behind,
        )
        return message

    def identity(self) -> dict[str, object]:
        """The fields of its lines in the log."""
        envelope, received, trace_id = self.envelope, self.received, self.trace().trace_id
        return {
            "queue": self.owner.name,
            "type": log.printable(envelope.event_type) if envelope is not None else "",
            "attempt": received.receive_count,
            "event_id": log.printable(str(envelope.event_id) if envelope is not None else received.message_id),
            "message_id": log.printable(received.message_id),
            **({"trace_id": trace_id} if trace_id else {}),
        }

    def trace(self) -> TraceContext:
        """The trace that its message is a part of, and what its handler sends."""
        return self.span or self.trace_received()

    def trace_received(self) -> TraceContext:
        """The trace that its message says it is a part of. Read when it is asked for, since most never are."""
        return read_trace(self.received.trace_header, self.attribute_texts())

    def attribute_texts(self) -> dict[str, str]:
        """The attributes of its message that are texts, those of its envelopes included."""
        return {name: one.value for name, one in self.attributes.items() if isinstance(one.value, str)}

    def queue_url(self) -> str:
        """The URL of its queue."""
        return self.owner.url

    @property
    def attributes(self) -> Mapping[str, Attribute]:
        """The attributes of its message, and those that stood in its envelopes."""
        own = self.envelope.attributes if self.envelope is not None else None
        return own or self.received.attributes

    @property
    def follow_ups(self) -> tuple[FollowUp, ...]:
        """All that its handler has left behind."""
        return tuple(self.left_behind) if self.left_behind else ()

    def is_last(self) -> bool:
        """Whether this is the last receive that its queue permits (maxReceiveCount)."""
        return self.owner.is_last(self)

    def seconds_left(self) -> float:
        """Seconds until the handler's time limit."""
        return self._limit.left(self) if self._limit is not None else 0.0

    @property
    def limit_seconds(self) -> float:
        """The time limit of its handler; 0.0 before it begins."""
        return self._limit.seconds if self._limit is not None else 0.0

    def enter(self, limit: Countdown[Delivery] | None = None) -> Any:
        """Go into the handler with this greenlet, which is returned: it can be interrupted from here on.

        `limit`: as in `start_limit`; None where its time does not count yet.
        """
        self.started = self.clock.now()
        self.state = RUNNING
        self.greenlet = greenlet = getcurrent()
        if limit is not None:
            self._limit = limit
            limit.add(self)
        return greenlet

    def stop_asking(self) -> bool:
        """Its slot waits no longer. False: the drain could not wait, and has given it back meanwhile."""
        was_asking, self.is_asking = self.is_asking, False
        return was_asking and self.state is not SETTLING

    def begin_anew(self) -> None:
        """It was held, and is to begin: nothing counts of what its handler did before."""
        self.started = 0.0
        self.interruption = self.attempts = None

    def start_limit(self, limit: Countdown[Delivery]) -> None:
        """Start its time limit now. `limit`: the countdown of all with the same limit, which calls `exceed_limit`."""
        self._limit = limit
        limit.add(self)

    def leave(self) -> None:
        """Note that the handler is over, or its slot is written off: from here on no interrupt can land."""
        if self.state is SETTLING:
            return  # it was written off before
        self.state = HANDLED
        if self._limit is not None:
            self._limit.remove(self)
        if self.interruption is not None:
            self.interruption.end()
        self.ended = self.clock.now()

    def exceed_limit(self) -> None:
        """Interrupt its handler, in the hub: it has had its time."""
        self.throw(TimeLimitExceeded)

    @property
    def finishes(self) -> bool:
        """Whether its handler may end where the lease is lost."""
        desk = self.record_desk or self.desk
        return desk is not None and desk.route.finishes

    def interrupt(self, kind: Callable[[], Interrupt]) -> None:
        """Throw into the handler, if it still runs by then. From any greenlet, or the hub; returns at once."""
        if self.state is RUNNING:
            self.clock.soon(lambda: self.throw(kind))

    def throw(self, kind: Callable[[], Interrupt]) -> None:
        """Throw into the handler, in the hub, if it runs and was not interrupted before."""
        if self.state is RUNNING:
            self.state = INTERRUPTED
            self.stood_at = self.stands_at()
            self.interruption = Interruption(self.greenlet, kind, self.clock, lambda: self.owner.stuck(self))
            self.interruption.throw()

    def stands_at(self) -> str:
        """Where its handler stands now, file and line; in the hub, while it waits, or runs in a thread."""
        try:
            frame = sys._current_frames().get(self.thread) if self.thread else self.greenlet.gr_frame
            frames = own_frames(frame, _CALL_FILE)
            return place_of_frame(frames[0]) if frames else ""
        except Exception:  # a thread goes on meanwhile: its frames may be of something else by now
            return ""

    def is_inside(self) -> bool:
        """Whether a handler runs."""
        return self.state is RUNNING or self.state is INTERRUPTED
