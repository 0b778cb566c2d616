"""The log: stdlib logging to standard output, one line an event, as text for people or JSON for machines."""

from __future__ import annotations

import json
import logging
import math
import os
import re
import sys
import time
from collections import deque
from contextlib import suppress
from contextvars import ContextVar
from datetime import UTC, datetime
from select import POLLOUT
from typing import Any, TextIO

import msgspec
from gevent.monkey import get_original

from millpond.message import Message

#: The delivery that this greenlet works on: every record logged meanwhile, by whatever logger, has its fields.
delivery: ContextVar[Message | None] = ContextVar("delivery", default=None)

#: Ids and types come from the wire; a line shows no more of each.
WIRE_TEXT_LENGTH = 100

_NativeRLock: Any = get_original("_thread", "RLock")
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


def event(level: int, name: str, message: str = "", /, **fields: Any) -> None:
    """Log an event of the engine, such as "message.retried". Costs next to nothing where its level is off."""
    if not _engine.isEnabledFor(level):
        return
    record = logging.LogRecord(_engine.name, level, "", 0, message, None, None)
    record.__dict__.update(event=name, fields=fields)
    _engine.handle(record)


def from_thread(level: int, name: str, message: str, /, **fields: Any) -> None:
    """The same, from a native thread while the hub stands still: by none of logging's locks, which a greenlet may hold.

    A pipe that is full is not waited for: the line is lost, since whoever reads the log may be what the hub waits for.
    The line should be shorter than 4 KiB (PIPE_BUF): so much a pipe that is not full takes at once.
    """
    record = logging.LogRecord(_engine.name, level, "", 0, message, None, None)
    record.__dict__.update(event=name, fields=fields)
    for output in _outputs():
        output.write_past_locks(record)


def delivery_fields(message: Message) -> dict[str, Any]:
    """What a line says of a delivery."""
    return {
        "queue": message.queue,
        "message_id": printable(message.id),
        "event_id": printable(message.event_id),
        "type": printable(message.event_type),
        "attempt": message.attempt,
    }


def printable(text: str) -> str:
    """Text from the wire, fit for a line: what is not printable is escaped, and it is cut at 100 characters."""
    shown = _escaped(text[: WIRE_TEXT_LENGTH + 1])
    return shown if len(shown) <= WIRE_TEXT_LENGTH else shown[: WIRE_TEXT_LENGTH - 3] + "..."


def flush() -> None:
    """Bring out what is buffered."""
    for output in _outputs():
        output.flush()


class Allowance:
    """At most `per_second` in any one second (its whole part); below 1, one in each 1 / per_second seconds.

    A bucket of tokens would let twice as many through in the second after a pause.
    """

    def __init__(self, per_second: float) -> None:
        self._taken: deque[float] = deque(maxlen=max(1, int(per_second)) if per_second > 0 else 0)
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


class _Output(logging.Handler):
    """Writes lines. Whatever is wrong with a record or with the stream, the caller of a logger never feels it."""

    def __init__(self, stream: TextIO | None, formatter: logging.Formatter) -> None:
        super().__init__()
        self._stream = stream
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
            if record.levelno >= logging.getLogger().level and self._stream is not None:
                number = self._stream.fileno()
                poll = get_original("select", "poll")()
                poll.register(number, POLLOUT)
                if poll.poll(0):
                    os.write(number, (self._line(record) + "\n").encode())

    def _line(self, record: logging.LogRecord) -> str:
        try:
            return self.format(record)
        except Exception as error:  # a record holds what its caller gave: any __str__ may raise
            text = f"a record cannot be shown: {type(error).__name__}"
            return self.format(logging.LogRecord(record.name, record.levelno, "", 0, text, None, None))

    def _write(self, line: str) -> None:
        if self._stream is None:
            return
        try:
            try:
                self._stream.write(line)
            except UnicodeEncodeError:
                self._stream.write(_ascii(line))
            self._stream.flush()
        except BrokenPipeError:
            # Nobody reads any more. What is left in the buffer would turn the exit code into 120.
            with open(os.devnull, "wb") as nowhere:
                os.dup2(nowhere.fileno(), self._stream.fileno())


class _JsonFormatter(logging.Formatter):
    """{"ts", "level", "event", "message", ...} in one line of UTF-8."""

    def format(self, record: logging.LogRecord) -> str:
        moment = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        head = {
            "ts": moment.removesuffix("+00:00") + "Z",
            "level": record.levelname.lower(),
            "event": record.__dict__.get("event", "log"),
            "message": _message(record),
        }
        if "event" not in record.__dict__:
            head["logger"] = record.name
        entry = head | _fields(record) | head
        try:
            return _encoder.encode(entry).decode()
        except Exception:  # lone surrogates, keys that are no text, a list within itself: each value as its text
            return _encoder.encode({_text(key): _plain(value) for key, value in entry.items()}).decode()


class _TextFormatter(logging.Formatter):
    """12:00:01 INFO  message.succeeded  the message  queue=emails ...; tracebacks on lines that follow, indented."""

    def format(self, record: logging.LogRecord) -> str:
        fields = _fields(record)
        trace = _text(fields.pop("traceback", ""))
        clock = time.strftime("%H:%M:%S", time.localtime(record.created))
        name = record.__dict__.get("event", record.name)
        words = " ".join(f"{_escaped(_text(key))}={_word(_text(value))}" for key, value in fields.items())
        parts = [f"{clock} {record.levelname:<5} {_escaped(_text(name))}", _escaped(_message(record)), words]
        lines = ["  ".join(part for part in parts if part)]
        lines += [f"    {_escaped(line)}" for line in trace.splitlines()]
        return "\n".join(lines)


def _outputs() -> list[_Output]:
    return [handler for handler in logging.getLogger().handlers if isinstance(handler, _Output)]


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    message = delivery.get()
    fields = delivery_fields(message) if message else {}
    fields |= {key: value for key, value in record.__dict__.items() if key not in _RECORD_KEYS}
    own = record.__dict__.get("fields")
    if isinstance(own, dict):
        fields |= own
    trace = _traceback(record)
    return fields | {"traceback": trace} if trace else fields


def _traceback(record: logging.LogRecord) -> str:
    parts = []
    if record.exc_info and record.exc_info[0]:
        parts.append(_formatter.formatException(record.exc_info))
    if record.stack_info:
        parts.append(record.stack_info)
    return "\n".join(parts)


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except Exception:  # arguments that do not fit the text: both are worth more than neither
        return f"{record.msg} {record.args}"


def _text(value: object) -> str:
    """Any value as text that can be encoded."""
    try:
        text = str(value)
    except Exception as error:
        text = f"<{type(value).__name__}: {type(error).__name__}>"
    return text.encode("utf-8", "backslashreplace").decode()


def _plain(value: object) -> object:
    return value if isinstance(value, bool | int | float | None) else _text(value)


def _word(text: str) -> str:
    simple = text.isprintable() and not set(text) & set(' "=')
    return text if simple and text else json.dumps(_escaped(text), ensure_ascii=False)


def _escaped(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def _ascii(line: str) -> str:
    """The line in ASCII, as JSON escapes the rest; for a stream that cannot take it."""
    return re.sub(r"[^\x00-\x7f]", lambda char: json.dumps(char[0])[1:-1], line)


_encoder = msgspec.json.Encoder(enc_hook=_text)
_formatter = logging.Formatter()
