"""ProcessTitle: what `ps` and `top` show of this process: how busy it is, before the command that was typed."""

from __future__ import annotations

import ctypes
from contextlib import suppress
from pathlib import Path

_PROC = Path("/proc/self")
#: The fields of /proc/self/stat behind the name that say where the arguments are in memory.
_ARG_START, _ARG_END = 48 - 3, 49 - 3


class ProcessTitle:
    """The title of this process, written where the system keeps its arguments; nothing where there is no such place.

    It is as long as the command line that was typed: "[12/100] python worker.py -c co". (Python has its own copy of
    the arguments.)
    """

    def __init__(self) -> None:
        self._text = ""
        self._typed, self._place = b"", 0
        with suppress(OSError, ValueError, IndexError):
            self._typed, self._place = _arguments()

    def show(self, text: str) -> None:
        """Put this text before the command; it is cut where there is no more room."""
        if self._place and text != self._text:
            self._text = text
            typed = self._typed.replace(b"\0", b" ").rstrip()
            title = text.encode("ascii", "replace") + b" " + typed
            room = len(self._typed) - 1  # the last byte stays 0: else the system reads on, into the environment
            ctypes.memmove(self._place, title[:room].ljust(room, b"\0") + b"\0", room + 1)


def _arguments() -> tuple[bytes, int]:
    """The arguments as they stand in memory, and their place: 0 where they are not where the system says."""
    fields = (_PROC / "stat").read_text().rpartition(")")[2].split()
    start, end = int(fields[_ARG_START]), int(fields[_ARG_END])
    typed = (_PROC / "cmdline").read_bytes()
    is_sound = 0 < start < end and end - start == len(typed) and _is_writable_stack(start, end)
    return typed, start if is_sound and ctypes.string_at(start, len(typed)) == typed else 0


def _is_writable_stack(start: int, end: int) -> bool:
    for line in (_PROC / "maps").read_text().splitlines():
        if line.endswith("[stack]"):
            low, _, high = line.split()[0].partition("-")
            return int(low, 16) <= start and end <= int(high, 16) and " rw" in line
    return False
