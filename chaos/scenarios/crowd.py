"""crowd: one busy queue beside nineteen quiet ones in a process, against the same queue alone."""

from __future__ import annotations

import time
from pathlib import Path

from chaos.scenarios.jobs import Job
from chaos.scenarios.report import Report, all_done_once
from chaos.scenarios.stage import StagePlan, stage

QUIET_QUEUES = 19
CONCURRENCY = 100
MESSAGES, QUICK_MESSAGES = 15_000, 3_000
JOB_SECONDS = 0.2
#: The quiet queues' first polls are open by then.
SETTLED_SECONDS, QUICK_SETTLED_SECONDS = 5.0, 1.0
WAIT_SECONDS = 20
#: What the queue must reach of its rate alone.
WANTED = 0.85


def run(folder: Path, quick: bool) -> Report:
    """The same messages twice: alone, then in the crowd."""
    alone, done_alone = _rate(folder / "alone", 0, quick)
    beside, done_beside = _rate(folder / "crowd", QUIET_QUEUES, quick)
    figures: dict[str, object] = {
        "messages a second alone": round(alone),
        f"beside {QUIET_QUEUES} quiet queues": round(beside),
        "share": f"{beside / alone:.2f}",
    }
    claims = {
        f"at least {WANTED:.0%} of alone": beside >= WANTED * alone,
        "all done, once each": done_alone and done_beside,
    }
    did = f"{_messages(quick):,} messages of {JOB_SECONDS:g} s, concurrency {CONCURRENCY}, polls of {WAIT_SECONDS} s"
    return Report(did, figures, claims)


def _messages(quick: bool) -> int:
    return QUICK_MESSAGES if quick else MESSAGES


def _rate(folder: Path, quiet_queues: int, quick: bool) -> tuple[float, bool]:
    """Messages a second, from the first tenth that has ended to the last; and whether each was done once."""
    folder.mkdir()
    count = _messages(quick)
    plan = StagePlan(30, CONCURRENCY, wait_seconds=WAIT_SECONDS, quiet_queues=quiet_queues)
    with stage(folder, plan) as scene:
        scene.start_ready()
        time.sleep(QUICK_SETTLED_SECONDS if quick else SETTLED_SECONDS)
        scene.send("wait", [Job(n, JOB_SECONDS) for n in range(count)])
        scene.wait("all have ended", count / 20, lambda: scene.number("ok") == count)
        scene.stop()
        runs = scene.runs()
    ends = sorted(run.end for several in runs.values() for run in several)
    first = count // 10
    return (count - first) / (ends[-1] - ends[first]), all_done_once(runs, count)
