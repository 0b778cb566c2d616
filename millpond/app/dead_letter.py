"""Dead letter: the copy of a message that goes to the dead-letter queue, with the reason on it."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import msgspec

from millpond.sqs.limits import MAX_ATTRIBUTES, MAX_BYTES
from millpond.sqs.queue import Attribute, Entry, Received

#: The attribute that carries the reason, and the longest value it takes.
ATTRIBUTE = "millpond"
MAX_VALUE_BYTES = 1024


#: The fields that are cut where the text is too long, in this order. A field that can be long belongs here too.
CUT = ("error", "reason", "event_id", "message_id", "handler", "queue")


class ReasonAttribute(msgspec.Struct, kw_only=True):
    """Why a message is a dead letter, as the attribute has it."""

    reason: str
    error: str
    handler: str
    attempt: int
    message_id: str
    event_id: str
    queue: str
    failed_at: str  # UTC

    @classmethod
    def of(cls, received: Received, now: float, **values: str) -> ReasonAttribute:
        """The reason of what came with this receive, and failed at `now` (since the epoch)."""
        attempt, message_id = received.receive_count, received.message_id
        return cls(attempt=attempt, message_id=message_id, failed_at=utc(now), **values)


def reason_text(reason: ReasonAttribute) -> str:
    """ASCII JSON of at most 1 KiB: what is too long is cut, see CUT."""
    fields = msgspec.structs.asdict(reason)
    for name in CUT:
        while len(text := json.dumps(fields)) > MAX_VALUE_BYTES and len(fields[name]) > 20:
            fields[name] = fields[name][: len(fields[name]) // 2]
    return text


def copy(received: Received, reason: ReasonAttribute, dedup_id: str = "") -> Entry:
    """Body, user attributes, trace header and group as they came, and the reason where it fits beside them.

    The attribute is ours alone: what a producer, or an earlier dead letter, has in it does not go on.
    A FIFO queue takes each `dedup_id` once in five minutes.
    """
    attributes = {**received.attributes, ATTRIBUTE: Attribute("String", reason_text(reason))}
    letter = Entry(received.text, 0, received.group_id, received.trace_header, attributes, dedup_id)
    return letter if len(attributes) <= MAX_ATTRIBUTES and letter.size <= MAX_BYTES else bare(letter)


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
