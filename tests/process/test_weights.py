"""Three queues of different weights in one real worker, under saturation."""

from __future__ import annotations

import time

import pytest

from tests.worker_process import LocalQueues, WorkerProcess, local_sqs, write_project

pytestmark = pytest.mark.slow

HANDLERS = """
import time
from millpond import handler

@handler("nap")
def nap(payload: dict | None) -> None:
    time.sleep(0.05)
"""
KEYS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_REGION": "us-east-1"}
WEIGHTS = {"high": 6, "middle": 3, "low": 1}
#: Messages of all queues that are done, between which the parts are measured.
FIRST, LAST = 100, 800


def done(queues: LocalQueues, sent: dict[str, int]) -> dict[str, int]:
    return {name: number - sum(queues.counts(name)) for name, number in sent.items()}


def test_three_queues_at_six_three_and_one_have_that_of_a_saturated_worker(tmp_path):
    with local_sqs(tmp_path) as queues:
        sent = {name: 100 * weight + 150 for name, weight in WEIGHTS.items()}
        tables = []
        for name, weight in WEIGHTS.items():
            queues.create(name)
            queues.send(name, "nap", number=sent[name])
            tables.append(f'[queues.{name}]\nurl = "{queues.url(name)}"\nweight = {weight}\n')
        config = '[worker]\nhandlers = ["jobs"]\nconcurrency = 20\n[log]\nlevel = "warning"\n' + "".join(tables)
        with WorkerProcess(write_project(tmp_path / "project", HANDLERS, config), **KEYS):
            while sum((before := done(queues, sent)).values()) < FIRST:
                time.sleep(0.02)
            while sum((after := done(queues, sent)).values()) < LAST:
                time.sleep(0.1)
    number = sum(after.values()) - sum(before.values())
    parts = {name: 100 * (after[name] - before[name]) / number for name in WEIGHTS}
    assert parts == pytest.approx({"high": 60, "middle": 30, "low": 10}, abs=3)
