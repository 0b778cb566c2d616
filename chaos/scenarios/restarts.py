"""restarts: a worker is replaced every few seconds, under load."""

from __future__ import annotations

import signal
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from chaos.chance import chance
from chaos.ledger import Run
from chaos.moment import now
from chaos.scenarios.jobs import Job
from chaos.scenarios.report import Report, all_done_once
from chaos.scenarios.stage import Stage, StagePlan, stage

WORKERS = 3
#: Two workers can do a little more than comes; while one is replaced, a backlog grows now and then.
PER_SECOND = 30
PLAN = StagePlan(visibility_seconds=30, drain_seconds=10.0, wait_seconds=5, max_receive_count=10)


class RestartPace(NamedTuple):
    """How long, how often, and what a handler takes."""

    seconds: float
    every_seconds: float
    shortest_seconds: float
    longest_seconds: float


FULL = RestartPace(120.0, 5.0, 0.1, 2.0)
#: A boot takes its time: a tenth of the full pace would be no rolling restart.
QUICK = RestartPace(12.0, 2.0, 0.01, 0.2)


class Load(threading.Thread):
    """Sends ten messages at a time, at a steady rate, until it is stopped."""

    def __init__(self, scene: Stage, pace: RestartPace) -> None:
        super().__init__(daemon=True)
        self.sent = 0
        self.error: Exception | None = None
        self._scene = scene
        self._pace = pace
        self._ending = threading.Event()

    def run(self) -> None:
        try:
            while not self._ending.wait(10 / PER_SECOND):
                self._scene.send("wait", [self._job(n) for n in range(self.sent, self.sent + 10)])
                self.sent += 10
        except Exception as error:  # raised by `stop`
            self.error = error

    def _job(self, n: int) -> Job:
        shortest, longest = self._pace.shortest_seconds, self._pace.longest_seconds
        return Job(n, round(shortest + chance("seconds", n) * (longest - shortest), 3))

    def stop(self) -> int:
        """How many were sent."""
        self._ending.set()
        self.join()
        if self.error is not None:
            raise self.error
        return self.sent


def run(folder: Path, quick: bool) -> Report:
    """SIGTERM to the oldest worker, and a new one in its place, all the time; then the queue runs empty."""
    pace = QUICK if quick else FULL
    with stage(folder, PLAN) as scene:
        for worker in [scene.start() for _ in range(WORKERS)]:
            worker.expect("worker.ready")
        count, restarts = _roll(scene, pace)
        scene.wait_empty(pace.seconds)
        codes = scene.stop()
        runs, dead_letters, left = scene.runs(), scene.dead_letters(), scene.counts()
        given_back, again = scene.sum_of("released"), scene.came_again_in_hand()
    extra = sum(max(run.attempt for run in several) - 1 for several in runs.values())
    figures = _figures(runs, restarts) | {"given back by drains": given_back, "exit codes": _histogram(Counter(codes))}
    claims = {
        "nothing dead-lettered": dead_letters == 0,
        "nothing left, nothing invisible": not any(left),
        "all done, once each": all_done_once(runs, count),
        "whatever ran again was cut by a drain": all(_is_explained(several) for several in runs.values()),
        "every further receive was given back by a drain": extra == given_back,
        "nothing came again while it was in hand": again == 0,
        "exit codes 0": not any(codes),
    }
    did = f"{WORKERS} workers, the oldest replaced every {pace.every_seconds:g} s for {pace.seconds:g} s"
    return Report(f"{did}; {PER_SECOND} messages a second", figures, claims)


def _roll(scene: Stage, pace: RestartPace) -> tuple[int, int]:
    """Messages sent, workers replaced."""
    load = Load(scene, pace)
    load.start()
    begun, restarts = now(), 0
    while (next_at := begun + (restarts + 1) * pace.every_seconds) <= begun + pace.seconds:
        time.sleep(max(0.0, next_at - now()))
        scene.workers[restarts].signal(signal.SIGTERM)
        scene.start_ready()
        restarts += 1
    return load.stop(), restarts


def _is_explained(runs: Sequence[Run]) -> bool:
    return all(run.verdict == "cut" for run in runs[:-1])


def _histogram(counts: Mapping[int, int]) -> str:
    return ", ".join(f"{value}: {number:,}" for value, number in sorted(counts.items()))


def _figures(runs: Mapping[int, Sequence[Run]], restarts: int) -> dict[str, object]:
    every = [run for several in runs.values() for run in several]
    receives = Counter(max(run.attempt for run in several) for several in runs.values())
    return {
        "workers replaced": restarts,
        "messages done": sum(run.is_final for run in every),
        "runs": len(every),
        "cut by a drain": sum(run.verdict == "cut" for run in every),
        "messages by receive count": _histogram(receives),
    }
