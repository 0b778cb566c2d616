"""The copy of a message that goes to the dead-letter queue, with the reason on it."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime

import msgspec

from millpond.engine.delivery import Delivery
from millpond.hub.clock import Clock
from millpond.message import FollowUp, Outcome
from millpond.sqs.limits import MAX_ATTRIBUTES, MAX_BYTES
from millpond.sqs.queue import Attribute, Entry, Received, dedup_id_of

#: The attribute that carries the reason, and the longest value it takes.
ATTRIBUTE = "millpond"
MAX_VALUE_BYTES = 1024


class Reason(msgspec.Struct):
    """Why a message is a dead letter, as its attribute tells it."""

    reason: str
    error: str
    handler: str
    attempt: int
    message_id: str
    event_id: str
    queue: str
    failed_at: str  # UTC


def reason_text(reason: Reason) -> str:
    """ASCII JSON of at most 1 KiB: the error is cut first, then whatever else is long."""
    fields = msgspec.structs.asdict(reason)
    for name in ("error", "reason", "event_id", "message_id", "handler", "queue"):
        while len(text := json.dumps(fields)) > MAX_VALUE_BYTES and len(fields[name]) > 20:
            fields[name] = fields[name][: len(fields[name]) // 2]
    return text


class Letters:
    """Writes the dead letters of one queue. `where` tells where the handler of a delivery stands.

    `fifo`: they go to a FIFO queue.
    """

    def __init__(self, queue: str, where: Callable[[Delivery], str], clock: Clock, fifo: bool) -> None:
        self._queue = queue
        self._where = where
        self._clock = clock
        self._fifo = fifo

    def of_message(self, delivery: Delivery, outcome: Outcome) -> Entry:
        """The one of the message itself."""
        event_id = str(delivery.envelope.event_id) if delivery.envelope is not None else ""
        reason = self._reason(delivery, outcome.reason, outcome.error, event_id)
        return copy(delivery.received, reason, dedup_id_of(delivery.received.message_id) if self._fifo else "")

    def of_follow_up(self, delivery: Delivery, job: FollowUp, why: str) -> Entry:
        """That of a job which this message has left behind."""
        received = Received("", "", job.body, group_id=delivery.received.group_id)
        dedup_id = job.dedup_id(delivery.received.message_id) if self._fifo else ""
        return copy(received, self._reason(delivery, why, "", job.event_id), dedup_id)

    def _reason(self, delivery: Delivery, text: str, error: str, event_id: str) -> Reason:
        received, handler = delivery.received, self._where(delivery)
        failed_at = utc(self._clock.time())
        return Reason(
            text, error, handler, received.receive_count, received.message_id, event_id, self._queue, failed_at
        )


def copy(received: Received, reason: Reason, dedup_id: str = "") -> Entry:
    """Body, user attributes, trace header and group as they came, and the reason where it fits beside them.

    The attribute is ours alone: what a producer, or an earlier death, has written there does not go on.
    A FIFO queue takes each `dedup_id` once in five minutes.
    """
    attributes = {**received.attributes, ATTRIBUTE: Attribute("String", reason_text(reason))}
    told = Entry(received.body, 0, received.group_id, received.trace_header, attributes, dedup_id)
    return told if len(attributes) <= MAX_ATTRIBUTES and told.size <= MAX_BYTES else bare(told)


def bare(letter: Entry) -> Entry:
    """The same without its reason."""
    attributes = {name: value for name, value in letter.attributes.items() if name != ATTRIBUTE}
    return msgspec.structs.replace(letter, attributes=attributes)


def is_bare(letter: Entry) -> bool:
    """Whether it goes without its reason."""
    return ATTRIBUTE not in letter.attributes


def utc(seconds: float) -> str:
    """Seconds since the epoch as the reason and the log write them."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
