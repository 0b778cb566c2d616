"""The output of the log: a handler of logging's that writes lines to a stream, and never troubles who logs."""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import Any, TextIO

from gevent.monkey import get_original

from millpond.errors import Interrupt
from millpond.foreign.text import type_name
from millpond.observe.log_format import JsonFormat, as_json, document_in, record_of
from millpond.observe.standard_output import StandardOutput, standard_output

_NativeRLock: Any = get_original("_thread", "RLock")


class LogOutput(logging.Handler):
    """Writes lines. Whatever is wrong with a record or with the stream, the caller of a logger does not notice it.

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
        if not isinstance(self.formatter, JsonFormat) and document_in(record) is not None:
            return
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
            text = f"a record of {record.name} cannot be shown: it raises {type_name(error)}"
            return self.format(logging.LogRecord(record.name, record.levelno, "", 0, text, None, None))

    def _write(self, line: str) -> None:
        if self._stream is None or self._stream.closed:
            return
        if self._output is None:
            self._stream.write(self._encoded(line).decode(self._encoding))
            self._stream.flush()
        elif self._has_logged_what_was_dropped(self._output):
            self._output.write(self._encoded(line))
        else:
            self._output.drop(line.encode()) if line else None

    def _has_logged_what_was_dropped(self, standard_output: StandardOutput) -> bool:
        """False: the stream takes nothing yet. This line goes out first, so that it stands where lines are missing."""
        if not (count := standard_output.dropped):
            return True
        text = f"{count} log lines were dropped: nobody read them"
        record = record_of(logging.WARNING, "log.dropped", text, {"lines": count})
        if not standard_output.offer(self._encoded(self._line(record) + "\n")):
            return False
        standard_output.dropped -= count
        return True

    def _encoded(self, line: str) -> bytes:
        try:
            return line.encode(self._encoding)
        except UnicodeEncodeError:
            return _ascii(line).encode(self._encoding)


def outputs() -> list[LogOutput]:
    """Where the log goes now."""
    return [handler for handler in logging.getLogger().handlers if isinstance(handler, LogOutput)]


def _ascii(line: str) -> str:
    """The line in ASCII, the rest as JSON escapes it, for a stream that cannot take it."""
    return "".join(char if char.isascii() else as_json(char) for char in line)
