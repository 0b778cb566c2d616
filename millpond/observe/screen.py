"""Screen: counts in words, tables and bars; with rich on a terminal, as plain text elsewhere.

rich is loaded by what draws with it, only.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TextIO

from millpond.foreign.text import shown

#: Characters of one cell, since the answer of a service can be of any length.
MAX_CELL = 1_000

Rows = Sequence[Sequence[str]]


def counted(number: object, noun: str) -> str:
    """1 message, 2 messages."""
    return f"{number} {noun}" + ("" if str(number) == "1" else "s")


class OutputLost(OSError):
    """What a command prints cannot be written: the disk is full."""


class _OutlivingFile(io.FileIO):
    """A standard stream whose reader may leave (`| head -1`): what is written then is dropped without an error.

    Where it cannot be written, OutputLost is raised once.
    """

    has_left = False

    def write(self, piece: Any, /) -> int:
        try:
            return super().write(piece)
        except BrokenPipeError:
            self._drop_all()
            self.has_left = True
            return len(piece)
        except OSError as error:
            self._drop_all()
            raise OutputLost(error.errno, error.strerror) from None

    def _drop_all(self) -> None:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), self.fileno())


def outliving(stream: TextIO | None) -> TextIO | None:
    """The same stream, for a command whose exit code does not depend on whether its text is read to the end."""
    try:
        number = stream.fileno() if stream is not None else -1
    except (OSError, ValueError):
        number = -1
    if stream is None or number < 0:
        return stream
    stream.flush()
    writer = io.BufferedWriter(_OutlivingFile(number, "wb", closefd=False))
    return io.TextIOWrapper(writer, stream.encoding, stream.errors, line_buffering=bool(stream.line_buffering))


def reader_has_left(stream: TextIO) -> bool:
    """Whether text of this `outliving` stream was dropped."""
    return bool(getattr(getattr(getattr(stream, "buffer", None), "raw", None), "has_left", False))


def table(columns: Sequence[str], rows: Rows, styles: Mapping[str, str] | None = None) -> None:
    """Print a table. `styles`: a rich style for the rows whose first cell is this."""
    rows = [[shown(" ".join(cell.split()), MAX_CELL) for cell in row] for row in rows]
    if _on_terminal():
        _draw_table(columns, rows, styles or {})
    else:
        print("\n".join(plain_table(columns, rows)), flush=True)


def plain_table(columns: Sequence[str], rows: Rows) -> list[str]:
    """The lines of a table whose columns stand below each other."""
    lines = [columns, *rows]
    widths = [max(len(line[index]) for line in lines) for index in range(len(columns))]
    return ["  ".join(map(str.ljust, line, widths)).rstrip() for line in lines]


@contextmanager
def progress(text: str, total: int) -> Iterator[Callable[[int], object]]:
    """A bar while a terminal is looking, nothing elsewhere. Yields what is called with the size of each step."""
    if not _on_terminal():
        yield lambda step: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    with Progress(TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn()) as bar:
        task = bar.add_task(text, total=total)
        yield lambda step: bar.advance(task, step)


def _on_terminal() -> bool:
    return sys.stdout is not None and sys.stdout.isatty()  # None where the process was started without one


#: Columns that are never cut.
WHOLE_COLUMNS = frozenset({"id", "example"})


def _draw_table(columns: Sequence[str], rows: Rows, styles: Mapping[str, str]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    drawn = Table(box=box.SIMPLE_HEAD)
    for index, name in enumerate(columns):  # an id is copied: it must be whole in a narrow terminal too
        widest = max((len(row[index]) for row in rows), default=0) if name in WHOLE_COLUMNS else None
        drawn.add_column(name, min_width=widest)
    for row in rows:
        # Text: rich would read [queues.emails] as a style.
        drawn.add_row(*map(Text, row), style=styles.get(row[0]))
    Console().print(drawn)
