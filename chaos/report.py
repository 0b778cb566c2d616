"""The report of a run: a table for people, and a dictionary for a file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

import msgspec

from chaos.audit import SHOWN, Audit
from chaos.faults import NETWORK_KINDS
from chaos.hits import BLOWS
from chaos.ledger import Run


class Report(msgspec.Struct):
    """`faults`, `blows`: how many of each kind; `operations`: which calls suffered; `exits`: processes by exit code.

    `longest_silence`: seconds in which no worker began a new message.
    """

    seed: int
    seconds: float
    audit: Audit
    faults: Counter[str]
    operations: Counter[str]
    blows: Counter[str]
    exits: Counter[str]
    longest_silence: float

    @property
    def per_second(self) -> float:
        return self.audit.messages / self.seconds

    def to_dict(self) -> dict[str, Any]:
        audit = self.audit
        return {
            "seed": self.seed,
            "seconds": round(self.seconds, 1),
            "messages": audit.messages,
            "messages_per_second": round(self.per_second),
            "finished": audit.finished,
            "runs": audit.runs,
            "dead_letters": audit.dead_letters,
            "faults": dict(self.faults),
            "faults_by_operation": dict(self.operations),
            "blows": dict(self.blows),
            "exits": dict(self.exits),
            "longest_silence_seconds": round(self.longest_silence, 2),
            "duplicates_explained": dict(audit.duplicates),
            "reruns_explained": dict(audit.reruns),
            "late_runs_in_a_group": audit.late,
            "violations": {kind: len(found) for kind, found in audit.violations.items()},
            "passes": audit.passes,
        }

    def lines(self) -> Iterator[str]:
        """For people."""
        audit = self.audit
        rate = f"{self.per_second:,.0f} a second; longest silence {self.longest_silence:.1f} s"
        yield f"seed {self.seed}: {audit.messages:,} messages in {self.seconds:.0f} s, {rate}"
        yield from _table("injected", {kind: self.faults[kind] for kind in NETWORK_KINDS} | dict(self.blows))
        yield from _table("of these, network faults on", dict(self.operations))
        yield from _table("processes ended", dict(self.exits))
        yield from _table("duplicates explained by", dict(audit.duplicates))
        yield from _table("runs cut short or planned to fail, and again, by", dict(audit.reruns))
        yield from _table("audit", {"finished": audit.finished, "dead letters": audit.dead_letters})
        if audit.late:
            yield f"  {audit.late:,} of these runs in a group began after the next of the group had begun"
        yield from _table("violations", {kind: len(found) for kind, found in audit.violations.items()})
        for kind, found in audit.violations.items():
            yield from (f"{kind}: {text}" for text in found[:SHOWN])
        yield "the audit passes" if audit.passes else "THE AUDIT FAILS"

    def thin(self, least_faults: int, least_blows: int) -> list[str]:
        """What was not injected often enough to prove anything."""
        rare = [kind for kind in NETWORK_KINDS if self.faults[kind] < least_faults]
        return rare + [blow for blow in BLOWS if self.blows[blow] < least_blows]


def silence(runs: Mapping[int, Sequence[Run]]) -> float:
    """The longest time between the starts of two first attempts: those of repeats go on when no more is sent."""
    starts = sorted(run.start for several in runs.values() for run in several if run.attempt == 1)
    return max((after - before for before, after in pairwise(starts)), default=0.0)


def _table(title: str, rows: dict[str, int]) -> Iterator[str]:
    yield f"  {title}"
    for name, number in sorted(rows.items(), key=lambda row: -row[1]):
        yield f"    {name:<34} {number:>9,}"
    if not rows:
        yield "    none"
