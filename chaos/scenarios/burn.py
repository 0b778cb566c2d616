"""burn: one handler computes for far longer than the visibility time-out, beside fifty that wait."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from chaos.ledger import Run
from chaos.scenarios.jobs import Job
from chaos.scenarios.report import Report, all_done_once, repeated
from chaos.scenarios.stage import Stage, StagePlan, stage

#: Handlers that wait, of each of the two kinds.
WAITING = 25


class Seconds(NamedTuple):
    """`limited`: what a handler waits whose time limit, its type's, is a little more."""

    burn: float
    visibility: int
    limited: float
    limited_type: str
    unlimited: float


FULL = Seconds(40.0, 15, 7.0, "wait.limit-10", 8.0)
QUICK = Seconds(4.0, 2, 0.7, "wait.limit-1", 0.8)


def run(folder: Path, quick: bool) -> Report:
    """All that wait have begun when the computing begins: it is longer than their time limits and their leases."""
    seconds = QUICK if quick else FULL
    with stage(folder, StagePlan(seconds.visibility, concurrency=100)) as scene:
        worker = scene.start_ready()
        _send(scene, seconds)
        scene.wait("all have ended", 2 * seconds.burn, lambda: scene.number("ok") > 2 * WAITING)
        scene.wait_empty(seconds.visibility)
        codes = scene.stop()
        blocked, again = worker.all("worker.blocked"), scene.came_again_in_hand()
        runs = scene.runs()
        figures: dict[str, object] = _figures(runs) | {
            "lines that the log has of it": len(blocked),
            "receives by the worker's books": scene.sum_of("received"),
            "came again while they were in hand": again,
            "time-outs by the worker's books": scene.sum_of("timed_out"),
        }
        claims = _claims(runs, seconds) | {
            "no second delivery": (scene.sum_of("received"), again) == (2 * WAITING + 1, 0) and not repeated(runs),
            "no false time-out": scene.sum_of("timed_out") == scene.number("cut") == 0,
            "worker.blocked was logged once": len(blocked) == 1,
            "exit code 0": codes == [0],
        }
    return Report(_did(seconds), figures, claims)


def _did(seconds: Seconds) -> str:
    limited = f"{WAITING} that wait {seconds.limited:g} s ({seconds.limited_type})"
    beside = f"{limited} and {WAITING} that wait {seconds.unlimited:g} s"
    return f"one computes for {seconds.burn:g} s beside {beside}; visibility {seconds.visibility} s"


def _send(scene: Stage, seconds: Seconds) -> None:
    """The one that computes is number 0, and comes when all others wait."""
    scene.send(seconds.limited_type, [Job(n, seconds.limited) for n in range(1, WAITING + 1)])
    scene.send("wait", [Job(n, seconds.unlimited) for n in range(WAITING + 1, 2 * WAITING + 1)])
    scene.wait("all wait", 5.0, lambda: scene.number("start") == 2 * WAITING)
    scene.send("burn", [Job(0, seconds.burn)])


def _figures(runs: Mapping[int, Sequence[Run]]) -> dict[str, object]:
    lasted = [run.end - run.start for several in runs.values() for run in several]
    return {
        "handlers that ran": len(runs),
        "runs": len(lasted),
        "seconds that the longest run lasted": f"{max(lasted):.1f}",
    }


def _claims(runs: Mapping[int, Sequence[Run]], seconds: Seconds) -> dict[str, bool]:
    burn = runs[0][0]
    held_up = [
        several[0].start < burn.start and several[0].end > max(burn.end, several[0].start + seconds.visibility)
        for n, several in runs.items()
        if n
    ]
    return {
        "all were held up past their visibility time-out": all(held_up),
        "all have ended once": all_done_once(runs, 2 * WAITING + 1),
    }
