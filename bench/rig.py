"""A server process, a worker process, and what they say."""

from __future__ import annotations

import json
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.worker_process import ROOT, LocalQueues, WorkerProcess, local_sqs


@contextmanager
def server() -> Iterator[LocalQueues]:
    """`python -m millpond.local` in a process of its own."""
    with tempfile.TemporaryDirectory() as folder, local_sqs(Path(folder)) as queues:
        yield queues


@contextmanager
def worker(text: str, *arguments: str) -> Iterator[WorkerProcess]:
    """`python worker.py` with this config.toml."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.toml").write_text(text)
        with WorkerProcess(Path(folder), *arguments) as process:
            yield process


def fill(queues: LocalQueues, name: str, number: int, seconds: tuple[float, float], pad: int = 300) -> None:
    """`number` messages whose handler takes a random time between the two."""
    chance = random.Random(7)
    for first in range(0, number, 10):
        entries = []
        for n in range(first, min(first + 10, number)):
            payload = {"n": n, "seconds": round(chance.uniform(*seconds), 4), "pad": "x" * pad}
            body = {"event_type": "bench.job", "event_id": f"job-{n}", "payload": payload}
            entries.append({"Id": str(n), "MessageBody": json.dumps(body)})
        queues.sqs.send_message_batch(QueueUrl=queues.url(name), Entries=entries)


def said(process: WorkerProcess, start: str) -> list[str]:
    """The log messages that begin so."""
    return [line["message"] for line in process.lines if line["message"].startswith(start)]


def wait_until(condition: Callable[[], bool], seconds: float) -> float:
    """Seconds until the condition holds, looked at ten times a second; no longer than `seconds`."""
    began = time.monotonic()
    while not condition() and time.monotonic() - began < seconds:
        time.sleep(0.1)
    return time.monotonic() - began


def config(url: str, *, queue: str = "", worker: str = "", job: str = "") -> str:
    """A config.toml for the bench's handler."""
    return f"""
[worker]
handlers = ["{ROOT / "bench" / "handlers"}"]
{worker}
[queues.bench]
url = "{url}"
{queue}
[log]
format = "json"
succeeded_per_second = 0
[handlers.job]
{job}
"""
