"""deploys: three deploys in the middle of a long job, then its first failure: the deploys count as no attempts."""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import msgspec

from chaos.claim_table import NAME, claim_table
from chaos.ledger import Run
from chaos.scenarios.jobs import Job
from chaos.scenarios.report import Report
from chaos.scenarios.stage import Stage, StagePlan, stage, toml_table

DEPLOYS = 3
MAX_ATTEMPTS = 3
DRAIN_SECONDS = 1.0
#: A deploy strikes a job that has run for so long.
RUN_SECONDS = 0.5
RETRY = toml_table("retry", {"max_attempts": MAX_ATTEMPTS, "base_seconds": 1, "max_seconds": 60})
#: What a failure's line or dead letter says that counts give-backs as failures.
UNTRUE = re.compile(rf"every attempt failed|failed ([2-9]|{DEPLOYS + 1}) times|all \d+ attempts")


class Told(NamedTuple):
    """How it went. `said`: the lines about the failure, or the reasons of the dead letters."""

    runs: list[Run]
    receives: int
    dead_letters: int
    said: str
    codes: list[int]


def run(folder: Path, quick: bool) -> Report:
    """With the store, then without it."""
    seconds = 4.0 if quick else 15.0
    with claim_table() as endpoint:
        kept = _play(folder / "with the store", seconds, endpoint)
    bare = _play(folder / "without it", seconds)
    figures: dict[str, object] = {
        "with the store: runs": ", ".join(run.verdict or "-" for run in kept.runs),
        "with the store: receives": kept.receives,
        "with the store: it says": kept.said,
        "without it: runs": ", ".join(run.verdict or "-" for run in bare.runs),
        "without it: receives": bare.receives,
        "without it: it says": bare.said,
    }
    claims = {
        "with the store: retried as the first failure, then done": kept.dead_letters == 0
        and [run.verdict for run in kept.runs] == ["cut"] * DEPLOYS + ["fail", "ok"],
        "with the store: told as the first failure": not UNTRUE.search(kept.said)
        and f"failure 1 of {MAX_ATTEMPTS}" in kept.said,
        "without it: a dead letter, by the receives": (bare.dead_letters, bare.receives) == (1, DEPLOYS + 1),
        "without it: told truly": not UNTRUE.search(bare.said) and f"received {bare.receives} times" in bare.said,
        "exit codes 0": not any(kept.codes + bare.codes),
    }
    did = f"{DEPLOYS} deploys during a job of {seconds:g} s, max_attempts {MAX_ATTEMPTS}; then it fails, once"
    return Report(did, figures, claims)


def _play(folder: Path, seconds: float, table_url: str = "") -> Told:
    """Without a table the handler is not idempotent."""
    folder.mkdir()
    plan = StagePlan(30, drain_seconds=DRAIN_SECONDS, retry=RETRY)
    if table_url:
        plan = msgspec.structs.replace(
            plan,
            handlers=(*plan.handlers, "chaos.scenarios.claimed_jobs"),
            tables=toml_table("idempotency", {"table": NAME}),
            environ={"AWS_ENDPOINT_URL_DYNAMODB": table_url},
        )
    with stage(folder, plan) as scene:
        scene.start_ready()
        scene.send("kept" if table_url else "wait", [Job(0, seconds, fails=True)])
        for deploy in range(DEPLOYS):
            _deploy(scene, deploy)
        scene.wait("the job has failed", seconds + 30, lambda: scene.number("fail") == 1)
        scene.wait_empty(seconds + 60)
        codes = scene.stop()
        runs, dead_letters = list(scene.runs()[0]), scene.dead_letters()
        said = "; ".join(scene.reasons() if dead_letters else map(_said, scene.workers[-1].all("message.retried")))
    return Told(runs, max(run.attempt for run in runs), dead_letters, said, codes)


def _deploy(scene: Stage, number: int) -> None:
    """SIGTERM to the worker that runs the job, a new one in its place."""
    scene.wait("the job runs", 30, lambda: scene.number("start") == number + 1)
    time.sleep(RUN_SECONDS)
    old = scene.workers[-1]
    old.signal(signal.SIGTERM)
    scene.start_ready()
    old.exit_code(DRAIN_SECONDS + 30)


def _said(line: Mapping[str, object]) -> str:
    """What a reader of the line is told."""
    return f"{line['message']}: {line.get('reason') or line.get('error')}"
