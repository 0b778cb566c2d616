"""Letter: one message of a dead-letter queue, and all that can be known of it, whoever has put it there."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from enum import Enum
from typing import Any

import msgspec

from millpond.app.dead_letter import ATTRIBUTE, ReplayMark, replay_mark
from millpond.app.envelope import Pointer, Undecodable
from millpond.app.opener import Opener
from millpond.foreign.number import number_within
from millpond.foreign.secrets import Unshown
from millpond.foreign.text import shown
from millpond.sqs.queue import Received
from millpond.sqs.shapes import LARGEST_RECEIVE_COUNT, MAX_SENT_MS

#: What stands where a letter has no type that can be read.
NO_TYPE = "?"
#: Characters of the beginning of an id that name a letter: of fewer, several of a few thousand letters can be meant.
LEAST_ID = 8


class Origin(Enum):
    """Who has put a letter into the queue."""

    WORKER = "worker"  # a worker of Millpond, with its reason
    SQS = "sqs"  # SQS itself, after maxReceiveCount receives
    OTHER = "other"  # another program, or a worker where no reason fitted beside ten attributes


class Reason(msgspec.Struct, frozen=True):
    """The attribute of a letter as it is read back: any part may be missing, cut, or be written by others."""

    reason: str = ""
    error: str = ""
    handler: str = ""
    attempt: int = 0
    message_id: str = ""
    event_id: str = ""
    queue: str = ""
    failed_at: str = ""


class Letter(Unshown, msgspec.Struct, frozen=True):
    """What is known of one letter. Times are seconds since the epoch; texts of others are not yet `shown`.

    `id`: SQS's own, by which it is found again. `receives`: looks at it count too. `source`: the ARN of the queue that
    SQS moved it from. `unreadable`: why its body names no type. `mark`: what the last replay has left.
    """

    id: str
    received: Received
    origin: Origin
    reason: Reason
    event_type: str
    event_id: str
    failed_at: float
    source: str = ""
    unreadable: str = ""
    mark: ReplayMark | None = None

    @property
    def problem(self) -> str:
        """Why it is here, in one text: the error, or else the reason; what SQS knows, where it has neither."""
        if self.origin is Origin.SQS:
            return "SQS moved it: it was received as often as maxReceiveCount allows, and never deleted"
        if self.origin is Origin.OTHER:
            return f"no reason was left{f'; {self.unreadable}' if self.unreadable else ''}"
        return self.reason.error or self.reason.reason or "no reason was left"

    @property
    def attempts(self) -> int:
        """Receives in its own queue: by its reason, or of one that SQS moved, all receives, looks at it included."""
        return self.reason.attempt or (self.received.receive_count if self.origin is Origin.SQS else 0)

    def matches_id(self, wanted: str) -> bool:
        """Whether this names it: its id or the beginning of it, the id of the original, or the event id."""
        is_whole = bool(wanted) and wanted in (self.id, self.event_id, self.reason.message_id)
        return is_whole or (len(wanted) >= LEAST_ID and self.id.startswith(wanted))


def letter_of(received: Received, system: Mapping[str, Any], opener: Opener) -> Letter:
    """What is known of a message of a dead-letter queue; `system`: its attributes as SQS gave them, unread."""
    reason, source = _reason(received), system.get("DeadLetterQueueSourceArn")
    origin = Origin.WORKER if reason.reason or reason.error else Origin.SQS if source else Origin.OTHER
    event_type, event_id, unreadable = _opened(received, opener)
    return Letter(
        id=received.message_id,
        received=received,
        origin=origin,
        reason=reason,
        event_type=event_type,
        event_id=reason.event_id or event_id,
        failed_at=_failed_at(received, reason, system),
        source=source if isinstance(source, str) else "",
        unreadable=unreadable,
        mark=replay_mark(received.attributes),
    )


def _reason(received: Received) -> Reason:
    if (attribute := received.attributes.get(ATTRIBUTE)) is None:
        return Reason()
    try:
        reason = msgspec.json.decode(attribute.value, type=Reason)
    except (ValueError, RecursionError):
        return Reason()
    return reason if 0 <= reason.attempt <= LARGEST_RECEIVE_COUNT else msgspec.structs.replace(reason, attempt=0)


def _opened(received: Received, opener: Opener) -> tuple[str, str, str]:
    """Type and event id; or why neither can be read."""
    if received.flaw:
        return NO_TYPE, received.message_id, received.flaw
    try:
        envelope = opener.open(received)
    except Undecodable as error:
        return NO_TYPE, received.message_id, shown(error)
    if isinstance(envelope, Pointer):
        return NO_TYPE, received.message_id, f"its body is in S3: {shown(f's3://{envelope.bucket}/{envelope.key}')}"
    return envelope.event_type, str(envelope.event_id or received.message_id), ""


def _failed_at(received: Received, reason: Reason, system: Mapping[str, Any]) -> float:
    """When it failed; of a letter without a reason the latest moment that SQS tells: its first receive, or its send."""
    with suppress(ValueError, OverflowError, OSError):
        seconds = datetime.fromisoformat(reason.failed_at).timestamp()
        if 0 <= seconds <= MAX_SENT_MS / 1000:
            return seconds
    sent = received.sent_ms
    first = number_within(str(system.get("ApproximateFirstReceiveTimestamp")), 1, MAX_SENT_MS, 0)
    return (max(first, sent) if first and system.get("DeadLetterQueueSourceArn") else sent or first) / 1000
