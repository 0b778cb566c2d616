"""The copy of a message that goes to the dead-letter queue, with the reason on it."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import msgspec

from millpond.delivery import Delivery
from millpond.message import Outcome
from millpond.queue import MAX_ATTRIBUTES, MAX_BYTES, Attribute, Entry, Received, dedup_id_of

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


def letters(
    delivery: Delivery, outcome: Outcome, handler: str, queue: str, now: float, fifo: bool = False
) -> tuple[list[Entry], list[Entry]]:
    """The dead letters of one delivery: of the message itself (one or none), and of its rejected follow-ups.

    `handler` is where the handler stands, `now` the time since the epoch. `fifo`: they go to a FIFO queue.
    """
    received, envelope = delivery.received, delivery.envelope

    def reason(text: str, error: str, event_id: str) -> Reason:
        count = received.receive_count
        return Reason(text, error, handler, count, received.message_id, event_id, queue, utc(now))

    event_id = str(envelope.event_id) if envelope is not None else ""
    rejected = [
        copy(Received("", "", job.body, group_id=received.group_id), reason(job.reject, "", job.event_id), fifo)
        for job in outcome.follow_ups
        if job.reject is not None
    ]
    if outcome.name != "dead_lettered":
        return [], rejected
    return [copy(received, reason(outcome.reason, outcome.error, event_id), fifo)], rejected


def copy(received: Received, reason: Reason, fifo: bool) -> Entry:
    """Body, user attributes, trace header and group as they came, and the reason where it fits beside them.

    A FIFO queue takes it once in five minutes: by the message's id, or a rejected job's event id.
    """
    dedup_id = dedup_id_of(received.message_id or reason.event_id) if fifo else ""
    bare = Entry(received.body, 0, received.group_id, received.trace_header, received.attributes, dedup_id)
    attributes = {**received.attributes, ATTRIBUTE: Attribute("String", reason_text(reason))}
    told = msgspec.structs.replace(bare, attributes=attributes)
    return told if len(attributes) <= MAX_ATTRIBUTES and told.size <= MAX_BYTES else bare


def utc(seconds: float) -> str:
    """Seconds since the epoch as the reason and the log write them."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
