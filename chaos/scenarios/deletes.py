"""deletes: SQS takes no deletes for three visibility time-outs, and everything else."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from chaos.chance import chance
from chaos.ledger import Run
from chaos.moment import now
from chaos.proxy_process import ProxyProcess, proxy
from chaos.scenarios.jobs import Job
from chaos.scenarios.report import Report, all_done_once, repeated
from chaos.scenarios.stage import Stage, StagePlan, stage

OPERATION = "DeleteMessageBatch"
#: An answer of 5xx to a delete that was not done: the worker can only try again.
KIND = "503, not taken"
MESSAGES, QUICK_MESSAGES = 200, 20
FAILING_SECONDS, QUICK_FAILING_SECONDS = 90.0, 9.0
VISIBILITY_SECONDS, QUICK_VISIBILITY_SECONDS = 30, 3
SHORTEST_SECONDS, LONGEST_SECONDS = 0.1, 0.5


class Watched:
    """What was seen while deletes failed, and after."""

    finished = in_flight = faults = 0
    seconds_to_empty = 0.0


def run(folder: Path, quick: bool) -> Report:
    """Deletes fail before the first message comes; then they go through again."""
    count = QUICK_MESSAGES if quick else MESSAGES
    failing = QUICK_FAILING_SECONDS if quick else FAILING_SECONDS
    visibility = QUICK_VISIBILITY_SECONDS if quick else VISIBILITY_SECONDS
    with stage(folder, StagePlan(visibility, concurrency=100)) as scene, proxy(scene.endpoint, folder) as between:
        scene.endpoint = f"{between.url}/worker"
        scene.start_ready()
        seen = _watch(scene, between, count, failing)
        codes = scene.stop()
        runs, dead_letters = scene.runs(), scene.dead_letters()
        left, received, again = scene.counts(), scene.sum_of("received"), scene.came_again_in_hand()
    claims = _claims(runs, seen, count) | {
        "no second delivery": (received, again) == (count, 0) and not repeated(runs),
        "nothing left, nothing dead-lettered, exit code 0": (*left, dead_letters, *codes) == (0, 0, 0, 0, 0),
    }
    did = f"{OPERATION} answers {KIND.partition(',')[0]} for {failing:g} s; {count} messages, visibility {visibility} s"
    return Report(did, _figures(runs, seen, received) | {"came again while they were in hand": again}, claims)


def _watch(scene: Stage, between: ProxyProcess, count: int, failing: float) -> Watched:
    seen = Watched()
    between.fail(OPERATION, KIND)
    scene.send("wait", [_job(n) for n in range(count)])
    scene.wait("a first message has ended", 5.0, lambda: scene.number("ok") > 0)
    time.sleep(failing)
    seen.finished, seen.in_flight = scene.number("ok"), scene.counts()[1]
    seen.faults = len(between.faults())
    healed = now()
    between.heal()
    scene.wait_empty(failing)
    seen.seconds_to_empty = now() - healed
    return seen


def _job(n: int) -> Job:
    return Job(n, round(SHORTEST_SECONDS + chance("seconds", n) * (LONGEST_SECONDS - SHORTEST_SECONDS), 3))


def _claims(runs: Mapping[int, Sequence[Run]], seen: Watched, count: int) -> dict[str, bool]:
    return {
        "deletes were asked for, and failed": seen.faults > 0,
        "whatever had ended was still held": seen.in_flight >= seen.finished > 0,
        "all done, once each": all_done_once(runs, count),
    }


def _figures(runs: Mapping[int, Sequence[Run]], seen: Watched, received: int) -> dict[str, object]:
    return {
        "deletes that failed, of up to ten messages each": seen.faults,
        "ended while deletes failed": seen.finished,
        "in flight at that time's end": seen.in_flight,
        "runs": sum(map(len, runs.values())),
        "receives by the worker's books": received,
        "seconds from the first delete taken to an empty queue": f"{seen.seconds_to_empty:.1f}",
    }
