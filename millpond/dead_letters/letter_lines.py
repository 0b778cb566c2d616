"""Letters as JSON lines: an export has all that a message is, so that an import makes the same one again."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from typing import Any

import msgspec

from millpond.app.dead_letter import utc
from millpond.dead_letters.letter import Letter
from millpond.errors import ConfigError
from millpond.foreign.secrets import Unshown
from millpond.foreign.text import shown
from millpond.sqs.limits import MAX_ATTRIBUTES, MAX_BYTES
from millpond.sqs.queue import Attribute, Entry, dedup_id_of


class LineAttribute(Unshown, msgspec.Struct, omit_defaults=True):
    """A user attribute. `base64`: the value of a binary one."""

    type: str
    value: str | None = None
    base64: str | None = None


class LetterLine(Unshown, msgspec.Struct, kw_only=True, omit_defaults=True):
    """One line of an export. What an import needs is `id`, `body`, `attributes`, `group` and `trace_header`."""

    id: str
    body: str
    attributes: dict[str, LineAttribute] = {}
    group: str = ""
    trace_header: str = ""
    type: str = ""
    event_id: str = ""
    origin: str = ""
    reason: str = ""
    error: str = ""
    failed_at: str = ""
    sent_at: str = ""
    source: str = ""


_decode = msgspec.json.Decoder(LetterLine).decode


def line_of(letter: Letter) -> bytes:
    """The letter as one line of JSON, its end included."""
    received = letter.received
    line = LetterLine(
        id=letter.id,
        body=received.text,
        attributes={name: _line_attribute(one) for name, one in received.attributes.items()},
        group=received.group_id,
        trace_header=received.trace_header,
        type=letter.event_type,
        event_id=letter.event_id,
        origin=letter.origin.value,
        reason=letter.reason.reason,
        error=letter.reason.error,
        failed_at=utc(letter.failed_at),
        sent_at=utc(received.sent_ms / 1000),
        source=letter.source,
    )
    return msgspec.json.encode(line) + b"\n"


def entries_of(lines: Iterable[bytes], fifo: bool) -> list[Entry]:
    """What an import sends. Raises ConfigError with a finding for each line that is none of an export."""
    findings: list[str] = []
    entries: list[Entry] = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            entries.append(_entry(line, fifo))
        except (ValueError, RecursionError) as error:
            findings.append(f"line {number}: {shown(error)}")
    if findings:
        raise ConfigError(*findings[:20])
    return entries


def _entry(line: bytes, fifo: bool) -> Entry:
    read = _decode(line)
    attributes = {name: _attribute(name, one) for name, one in read.attributes.items()}
    dedup_id = dedup_id_of(f"import-{read.id}") if fifo else ""
    entry = Entry(read.body, 0, read.group, read.trace_header, attributes, dedup_id)
    if not read.body:
        raise ValueError("its `body` is empty, which SQS does not take")
    if len(attributes) > MAX_ATTRIBUTES or entry.size > MAX_BYTES:
        raise ValueError(f"SQS takes {MAX_ATTRIBUTES} attributes and {MAX_BYTES:,} bytes at most")
    return entry


def _line_attribute(attribute: Attribute) -> LineAttribute:
    value: Any = attribute.value
    if isinstance(value, bytes):
        return LineAttribute(attribute.data_type, base64=base64.b64encode(value).decode())
    return LineAttribute(attribute.data_type, value)


def _attribute(name: str, line: LineAttribute) -> Attribute:
    if line.base64 is not None:
        return Attribute(line.type, base64.b64decode(line.base64, validate=True))
    if line.value is None:
        raise ValueError(f"its attribute {name} has neither `value` nor `base64`")
    return Attribute(line.type, line.value)
