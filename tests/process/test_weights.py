"""Three queues of different weights in one real worker, under saturation.

Weights share places: on a virtual clock tests/engine/test_priorities.py shows what each queue has of them. This one is
the whole process with real sockets, where a receive is short beside a handler, as it is at SQS: a busy machine too has
both. The numbers are one snapshot of the worker itself: three queues that are asked one after the other are three
moments.
"""

from __future__ import annotations

import time

import pytest

from millpond.process.control import Order, addresses, ask
from tests.worker_process import SECONDS, WorkerProcess, local_sqs, write_project

pytestmark = pytest.mark.slow

HANDLERS = """
import random, time
from millpond import handler

@handler("nap")
def nap(payload: dict | None) -> None:
    time.sleep(random.uniform(0.3, 0.6))
"""
KEYS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_REGION": "us-east-1"}
WEIGHTS = {"high": 6, "middle": 3, "low": 1}
#: Messages of all queues that are done, between which the parts are measured.
FIRST, LAST = 250, 900


def done(pid: int) -> dict[str, int]:
    """What has succeeded of each queue, at one moment."""
    [address] = [one for one in addresses() if f"/{pid}-" in one]
    snapshot = ask(address, Order("status"), SECONDS).snapshot
    assert snapshot is not None
    return {queue.name: queue.outcomes.get("succeeded", 0) for queue in snapshot.queues}


def test_three_queues_at_six_three_and_one_have_that_of_a_saturated_worker(tmp_path):
    with local_sqs(tmp_path) as queues:
        tables = []
        for name, weight in WEIGHTS.items():
            queues.create(name)
            queues.send(name, "nap", number=100 * weight + 180)
            tables.append(f'[queues.{name}]\nurl = "{queues.url(name)}"\nweight = {weight}\n')
        config = '[worker]\nhandlers = ["jobs"]\nconcurrency = 100\n[log]\nformat = "json"\n' + "".join(tables)
        with WorkerProcess(write_project(tmp_path / "project", HANDLERS, config), **KEYS) as worker:
            worker.expect("worker.ready")
            while sum((before := done(worker.pid)).values()) < FIRST:
                time.sleep(0.02)
            while sum((after := done(worker.pid)).values()) < LAST:
                time.sleep(0.02)
            waiting = {name: queues.counts(name)[0] for name in WEIGHTS}
    assert min(waiting.values()) > 0, "saturated to the end"
    number = sum(after.values()) - sum(before.values())
    parts = {name: 100 * (after[name] - before[name]) / number for name in WEIGHTS}
    assert parts == pytest.approx({"high": 60, "middle": 30, "low": 10}, abs=3)
