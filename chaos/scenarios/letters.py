"""letters: for a minute no dead letter can be written; good messages must not notice, and the log must show it."""

from __future__ import annotations

import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from chaos.moment import now
from chaos.proxy_process import ProxyProcess, proxy
from chaos.scenarios.jobs import Job
from chaos.scenarios.report import Report
from chaos.scenarios.stage import Stage, StagePlan, stage
from tests.worker_process import WorkerProcess

OPERATION, KIND = "SendMessageBatch", "denied"
DENIED_SECONDS, QUICK_DENIED_SECONDS = 60.0, 8.0
CONCURRENCY = 20
#: Dead letters to be, more than there are permits; and good messages a second, sent all the while.
REJECTS, GOOD_A_SECOND = 60, 50
GOOD_SECONDS = 0.1
DRAIN_SECONDS = 25.0
#: A worker that gets SIGTERM meanwhile has nothing to wait for.
STOPPED_WITHIN = 5.0


class Seen:
    """`rate`: good messages a second while letters were denied, and before."""

    rate_before = rate_denied = seconds_to_stop = 0.0
    good = left = 0
    warnings: Sequence[dict[str, Any]] = ()


def run(folder: Path, quick: bool) -> Report:
    """Good messages alone, then with rejects that cannot be dead-lettered; then SIGTERM, still denied."""
    denied = QUICK_DENIED_SECONDS if quick else DENIED_SECONDS
    plan = StagePlan(30, CONCURRENCY, drain_seconds=DRAIN_SECONDS)
    with stage(folder, plan) as scene, proxy(scene.endpoint, folder) as between:
        scene.endpoint = f"{between.url}/worker"
        worker = scene.start_ready()
        seen = _watch(scene, between, worker, denied)
        accounted = scene.number("ok") + seen.left + scene.dead_letters()
    figures: dict[str, object] = {
        "good messages a second before": f"{seen.rate_before:.1f}",
        "good messages a second while denied": f"{seen.rate_denied:.1f}",
        "log lines about it": len(seen.warnings),
        "seconds to stop": f"{seen.seconds_to_stop:.1f}",
        "messages that wait in the queue": seen.left,
    }
    claims = {
        "good messages go on, at 85 % at least": seen.rate_denied >= 0.85 * seen.rate_before,
        "it is logged, at first and each minute, no more": 1 <= len(seen.warnings) <= 2 + denied / 60,
        f"a stop takes no longer than {STOPPED_WITHIN:g} s": seen.seconds_to_stop <= STOPPED_WITHIN,
        "nothing is lost": accounted == seen.good + REJECTS,
    }
    return Report(f"{OPERATION} is denied for {denied:g} s; {REJECTS} rejects, {CONCURRENCY} at once", figures, claims)


def _watch(scene: Stage, between: ProxyProcess, worker: WorkerProcess, denied: float) -> Seen:
    seen = Seen()
    seen.rate_before = _good(scene, seen, 5.0)
    between.fail(OPERATION, KIND)
    scene.send("reject", [Job(-1 - n, 0) for n in range(REJECTS)])
    seen.rate_denied = _good(scene, seen, denied)
    asked = now()
    worker.signal(signal.SIGTERM)
    worker.exit_code(DRAIN_SECONDS + 30)
    seen.seconds_to_stop = now() - asked
    scene.stop()
    seen.warnings = worker.all("settle.failed")
    between.heal()
    seen.left = sum(scene.counts())
    return seen


def _good(scene: Stage, seen: Seen, seconds: float) -> float:
    """Send good messages at a steady rate for so long; those that ended meanwhile, a second."""
    before, begun, first = scene.number("ok"), time.monotonic(), seen.good
    while (passed := time.monotonic() - begun) < seconds:
        due = range(seen.good, first + int(passed * GOOD_A_SECOND))
        scene.send("wait", [Job(n, GOOD_SECONDS) for n in due])
        seen.good += len(due)
        time.sleep(0.05)
    return (scene.number("ok") - before) / seconds
