"""The log: stdlib logging to standard output, one line an event, as text for people or JSON for machines."""

from __future__ import annotations

import json
import logging
import math
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, Protocol, TextIO

import gevent
import msgspec
from gevent.monkey import get_original

from millpond.errors import Interrupt
from millpond.foreign.text import clean, escaped, lines, shown, type_name
from millpond.foreign.trace import describe, traceback_of
from millpond.observe.standard_output import StandardOutput, standard_output


class Identified(Protocol):
    """What a greenlet works on: a Delivery."""

    def identity(self) -> dict[str, object]:
        """The fields that tell which it is."""
        ...


#: What this greenlet works on: every record logged meanwhile, by whatever logger, has its fields.
delivery: ContextVar[Identified | None] = ContextVar("delivery", default=None)

#: Ids and types come from the wire; a line shows no more of each.
WIRE_TEXT_LENGTH = 100
#: Characters of a message, of one field, and of all fields together: a line has an end, whatever is logged.
MAX_MESSAGE, MAX_FIELD, MAX_FIELDS = 4_000, 1_000, 8_000
#: What counts for a field that is no text, so that there is an end of them too.
MIN_FIELD = 50
#: JSON readers take larger numbers for others, or not at all.
MAX_NUMBER = 2**63
#: Values within one field that are written as JSON; a container of more is written as text, the beginning of it.
MAX_VALUES = 200

_CONTAINERS = (dict, list, tuple)
_DROPPED = "%d log lines were dropped: nobody read them"
_NativeRLock: Any = get_original("_thread", "RLock")
_NOWHERE = ("", 0)  # a record's file and line: no format shows them
_engine = logging.getLogger("millpond")
# What each LogRecord has by itself; all else came by `extra=`.
_RECORD_KEYS = frozenset(logging.makeLogRecord({}).__dict__) | {"asctime", "event", "fields", "message", "taskName"}


def setup(level: str, format: str, stream: TextIO | None = None) -> None:  # noqa: A002  the key's name in [log]
    """Write what any logger says to `stream` (standard output), as [log] wants it. A second call replaces the first.

    `level`: debug, info, warning, error or critical. `format`: text, json, or auto: text on a terminal.
    """
    out = stream or sys.stdout  # None where the process was started without one
    text = format == "text" or (format == "auto" and out is not None and out.isatty())
    threshold = logging.getLevelNamesMapping()[level.upper()]
    root = logging.getLogger()
    for old in _outputs():
        root.removeHandler(old)
    root.addHandler(_Output(out, _TextFormatter() if text else _JsonFormatter()))
    root.setLevel(threshold)
    for name in ("boto3", "botocore", "urllib3"):  # at info and below they tell of each call, bodies included
        logging.getLogger(name).setLevel(max(logging.WARNING, threshold))
    # No line shows them, and threading.current_thread() makes an object for each greenlet that logs.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False


def take_failures() -> None:
    """What a greenlet, a thread or a `__del__` of the user's raises becomes an event, a warning a line. gevent
    and Python would write them to standard error as they are."""

    def of_greenlet(context: object, kind: Any, error: BaseException, frames: Any) -> None:
        _failed("greenlet.failed", context, error)

    gevent.get_hub().print_exception = of_greenlet
    threading.excepthook = lambda given: _failed("thread.failed", given.thread, given.exc_value)
    sys.unraisablehook = lambda given: _failed("object.failed", given.object, given.exc_value)
    logging.captureWarnings(True)


def _failed(name: str, where: object, error: BaseException | None) -> None:
    if error is not None:
        event(logging.ERROR, name, f"{shown(where)}: {describe(error)}", traceback=traceback_of(error))


def event(level: int, name: str, message: str = "", /, **fields: Any) -> None:
    """Log an event of the engine, such as "message.retried". Costs next to nothing where its level is off."""
    if not _engine.isEnabledFor(level):
        return
    record = logging.LogRecord(_engine.name, level, *_NOWHERE, message, None, None)
    record.__dict__.update(event=name, fields=fields)
    try:
        _engine.handle(record)
    except (Interrupt, gevent.GreenletExit):
        raise
    except BaseException as error:  # of a handler or a filter that the user's code has added: the engine goes on
        _not_handled(record, error)


def _not_handled(record: logging.LogRecord, error: BaseException) -> None:
    """Tell of it, at most once a minute, past what has raised; and the line, where that may have stood before us."""
    records = [record] if _engine.handlers or _engine.filters else []
    if _failures.take(time.monotonic()):
        text = f"a handler or a filter that was added to logging raised {describe(error)}: it missed this line"
        records.append(logging.LogRecord(_engine.name, logging.ERROR, *_NOWHERE, text, None, None))
        records[-1].__dict__.update(event="log.failed", fields={"line": shown(record.__dict__["event"])})
    for output in _outputs():
        for one in records:
            output.handle(one)


def from_thread(level: int, name: str, message: str, /, **fields: Any) -> None:
    """The same, from a native thread while the hub stands still: by none of logging's locks, which a greenlet may hold.

    A pipe that is full is not waited for: the line is lost, since whoever reads the log may be what the hub waits for.
    The line should be shorter than 4 KiB (PIPE_BUF): so much a pipe that is not full takes at once.
    """
    record = logging.LogRecord(_engine.name, level, *_NOWHERE, message, None, None)
    record.__dict__.update(event=name, fields=fields)
    for output in _outputs():
        output.write_past_locks(record)


def printable(text: str) -> str:
    """Text from the wire, fit for a line: what is not printable is escaped, and it is cut at 100 characters."""
    return shown(text, WIRE_TEXT_LENGTH)


def flush() -> None:
    """Bring out what is buffered."""
    for output in _outputs():
        output.flush()


def forget_locks() -> None:
    """In a forked child: a thread that held one is not there any more."""
    for output in _outputs():
        output.forget_locks()


class Allowance:
    """At most `per_second` in any one second (its whole part); below 1, one in each 1 / per_second seconds.

    A bucket of tokens would let twice as many through in the second after a pause.
    """

    def __init__(self, per_second: float) -> None:
        self._taken: deque[float] = deque(maxlen=max(1, int(per_second)))
        self._seconds = max(1.0, 1 / per_second) if per_second > 0 else math.inf
        self._none_before = -math.inf if per_second > 0 else math.inf

    def take(self, now: float) -> bool:
        """True, and one more is taken, where that is allowed at `now` (seconds on a clock that never goes back)."""
        if now < self._none_before:
            return False
        self._taken.append(now)
        if len(self._taken) == self._taken.maxlen:
            self._none_before = self._taken[0] + self._seconds
        return True


#: Of what was added to logging and fails, one line a minute.
_failures = Allowance(1 / 60)


class _Output(logging.Handler):
    """Writes lines. Whatever is wrong with a record or with the stream, the caller of a logger never feels it.

    A stream that is full takes no lines: they are dropped, and counted in the first one that it takes again.
    """

    def __init__(self, stream: TextIO | None, formatter: logging.Formatter) -> None:
        super().__init__()
        self._stream = stream
        self._output = standard_output(stream)
        self._encoding = getattr(stream, "encoding", None) or "utf-8"  # a StringIO has none
        self.setFormatter(formatter)

    def createLock(self) -> None:  # noqa: N802  logging's own name
        """A native lock: gevent's, shared by threads and greenlets, stopped all logging for good in 3 of 6 runs.

        No greenlet switches while it holds it: a stream's write does not wait in the hub.
        """
        self.lock = _NativeRLock()

    def emit(self, record: logging.LogRecord) -> None:
        with suppress(Exception):
            self._write(self._line(record) + "\n")

    def flush(self) -> None:
        with suppress(Exception):
            self._write("")

    def write_past_locks(self, record: logging.LogRecord) -> None:
        with suppress(Exception):
            if record.levelno >= logging.getLogger().level and self._output is not None:
                self._output.write_at_once((self._line(record) + "\n").encode())

    def forget_locks(self) -> None:
        """In a forked child, where the thread that held one is gone."""
        self.createLock()
        if self._output is not None:
            self._output.forget_lock()

    def _line(self, record: logging.LogRecord) -> str:
        try:
            return self.format(record)
        except Interrupt:
            raise
        except BaseException as error:  # a record holds what its caller gave: any __str__ may raise whatever it likes
            text = f"a record cannot be shown: {type_name(error)}"
            return self.format(logging.LogRecord(record.name, record.levelno, *_NOWHERE, text, None, None))

    def _write(self, line: str) -> None:
        if self._stream is None or self._stream.closed:
            return
        if self._output is None:
            self._stream.write(self._encoded(line).decode(self._encoding))
            self._stream.flush()
        elif self._told_what_was_dropped(self._output):
            self._output.write(self._encoded(line))
        else:
            self._output.drop(line.encode()) if line else None

    def _told_what_was_dropped(self, standard_output: StandardOutput) -> bool:
        """False: it takes nothing yet. Nothing goes out before this, so that the gap in the log is where it says."""
        if not (count := standard_output.dropped):
            return True
        record = logging.LogRecord(_engine.name, logging.WARNING, *_NOWHERE, _DROPPED, (count,), None)
        record.__dict__.update(event="log.dropped", fields={"lines": count})
        if not standard_output.offer(self._encoded(self._line(record) + "\n")):
            return False
        standard_output.dropped -= count
        return True

    def _encoded(self, line: str) -> bytes:
        try:
            return line.encode(self._encoding)
        except UnicodeEncodeError:
            return _ascii(line).encode(self._encoding)


class _JsonFormatter(logging.Formatter):
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
        fields = {key: _json_value(value) for key, value in _fields(record)}
        if trace := _traceback(record):
            fields["traceback"] = _encodable(trace)
        line = _encoder.encode(head | fields | head).decode()
        return line if line.isprintable() else "".join(char if char.isprintable() else _as_json(char) for char in line)


class _TextFormatter(logging.Formatter):
    """12:00:01 INFO  message.succeeded  the message  queue=emails ...; tracebacks on lines that follow, indented."""

    def format(self, record: logging.LogRecord) -> str:
        clock = time.strftime("%H:%M:%S", time.localtime(record.created))
        name = shown(record.__dict__.get("event", record.name), WIRE_TEXT_LENGTH)
        words = " ".join(f"{key}={_word(shown(_listed(value), MAX_FIELD))}" for key, value in _fields(record))
        parts = [f"{clock} {record.levelname:<5} {name}", shown(_message(record), MAX_MESSAGE), words]
        rows = ["  ".join(part for part in parts if part)]
        rows += [f"    {escaped(line)}" for line in _traceback(record).splitlines()]
        return "\n".join(rows)


def _outputs() -> list[_Output]:
    return [handler for handler in logging.getLogger().handlers if isinstance(handler, _Output)]


def _fields(record: logging.LogRecord) -> Iterator[tuple[str, object]]:
    """Each field but a traceback, its name fit to be shown, until the line has enough of them."""
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
    """Those of an event of the engine's; a user's `extra` can have a key of this name too."""
    own = record.__dict__.get("fields")
    return own if type(own) is dict else {}


def _is_plain(value: Any) -> bool:
    kind = type(value)
    return kind is float or kind is bool or value is None or (kind is int and abs(value) < MAX_NUMBER)


def _traceback(record: logging.LogRecord) -> str:
    """Of the error that is being handled, or what the event has of one that it keeps; then the stack."""
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
    """Half characters escaped, which UTF-8 cannot hold."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()


def _json_value(value: object) -> object:
    """As JSON holds it where it is plain or a few plain values in a container; else as text."""
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
    """Nothing but a few plain values, through all its levels; one within itself has no end of them."""
    rest, seen = [value], 0
    while rest and seen <= MAX_VALUES:
        value, seen = rest.pop(), seen + 1
        if type(value) in _CONTAINERS and len(value) <= MAX_VALUES:
            rest += [*value, *value.values()] if type(value) is dict else value
        elif type(value) is not str and not _is_plain(value):
            return False
    return not rest


def _listed(value: Any) -> object:
    """Names in a list, with commas between them."""
    names = type(value) is list and _is_small(value) and all(type(name) is str for name in value)
    return ",".join(value) if names else value


def _word(text: str) -> str:
    return text if text and not set(text) & set(' "=') else json.dumps(text, ensure_ascii=False)


def _as_json(char: str) -> str:
    return json.dumps(char)[1:-1]


def _ascii(line: str) -> str:
    """The line in ASCII, as JSON escapes the rest; for a stream that cannot take it."""
    return "".join(char if char.isascii() else _as_json(char) for char in line)


_encoder = msgspec.json.Encoder()
