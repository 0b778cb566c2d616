"""HourMarks: the moments that explain a picture of the last hour: a start, a quiet, a drain, a breaker that opened."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Literal, NamedTuple

import msgspec

#: Marks of breakers and of blocks, and marks of all else, that are kept: a flapping breaker pushes no deploy out.
MAX_MARKS = 60
MarkKind = Literal["start", "quiet", "resume", "drain", "breaker", "closed", "blocked"]
_STEERED = frozenset[MarkKind]({"start", "quiet", "resume", "drain"})


class HourMark(msgspec.Struct, frozen=True):
    """One moment, `at` in seconds since the epoch."""

    at: float
    kind: MarkKind
    text: str


class MarkedState(NamedTuple):
    """What marks are made from. `quiet`: names of queues; `shut`: types whose breakers are not closed, and why."""

    quiet: frozenset[str] = frozenset()
    shut: Mapping[str, str] = {}
    blocked: int = 0
    why: str = ""  # it drains


class HourMarks:
    """Makes a mark where the state has changed since the last look."""

    def __init__(self, started: float, version: str) -> None:
        self.made = 1
        self._steered = deque([(1, HourMark(round(started, 1), "start", f"started, Millpond {version}"))], MAX_MARKS)
        self._others: deque[tuple[int, HourMark]] = deque(maxlen=MAX_MARKS)
        self._before = MarkedState()

    def look(self, at: float, now: MarkedState) -> None:
        """Compare with the last look."""
        for kind, text in changes(self._before, now):
            self.made += 1
            marks = self._steered if kind in _STEERED else self._others
            marks.append((self.made, HourMark(round(at, 1), kind, text)))
        self._before = now

    def since(self, made: int) -> list[HourMark]:
        """The marks made after this number of them, in order."""
        return [mark for number, mark in sorted([*self._steered, *self._others]) if number > made]


def changes(before: MarkedState, now: MarkedState) -> list[tuple[MarkKind, str]]:
    """What has changed. In a drain no queue is quiet or resumes any more."""
    found: list[tuple[MarkKind, str]] = []
    if now.why and not before.why:
        found.append(("drain", f"drain: {now.why}"))
    elif not now.why:
        if names := sorted(now.quiet - before.quiet):
            found.append(("quiet", f"quiet: {', '.join(names)}"))
        if names := sorted(before.quiet - now.quiet):
            found.append(("resume", f"receives again: {', '.join(names)}"))
    opened = {kind: why for kind, why in now.shut.items() if kind not in before.shut}
    found += [("breaker", f"breaker of {kind} opened: {why}") for kind, why in opened.items()]
    found += [("closed", f"breaker of {kind} closed") for kind in before.shut if kind not in now.shut]
    if (blocks := now.blocked - before.blocked) > 0:
        found.append(("blocked", f"hub blocked {'once' if blocks == 1 else f'{blocks} times'}"))
    return found
