"""drain_seconds = "until done": a whole service waits for its jobs, for hours where they take hours.

A real service, its pool and its consumer on a virtual clock, around a fake queue; and once a real
worker, whose clock knows no infinity.
"""

from __future__ import annotations

import math
from pathlib import Path
from signal import SIGTERM
from typing import Any

import gevent
import pytest

from millpond.errors import FINISHED, Interrupt, Unreachable
from millpond.hub.signals import ExitSignals
from millpond.observe.metrics import Metrics
from millpond.process.core import Core
from millpond.process.observer import Observer
from millpond.process.refusals import Refusals
from millpond.process.service import Service
from millpond.process.wiring import Queues
from tests import rig as rig_module
from tests.rig import Rig
from tests.virtual import VirtualClock, settle
from tests.worker_process import WorkerProcess, local_sqs, write_project

HOUR = 3_600.0
VISIBILITY = 30


class Job:
    """A handler that takes so many seconds; `seen` has (message id, attempt) of each begin."""

    def __init__(self, clock: VirtualClock, seconds: float) -> None:
        self.clock = clock
        self.seconds = seconds
        self.seen: list[tuple[str, int]] = []
        self.thrown: list[BaseException] = []

    def __call__(self, payload: Any, message: Any) -> None:
        self.seen.append((message.id, message.attempt))
        try:
            self.clock.sleep(self.seconds)
        except Interrupt as error:
            self.thrown.append(error)
            raise


class Process:
    """A service that runs until it is over; then `exit_code` and `ended_at` are set."""

    def __init__(self, job: Job, monkeypatch: pytest.MonkeyPatch, **settings: Any) -> None:
        self.clock = clock = job.clock
        self.exit_code: int | None = None
        self.ended_at = 0.0
        self.core = Core(10, math.inf, clock, ExitSignals())
        monkeypatch.setattr(rig_module, "Pool", lambda *args: self.core.pool)
        monkeypatch.setattr(Rig, "spawn", lambda rig, *args: self.core.spawn(*args))
        self.rig = Rig(clock, {"job": job}, timeout=10 * HOUR, visibility_seconds=VISIBILITY, **settings)
        self.torn_down: list[float] = []
        queues = Queues([self.rig.consumer], Refusals(self.core))
        teardowns = [lambda: self.torn_down.append(clock.now())]
        self.service = Service(self.core, Metrics(), queues, Observer(self.core, "t"), teardowns=teardowns)
        gevent.spawn(self._run)
        settle()

    def _run(self) -> None:
        self.exit_code = self.service.run()
        self.ended_at = self.clock.now()

    def beats(self) -> int:
        return self.rig.queue.calls["change_visibility"]


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


def test_a_job_of_an_hour_that_is_told_to_stop_in_the_middle_is_delivered_once_and_done(clock, monkeypatch):
    job = Job(clock, HOUR)
    one = Process(job, monkeypatch)
    began = clock.now()
    (message_id,) = one.rig.put("job")
    clock.advance(HOUR / 2)
    one.core.stop("SIGTERM")
    before = one.beats()
    for _ in range(int(HOUR / 2 / 10) - 1):
        clock.advance(10)
        assert one.exit_code is None
        assert one.rig.queue.visible() == []
    assert one.beats() - before >= HOUR / 2 / (VISIBILITY / 3) - 5
    clock.advance(20)
    assert one.exit_code == FINISHED == 0
    assert HOUR <= one.ended_at - began < HOUR + 20
    assert one.torn_down == [one.ended_at]
    assert job.seen == [(message_id, 1)]
    assert job.thrown == []
    assert one.rig.queue.deleted == {message_id: 1}
    assert one.rig.outcomes() == {message_id: "succeeded"}


def test_what_has_not_begun_is_given_back_at_once_and_nothing_more_is_received(clock, monkeypatch):
    job = Job(clock, HOUR)
    one = Process(job, monkeypatch, concurrency=2, wait_seconds=1, prefetch=0)
    running = one.rig.put("job", {}, 2)
    clock.advance(1)
    one.core.stop("SIGTERM")
    clock.advance(2)
    receives = one.rig.queue.calls["receive"]
    later = one.rig.put("job", {}, 3)
    clock.advance(HOUR - 10)
    assert one.rig.queue.calls["receive"] == receives
    assert one.rig.queue.visible() == later
    clock.advance(20)
    assert one.exit_code == FINISHED
    assert sorted(job.seen) == [(message_id, 1) for message_id in running]


@pytest.mark.slow
def test_a_time_limit_of_the_handler_ends_it_in_the_drain_as_ever(clock, monkeypatch):
    job = Job(clock, 1_000 * HOUR)
    one = Process(job, monkeypatch, wait_seconds=1)
    one.rig.put("job")
    clock.advance(HOUR)
    one.core.stop("SIGTERM")
    for _ in range(int(8.9 * HOUR / 60)):
        clock.advance(60)
    assert one.exit_code is None
    clock.advance(HOUR)
    assert one.exit_code == FINISHED
    assert [outcome.name for _, outcome in one.rig.ended] == ["retried"]
    assert [type(error).__name__ for error in job.thrown] == ["TimeLimitExceeded"]


def test_a_worker_without_work_does_not_wait(clock, monkeypatch):
    one = Process(Job(clock, HOUR), monkeypatch, wait_seconds=1)
    clock.advance(0.5)
    one.core.stop("SIGTERM")
    clock.advance(2)
    assert one.exit_code == FINISHED


def test_a_delete_that_fails_for_a_while_is_waited_for_too(clock, monkeypatch):
    job = Job(clock, 10)
    one = Process(job, monkeypatch, wait_seconds=1)
    (message_id,) = one.rig.put("job")
    clock.advance(1)
    one.core.stop("SIGTERM")
    one.rig.queue.script["delete"] = [Unreachable("no network")] * 100
    clock.advance(100)
    assert one.exit_code == FINISHED
    assert one.rig.queue.deleted == {message_id: 1}
    assert job.seen == [(message_id, 1)]


def test_the_log_says_that_the_drain_has_no_end(clock, monkeypatch, caplog):
    caplog.set_level("INFO")
    one = Process(Job(clock, 10), monkeypatch, wait_seconds=1)
    one.rig.put("job")
    clock.advance(1)
    one.core.stop("SIGTERM")
    clock.advance(20)
    (line,) = [record.getMessage() for record in caplog.records if getattr(record, "event", "") == "worker.draining"]
    assert "until all is done" in line
    assert one.exit_code == FINISHED


HANDLERS = """
import logging, time
from millpond import handler

@handler("nap")
def nap(seconds: float) -> None:
    logging.getLogger("work").info("napping")
    time.sleep(seconds)
"""


@pytest.mark.slow
def test_a_real_worker_waits_for_its_handler_without_a_limit(tmp_path: Path):
    (tmp_path / "sqs").mkdir()
    with local_sqs(tmp_path / "sqs") as queues:
        config = f"""
            [worker]
            handlers = ["jobs"]
            drain_seconds = "until done"
            [queues.q]
            url = "{queues.create("q")}"
            wait_seconds = 1
            visibility_seconds = 3
        """
        with WorkerProcess(write_project(tmp_path / "worker", HANDLERS, config)) as worker:
            queues.send("q", "nap", 5.0)
            worker.expect("log", message="napping")
            worker.signal(SIGTERM)
            assert "until all is done" in worker.expect("worker.draining")["message"]
            worker.expect("message.succeeded", attempt=1)
            assert worker.exit_code() == 0
            assert worker.stderr == ""
        assert queues.counts("q") == (0, 0, 0)
