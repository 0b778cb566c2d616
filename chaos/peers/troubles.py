"""The troubles that the peers meet: what is sent, when the other side is down or slow, and the row that comes of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import msgspec

MAX_RECEIVE_COUNT = 5


@dataclass(frozen=True)
class Trouble:
    """`rate`: what the other side takes a second; `told`: the programs know it. `deadline`: seconds from the start."""

    name: str
    title: str
    messages: int
    deadline: float
    down_seconds: float = 0.0
    rate: float = 0.0
    told: bool = False
    per_second: float = 0.0  # 0: all messages at once
    repeats: float = 0.0
    kills: Sequence[float] = ()
    after_seconds: float = 0.0


TROUBLES = [
    Trouble("outage", "the other side refuses connections for 30 s", 200, 100.0, down_seconds=30.0),
    Trouble("long", "it refuses them for 75 s", 200, 120.0, down_seconds=75.0),
    Trouble("ten", "it refuses them for ten minutes", 200, 720.0, down_seconds=600.0),
    Trouble("slow", "it takes 14 a second and refuses the rest; nobody knows", 400, 100.0, rate=14.0),
    Trouble("told", "the same, and the programs know the rate", 400, 100.0, rate=14.0, told=True),
    Trouble(
        "repeat",
        "a fifth is sent twice, and three times kill -9",
        200, 90.0, per_second=20.0, repeats=0.2, kills=(3.0, 6.0, 9.0), after_seconds=0.1,
    ),
]  # fmt: skip


class TroubleRow(msgspec.Struct):
    """What one program made of one trouble. `back_seconds`: from the return (or the start) to the last first call."""

    program: str
    trouble: str
    messages: int = 0
    done: int = 0
    lost: int = 0
    left: int = 0
    dead_letters: int = 0
    doubled: int = 0  # of those sent once
    doubled_repeats: int = 0  # of those sent twice
    refused: int = 0
    received_most: int = 0
    done_in_time: int = 0  # within BACK_SECONDS of the return
    last_seconds: float = 0.0
    failure: str = ""


COLUMNS = tuple(field for field in TroubleRow.__struct_fields__ if field not in ("program", "trouble", "failure"))


def is_repeated(trouble: Trouble, n: int) -> bool:
    """Whether this message is sent twice."""
    return bool(trouble.repeats) and n % round(1 / trouble.repeats) == 0


def sends(trouble: Trouble) -> Iterator[tuple[float, list[int]]]:
    """When which messages are sent: all at once, ten at a time, or one by one; the second copies a second later."""
    at_once = 1 if trouble.per_second else 10
    for first in range(0, trouble.messages, at_once):
        numbers = list(range(first, min(first + at_once, trouble.messages)))
        at = first / trouble.per_second if trouble.per_second else 0.0
        yield at, numbers
        if again := [n for n in numbers if is_repeated(trouble, n)]:
            yield at + 1.0, again


def table(rows: Sequence[TroubleRow]) -> Iterator[str]:
    """In Markdown."""
    for trouble in TROUBLES:
        if some := [row for row in rows if row.trouble == trouble.name]:
            yield f"\n{trouble.title}; {trouble.messages} messages, maxReceiveCount {MAX_RECEIVE_COUNT}\n"
            yield " | ".join(["| program", *(name.replace("_", " ") for name in COLUMNS)]) + " |"
            yield "|---" * (len(COLUMNS) + 1) + "|"
            yield from (_line(row) for row in some)


def _line(row: TroubleRow) -> str:
    values: Mapping[str, object] = msgspec.structs.asdict(row)
    cells = [row.failure] if row.failure else [str(values[name]) for name in COLUMNS]
    return " | ".join([f"| {row.program}", *cells]) + " |"
