"""Ledger: what the handlers have written down, as runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from sys import intern

import msgspec

#: Verdicts after which a message must not run again.
FINAL = frozenset({"ok", "reject", "discard"})


class Run(msgspec.Struct, gc=False):
    """One run of the handler. `verdict`: how it ended ("cut": by an interrupt); "" where it never did."""

    attempt: int
    worker: str
    start: float
    end: float = 0.0
    verdict: str = ""

    @property
    def is_final(self) -> bool:
        return self.verdict in FINAL


def read(lines: Iterable[str]) -> dict[int, list[Run]]:
    """The runs of each message: in the order of its receives, and of their starts."""
    runs: dict[int, list[Run]] = {}
    for line in lines:
        n, attempt, what, worker, moment = line.split()
        what, worker = intern(what), intern(worker)  # there can be a million lines
        if what == "start":
            runs.setdefault(int(n), []).append(Run(int(attempt), worker, float(moment)))
        else:
            run = _open(runs, int(n), int(attempt), worker)
            run.end, run.verdict = float(moment), what
    for several in runs.values():
        if len(several) > 1:
            several.sort(key=lambda run: (run.attempt, run.start))
    return runs


def _open(runs: Mapping[int, list[Run]], n: int, attempt: int, worker: str) -> Run:
    """The run that this line ends."""
    for run in runs[n]:
        if (run.attempt, run.worker, run.verdict) == (attempt, worker, ""):
            return run
    raise ValueError(f"message {n} ended in {worker} at attempt {attempt}, and never began")
