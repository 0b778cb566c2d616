"""The two formats of a log line: text for people, JSON for machines."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import msgspec

from millpond.foreign.text import clean, escaped, lines, shown
from millpond.foreign.trace import traceback_of
from millpond.foreign.trace_context import delivery

#: Ids and types come from the wire; a line shows no more of each.
WIRE_TEXT_LENGTH = 100
#: Characters of a message, of one field, and of all fields together: a line has an end, whatever is logged.
MAX_MESSAGE, MAX_FIELD, MAX_FIELDS = 4_000, 1_000, 8_000
#: What a field that is no text counts for, so that their number has a limit too.
MIN_FIELD = 50
#: JSON readers misread larger numbers, or refuse them.
MAX_NUMBER = 2**63
#: Values within one field that are written as JSON; a container of more is written as text, the beginning of it.
MAX_VALUES = 200

_CONTAINERS = (dict, list, tuple)
_NOWHERE = ("", 0)  # a record's file and line: no format shows them
_encoder = msgspec.json.Encoder()
# What each LogRecord has by itself; all else came by `extra=`.
_RECORD_KEYS = frozenset(logging.makeLogRecord({}).__dict__) | {"asctime", "event", "fields", "message", "taskName"}


def record_of(level: int, event: str, message: str, fields: dict[str, Any]) -> logging.LogRecord:
    """The record of an event of the engine's."""
    record = logging.LogRecord("millpond", level, *_NOWHERE, message, None, None)
    record.__dict__.update(event=event, fields=fields)
    return record


class LogDocument(dict[str, Any]):
    """Fields of an event that stand in its JSON line as they are: none is a text of others, or needs to be cut.

    As text the line is not written: no machine reads it there.
    """


def document_in(record: logging.LogRecord) -> LogDocument | None:
    """The document that a record is made of; None, as a rule."""
    fields = record.__dict__.get("fields")
    return fields if type(fields) is LogDocument else None


def as_json(char: str) -> str:
    """A character as JSON escapes it."""
    return json.dumps(char)[1:-1]


class JsonFormat(logging.Formatter):
    """{"ts", "level", "event", "message", ...} in one line of UTF-8; what is not printable is escaped as JSON does."""

    def format(self, record: logging.LogRecord) -> str:
        moment = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        head = {
            "ts": moment.removesuffix("+00:00") + "Z",
            "level": _encodable(clean(record.levelname.lower(), WIRE_TEXT_LENGTH)),
            "event": _encodable(clean(record.__dict__.get("event", "log"), WIRE_TEXT_LENGTH)),
            "message": _encodable(clean(_message(record), MAX_MESSAGE)),
        }
        if "event" not in record.__dict__:
            head["logger"] = _encodable(clean(record.name, WIRE_TEXT_LENGTH))
        if (document := document_in(record)) is not None:
            return _encoder.encode(head | document).decode()
        fields = {key: _json_value(value) for key, value in _fields(record)}
        if trace := _traceback(record):
            fields["traceback"] = _encodable(trace)
        line = _encoder.encode(head | fields | head).decode()
        return line if line.isprintable() else "".join(char if char.isprintable() else as_json(char) for char in line)


class TextFormat(logging.Formatter):
    """12:00:01 INFO  message.succeeded  the message  queue=emails ...; tracebacks on lines that follow, indented."""

    def format(self, record: logging.LogRecord) -> str:
        clock = time.strftime("%H:%M:%S", time.localtime(record.created))
        name = shown(record.__dict__.get("event", record.name), WIRE_TEXT_LENGTH)
        words = " ".join(f"{key}={_word(shown(_listed(value), MAX_FIELD))}" for key, value in _fields(record))
        parts = [f"{clock} {record.levelname:<5} {name}", shown(_message(record), MAX_MESSAGE), words]
        rows = ["  ".join(part for part in parts if part)]
        rows += [f"    {escaped(line)}" for line in _traceback(record).splitlines()]
        return "\n".join(rows)


def _fields(record: logging.LogRecord) -> Iterator[tuple[str, object]]:
    """Yield each field but a traceback, its name fit to be shown, until the line has enough of them."""
    worked_on = delivery.get()
    fields: dict[str, Any] = worked_on.identity() if worked_on is not None else {}
    fields |= {key: value for key, value in record.__dict__.items() if key not in _RECORD_KEYS}
    fields |= _own_fields(record)
    left = MAX_FIELDS
    for key, value in fields.items():
        if key == "traceback":
            continue
        if type(value) not in _CONTAINERS and not _is_plain(value):
            value = clean(value, MAX_FIELD)
        left -= len(value) if type(value) is str else MIN_FIELD
        if left < 0:
            break
        yield shown(key, WIRE_TEXT_LENGTH), value


def _own_fields(record: logging.LogRecord) -> dict[str, Any]:
    """The fields of an event of the engine's; a user's `extra` can have a key of this name too."""
    own = record.__dict__.get("fields")
    return own if type(own) is dict else {}


def _is_plain(value: Any) -> bool:
    kind = type(value)
    return kind is float or kind is bool or value is None or (kind is int and abs(value) < MAX_NUMBER)


def _traceback(record: logging.LogRecord) -> str:
    """The traceback of the error that is being handled, or the one that the event has; then the stack."""
    error = record.exc_info[1] if record.exc_info else None
    given = (record.__dict__ | _own_fields(record)).get("traceback", "")
    parts = [
        traceback_of(error) if error is not None else lines(given),
        lines(record.stack_info or ""),
    ]
    return "\n".join(part for part in parts if part)


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except Exception:  # arguments that do not fit the text: both are worth more than neither
        return f"{record.msg} {record.args}"


def _encodable(text: str) -> str:
    """The text with half characters escaped, which UTF-8 cannot hold."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()


def _json_value(value: object) -> object:
    """A value as JSON holds it where it is plain or a container of a few plain values; else as text."""
    if type(value) is str:
        return _encodable(value)
    if type(value) not in _CONTAINERS:
        return value
    with suppress(TypeError, ValueError):  # a key that is no text, half a character
        text = _encoder.encode(value).decode() if _is_small(value) else ""
        if 0 < len(text) <= MAX_FIELD and clean(text, MAX_FIELD) == text:
            return msgspec.Raw(text.encode())
    return _encodable(clean(value, MAX_FIELD))


def _is_small(value: Any) -> bool:
    """True where it has only a few plain values, on all its levels; a container within itself has no end of them."""
    rest, seen = [value], 0
    while rest and seen <= MAX_VALUES:
        value, seen = rest.pop(), seen + 1
        if type(value) in _CONTAINERS and len(value) <= MAX_VALUES:
            rest += [*value, *value.values()] if type(value) is dict else value
        elif type(value) is not str and not _is_plain(value):
            return False
    return not rest


def _listed(value: Any) -> object:
    """A list of names as one text, with commas between them."""
    names = type(value) is list and _is_small(value) and all(type(name) is str for name in value)
    return ",".join(value) if names else value


def _word(text: str) -> str:
    return text if text and not set(text) & set(' "=') else json.dumps(text, ensure_ascii=False)
