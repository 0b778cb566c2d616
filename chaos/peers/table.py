"""The table: one experiment after the other, the programs side by side in its rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from chaos.peers.findings import Row
from chaos.peers.programs import Program
from chaos.peers.schedules import Experiment

#: Head of a column, and the field that it shows.
COLUMNS = (
    ("messages", "messages"),
    ("lost", "lost"),
    ("doubled, explained", "doubled_explained"),
    ("doubled, no cause", "doubled_unexplained"),
    ("cut short, no cause", "cut_unexplained"),
    ("stranded", "stranded"),
    ("not done", "left"),
    ("dead letters asked for", "dead_asked"),
    ("twice", "dead_repeated"),
    ("without reason", "dead_without_reason"),
    ("never asked for", "dead_never_asked"),
    ("died itself", "ended_itself"),
    ("had to be killed", "had_to_be_killed"),
    ("longest silence s", "longest_silence"),
)
_FIRST = 14
_WIDTH = 10


def lines(rows: Sequence[Row], programs: Sequence[Program], experiments: Sequence[Experiment]) -> Iterator[str]:
    """The whole of it, with notes."""
    labels = {program.name: program.label for program in programs}
    for experiment in experiments:
        some = [row for row in rows if row.experiment == experiment.name]
        if some:
            yield from ("", f"{experiment.title} ({_injected(some)})", *_heads())
            yield from (_line(labels.get(row.program, row.program), row) for row in some)
    yield ""
    yield "Order: a standard queue has none. Dead letters that SQS itself makes have no reason."
    for program in programs:
        yield f"{program.label}: visibility {program.visibility_seconds} s; {program.note}"


def _injected(rows: Sequence[Row]) -> str:
    faults, blows = ([getattr(row, field) for row in rows] for field in ("faults", "blows"))
    return f"faults {min(faults)} to {max(faults)}, blows {min(blows)} to {max(blows)}"


def _heads() -> Iterator[str]:
    """Words of a head under each other."""
    words = [_wrapped(head) for head, _ in COLUMNS]
    height = max(map(len, words))
    for level in range(height):
        cells = [[""] * (height - len(column)) + column for column in words]
        yield " " * _FIRST + "".join(f"{column[level]:>{_WIDTH}}" for column in cells)


def _wrapped(head: str) -> list[str]:
    found: list[str] = []
    for word in head.split():
        if found and len(found[-1]) + len(word) + 1 < _WIDTH:
            found[-1] += f" {word}"
        else:
            found.append(word)
    return found


def _line(label: str, row: Row) -> str:
    if row.failure:
        return f"{label:<{_FIRST}} {row.failure}"
    return f"{label:<{_FIRST}}" + "".join(f"{getattr(row, field):>{_WIDTH},}" for _, field in COLUMNS)
