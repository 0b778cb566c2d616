"""The log: stdlib logging to standard output, one line an event, as text for people or JSON for machines."""

from __future__ import annotations

import logging
import math
import sys
import threading
import time
from collections import deque
from typing import Any, TextIO

import gevent

from millpond.errors import Interrupt
from millpond.foreign.text import shown
from millpond.foreign.trace import describe, traceback_of
from millpond.foreign.trace_context import delivery as delivery
from millpond.observe.log_format import WIRE_TEXT_LENGTH, JsonFormat, TextFormat, record_of
from millpond.observe.log_output import LogOutput, outputs

_engine = logging.getLogger("millpond")
#: Whether debug lines are written: whoever has one on the way of each message looks here, before it makes its text.
is_debug = False


def setup(level: str, format: str, stream: TextIO | None = None) -> None:  # noqa: A002  the key's name in [log]
    """Write what any logger says to `stream` (standard output), as [log] wants it. A second call replaces the first.

    `level`: debug, info, warning, error or critical. `format`: text, json, or auto: text on a terminal.
    """
    out = stream or sys.stdout  # None where the process was started without one
    text = format == "text" or (format == "auto" and out is not None and out.isatty())
    root = logging.getLogger()
    for old in outputs():
        root.removeHandler(old)
    root.addHandler(LogOutput(out, TextFormat() if text else JsonFormat()))
    set_level(level)
    # No line shows them, and threading.current_thread() makes an object for each greenlet that logs.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False


def set_level(level: str) -> None:
    """Write what has this level, or a higher one; `level` as in `setup`."""
    threshold = logging.getLevelNamesMapping()[level.upper()]
    global is_debug
    is_debug = threshold <= logging.DEBUG
    logging.getLogger().setLevel(threshold)
    for name in ("boto3", "botocore", "urllib3"):  # at info and below they log each call, bodies included
        logging.getLogger(name).setLevel(max(logging.WARNING, threshold))


def take_failures() -> None:
    """Make an event of what a greenlet, a thread or a `__del__` of the user's raises, and a line of a warning: gevent
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


def event(level: int, name: str, message: str, /, **fields: Any) -> None:
    """Log an event of the engine, such as "message.retried". Costs next to nothing where its level is off."""
    if not _engine.isEnabledFor(level):
        return
    record = record_of(level, name, message, fields)
    try:
        _engine.handle(record)
    except (Interrupt, gevent.GreenletExit):
        raise
    except BaseException as error:  # of a handler or a filter that the user's code has added: the engine goes on
        _not_handled(record, error)


def _not_handled(record: logging.LogRecord, error: BaseException) -> None:
    """Log that, at most once a minute, past what has raised; and the line itself, where that may have come first."""
    records = [record] if _engine.handlers or _engine.filters else []
    if _failures.take(time.monotonic()):
        text = f"a handler or a filter that was added to logging missed this line: it raised {describe(error)}"
        records.append(record_of(logging.ERROR, "log.failed", text, {"line": shown(record.__dict__["event"])}))
    for output in outputs():
        for one in records:
            output.handle(one)


def on_demand(level: int, name: str, message: str, /, **fields: Any) -> None:
    """Log an event that an operator has asked for just now: it is written whatever the level of the log is."""
    record = record_of(level, name, message, fields)
    for output in outputs():
        output.handle(record)


def from_thread(level: int, name: str, message: str, /, **fields: Any) -> None:
    """Log an event from a native thread while the hub stands still, by no lock that a greenlet may hold.

    A pipe that is full is not waited for: the line is lost, since whoever reads the log may be what the hub waits for.
    The line should be shorter than 4 KiB (PIPE_BUF): so much a pipe that is not full takes at once.
    """
    record = record_of(level, name, message, fields)
    for output in outputs():
        output.write_past_locks(record)


def printable(text: str) -> str:
    """Text from the wire, fit for a line: what is not printable is escaped, and it is cut at 100 characters."""
    return shown(text, WIRE_TEXT_LENGTH)


def flush() -> None:
    """Write out what is buffered."""
    for output in outputs():
        output.flush()


def forget_locks() -> None:
    """In a forked child: a thread that held one is gone."""
    for output in outputs():
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
