"""kill: a worker dies in the middle of its work, and another one does the rest."""

from __future__ import annotations

import signal
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from chaos.chance import chance
from chaos.ledger import Run
from chaos.moment import now
from chaos.scenarios.jobs import Job
from chaos.scenarios.report import Report, finals, repeated
from chaos.scenarios.stage import StagePlan, stage

MESSAGES, QUICK_MESSAGES = 1_000, 100
VISIBILITY_SECONDS, QUICK_VISIBILITY_SECONDS = 5, 2
SHORTEST_SECONDS, LONGEST_SECONDS = 0.1, 0.5
#: A finished message is deleted this soon: its delete lingers for a tenth of that, and the machine may be busy.
DELETE_SECONDS = 1.0


def run(folder: Path, quick: bool) -> Report:
    """kill -9 when half of it is done. Nobody else works then: what is in flight is what the dead one had in hand."""
    count = QUICK_MESSAGES if quick else MESSAGES
    visibility = QUICK_VISIBILITY_SECONDS if quick else VISIBILITY_SECONDS
    with stage(folder, StagePlan(visibility)) as scene:
        victim = scene.start_ready()
        scene.send("wait", [_job(n) for n in range(count)])
        scene.wait("half of it is done", count * 0.05, lambda: scene.number("ok") >= count // 2)
        victim.signal(signal.SIGKILL)
        victim.exit_code()
        killed, in_hand = now(), scene.counts()[1]
        heir = scene.start_ready()
        scene.wait_empty(count * 0.05 + visibility)
        codes = scene.stop()
        runs, dead_letters = scene.runs(), scene.dead_letters()
    did = f"kill -9 in the middle of {count:,} messages; visibility {visibility} s"
    again = [several for several in runs.values() if several[-1].attempt > 1]
    figures = _figures(runs, again, killed, in_hand)
    claims = {
        "all done": runs.keys() == set(range(count)) and all(finals(several) for several in runs.values()),
        "received again: exactly what was in flight at the kill": len(again) == in_hand,
        "each at its second receive, by the other worker": all(_is_by_heir(several[-1], heir.pid) for several in again),
        "repeated: only what was in hand at the kill": all(_in_hand(s, killed) for s in repeated(runs).values()),
        "nothing dead-lettered, exit codes -9 and 0": dead_letters == 0 and codes == [-signal.SIGKILL, 0],
    }
    return Report(did, figures, claims)


def _job(n: int) -> Job:
    return Job(n, round(SHORTEST_SECONDS + chance("seconds", n) * (LONGEST_SECONDS - SHORTEST_SECONDS), 3))


def _is_by_heir(run: Run, pid: int) -> bool:
    return (run.attempt, run.worker) == (2, str(pid)) and run.is_final


def _in_hand(runs: Sequence[Run], killed: float) -> bool:
    """Two runs; the first one was not over at the kill, or over so shortly that it was not known to be deleted."""
    first, *others = runs
    return len(others) == 1 and (not first.verdict or first.end > killed - DELETE_SECONDS)


def _figures(
    runs: Mapping[int, Sequence[Run]], again: Iterable[Sequence[Run]], killed: float, in_hand: int
) -> dict[str, object]:
    again = list(again)
    late = [several[-1].start - killed for several in again]
    return {
        "messages done": sum(bool(finals(several)) for several in runs.values()),
        "in flight at the kill": in_hand,
        "received again": len(again),
        "of these, begun by the victim": sum(len(several) > 1 for several in again),
        "of these, ended by the victim, not deleted yet": sum(len(finals(several)) > 1 for several in again),
        "seconds from the kill to the first one's next run": f"{min(late, default=0.0):.1f}",
        "seconds from the kill to the last one's next run": f"{max(late, default=0.0):.1f}",
    }
