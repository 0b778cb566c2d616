"""Two minutes of a worker's life: a backlog, a load, a deploy, an outage of the mail server, and its recovery.

All is real but SQS, which is the local queue in a process of its own, and the mail server, which is the tests' own.
"""

from __future__ import annotations

import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import gevent

from tests.dashboards.daemons import ROOT, Graphite, Prometheus, free_port, statsd
from tests.smtp_server import ScriptedServer
from tests.worker_process import LocalQueues, WorkerProcess, local_sqs, write_project

QUEUES = ("mail", "jobs")
CONCURRENCY = 20
#: Messages a second that may begin of shop.metered.
METERED = 10
HANDLERS = """
import os
import time
from millpond import Discard, Message, Reject, Retry, handler

LEDGER = os.open("ledger", os.O_WRONLY | os.O_APPEND | os.O_CREAT)

def note(message: Message, what: str) -> None:
    os.write(LEDGER, f"{message.event_type} {what}\\n".encode())

@handler("shop.order")
def order(payload: dict, message: Message):
    time.sleep(0.02)
    note(message, "succeeded")

@handler("shop.flaky", backoff=(1, 1), breaker=False)
def flaky(payload: dict, message: Message):
    if message.attempt == 1:
        note(message, "failed")
        raise RuntimeError("the first attempt fails")
    note(message, "succeeded")

@handler("shop.later", backoff=(1, 1), breaker=False)
def later(payload: dict, message: Message):
    if message.attempt == 1:
        note(message, "put off")
        raise Retry("not yet", after=2)
    note(message, "succeeded")

@handler("shop.wrong")
def wrong(payload: dict, message: Message):
    note(message, "rejected")
    raise Reject("an order without a customer")

@handler("shop.stale")
def stale(payload: dict, message: Message):
    note(message, "discarded")
    raise Discard("too old")

@handler("shop.metered", rate="RATE/s")
def metered(payload: dict, message: Message):
    note(message, "succeeded")

@handler("shop.split")
def split(payload: dict, message: Message):
    message.follow_up({}, reject="this half fits nowhere")
    note(message, "succeeded")

@handler("report.make")
def make(payload: dict, message: Message):
    time.sleep(payload["seconds"] if message.attempt == 1 else 0)
    note(message, "succeeded")

@handler("report.compute")
def compute(payload: dict, message: Message):
    end = time.monotonic() + 3
    while time.monotonic() < end:
        pass
    note(message, "succeeded")

@handler("report.stubborn", timeout=1, backoff=(1, 1))
def stubborn(payload: dict, message: Message):
    end = time.monotonic() + (14 if message.attempt == 1 else 0)
    while time.monotonic() < end:
        try:
            time.sleep(1)
        except BaseException:
            pass
    if message.attempt > 1:
        note(message, "succeeded")
""".replace("RATE", str(METERED))
CONFIG = """
[worker]
name = "${WORKER_NAME}"
handlers = ["handlers", "millpond.mail.handler"]
concurrency = CONCURRENCY
drain_seconds = 5
[log]
format = "json"
succeeded_per_second = 10
[statsd]
host = "127.0.0.1"
port = "${STATSD_PORT}"
[http]
listen = "${HTTP_LISTEN}"
[queues.mail]
url = "SQS/mail"
[queues.jobs]
url = "SQS/jobs"
[handlers.email]
from = "shop@example.com"
host = "127.0.0.1"
port = "SMTP"
security = "none"
"""


class Moment(NamedTuple):
    """A time of the run that the pictures mark."""

    at: float
    what: str


class Run:
    """What happened, by those who did it, and the daemons that were told."""

    def __init__(self, graphite: Graphite, prometheus: Prometheus) -> None:
        self.graphite = graphite
        self.prometheus = prometheus
        self.began = time.time()
        self.ended = self.began
        self.moments: list[Moment] = []
        self.sent: Counter[str] = Counter()
        self.ledger: Counter[tuple[str, str]] = Counter()
        self.books: Counter[str] = Counter()
        self.requests = 0
        self.released_at_the_end = 0
        self.blocks = 0
        self.second_ready = 0.0
        self.letters: dict[str, int] = {}
        self.mails = 0

    def moment(self, what: str) -> float:
        self.moments.append(Moment(time.time(), what))
        return self.moments[-1].at

    def at(self, what: str) -> float:
        """When this was."""
        return next(moment.at for moment in self.moments if moment.what == what)

    def add_books(self, worker: WorkerProcess) -> None:
        """The books of a worker that has ended."""
        for line in worker.all("worker.stopped"):
            self.books.update({name: value for name, value in line.items() if isinstance(value, int)})
        self.blocks += len(worker.all("worker.blocked"))
        given_back = [line for line in worker.all("message.released") if "shuts down" in line["reason"]]
        self.released_at_the_end += len([line for line in given_back if line["type"] == "report.make"])


@contextmanager
def run_of(folder: Path) -> Iterator[Run]:
    """The whole run; the daemons are there until the block ends."""
    with ExitStack() as stack:
        graphite = Graphite(folder, stack)
        statsd_port = stack.enter_context(statsd(folder, graphite.line_port))
        ports = [free_port(), free_port()]
        addresses = [f"127.0.0.1:{port}" for port in ports]
        rules = ROOT / "dashboards/prometheus/alerts.yaml"
        run = Run(graphite, Prometheus(folder, stack, addresses, rules))
        scene = Scene(folder / "project", run, statsd_port, addresses, stack)
        scene.play()
        yield run


class Scene:
    """The workers and all that they meet."""

    def __init__(self, folder: Path, run: Run, statsd_port: int, addresses: list[str], stack: ExitStack) -> None:
        self.run = run
        self._statsd_port = statsd_port
        self._addresses = addresses
        self._stack = stack
        self._folder = folder
        folder.mkdir()
        self._queues: LocalQueues = stack.enter_context(local_sqs(folder))
        self._smtp = stack.enter_context(ScriptedServer())
        for name in QUEUES:
            self._queues.create(name)
        config = CONFIG.replace("SQS", self._queues.endpoint).replace("SMTP", str(self._smtp.port))
        write_project(folder, HANDLERS, config.replace("CONCURRENCY", str(CONCURRENCY)), "handlers")

    def play(self) -> None:
        """All of it, in its order."""
        self._send("report.make", 500, seconds=0.4)
        self.run.moment("the first worker starts")
        first = self._worker("web.1", self._addresses[0])
        load = gevent.spawn(self._load)
        gevent.sleep(15)
        for name, number in {"report.compute": 1, "report.stubborn": 2, "shop.split": 3, "shop.nobody": 5}.items():
            self._send(name, number)
        gevent.sleep(10)
        second = self._deploy(first)
        gevent.sleep(8)
        self._outage(second)
        gevent.sleep(12)
        load.kill()
        self._finish(second)

    def _worker(self, name: str, address: str) -> WorkerProcess:
        keys = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_REGION": "us-east-1"}
        worker = WorkerProcess(
            self._folder, WORKER_NAME=name, STATSD_PORT=str(self._statsd_port), HTTP_LISTEN=address, **keys
        )
        self._stack.enter_context(worker)
        worker.expect("worker.ready")
        return worker

    def _deploy(self, first: WorkerProcess) -> WorkerProcess:
        """A new worker, then SIGTERM for the old one, which has work that it cannot finish in its drain."""
        self._send("report.make", 3, seconds=60)
        gevent.sleep(1)
        self.run.moment("deploy")
        second = self._worker("web.2", self._addresses[1])
        self.run.second_ready = time.time()
        first.signal(signal.SIGTERM)
        assert first.exit_code() == 0, first.output()
        self.run.moment("the first worker has ended")
        self.run.add_books(first)
        return second

    def _outage(self, worker: WorkerProcess) -> None:
        self.run.moment("outage")
        self._smtp.go_down()
        worker.expect("breaker.opened", type="email.send")
        self.run.moment("the breaker is open")
        gevent.sleep(14)
        self.run.moment("recovery")
        self._smtp.come_back()
        worker.expect("breaker.closed", type="email.send")
        self.run.moment("the breaker is closed")

    def _finish(self, worker: WorkerProcess) -> None:
        """Until all is done, and the worker has asked once more how deep its queues are."""
        end = time.monotonic() + 60
        while any(sum(self._queues.counts(name)) for name in QUEUES):
            assert time.monotonic() < end, {name: self._queues.counts(name) for name in QUEUES}
            gevent.sleep(0.5)
        self.run.letters = {name: sum(self._queues.counts(f"{name}-dead")) for name in QUEUES}
        self.run.moment("all is done")
        end = time.monotonic() + 70
        while self._letters_in_prometheus() != self.run.letters:
            assert time.monotonic() < end, (self._letters_in_prometheus(), self.run.letters)
            gevent.sleep(0.5)
        gevent.sleep(3)
        self.run.ended = time.time()  # while it still sends gauges
        worker.signal(signal.SIGTERM)
        assert worker.exit_code() == 0, worker.output()
        self.run.add_books(worker)
        gevent.sleep(2.5)
        self.run.mails = len(self._smtp.taken)
        for line in (self._folder / "ledger").read_text().splitlines():
            name, _, what = line.partition(" ")
            self.run.ledger[name, what] += 1

    def _letters_in_prometheus(self) -> dict[str, int]:
        found = self.run.prometheus.query("max by (queue) (millpond_dead_letters)", time.time())
        return {labels["queue"]: int(value) for labels, value in found}

    def _load(self) -> None:
        second = 0
        while True:
            begin = time.monotonic()
            for name, number in {"shop.order": 20, "shop.flaky": 2, "shop.later": 1, "shop.metered": 6}.items():
                self._send(name, number)
            for name, seconds in {"shop.wrong": 4, "shop.stale": 3}.items():
                self._send(name, second % seconds == 0)
            self._send("email.send", 5, to=["ann@example.com"], subject="Hello", text="Hi")
            second += 1
            gevent.sleep(max(0.0, begin + 1 - time.monotonic()))

    def _send(self, event_type: str, number: int, **payload: object) -> None:
        self._queues.send("mail" if event_type == "email.send" else "jobs", event_type, payload, number)
        self.run.sent[event_type] += number
