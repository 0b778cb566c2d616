"""@handler(thread=True), for code that blocks or computes; and on_lease_lost, for code that should not be stopped."""

from __future__ import annotations

import itertools
import json
import logging
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from io import StringIO
from pathlib import Path
from signal import SIGTERM
from typing import Any

import gevent
import msgspec
import pytest
from gevent.event import Event
from gevent.monkey import get_original

from millpond import Discard, Message, Reject, Retry, Unavailable, handler
from millpond.app.config import RetrySettings
from millpond.app.routing import Route, routes
from millpond.engine.delivery import Delivery
from millpond.engine.processor import Processor
from millpond.errors import ConfigError, LeaseLost, Stopped
from millpond.hub.clock import SystemClock
from millpond.message import Outcome
from millpond.observe import log, log_format, log_output
from millpond.sqs.queue import Failure
from tests.engine.test_processor import delivery_of
from tests.rig import Rig
from tests.virtual import VirtualClock, settle
from tests.waiting import until
from tests.worker_process import WorkerProcess, local_sqs, write_project

ident = get_original("_thread", "get_ident")
allocate_lock = get_original("_thread", "allocate_lock")
native_sleep = get_original("time", "sleep")

LIMIT = 60.0
STEPS = 20
STOOD = r"it stood at tests/hub/test_threads\.py:\d+ in NativeGate\.__call__"
TIMED_OUT = f"the handler ran past its time limit of 60 s; {STOOD}; its thread runs on"
GONE = Failure("ReceiptHandleIsInvalid", "", sender_fault=True)


class NativeGate:
    """A handler that blocks its thread, natively, until the test lets it go."""

    def __init__(self) -> None:
        self.began: list[str] = []
        self.ended: list[str] = []
        self.idents: set[int] = set()
        self._lock = allocate_lock()
        self._lock.acquire()

    def __call__(self, payload: Any, message: Message) -> None:
        self.idents.add(ident())
        self.began.append(message.id)
        with self._lock:
            pass
        self.ended.append(message.id)

    def open(self) -> None:
        with suppress(RuntimeError):  # it is open
            self._lock.release()


@pytest.fixture
def gate() -> Iterator[NativeGate]:
    """No thread outlives its test."""
    gate = NativeGate()
    yield gate
    gate.open()
    until(lambda: len(gate.ended) == len(gate.began))


class Work:
    """Deliveries of one thread handler, each in a greenlet of its own."""

    def __init__(self, call: Callable[..., object], threads: int = 2, **more: Any) -> None:
        self.clock = VirtualClock()
        route = Route("job", "jobs.run", msgspec.json.decode, call, LIMIT, thread=True, **more)
        self.processor = Processor({"job": route}, RetrySettings(5, 2, 900), self.clock, threads)
        self.deliveries: list[Delivery] = []
        self.outcomes: list[Outcome | None] = []

    def begin(self, number: int = 1) -> None:
        for _ in range(number):
            self.deliveries.append(delivery_of(clock=self.clock))
            self.outcomes.append(None)
            gevent.spawn(self._work, len(self.deliveries) - 1)
        settle()

    def _work(self, index: int) -> None:
        self.outcomes[index] = self.processor.process(self.deliveries[index])

    def end(self) -> list[Outcome | None]:
        until(lambda: None not in self.outcomes)
        return self.outcomes


def outcome_of(call: Callable[..., object], **more: Any) -> Outcome:
    work = Work(call, **more)
    work.begin()
    [outcome] = work.end()
    assert outcome is not None
    return outcome


# --- a thread of its own


def test_it_runs_in_a_real_thread_and_the_hub_goes_on_meanwhile(gate):
    work = Work(gate)
    work.begin()
    until(lambda: gate.began)
    for _ in range(100):  # the hub turns
        gevent.sleep(0)
    assert work.outcomes == [None]
    gate.open()
    assert work.end() == [Outcome("succeeded")]
    assert ident() not in gate.idents


def test_an_ordinary_handler_runs_in_the_hubs_thread():
    seen = []
    route = Route("job", "jobs.run", msgspec.json.decode, lambda payload, message: seen.append(ident()))
    Processor({"job": route}, RetrySettings(), VirtualClock()).process(delivery_of())
    assert seen == [ident()]


def raiser(error: BaseException) -> Callable[[Any, Message], None]:
    def run(payload: Any, message: Message) -> None:
        raise error

    return run


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (Retry("later", after=5), Outcome("retried", "failed", "later", delay_seconds=5)),
        (Reject("no"), Outcome("dead_lettered", "rejected", "no")),
        (Discard("old"), Outcome("discarded", "", "old")),
        (
            Unavailable("down", after=9),
            Outcome("retried", "unavailable", "down", delay_seconds=9, other_side=True, asked_seconds=9.0),
        ),
    ],
    ids=lambda value: getattr(value, "name", type(value).__name__),
)
def test_a_verdict_comes_through(error, expected):
    assert outcome_of(raiser(error)) == expected


@pytest.mark.parametrize(
    "error",
    [ValueError("odd"), SystemExit(3), KeyboardInterrupt(), gevent.GreenletExit(), gevent.Timeout(5), StopIteration()],
    ids=lambda error: type(error).__name__,
)
def test_whatever_is_raised_in_a_thread_is_a_failure_of_this_message_and_nothing_is_printed(error, capfd):
    outcome = outcome_of(raiser(error))
    assert (outcome.name, outcome.cause) == ("retried", "failed")
    assert outcome.error == f"{type(error).__name__}: {error}".removesuffix(": ")
    assert "in run" in outcome.traceback
    assert capfd.readouterr() == ("", "")


def test_after_sys_exit_in_it_the_thread_takes_the_next_message():
    def run(payload: Any, message: Message) -> None:
        idents.append(ident())
        sys.exit("bye")

    idents: list[int] = []
    work = Work(run, threads=1)
    work.begin(5)
    assert [outcome.error for outcome in work.end() if outcome] == ["SystemExit: bye"] * 5
    assert len(set(idents)) == 1


def test_a_payload_that_does_not_fit_is_found_in_the_thread_too():
    route = Route("job", "jobs.run", msgspec.json.Decoder(int).decode, print, thread=True)
    processor = Processor({"job": route}, RetrySettings(), VirtualClock(), 1)
    outcome = processor.process(delivery_of('{"event_type": "job", "payload": "x"}'))
    assert (outcome.name, outcome.cause) == ("dead_lettered", "undecodable")


def test_follow_ups_and_the_context_go_with_the_handler_into_its_thread():
    def run(payload: Any, message: Message) -> None:
        assert log.delivery.get().identity()["message_id"] == message.id
        assert message.seconds_left == LIMIT
        message.follow_up("more")

    outcome = outcome_of(run)
    assert [job.event_id for job in outcome.follow_ups] == ["e1/1"]
    assert log.delivery.get() is None


# --- only so many


def test_never_more_than_so_many_run_at_once(gate):
    work = Work(gate, threads=3)
    work.begin(10)
    until(lambda: len(gate.began) == 3)
    for _ in range(100):
        gevent.sleep(0.001)
    assert len(gate.began) == len(gate.idents) == 3
    gate.open()
    assert work.end() == [Outcome("succeeded")] * 10
    assert len(gate.idents) == 3


def test_the_wait_for_a_free_thread_is_not_the_handlers_time(gate):
    work = Work(gate, threads=1)
    work.begin(2)
    until(lambda: gate.began)
    work.clock.advance(LIMIT + 1)  # the first has had its time; its code runs on
    until(lambda: work.outcomes[0])
    work.clock.advance(100 * LIMIT)
    assert work.outcomes[1] is None
    assert len(gate.began) == 1
    gate.open()
    assert work.end()[1] == Outcome("succeeded")


def test_at_its_time_limit_the_message_is_given_up_and_what_the_code_still_does_is_nobodys(gate):
    def run(payload: Any, message: Message) -> None:
        gate(payload, message)
        message.follow_up("too late")
        raise Reject("too late")

    work = Work(run, threads=1)
    work.begin()
    until(lambda: gate.began)
    work.clock.advance(LIMIT - 1)
    assert work.outcomes == [None]
    work.clock.advance(1)
    [outcome] = work.end()
    assert outcome is not None
    assert (outcome.name, outcome.cause) == ("retried", "timed_out")
    assert re.fullmatch(TIMED_OUT, outcome.reason)
    assert gate.ended == []
    gate.open()
    until(lambda: gate.ended)
    work.begin()  # the thread is free again
    assert [one.cause for one in work.end() if one] == ["timed_out", "rejected"]
    assert work.outcomes[0] is outcome


@pytest.mark.parametrize(("kind", "name"), [(Stopped, "released"), (LeaseLost, "lease_lost")])
def test_one_that_waits_for_a_thread_can_be_interrupted_and_never_runs(gate, kind, name):
    work = Work(gate, threads=1)
    work.begin(3)
    until(lambda: gate.began)
    work.deliveries[1].interrupt(kind)
    until(lambda: work.outcomes[1])
    assert work.outcomes[1] is not None
    assert work.outcomes[1].name == name
    gate.open()
    outcomes = work.end()
    assert [one.name for one in outcomes if one] == ["succeeded", name, "succeeded"]
    assert len(gate.began) == 2


@pytest.mark.parametrize(("kind", "name"), [(Stopped, "released"), (LeaseLost, "lease_lost")])
def test_one_that_runs_in_its_thread_is_given_up_at_an_interrupt(gate, kind, name):
    work = Work(gate)
    work.begin()
    until(lambda: gate.began)
    work.deliveries[0].interrupt(kind)
    [outcome] = work.end()
    assert outcome is not None
    assert outcome.name == name
    assert gate.ended == []


@pytest.mark.slow
def test_threads_log_beside_the_hub_without_losing_or_mixing_up_a_line(monkeypatch):
    """200 messages that log from four threads, and 200 that log from greenlets, by the log alone.

    Nobody else's handler, pytest's neither: a lock of gevent's that threads and greenlets share can stop all of them.
    """
    out = StringIO()
    monkeypatch.setattr(logging.getLogger(), "handlers", [log_output.LogOutput(out, log_format.JsonFormat())])
    jobs = logging.getLogger("jobs")
    jobs.setLevel("INFO")
    clock = SystemClock()
    running, most = [], []

    def in_thread(payload: Any, message: Message) -> None:
        running.append(ident())
        most.append(len(running))
        for step in range(STEPS):
            jobs.info("thread %d", step)
            native_sleep(0)
        running.pop()

    def ordinary(payload: Any, message: Message) -> None:
        for step in range(STEPS):
            jobs.info("greenlet %d", step)
            gevent.sleep(0)

    # On a busy machine a longer line for the threads is put off.
    rig = Rig(clock, {"thread": in_thread, "ordinary": ordinary}, concurrency=8, wait_seconds=1)
    as_thread(rig, "thread")
    threads, greenlets = [], []
    for _ in range(200):
        threads += rig.put("thread")
        greenlets += rig.put("ordinary")
    rig.consumer.pollers.start()
    until(lambda: not rig.queue.messages and rig.consumer.hand.idle.is_set())
    rig.consumer.pollers.stop()
    until(rig.consumer.pollers.ended.is_set)
    assert rig.crashes == []
    assert rig.books.outcomes == {"succeeded": 400}
    assert max(most) <= 4
    lines = [json.loads(line) for line in out.getvalue().splitlines()]
    said = sorted((line["message"], line["message_id"]) for line in lines if line.get("logger") == "jobs")
    wanted = [(f"thread {step}", one) for step in range(STEPS) for one in threads]
    wanted += [(f"greenlet {step}", one) for step in range(STEPS) for one in greenlets]
    assert said == sorted(wanted)


def as_thread(rig: Rig, name: str) -> None:
    change(rig, name, thread=True)


def change(rig: Rig, name: str, **options: Any) -> None:
    rig.reroute(name, **options)


# --- where the lease is lost


class Job:
    """A handler in a greenlet that waits until the test lets it go."""

    def __init__(self) -> None:
        self.event = Event()
        self.began: list[int] = []
        self.thrown: list[type] = []

    def __call__(self, payload: Any, message: Message) -> None:
        self.began.append(message.attempt)
        try:
            self.event.wait()
        except BaseException as error:
            self.thrown.append(type(error))
            raise


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


@pytest.fixture
def lose(clock) -> Callable[..., Rig]:
    """A rig whose one job has lost its lease: SQS says so at the first beat."""

    def lose(job: Job, **options: Any) -> Rig:
        rig = Rig(clock, {"job": job}, visibility_seconds=30)
        change(rig, "job", **options)
        rig.consumer.pollers.start()
        rig.put("job")
        clock.advance(1)
        rig.queue.script["change_visibility"] = [GONE]
        clock.advance(11)
        assert rig.queue.calls["change_visibility"] == 1
        return rig

    return lose


def test_by_default_a_handler_is_interrupted_when_its_lease_is_lost(lose, clock):
    job = Job()
    rig = lose(job)
    assert job.thrown == [LeaseLost]
    assert rig.books.outcomes == {"lease_lost": 1}
    assert rig.queue.calls["delete"] == 0


def test_one_that_finishes_ends_and_its_late_success_is_deleted_and_counted_as_a_lost_lease(lose, clock):
    job = Job()
    rig = lose(job, on_lease_lost="finish")
    clock.advance(5)
    assert job.thrown == []
    assert rig.ended == []
    rig.queue.calls.clear()
    job.event.set()
    clock.advance(1)
    assert rig.queue.calls["delete"] == 1
    assert len(rig.queue.deleted) == 1  # nobody has taken it meanwhile: a duplicate less
    assert rig.books.outcomes == {"lease_lost": 1}
    assert rig.ended[0][1].reason == "too late: succeeded"
    assert rig.queue.calls["change_visibility"] == 0


def test_one_that_finishes_and_fails_leaves_its_message_to_whoever_has_it(lose, clock):
    class Failing(Job):
        def __call__(self, payload: Any, message: Message) -> None:
            super().__call__(payload, message)
            raise ValueError("boom")

    job = Failing()
    rig = lose(job, on_lease_lost="finish")
    rig.queue.calls.clear()
    job.event.set()
    clock.advance(1)
    assert rig.books.outcomes == {"lease_lost": 1}
    assert (rig.queue.calls["change_visibility"], rig.queue.calls["delete"]) == (0, 0)


def test_a_message_that_comes_again_to_one_that_finishes_is_not_run_beside_it(lose, clock):
    job = Job()
    rig = lose(job, on_lease_lost="finish")
    clock.advance(40)  # past its visibility time-out: this worker gets it again
    (stored,) = rig.queue.messages.values()
    assert stored.receives == 2
    job.event.set()
    clock.advance(1)
    assert job.began == [1]
    assert rig.books.outcomes == {"succeeded": 1}
    assert len(rig.queue.deleted) == 1


def test_one_that_finishes_still_has_its_time_limit_and_the_drain(lose, clock):
    job = Job()
    rig = lose(job, on_lease_lost="finish")
    rig.consumer.interrupt(Stopped)
    clock.advance(1)
    assert job.thrown == [Stopped]
    assert rig.books.outcomes == {"lease_lost": 1}


# --- what a boot finds

_numbers = itertools.count(1)


def findings(**options: Any) -> tuple[str, ...]:
    """What is wrong with a handler of these options."""

    def run(payload: dict) -> None: ...

    run.__module__ = f"threads{next(_numbers)}"
    handler("job", **options)(run)
    try:
        return () if routes([run.__module__]) else ("no route",)
    except ConfigError as error:
        return error.findings


@pytest.fixture
def no_handlers(monkeypatch) -> None:
    monkeypatch.setattr("millpond.app.routing._handlers", [])


@pytest.mark.usefixtures("no_handlers")
@pytest.mark.parametrize("value", [1, 0, "yes", None, 4.0], ids=repr)
def test_a_thread_that_is_neither_true_nor_false_is_found_at_boot(value):
    (finding,) = findings(thread=value)
    assert finding.endswith(f"run: thread={value!r}: it must be True or False")


@pytest.mark.usefixtures("no_handlers")
@pytest.mark.parametrize("value", ["", "ignore", "Finish", None, True], ids=repr)
def test_an_on_lease_lost_that_nobody_knows_is_found_at_boot(value):
    (finding,) = findings(on_lease_lost=value)
    assert finding.endswith(f"run: on_lease_lost={value!r}: it must be interrupt or finish")


@pytest.mark.usefixtures("no_handlers")
def test_both_are_found_at_once_and_good_values_are_none():
    assert len(findings(thread="x", on_lease_lost="x")) == 2
    assert findings(thread=True, on_lease_lost="finish") == ()
    assert findings(thread=False, on_lease_lost="interrupt") == ()


# --- a real worker

HANDLERS = """
import logging, time
from gevent.monkey import get_original
from millpond import handler

log = logging.getLogger("work")

@handler("compute", thread=True)
def compute(seconds: float) -> None:
    log.info("computing")
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        sum(range(100))
    log.info("computed")

@handler("sleep", thread=True)
def sleep(seconds: float) -> None:
    log.info("sleeping")
    get_original("time", "sleep")(seconds)

@handler("ok")
def ok(payload: dict | None) -> None:
    log.info("fine")
"""


@pytest.mark.slow
def test_a_thread_that_never_ends_holds_up_neither_the_other_messages_nor_the_exit(tmp_path: Path):
    sqs = tmp_path / "sqs"
    sqs.mkdir()
    with local_sqs(sqs) as queues:
        url = queues.create("q")
        config = f"""
            [worker]
            handlers = ["jobs"]
            drain_seconds = 3
            threads = 2
            [queues.q]
            url = "{url}"
            wait_seconds = 1
            visibility_seconds = 30
        """
        with WorkerProcess(write_project(tmp_path / "worker", HANDLERS, config)) as worker:
            queues.send("q", "sleep", 3_600.0)
            worker.expect("log", message="sleeping")
            queues.send("q", "compute", 1.5)
            worker.expect("log", message="computing")
            queues.send("q", "ok", number=20)
            for _ in range(20):
                worker.expect("log", message="fine")
            worker.expect("log", message="computed")
            worker.expect("message.succeeded", type="compute")
            worker.signal(SIGTERM)
            assert worker.expect("message.released")["type"] == "sleep"
            assert worker.exit_code() == 0
            assert worker.stderr == ""
            assert worker.all("worker.blocked") == []
        assert len(queues.receive("q", wait_seconds=10)) == 1


# --- threads that never come back


def busy(clock: VirtualClock, gate: NativeGate, **more: Any) -> Rig:
    """A worker whose thread handlers block until the gate opens, and whose ordinary ones are done at once."""
    rig = Rig(clock, {"block": gate, "ok": lambda payload, message: None}, **({"threads": 2} | more))
    as_thread(rig, "block")
    rig.consumer.pollers.start()
    return rig


def begun(gate: NativeGate, number: int) -> None:
    until(lambda: len(gate.began) == number)


def drained(rig: Rig) -> None:
    rig.consumer.drain(rig.clock.now() + 25)
    rig.consumer.give_back_held()
    rig.clock.advance(25)


@pytest.mark.parametrize("concurrency", [5, 10, 100])
def test_messages_that_wait_for_a_thread_take_no_slot_and_not_all_permits_from_ordinary_ones(clock, gate, concurrency):
    rig = busy(clock, gate, concurrency=concurrency, timeout=36_000)
    rig.put("block", None, 30)
    clock.advance(5)
    begun(gate, 2)
    ids = rig.put("ok", None, 200)
    for _ in range(60):
        clock.advance(1)
    assert set(ids) <= {one for one, outcome in rig.ended if outcome.name == "succeeded"}
    assert rig.crashes == []
    drained(rig)


def test_a_handler_in_its_thread_takes_no_slot_either(clock, gate):
    rig = busy(clock, gate, concurrency=2, prefetch=3)
    rig.put("block", None, 2)
    clock.advance(1)
    ids = rig.put("ok", None, 20)
    clock.advance(10)
    assert set(ids) == {one for one, outcome in rig.ended if outcome.name == "succeeded"}
    drained(rig)


def test_once_threads_are_free_again_no_more_handlers_run_at_once_than_slots(clock, gate):
    inside: list[int] = []
    most: list[int] = []
    hold = Event()

    def count(payload: Any, message: Message) -> None:
        inside.append(1)
        most.append(len(inside))
        hold.wait()
        inside.pop()

    rig = Rig(clock, {"block": gate, "count": count}, threads=2, concurrency=3, prefetch=20)
    as_thread(rig, "block")
    rig.consumer.pollers.start()
    rig.put("block", None, 3)
    clock.advance(1)
    gate.open()
    until(lambda: len(gate.ended) == 3)
    clock.advance(1)
    rig.put("count", None, 20)
    clock.advance(1)
    assert max(most) == 3
    hold.set()
    clock.advance(5)
    assert rig.books.outcomes == {"succeeded": 23}
    assert max(most) == 3


def test_who_was_put_off_or_interrupted_in_the_line_leaves_no_slot_too_many_behind(clock, gate):
    inside: list[int] = []
    most: list[int] = []
    hold = Event()

    def count(payload: Any, message: Message) -> None:
        inside.append(1)
        most.append(len(inside))
        hold.wait()
        inside.pop()

    rig = Rig(clock, {"block": gate, "count": count}, threads=1, concurrency=4, prefetch=20, timeout=36_000, pollers=1)
    as_thread(rig, "block")
    rig.consumer.pollers.start()
    rig.put("block", None, 12)
    clock.advance(5)
    begun(gate, 1)
    assert rig.books.causes["no_thread"] >= 5
    for one in list(rig.consumer.hand.deliveries.values()):
        one.interrupt(LeaseLost)
    gate.open()
    until(lambda: clock.advance(400) or rig.books.outcomes["succeeded"] >= 8)
    rig.put("count", None, 20)
    clock.advance(1)
    assert max(most) == 4
    hold.set()
    clock.advance(5)
    assert max(most) == 4


def test_who_waits_too_long_or_behind_too_many_is_put_off_and_that_is_no_failure(clock, gate):
    rig = busy(clock, gate, concurrency=10, timeout=36_000)
    rig.put("block", None, 20)
    clock.advance(20)
    begun(gate, 2)
    put_off = [outcome for _, outcome in rig.ended]
    assert put_off
    assert {(outcome.name, outcome.cause) for outcome in put_off} == {("retried", "no_thread")}
    assert "all 2 threads are taken" in put_off[0].reason
    assert min(outcome.delay_seconds for outcome in put_off) >= 15
    assert rig.books.causes["failed"] == 0
    clock.advance(301)
    gone = {one for one, _ in rig.ended}
    assert len(gone) == 18  # those, too, that had a place in line
    gate.open()
    until(lambda: len(gate.ended) >= 2)
    for _ in range(200):
        clock.advance(10)
        gevent.sleep(0.002)
    until(lambda: rig.books.outcomes["succeeded"] == 20)
    assert rig.books.outcomes["dead_lettered"] == 0


def test_who_has_waited_for_long_stays_where_a_thread_came_free_a_moment_ago(clock):
    began: list[str] = []
    may_end = [0]

    def turn(payload: Any, message: Message) -> None:
        began.append(message.id)
        mine = len(began)
        while may_end[0] < mine:
            native_sleep(0.001)

    def next_one() -> None:
        may_end[0] += 1
        until(lambda: len(began) == may_end[0] + 1)

    rig = Rig(clock, {"turn": turn, "ok": print}, threads=1, timeout=36_000)
    as_thread(rig, "turn")
    rig.consumer.pollers.start()
    rig.put("turn", None, 4)
    clock.advance(1)
    until(lambda: len(began) == 1)
    try:
        next_one()
        clock.advance(295)
        next_one()
        clock.advance(9)  # the last in line has waited for more than 300 s
        assert rig.books.causes["no_thread"] == 0
        clock.advance(10)
        assert rig.books.causes["no_thread"] == 1
        drained(rig)
    finally:
        may_end[0] = 99
    until(lambda: rig.consumer.in_hand == 0)


def test_who_has_the_threads_is_told_after_a_second_and_then_each_minute(clock, gate, caplog):
    rig = busy(clock, gate, concurrency=100, timeout=36_000)
    rig.put("block", None, 30)
    clock.advance(0.5)
    lines = lambda: [record for record in caplog.records if record.__dict__.get("event") == "threads.busy"]  # noqa: E731
    assert lines() == []
    clock.advance(1)
    [line] = lines()
    assert line.levelname == "WARNING"
    text = line.getMessage()
    assert text == (
        "28 messages wait for a thread because all 2 threads are taken by tests.block for 1 s, tests.block for 1 s: "
        "raise [worker] threads, or let these handlers end sooner"
    )
    clock.advance(181)
    assert len(lines()) == 4
    drained(rig)


def test_what_is_told_of_one_thread_and_one_message_is_a_sentence_too(clock, gate, caplog):
    rig = Rig(clock, {"block": gate}, concurrency=100, threads=1)
    as_thread(rig, "block")
    rig.consumer.pollers.start()
    rig.put("block", None, 2)
    clock.advance(2)
    assert "1 message waits for a thread because the only thread is taken by tests.block for 1 s: raise" in caplog.text
    drained(rig)


def test_a_worker_that_has_thread_handlers_alone_puts_none_off(clock, gate):
    """Nobody else wants their permits, and each put-off would cost a receive."""
    rig = Rig(clock, {}, concurrency=10)
    route = Route("block", "jobs.block", msgspec.json.decode, gate, 36_000, thread=True)
    rig.consumer._processor = Processor({"block": route}, RetrySettings(), clock, 2)
    rig.consumer.pollers.start()
    rig.put("block", None, 30)
    clock.advance(3_600)
    assert rig.ended == []
    assert rig.consumer.in_hand == 10
    gate.open()
    until(lambda: clock.advance(1) or rig.books.outcomes["succeeded"] == 30)


def test_where_threads_end_all_the_time_a_long_line_is_no_reason_to_put_off(clock):
    rig = Rig(clock, {"quick": lambda payload, message: native_sleep(0.002), "ok": print}, concurrency=50, threads=1)
    as_thread(rig, "quick")
    rig.consumer.pollers.start()
    rig.put("quick", None, 80)
    until(lambda: clock.advance(0.01) or rig.books.outcomes["succeeded"] == 80)
    rig.put("quick", None, 100)
    until(lambda: clock.advance(0.06) or rig.books.outcomes["succeeded"] == 180)
    assert rig.books.outcomes == {"succeeded": 180}


def test_where_fewer_threads_can_be_started_than_allowed_those_do_all_the_work_once_each(clock, monkeypatch):
    from gevent import threadpool

    begin, calls = threadpool.start_new_thread, itertools.count()

    def limited(*args: Any) -> Any:
        if next(calls):
            raise RuntimeError("can't start new thread")
        return begin(*args)

    monkeypatch.setattr(threadpool, "start_new_thread", limited)
    ran: list[str] = []
    rig = Rig(clock, {"quick": lambda payload, message: ran.append(message.id)}, concurrency=10, threads=4)
    as_thread(rig, "quick")
    rig.consumer.pollers.start()
    ids = rig.put("quick", None, 200)
    until(lambda: clock.advance(0.01) or rig.books.outcomes["succeeded"] == 200)
    assert sorted(ran) == sorted(ids)
    assert rig.books.causes["failed"] == 0


def test_the_last_receive_that_the_queue_permits_is_not_spent_on_the_wait_for_a_thread(clock, gate):
    rig = busy(clock, gate, concurrency=100, timeout=36_000, max_receive_count=1)
    ids = rig.put("block", None, 10)
    clock.advance(1_000)
    assert rig.ended == []
    gate.open()
    until(lambda: clock.advance(1) or len(rig.ended) == 10)
    assert rig.outcomes() == dict.fromkeys(ids, "succeeded")
    assert {one.receives for one in rig.queue.messages.values()} <= {1}


@pytest.mark.parametrize(("concurrency", "left"), [(5, 1), (10, 1), (100, 10)])
def test_beyond_what_can_wait_the_last_receive_is_a_dead_letter_that_says_why(clock, gate, concurrency, left):
    rig = busy(clock, gate, concurrency=concurrency, timeout=36_000, max_receive_count=1)
    rig.put("block", None, 2 * concurrency)
    clock.advance(100)
    assert rig.consumer.in_hand == concurrency - left  # permits, for the other handlers
    letters = [outcome for _, outcome in rig.ended]
    assert len(letters) == concurrency + left
    assert {outcome.name for outcome in letters} == {"dead_lettered"}
    assert "no thread was free for this handler" in letters[0].reason
    assert "maxReceiveCount = 1" in letters[0].reason
    drained(rig)


def test_at_a_drain_what_waits_for_a_thread_is_given_back_with_what_is_not_started(clock, gate):
    rig = busy(clock, gate, concurrency=20, timeout=36_000)
    ids = rig.put("block", None, 6)
    clock.advance(2)
    rig.consumer.drain(clock.now() + 25)
    clock.advance(1)
    assert rig.ended == []  # a poll of ours is open, and would fetch it again
    clock.advance(20)
    rig.consumer.give_back_held()
    clock.advance(1)
    begun(gate, 2)
    began = set(gate.began)
    assert rig.outcomes() == dict.fromkeys(set(ids) - began, "released")
    assert {outcome.delay_seconds for _, outcome in rig.ended} == {0}
    gate.open()
    until(lambda: clock.advance(0.5) or len(rig.ended) == 6)
    assert {one: rig.outcomes()[one] for one in began} == dict.fromkeys(began, "succeeded")
    assert len(gate.began) == 2


def test_a_thread_that_was_given_up_is_used_again_once_its_code_ends(clock, gate):
    rig = busy(clock, gate, concurrency=10, timeout=30)
    rig.put("block", None, 2)
    clock.advance(31)
    assert [outcome.cause for _, outcome in rig.ended] == ["timed_out"] * 2
    rig.put("block", None, 3)
    clock.advance(10)
    begun(gate, 2)
    gate.open()
    until(lambda: clock.advance(1) or rig.books.outcomes["succeeded"] >= 3)
    assert len(gate.idents) == 2


@pytest.mark.parametrize("started", [0, 1])
def test_a_thread_that_cannot_be_started_is_tried_again_and_no_permit_of_the_pool_is_lost(
    clock, gate, monkeypatch, started, caplog
):
    from gevent import threadpool

    begin, calls = threadpool.start_new_thread, itertools.count()

    def limited(*args: Any) -> Any:
        if started <= next(calls) < started + 40:
            raise RuntimeError("can't start new thread")
        return begin(*args)

    monkeypatch.setattr(threadpool, "start_new_thread", limited)
    rig = busy(clock, gate, concurrency=20, threads=4, timeout=36_000)
    ids = rig.put("block", None, 4)
    clock.advance(3)
    begun(gate, started)
    assert "can't start new thread" in caplog.text
    assert rig.books.causes["failed"] == 0
    until(lambda: clock.advance(5) or len(gate.began) == 4)  # all four threads are there in the end
    assert len(set(gate.began)) == 4  # and nothing ran twice
    caplog.clear()
    ids += rig.put("block")
    clock.advance(65)
    assert "all 4 threads are taken" in caplog.text
    gate.open()
    until(lambda: clock.advance(1) or rig.books.outcomes["succeeded"] == 5)
    assert set(rig.queue.deleted) == set(ids)
    assert len(gate.began) == 5


def test_a_handler_that_finishes_by_its_decorator_is_not_interrupted_where_its_lease_is_lost(clock, no_handlers):
    job = Job()

    @handler("job", on_lease_lost="finish")
    def finishing(payload: dict | None, message: Message) -> None:
        job(payload, message)

    rig = Rig(clock, {})
    rig.processor = Processor(routes([finishing.__module__]), RetrySettings(3, 2, 900), clock)
    rig.consumer._processor = rig.processor
    rig.consumer.pollers.start()
    rig.put("job")
    clock.advance(1)
    rig.queue.script["change_visibility"] = [GONE]
    clock.advance(11)
    assert job.thrown == []
    job.event.set()
    clock.advance(1)
    assert rig.ended[0][1].reason == "too late: succeeded"
