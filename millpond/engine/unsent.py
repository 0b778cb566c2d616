"""Unsent: follow-ups and dead letters, as SQS takes them, until it has confirmed them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec

from millpond.app.dead_letter import ReasonAttribute, bare, copy, is_bare
from millpond.engine.delivery import Delivery
from millpond.foreign.trace_context import NO_TRACE, TraceContext
from millpond.hub.clock import Clock
from millpond.message import FollowUp, Outcome, delayed
from millpond.sqs.limits import MAX_BYTES, MAX_DELAY_SECONDS
from millpond.sqs.queue import NO_ATTRIBUTES, Attribute, Entry, Failure, Received, dedup_id_of

NO_ANSWER = Failure("", "it has not answered")


class Sendings(msgspec.Struct, eq=False):
    """All that must be confirmed before one delivery is deleted."""

    delivery: Delivery
    since: float  # on the clock
    unconfirmed: int  # follow-ups
    is_over: bool = False  # all is sent, or it has come to something else


class Unsent(msgspec.Struct, eq=False):
    """A follow-up, or (`follow_up` is None) the dead letter of a message itself, that SQS has not confirmed.

    `entry` is what its own queue takes, `letter` what the dead-letter queue does.
    """

    sendings: Sendings
    follow_up: FollowUp | None = None
    entry: Entry | None = None
    letter: Entry | None = None
    why: str = ""  # it is a dead letter
    failure: Failure = NO_ANSWER  # of the last call that has offered it

    @property
    def delivery(self) -> Delivery:
        return self.sendings.delivery

    @property
    def size(self) -> int:
        """Bytes."""
        entry = self.entry or self.letter
        return entry.size if entry is not None else 0

    def is_refused_with_reason(self) -> bool:
        """Whether the dead-letter queue does not take it as it is: there may be no room for the reason."""
        return self.failure.sender_fault and self.letter is not None and not is_bare(self.letter)

    def leave_reason_out(self) -> None:
        """Send it without its reason, which the log alone has then."""
        self.letter = bare(self.letter) if self.letter is not None else None


class EntryWriter:
    """Writes what one queue's deliveries leave behind. `where` gives the place of a delivery's handler.

    `marks`: the attributes of a follow-up by which its own queue knows its envelope.
    """

    def __init__(
        self,
        queue: str,
        where: Callable[[Delivery], str],
        clock: Clock,
        fifo: bool,
        marks: Mapping[str, Attribute] = NO_ATTRIBUTES,
    ) -> None:
        self._queue = queue
        self._where = where
        self._clock = clock
        self._fifo = fifo
        self._marks = marks

    def follow_up(self, delivery: Delivery, follow_up: FollowUp, after_seconds: int) -> Entry:
        """A follow-up as its own queue takes it. A FIFO queue delays none: the body says when its time has come."""
        group = delivery.received.group_id
        after_seconds = min(after_seconds, MAX_DELAY_SECONDS)  # a back-off can be longer, and would be refused for ever
        if self._fifo:
            moment = round((self._clock.time() + after_seconds) * 1000)
            body = delayed(follow_up.body, moment) if after_seconds else follow_up.body
            dedup_id = follow_up.dedup_id(delivery.received.message_id)
            entry = Entry(body, 0, group, attributes=self._marks, dedup_id=dedup_id)
        else:
            entry = Entry(follow_up.body, after_seconds, group, attributes=self._marks)
        trace = _trace_of(delivery, follow_up)
        return entry if trace is NO_TRACE else entry.with_trace(trace, delivery.owner.max_bytes)

    def letter_of_message(self, delivery: Delivery, outcome: Outcome) -> Entry:
        event_id = str(delivery.envelope.event_id) if delivery.envelope is not None else ""
        reason = self._reason(delivery, reason=outcome.reason, error=outcome.error, event_id=event_id)
        return copy(delivery.received, reason, dedup_id_of(delivery.received.message_id) if self._fifo else "")

    def letter_of_follow_up(self, delivery: Delivery, follow_up: FollowUp, why: str) -> Entry:
        entry = Entry(follow_up.body, attributes=self._marks).with_trace(_trace_of(delivery, follow_up), MAX_BYTES)
        group, header = delivery.received.group_id, entry.trace_header
        received = Received("", "", follow_up.body, 1, 0, group, header, entry.attributes)
        dedup_id = follow_up.dedup_id(delivery.received.message_id) if self._fifo else ""
        reason = self._reason(delivery, reason=why, error="", event_id=follow_up.event_id)
        return copy(received, reason, dedup_id)

    def _reason(self, delivery: Delivery, **values: str) -> ReasonAttribute:
        handler, now = self._where(delivery), self._clock.time()
        return ReasonAttribute.of(delivery.received, now, handler=handler, queue=self._queue, **values)


def _trace_of(delivery: Delivery, follow_up: FollowUp) -> TraceContext:
    """That in which it was left behind; that of its message where a thread did it which knows of none."""
    return delivery.trace() if follow_up.trace is NO_TRACE else follow_up.trace
