"""One server process, one worker process, and what they print."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3

ROOT = Path(__file__).resolve().parent.parent
ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "bench",
    "AWS_SECRET_ACCESS_KEY": "bench",
    "AWS_DEFAULT_REGION": "us-east-1",
    "PATH": os.environ["PATH"],
    "PYTHONPATH": str(ROOT),
}


class Server:
    """`python -m millpond.local` in a process of its own, and a client of ours."""

    def __init__(self) -> None:
        command = [sys.executable, "-m", "millpond.local", "--port", "0"]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=ENVIRONMENT)
        assert self._process.stdout is not None
        self.endpoint = self._process.stdout.readline().split(" listens on ")[1].split()[0]
        self.client: Any = boto3.client(
            "sqs",
            endpoint_url=self.endpoint,
            region_name="us-east-1",
            aws_access_key_id="bench",
            aws_secret_access_key="bench",
        )
        self._names = itertools.count(1)

    def queue(self, **attributes: str) -> str:
        """A fresh queue; its dead-letter queue is far away (maxReceiveCount 1000)."""
        name = f"bench-{next(self._names)}"
        dead = self.client.create_queue(QueueName=f"{name}-dead")["QueueUrl"]
        arn = self.client.get_queue_attributes(QueueUrl=dead, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
        policy = json.dumps({"deadLetterTargetArn": arn, "maxReceiveCount": 1000})
        url = self.client.create_queue(QueueName=name, Attributes={"RedrivePolicy": policy, **attributes})["QueueUrl"]
        return str(url)

    def fill(self, url: str, number: int, seconds: tuple[float, float], pad: int = 300) -> None:
        """`number` messages whose handler takes a random time between the two."""
        chance = random.Random(7)
        for batch in itertools.batched(range(number), 10) if sys.version_info >= (3, 12) else _tens(number):
            entries = []
            for n in batch:
                payload = {"n": n, "seconds": round(chance.uniform(*seconds), 4), "pad": "x" * pad}
                body = {"event_type": "bench.job", "event_id": f"job-{n}", "payload": payload}
                entries.append({"Id": str(n), "MessageBody": json.dumps(body)})
            self.client.send_message_batch(QueueUrl=url, Entries=entries)

    def counts(self, url: str) -> dict[str, int]:
        """visible, in flight, delayed."""
        names = ["", "NotVisible", "Delayed"]
        wanted = [f"ApproximateNumberOfMessages{name}" for name in names]
        answer = self.client.get_queue_attributes(QueueUrl=url, AttributeNames=wanted)["Attributes"]
        return {name or "Visible": int(answer[key]) for name, key in zip(names, wanted, strict=True)}

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(10)


def _tens(number: int) -> Iterator[range]:
    return (range(start, min(start + 10, number)) for start in range(0, number, 10))


@contextlib.contextmanager
def server() -> Iterator[Server]:
    one = Server()
    try:
        yield one
    finally:
        one.stop()


class Worker:
    """`python worker.py` on one queue; `lines` are its log, as dicts."""

    def __init__(self, config: str, *arguments: str) -> None:
        self._folder = tempfile.TemporaryDirectory()
        path = Path(self._folder.name) / "config.toml"
        path.write_text(config)
        command = [sys.executable, "worker.py", "-c", str(path), *arguments]
        self.started = time.monotonic()
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=ENVIRONMENT)
        self.lines: list[dict[str, Any]] = []
        self._news = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            with self._news:
                self.lines.append(json.loads(line) if line.startswith("{") else {"message": line})
                self._news.notify_all()

    def messages(self, start: str) -> list[str]:
        """The log messages that begin so."""
        return [line["message"] for line in self.lines if line["message"].startswith(start)]

    def expect(self, number: int, start: str, seconds: float) -> None:
        """Wait for so many log messages (or events) that begin so."""
        deadline = time.monotonic() + seconds
        with self._news:
            while self._count(start) < number:
                if not self._news.wait(deadline - time.monotonic()):
                    raise TimeoutError(f"{self._count(start)} of {number} lines {start!r} in {seconds} s")

    def _count(self, start: str) -> int:
        return sum(f"{line.get('event', '')} {line['message']}".strip().startswith(start) for line in self.lines)

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def wait(self, seconds: float) -> int:
        """The exit code."""
        try:
            code = self._process.wait(seconds)
        finally:
            self._process.kill()
        self._reader.join(5)
        self._folder.cleanup()
        return code

    def mark(self, name: str) -> tuple[float, float]:
        """Monotonic time and CPU seconds at a mark of the handler."""
        moment, cpu = self.messages(f"mark {name}")[0].split()[2:]
        return float(moment), float(cpu)


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
