"""What the ledger, the effects and the table's own order say about the claims. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

import msgspec

from chaos.claim_proxy import ClaimWrite
from chaos.fault_log import Injected
from chaos.fleet import FleetEvent
from chaos.ledger import Run

#: A worker that was stopped may go on this long with what it had.
WAKE_SECONDS = 2.0
#: Reads of one clock by two processes, and a write's way back from the table.
SLACK_SECONDS = 0.05
STALE_WRITES = ("renew", "done", "release")


class Effect(NamedTuple):
    """A side effect that happened."""

    n: int
    worker: str  # its pid, as in the ledger
    moment: float


class Seen(msgspec.Struct, frozen=True):
    """All that is known of a run."""

    runs: Mapping[int, Sequence[Run]]
    effects: Sequence[Effect]
    writes: Sequence[ClaimWrite]
    blows: Sequence[FleetEvent]
    table_faults: Sequence[Injected]


class ClaimsAudit(msgspec.Struct):
    """`doubled`: effects beyond the first, by what came between them and the done mark."""

    effects: int
    doubled: Counter[str]
    stale_refused: Counter[str]
    violations: list[str]


def audit(seen: Seen) -> ClaimsAudit:
    """Judge it."""
    stale = [write for write in seen.writes if write.stale]
    found = ClaimsAudit(
        effects=len(seen.effects),
        doubled=Counter(),
        stale_refused=Counter(write.what for write in stale if not write.taken),
        violations=[f"stale, and taken: {write}" for write in stale if write.taken],
    )
    done = _first_done(seen.writes)
    effects: dict[int, list[Effect]] = {}
    for effect in sorted(seen.effects, key=lambda one: one.moment):
        effects.setdefault(effect.n, []).append(effect)
    for n, runs in seen.runs.items():
        ordered = sorted(runs, key=lambda run: run.start)
        found.violations += _after_done(n, ordered, done.get(n))
        found.violations += _at_once(n, ordered, seen.blows)
    for several in effects.values():
        for before, after in pairwise(several):
            cause = _cause(before, after, seen)
            found.doubled[cause] += 1
            if cause == "none":
                found.violations.append(f"doubled without a cause: {before} {after}")
    return found


def _first_done(writes: Iterable[ClaimWrite]) -> dict[int, float]:
    found: dict[int, float] = {}
    for write in writes:
        if write.what == "done" and write.taken:
            found.setdefault(number(write.key), write.moment)
    return found


def number(key: str) -> int:
    """Of the message with this key, "claimed e17"."""
    return int(key.rpartition(" e")[2])


def _after_done(n: int, runs: Sequence[Run], done: float | None) -> Iterator[str]:
    for run in runs:
        if done is not None and run.start > done + SLACK_SECONDS:
            yield f"ran after its done mark: {n} at {done:.3f}: {run}"


def _at_once(n: int, runs: Sequence[Run], blows: Sequence[FleetEvent]) -> Iterator[str]:
    """Two runs at the same time are for a worker that was stopped, and for nobody else."""
    for index, after in enumerate(runs):
        for before in runs[:index]:
            if _last_moment(before, blows) > after.start and not _was_stopped(before, after.start, blows):
                yield f"two at once: {n}: {before} {after}"


def _last_moment(run: Run, blows: Sequence[FleetEvent]) -> float:
    if run.verdict:
        return run.end
    deaths = [blow.moment for blow in blows if str(blow.pid) == run.worker and blow.what in ("kill -9", "exit")]
    return min((death for death in deaths if death >= run.start), default=float("inf"))


def _was_stopped(run: Run, until: float, blows: Sequence[FleetEvent]) -> bool:
    stops = [blow for blow in blows if blow.what == "SIGSTOP" and str(blow.pid) == run.worker]
    return any(stop.moment <= until and stop.until + WAKE_SECONDS >= run.start for stop in stops)


def _cause(before: Effect, after: Effect, seen: Seen) -> str:
    """What kept the first one from being marked done before the second; or who went on when he should not."""
    run, late = _run_of(before, seen.runs), _run_of(after, seen.runs)
    own = [blow for blow in seen.blows if str(blow.pid) == before.worker]
    if late.start < run.start and _was_stopped(late, after.moment, seen.blows):
        return "went on after a SIGSTOP"
    if any(blow.what == "kill -9" and before.moment <= blow.moment <= after.moment for blow in own):
        return "kill -9 before the mark"
    if _was_stopped(run, after.moment, own):
        return "SIGSTOP before the mark"
    if run.verdict == "cut":
        return "SIGTERM before the mark" if any(blow.what.startswith("SIGTERM") for blow in own) else "interrupted"
    names = {blow.worker for blow in own}
    if any(f.worker in names and before.moment <= f.moment <= after.moment for f in seen.table_faults):
        return "the mark did not reach the table"
    return "none"


def _run_of(effect: Effect, runs: Mapping[int, Sequence[Run]]) -> Run:
    own = [run for run in runs[effect.n] if run.worker == effect.worker and run.start <= effect.moment]
    return max(own, key=lambda run: run.start)
