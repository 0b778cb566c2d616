"""Two workers of one host: what StatsD, Prometheus and CloudWatch get of them, in real processes."""

from __future__ import annotations

import json
import time
import urllib.request
from collections import Counter
from signal import SIGTERM
from typing import Any

import pytest

from tests.observe.test_metrics import Server
from tests.worker_process import WorkerProcess, local_sqs, write_project

HANDLERS = """
from millpond import Reject, handler

@handler("good")
def good(payload: dict) -> None:
    pass

@handler("bad")
def bad(payload: dict) -> None:
    raise Reject("no")
"""
GOOD, BAD = 60, 20
PROMETHEUS = ("millpond_succeeded_total", "millpond_rejected_total")


def page_of(worker: WorkerProcess, path: str = "metrics", kind: str = "text/plain") -> str:
    [ready] = worker.all("http.ready")
    port = ready["port"]
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/{path}", timeout=5) as answer:
        assert answer.headers["Content-Type"].startswith(kind)
        return answer.read().decode()


def history_of(worker: WorkerProcess) -> dict[str, Any]:
    return json.loads(page_of(worker, "history", "application/json"))


def numbers_in(hours: list[dict[str, Any]]) -> tuple[int, int]:
    buckets = [bucket for hour in hours for bucket in hour["buckets"]]
    succeeded = sum(bucket.get("outcomes", {}).get("succeeded", 0) for bucket in buckets)
    return succeeded, sum(bucket.get("failed", 0) for bucket in buckets)


def sums_in(page: str, name: str) -> int:
    return sum(int(line.rpartition(" ")[2]) for line in page.splitlines() if line.startswith(f"{name}{{"))


@pytest.mark.slow
def test_the_numbers_of_two_workers_are_equal_wherever_they_go_and_no_gauge_is_another_ones(tmp_path):
    statsd = Server()
    with local_sqs(tmp_path) as queues:
        config = f"""
            [worker]
            name = "twin"
            handlers = ["jobs"]
            [queues.q]
            url = "{queues.create("q")}"
            wait_seconds = 1
            [statsd]
            host = "127.0.0.1"
            port = {statsd.port}
            [http]
            listen = "127.0.0.1:0"
            [cloudwatch]
            namespace = "Mill"
            metrics = ["succeeded", "rejected", "in_hand"]
        """
        project = write_project(tmp_path / "project", HANDLERS, config)
        with WorkerProcess(project) as first, WorkerProcess(project) as second:
            workers = (first, second)
            for worker in workers:
                worker.expect("worker.ready")
                begins = [line for line in page_of(worker).splitlines() if line.startswith(PROMETHEUS)]
                kinds = ("bad", "good", "unknown")
                assert begins == [f'{name}{{queue="q",type="{kind}"}} 0' for name in PROMETHEUS for kind in kinds]
            queues.send("q", "good", {}, GOOD)
            queues.send("q", "bad", {}, BAD)
            end = time.monotonic() + 30
            while (done := [sum(sums_in(page_of(one), name) for one in workers) for name in PROMETHEUS]) != [GOOD, BAD]:
                assert time.monotonic() < end, done
            while (done := numbers_in(hours := [history_of(worker) for worker in workers])) != (GOOD, BAD):
                assert time.monotonic() < end, done
                time.sleep(0.1)
            for worker in workers:
                worker.signal(SIGTERM)
            assert [worker.exit_code() for worker in workers] == [0, 0]
    assert sum(group["count"] for hour in hours for group in hour["failures"]) == BAD
    assert {(group["event_type"], group["error"]) for hour in hours for group in hour["failures"]} == {("bad", "no")}
    lines = [line.partition(":") for line in statsd.lines()]
    statsd.close()
    counted = Counter[str]()
    for name, _, value in lines:
        if value.endswith("|c"):
            counted[name] += int(value.partition("|")[0])
    assert (counted["millpond.q.succeeded"], counted["millpond.q.rejected"]) == (GOOD, BAD)
    assert counted["millpond.q.type.good.succeeded"] == GOOD
    of_process = {name.rpartition(".")[2] for name, _, value in lines if value.endswith("|g")}
    assert of_process == {"twin", "twin_2"}
    written = [line for worker in workers for line in worker.all("worker.metrics")]
    assert sum(line.get("succeeded", 0) for line in written) == GOOD
    assert sum(line.get("rejected", 0) for line in written) == BAD
