"""The consumers: how each is started, what its messages look like, and how it is told of a certificate authority."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from bench import environment
from bench.environment import ROOT
from bench.servers import QUEUE, Server

#: Characters that bring the body of a plain message to 450 bytes.
PAD = 350


@dataclass(frozen=True)
class Job:
    """One run of one consumer, as it is told of it."""

    server: Server
    queue_url: str
    concurrency: int
    total: int
    marks_port: int
    statsd_port: int
    folder: Path
    starts: Path | None = None
    options: dict[str, str] = field(default_factory=dict)  # more of its environment

    @property
    def queue_name(self) -> str:
        return self.queue_url.rpartition("/")[2]

    def environ(self) -> dict[str, str]:
        """The whole environment of the consumer: nothing of this shell's but where programs are."""
        ca = str(self.server.ca or "")
        authority = {"AWS_CA_BUNDLE": ca, "SSL_CERT_FILE": ca, "NODE_EXTRA_CA_CERTS": ca} if ca else {}
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(self.folder),
            "PYTHONPATH": str(ROOT),
            "AWS_ACCESS_KEY_ID": "bench",
            "AWS_SECRET_ACCESS_KEY": "bench",
            "AWS_REGION": "us-east-1",
            "AWS_DEFAULT_REGION": "us-east-1",
            "BENCH_ENDPOINT": self.server.url,
            "BENCH_QUEUE": self.queue_name,
            "BENCH_QUEUE_URL": self.queue_url,
            "BENCH_CONCURRENCY": str(self.concurrency),
            "BENCH_TOTAL": str(self.total),
            "BENCH_MARKS": str(self.marks_port),
            **({"BENCH_STARTS": str(self.starts)} if self.starts else {}),
            **authority,
            **self.options,
        }


@dataclass(frozen=True)
class Consumer:
    """`module` with a function `bodies` makes messages of its own form; without one they are plain JSON."""

    name: str
    label: str
    command: Callable[[Job], list[str]]
    missing: Callable[[], str] = lambda: ""  # why it cannot run here; "" where it can
    module: str = ""
    tls: bool = True
    most: int = 50_000  # messages of one run: fewer where they would take minutes


def plain_body(number: int, pad: int = PAD) -> str:
    """Millpond's envelope, which is any program's plain JSON."""
    payload = {"n": number, "pad": "x" * pad}
    return json.dumps({"event_type": "bench.job", "event_id": f"job-{number}", "payload": payload})


@cache
def bodies(consumer: Consumer, total: int) -> list[str]:
    """`total` messages with the same payload for every consumer, as its own producer writes them."""
    if not consumer.module:
        return [plain_body(number) for number in range(total)]
    command = [str(environment.python()), "-m", consumer.module, str(total), str(PAD)]
    environ = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(ROOT),
        "BENCH_QUEUE": QUEUE,
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    done = subprocess.run(command, capture_output=True, check=True, env=environ)
    return [str(body) for body in json.loads(done.stdout)]


def _no_python() -> str:
    return "" if environment.python() else "needs Python 3.12 or newer and its packages"


def _no_node() -> str:
    return "" if environment.node() else f"needs Node {environment.NODE} or newer, npm and its packages"


def _millpond(client: str) -> Callable[[Job], list[str]]:
    """Every feature on: heartbeats, StatsD (to a socket that nobody reads), the log, back-off."""

    def command(job: Job) -> list[str]:
        config = job.folder / "config.toml"
        config.write_text(MILLPOND.format(job=job, client=client))
        return [sys.executable, str(ROOT / "worker.py"), "-c", str(config)]

    return command


MILLPOND = """
[worker]
handlers = ["bench.peers.millpond_job"]
concurrency = {job.concurrency}
[sqs]
client = "{client}"
endpoint_url = "{job.server.url}"
[queues.bench]
url = "{job.queue_url}"
prefetch = {job.concurrency}
[statsd]
host = "127.0.0.1"
port = {job.statsd_port}
"""


def _peer(line: str) -> Callable[[Job], list[str]]:
    """A program of the peers' environment and its arguments; {n} stands for the concurrency."""

    def command(job: Job) -> list[str]:
        executable = environment.python()
        assert executable is not None
        program, *arguments = line.format(n=job.concurrency).split()
        return [str(executable.parent / program), *arguments]

    return command


def _own(module: str) -> Callable[[Job], list[str]]:
    """A module run by this very Python: the same boto3 and gevent as Millpond has."""
    return lambda job: [sys.executable, "-m", module]


CONSUMERS = [
    Consumer("millpond", "Millpond", _millpond("wire")),
    Consumer("millpond-boto3", "Millpond on boto3", _millpond("boto3")),
    Consumer("fanferro", "fanferro (Rust core)", _peer("python -m bench.peers.fanferro_app"), _no_python),
    Consumer("sqs-consumer", "sqs-consumer (Node)", lambda job: environment.node_command("sqs_consumer.mjs"), _no_node),
    Consumer("tutorial", "boto3 + gevent, one delete a message", _own("bench.peers.tutorial"), most=5_000),
    Consumer(
        "taskiq",
        "taskiq-aio-sqs",
        _peer("taskiq worker bench.peers.taskiq_app:broker --workers 1 --max-async-tasks {n} --log-level WARNING"),
        _no_python,
        "bench.peers.taskiq_app",
        most=3_000,
    ),
    Consumer(
        "dramatiq",
        "dramatiq-sqs, dramatiq-gevent",
        _peer("dramatiq-gevent bench.peers.dramatiq_app --processes 1 --threads {n}"),
        _no_python,
        "bench.peers.dramatiq_app",
        most=2_000,
    ),
    Consumer(
        "celery",
        "Celery -P gevent",
        _peer("celery -A bench.peers.celery_app worker -P gevent -c {n} --without-gossip --without-mingle"),
        _no_python,
        "bench.peers.celery_app",
        most=3_000,
    ),
]


def find(names: list[str]) -> Iterator[Consumer]:
    """The consumers of these names, all of them without a name; says which cannot run here."""
    for consumer in CONSUMERS:
        if names and consumer.name not in names:
            continue
        if reason := consumer.missing():
            print(f"{consumer.label}: skipped: {reason}", flush=True)
        else:
            yield consumer
