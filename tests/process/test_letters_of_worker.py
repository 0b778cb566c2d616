"""Dead letters by the page of a real worker process: a signal in the middle of a move."""

from __future__ import annotations

import json
import signal
import time
import urllib.request

import pytest

from tests.worker_process import WorkerProcess, local_sqs, write_project

pytestmark = pytest.mark.slow

TOKEN = "a-token-of-this-test"
HANDLERS = """
from millpond import handler

@handler("job")
def job(payload: dict) -> None:
    pass
"""
CONFIG = """
[worker]
handlers = ["jobs"]
drain_seconds = 5
[queues.q]
url = "{url}"
wait_seconds = 1
[http]
listen = "127.0.0.1:0"
token = "{token}"
"""
ENVIRON = {"AWS_REGION": "us-east-1", "AWS_ACCESS_KEY_ID": "any", "AWS_SECRET_ACCESS_KEY": "any"}


def ask(port: int, path: str, order: object = None) -> dict:
    headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
    data = None if order is None else json.dumps(order).encode()
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", data, headers)
    with urllib.request.urlopen(request, timeout=20) as answer:
        return json.load(answer)


def test_a_signal_ends_a_move_after_the_batch_in_the_air_and_gives_the_rest_back(tmp_path):
    with local_sqs(tmp_path) as queues:
        url = queues.create("q")
        for _ in range(60):
            queues.send("q-dead", "job", number=10)
            queues.send("q-dead", "other", number=10)
        project = write_project(tmp_path / "project", HANDLERS, CONFIG.format(url=url, token=TOKEN))
        with WorkerProcess(project, "-c", "config.toml", **ENVIRON) as worker:
            port = worker.expect("http.ready")["port"]
            worker.expect("worker.ready")
            assert ask(port, "/letters/look", {"queue": "q"})["summary"] == "looked at 300 of about 1,200"
            ask(port, "/letters/move", {"do": "discard", "queue": "q", "types": ["job"]})
            while ask(port, "/letters")["move"]["moved"] < 10:
                time.sleep(0.005)
            worker.signal(signal.SIGTERM)
            assert worker.exit_code() == 0
            [ended] = worker.all("letters.moved")
        assert 10 <= ended["moved"] < 600
        assert ended["message"].endswith("interrupted")
        assert queues.counts("q-dead") == (1_200 - ended["moved"], 0, 0)
