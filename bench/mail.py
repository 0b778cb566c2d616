"""10,000 e-mails from the queue to a mail server, in rounds: CPU of the worker per mail, mails per second, medians.

Mails of 2.4 kB in text and HTML, 100 at once. The queue and the mail server have one core, the worker the other. CPU
is user + system of the worker's processes; both figures go from the 1,000th mail to the last, by the mail server's
count, which says how many different mails it has got: none is lost, and none is sent twice, unseen. Celery runs as its
documents recommend (bench/peers/celery_app.py); its task builds an EmailMessage and sends it with smtplib over kept
connections.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import NamedTuple

import gevent

from bench import environment
from bench.consumers import CONSUMERS, Consumer, Job
from bench.environment import ROOT
from bench.process import SERVER_CORE, on_core, tree_cpu_seconds
from bench.run import consuming
from bench.servers import QUEUE, Server, millpond_local
from bench.sink import WARM, letter

MAILS = 10_000
CONCURRENCY = 100
RUNS = 5
#: Seconds that a run may take, and that the last deletes may.
PATIENCE_SECONDS = 180
CALL_SECONDS = 10


class Figures(NamedTuple):
    """Of one run. `books` is what the mail server has at the end."""

    cpu_us: float
    per_second: float
    books: dict[str, int]

    def __str__(self) -> str:
        told = ", ".join(f"{number} {name}" for name, number in self.books.items() if name != "bytes")
        return f"{self.cpu_us:.0f} us of CPU a mail, {self.per_second:.0f} mails a second ({told})"


class Sink:
    """`python -m bench.sink`, on the servers' core."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.port = int(self.line())

    def line(self) -> str:
        """What it says next. Raises gevent.Timeout where it says nothing for PATIENCE_SECONDS."""
        assert self._process.stdout is not None
        with gevent.Timeout(PATIENCE_SECONDS):
            return self._process.stdout.readline().strip()

    def books(self) -> dict[str, int]:
        """End it; what it got."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        return dict(json.loads(self.line()))


@contextmanager
def sink(pipelining: bool) -> Iterator[Sink]:
    command = [sys.executable, "-m", "bench.sink", str(MAILS), *(["--pipelining"] if pipelining else [])]
    with on_core(SERVER_CORE):
        process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        yield Sink(process)
    finally:
        process.kill()
        process.wait()


def millpond(job: Job) -> list[str]:
    """Every feature on; as many connections as there are mails at once, as Celery's side has them."""
    path = job.folder / "config.toml"
    path.write_text(CONFIG.format(job=job, root=ROOT, smtp=job.options["BENCH_SMTP"]))
    return [sys.executable, str(ROOT / "worker.py"), "-c", str(path)]


CONFIG = """
[worker]
handlers = ["{root}/handlers"]
concurrency = {job.concurrency}
[sqs]
endpoint_url = "{job.server.url}"
[queues.bench]
url = "{job.queue_url}"
prefetch = {job.concurrency}
[statsd]
host = "127.0.0.1"
port = {job.statsd_port}
[handlers.email]
host = "127.0.0.1"
port = {smtp}
security = "none"
from = "shop@example.com"
max_connections = {job.concurrency}
"""


def celery(job: Job) -> list[str]:
    """The command of the comparison's Celery, with the mail's application in place of the job's."""
    consumer = next(consumer for consumer in CONSUMERS if consumer.name == "celery")
    return [part.replace("celery_app", "celery_mail") for part in consumer.command(job)]


MILLPOND = Consumer("millpond", "Millpond", millpond)
CELERY = Consumer("celery", "Celery -P gevent, EmailMessage, smtplib", celery)


def body(number: int) -> str:
    """Millpond's message."""
    return json.dumps({"event_type": "email.send", "payload": letter(number)})


@cache
def bodies(consumer: Consumer) -> list[str]:
    """The same payloads for both, as each one's producer writes them."""
    if consumer is MILLPOND:
        return [body(number) for number in range(MAILS)]
    environ = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "BENCH_QUEUE": QUEUE}
    command = [str(environment.python()), "-m", "bench.peers.celery_mail", str(MAILS)]
    done = subprocess.run(command, capture_output=True, check=True, env=environ)
    return [str(body) for body in json.loads(done.stdout)]


def once(server: Server, consumer: Consumer, pipelining: bool) -> Figures:
    """A full queue, mailed to its end."""
    with server.queue() as queue_url, sink(pipelining) as post:
        server.send(queue_url, bodies(consumer))
        options = {"BENCH_SMTP": str(post.port)}
        with consuming(consumer, server, queue_url, CONCURRENCY, MAILS, **options) as (process, _):
            try:
                moments = []
                for mark in ("warm", "last"):
                    assert post.line() == mark
                    moments.append((time.monotonic(), tree_cpu_seconds(process.pid)))
            except gevent.Timeout:
                raise RuntimeError(f"not all of {MAILS} mails in {PATIENCE_SECONDS} s") from None
            left = settled(server, queue_url)
        (warm, cpu_before), (last, cpu) = moments
        counted = MAILS - WARM
        books = {**post.books(), "left in the queue": left}
        return Figures((cpu - cpu_before) / counted * 1e6, counted / (last - warm), books)


def settled(server: Server, queue_url: str) -> int:
    """Messages left once the queue is empty, or the last deletes have had their time: what comes twice comes now."""
    end = time.monotonic() + CALL_SECONDS
    while (left := server.left(queue_url)) and time.monotonic() < end:
        time.sleep(0.1)
    return left


def run(runs: int = RUNS) -> None:
    cases = [("Millpond, PIPELINING", MILLPOND, True), ("Millpond, one by one", MILLPOND, False)]
    if environment.python():
        cases.append((CELERY.label, CELERY, True))
    else:
        print(f"{CELERY.label}: skipped: no Python that it runs on", flush=True)
    found: dict[str, list[Figures]] = {label: [] for label, _, _ in cases}
    with millpond_local(tls=False) as server:
        for number in range(runs):
            for label, consumer, pipelining in cases:
                found[label].append(once(server, consumer, pipelining))
                print(f"{number + 1} {label}: {found[label][-1]}", flush=True)
    report(found)


def report(found: dict[str, list[Figures]]) -> None:
    """Medians, and what they are to Celery's where it ran."""
    other = found.get(CELERY.label)
    for label, figures in found.items():
        cpu, speed = median(figures)
        line = f"{label}: {cpu:.0f} us of CPU a mail, {speed:.0f} mails a second"
        if other and other is not figures:
            other_cpu, other_speed = median(other)
            line += f"; {cpu / other_cpu:.3f} of the CPU, {speed / other_speed:.1f} times the mails a second"
        print(line, flush=True)


def median(figures: list[Figures]) -> tuple[float, float]:
    """CPU and speed, each by itself."""
    return statistics.median(one.cpu_us for one in figures), statistics.median(one.per_second for one in figures)


if __name__ == "__main__":
    run()
