"""Dead letters as people and programs read them: rows of a table, fields of JSON, and all of one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from msgspec.structs import asdict

from millpond.app.dead_letter import ATTRIBUTE
from millpond.dead_letters.error_groups import ErrorGroup
from millpond.dead_letters.letter import LEAST_ID, Letter, Origin
from millpond.foreign.body_text import hidden_value, without_secrets
from millpond.foreign.scrub import scrubbed
from millpond.foreign.text import escaped, shown

#: Characters of an id, and of an error, in a table.
SHORT_ID, MAX_ERROR = 8, 120
ORIGINS = {Origin.WORKER: "a worker", Origin.SQS: "SQS, by its redrive policy", Origin.OTHER: "another program"}

LETTER_COLUMNS = ("id", "type", "attempts", "age", "reason", "error")
GROUP_COLUMNS = ("count", "type", "first", "last", "example", "error")


def missing_text(wanted: str) -> str:
    """What is said of an id that names no letter. A stop, other readers and FIFO groups can hide one."""
    short = f" (the beginning of an id has {LEAST_ID} characters at least)" if len(wanted) < LEAST_ID else ""
    return f"{shown(wanted)}: no such dead letter was found{short}"


def letter_rows(letters: Sequence[Letter], now: float) -> list[list[str]]:
    """A line for each, under LETTER_COLUMNS."""
    return [
        [one.id[:SHORT_ID], one.event_type, str(one.attempts or "?"), age(now - one.failed_at), *_texts(one)]
        for one in letters
    ]


def group_rows(groups: Sequence[ErrorGroup], now: float) -> list[list[str]]:
    """A line for each, under GROUP_COLUMNS."""
    rows = []
    for one in groups:
        first, last = (f"{age(now - at)} ago" for at in (one.first, one.last))
        rows.append([str(one.count), one.event_type, first, last, one.sample[:SHORT_ID], shown(one.text, MAX_ERROR)])
    return rows


def group_fields(group: ErrorGroup) -> dict[str, Any]:
    """The same for a program."""
    texts = {"error": shown(group.error), "text": shown(group.text)}
    return {**asdict(group), **texts, "first": moment(group.first), "last": moment(group.last)}


def letter_fields(letter: Letter, now: float) -> dict[str, Any]:
    """What a program may want to know of a letter; no body."""
    received = letter.received
    return {
        "id": letter.id,
        "type": shown(letter.event_type),
        "event_id": shown(letter.event_id),
        "origin": letter.origin.value,
        "reason": shown(letter.reason.reason),
        "error": shown(letter.reason.error),
        "problem": shown(letter.problem),
        "handler": shown(letter.reason.handler),
        "attempts": letter.attempts,
        "queue": shown(letter.reason.queue or letter.source.rpartition(":")[2]),
        "group": shown(received.group_id),
        "failed_at": moment(letter.failed_at),
        "age_seconds": round(now - letter.failed_at),
        "replays": letter.mark.replays if letter.mark else 0,
        "bytes": len(received.text.encode("utf-8", "surrogatepass")),
    }


def letter_page(letter: Letter, now: float, reveal: bool) -> str:
    """All that is known of a letter, its body too. Secrets and mail addresses are hidden unless `reveal`."""

    def show(value: object) -> str:
        return escaped(str(value)) if reveal else shown(value, 2_000)

    fields = letter_fields(letter, now)
    texts = {name: getattr(letter.reason, name) for name in ("reason", "error", "handler")}
    values: dict[str, object] = {
        **{name: fields[name] for name in ("id", "type", "event_id")},
        "put here by": ORIGINS[letter.origin],
        "failed": f"{moment(letter.failed_at)}, {age(now - letter.failed_at)} ago",
        **texts,
        "why": "" if letter.origin is Origin.WORKER else letter.problem,
        "attempts": letter.attempts or "",
        "queue": fields["queue"],
        "original id": letter.reason.message_id,
        "group": letter.received.group_id,
        "sent here": moment(letter.received.sent_ms / 1000),
        "receives here": letter.received.receive_count,
        "replayed": f"{letter.mark.replays} times" if letter.mark else "",
        "trace": letter.received.trace_header,
        **{f"attribute {name}": one.value for name, one in letter.received.attributes.items() if name != ATTRIBUTE},
    }
    values = {name: value if reveal else hidden_value(name, value) for name, value in values.items()}
    width = max(map(len, values))
    lines = [f"{escaped(name).ljust(width)}  {show(value)}" for name, value in values.items() if value != ""]
    return "\n".join([*lines, "body", *_body_lines(letter.received.text, reveal)])


def age(seconds: float) -> str:
    """How long ago, in one unit: 40 s, 12 min, 5 h, 3 d."""
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"


def moment(seconds: float) -> str:
    """A moment in UTC, to the second."""
    try:
        return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%SZ}"
    except (ValueError, OverflowError, OSError):
        return "?"


def _texts(letter: Letter) -> tuple[str, str]:
    """Reason and first line of the error; where there is no reason, what is known instead."""
    if letter.origin is not Origin.WORKER:
        return f"({letter.origin.value})", shown(letter.problem, MAX_ERROR)
    error = letter.reason.error.strip().partition("\n")[0]
    return shown(letter.reason.reason.partition("\n")[0], MAX_ERROR), shown(error, MAX_ERROR)


def _body_lines(body: str, reveal: bool) -> list[str]:
    try:
        value = json.loads(body)
        text = json.dumps(value if reveal else without_secrets("", value), indent=2, ensure_ascii=False)
    except (ValueError, RecursionError):
        text = body if reveal else scrubbed(body, len(body))
    return [f"  {escaped(line)}" for line in text.splitlines() or [""]]
