"""fifo: groups keep their order through failures and a restart."""

from __future__ import annotations

import signal
from collections.abc import Mapping, Sequence
from pathlib import Path

from chaos.chance import chance
from chaos.ledger import Run
from chaos.scenarios.jobs import Job
from chaos.scenarios.report import Report, all_done_once
from chaos.scenarios.stage import Stage, StagePlan, stage

GROUPS = 20
EACH, QUICK_EACH = 50, 5
#: Of all messages, so many fail the first time that they run.
FAILING = 0.1
SHORTEST_SECONDS, LONGEST_SECONDS = 0.01, 0.05


def run(folder: Path, quick: bool) -> Report:
    """Two workers; in the middle one of them gets SIGTERM, and replaced."""
    count = GROUPS * (QUICK_EACH if quick else EACH)
    with stage(folder, StagePlan(10, suffix=".fifo")) as scene:
        first, _ = [scene.start(), scene.start()]
        for worker in scene.workers:
            worker.expect("worker.ready")
        scene.send("wait", [_job(n) for n in range(count)], _group)
        scene.wait("half of it is done", count / 10, lambda: scene.number("ok") >= count // 2)
        first.signal(signal.SIGTERM)
        scene.start_ready()
        scene.wait_empty(count / 10)
        codes = scene.stop()
        runs = scene.runs()
        dead_letters, failures, again = scene.dead_letters(), scene.number("fail"), scene.came_again_in_hand()
        figures = _figures(scene, runs) | {"dead letters": dead_letters, "exit codes": codes}
    claims = {
        "all done, once each": all_done_once(runs, count),
        "order of every group is exact": not overtaking(runs),
        "what was to fail has failed, once": failures == sum(_job(n).fails for n in range(count)),
        "both first workers had work": all(_worker_runs(runs, worker.pid) for worker in scene.workers[:2]),
        "nothing came again while it was in hand": again == 0,
        "no dead letters": dead_letters == 0,
        "exit codes 0": not any(codes),
    }
    return Report(f"{GROUPS} groups of {count // GROUPS}, two workers, one restarted halfway", figures, claims)


def _job(n: int) -> Job:
    seconds = SHORTEST_SECONDS + chance("seconds", n) * (LONGEST_SECONDS - SHORTEST_SECONDS)
    return Job(n, round(seconds, 3), fails=chance("fails", n) < FAILING)


def _group(n: int) -> str:
    return f"g{n % GROUPS}"


def overtaking(runs: Mapping[int, Sequence[Run]]) -> list[int]:
    """Messages that began before the one ahead of them in their group had come to its good end."""
    return [n for n, several in runs.items() if n >= GROUPS and _begun(several) < _over(runs.get(n - GROUPS, []))]


def _begun(runs: Sequence[Run]) -> float:
    return min(run.start for run in runs)


def _over(runs: Sequence[Run]) -> float:
    """When the last of these ended; never, where one has not, or none ended well."""
    if not any(run.is_final for run in runs):
        return float("inf")
    return max(run.end if run.verdict else float("inf") for run in runs)


def _worker_runs(runs: Mapping[int, Sequence[Run]], pid: int) -> int:
    """How many runs the process had."""
    return sum(run.worker == str(pid) for several in runs.values() for run in several)


def _figures(scene: Stage, runs: Mapping[int, Sequence[Run]]) -> dict[str, object]:
    every = [run for several in runs.values() for run in several]
    seconds = max(run.end for run in every) - min(run.start for run in every)
    figures: dict[str, object] = {
        "messages done": sum(run.is_final for run in every),
        "failures": sum(run.verdict == "fail" for run in every),
        "cut by the drain": sum(run.verdict == "cut" for run in every),
        "given back, not run (by the workers' books)": scene.sum_of("released"),
        "overtaking in a group": len(overtaking(runs)),
        "seconds from the first start to the last end": f"{seconds:.1f}",
    }
    for number, worker in enumerate(scene.workers):
        figures[f"runs of worker {number}"] = _worker_runs(runs, worker.pid)
    return figures
