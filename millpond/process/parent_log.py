"""ParentLog: the log of the parent of several workers, in the format of theirs. Without gevent, as the parent is."""

from __future__ import annotations

import logging
import os
import select
import sys
from contextlib import suppress
from typing import Any

from millpond.observe.log_format import JsonFormat, TextFormat, record_of


class ParentLog:
    """Writes events to standard output, beside the workers. A pipe that is full takes no line: nobody is held up."""

    def __init__(self, level: str, format: str) -> None:  # noqa: A002  the key's name in [log]
        text = format == "text" or (format == "auto" and sys.stdout is not None and sys.stdout.isatty())
        self._format = TextFormat() if text else JsonFormat()
        self._least = logging.getLevelNamesMapping()[level.upper()]

    def event(self, level: int, name: str, message: str, /, **fields: Any) -> None:
        """Log an event, as `log.event` does in a worker."""
        if level < self._least:
            return
        line = self._format.format(record_of(level, name, message, fields)) + "\n"
        with suppress(OSError, ValueError):  # there is no standard output, or nobody is at its other end
            if select.select([], [1], [], 0)[1]:
                os.write(1, line.encode())
