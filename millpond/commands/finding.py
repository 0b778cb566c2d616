"""A finding of `check`: how bad it is, where, what, why and what mends it; and the order of findings."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, get_args

import msgspec

Level = Literal["error", "warning", "note", "ok"]
#: The worst first.
WORST_FIRST: tuple[Level, ...] = get_args(Level)


class Finding(msgspec.Struct, frozen=True):
    """One line of a preflight. A worker with an `error` cannot work.

    `why`: what comes of it; `mend`: what mends it, in words; `command`: what mends it, for a shell.
    """

    level: Level
    where: str
    text: str
    command: str = ""
    why: str = ""
    mend: str = ""

    @property
    def sentence(self) -> str:
        """What, why and what mends it, as one cell of a table."""
        why = f"; {self.why}" if self.why else ""
        return f"{self.text}{why}" + (f": {self.mend}" if self.mend else "")


def in_order(findings: Iterable[Finding]) -> list[Finding]:
    """The findings, the worst first; what is the same in several places is one finding that names them all."""
    places: dict[Finding, list[str]] = {}
    for one in findings:
        where = places.setdefault(msgspec.structs.replace(one, where=""), [])
        if one.where not in where:
            where.append(one.where)
    merged = [msgspec.structs.replace(one, where=", ".join(where)) for one, where in places.items()]
    return sorted(merged, key=lambda one: WORST_FIRST.index(one.level))
