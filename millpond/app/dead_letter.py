"""Dead letter: the copy of a message that goes to the dead-letter queue, with the reason on it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime

import msgspec

from millpond.sqs.limits import MAX_ATTRIBUTES, MAX_BYTES
from millpond.sqs.queue import Attribute, Entry, Received

#: The attribute that carries the reason, and the longest value it takes.
ATTRIBUTE = "millpond"
MAX_VALUE_BYTES = 1024
#: Of a mark that a replay has left: a larger one is not ours.
MAX_REPLAYS, MAX_MARK = 1_000_000, 16


#: The fields that are cut where the text is too long, in this order. A field that can be long belongs here too.
CUT = ("error", "reason", "event_id", "message_id", "handler", "queue")


class ReplayMark(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a replay leaves on a message. A later dead letter of it keeps this, so that nothing is replayed in a loop.

    `alike`: replays in a row after the same failure, which `failed_as` names. `run`: the replay that sent it last.
    """

    replays: int = 0
    alike: int = 0
    failed_as: str = ""
    run: str = ""


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
    replay: ReplayMark | None = None  # of a message that was replayed before

    @classmethod
    def of(cls, received: Received, now: float, **values: str) -> ReasonAttribute:
        """The reason of what came with this receive, and failed at `now` (since the epoch)."""
        attempt, message_id, mark = received.receive_count, received.message_id, replay_mark(received.attributes)
        return cls(attempt=attempt, message_id=message_id, failed_at=utc(now), replay=mark, **values)


class Replayed(msgspec.Struct):
    """All that is read of the attribute before a message fails again."""

    replay: ReplayMark | None = None


def replay_mark(attributes: Mapping[str, Attribute]) -> ReplayMark | None:
    """The mark of the last replay; None where there was none, or where others have written the attribute."""
    if (attribute := attributes.get(ATTRIBUTE)) is None:
        return None
    try:
        mark = msgspec.json.decode(attribute.value, type=Replayed).replay
    except (ValueError, RecursionError):
        return None
    if mark is None or len(mark.failed_as) > MAX_MARK or len(mark.run) > MAX_MARK:
        return None
    return mark if 0 < mark.replays <= MAX_REPLAYS and 0 <= mark.alike <= MAX_REPLAYS else None


def reason_text(reason: ReasonAttribute) -> str:
    """ASCII JSON of at most 1 KiB: what is too long is cut, see CUT."""
    fields = msgspec.structs.asdict(reason)
    mark = fields.pop("replay")
    if mark is not None:
        fields["replay"] = msgspec.to_builtins(mark)
    for name in CUT:
        while len(text := json.dumps(fields)) > MAX_VALUE_BYTES and len(fields[name]) > 20:
            fields[name] = fields[name][: len(fields[name]) // 2]
    return text


def copy(received: Received, reason: ReasonAttribute, dedup_id: str = "") -> Entry:
    """Body, user attributes, trace header and group as they came, and the reason where it fits beside them.

    The attribute is ours alone: what a producer, or an earlier dead letter, has in it does not go on, but for the mark
    of a replay.
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
