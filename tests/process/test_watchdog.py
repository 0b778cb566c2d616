"""While a handler computes or blocks: who notices, what the thread does for the leases, and when it ends the process.

The decision and one look at a time on a virtual clock; then real workers, whose hub really stands still.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import re
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from signal import SIGCONT, SIGSTOP, SIGTERM
from typing import Any

import gevent
import msgspec
import pytest
from gevent.monkey import get_original
from gevent.server import StreamServer

from millpond.app.config import RetrySettings
from millpond.app.routing import Route
from millpond.engine.handler_call import HANDLER_CODE
from millpond.engine.lease import Lease
from millpond.engine.lease_keeper import LeaseKeeper
from millpond.engine.lease_state import HELD, LOST
from millpond.engine.processor import Processor
from millpond.errors import CRASHED, Unreachable
from millpond.hub.pulse import PULSE_SECONDS, Pulse
from millpond.observe import log, log_format, log_output
from millpond.process import watchdog
from millpond.process.watchdog import BLOCKED_SECONDS, MAX_STACK, TICK_SECONDS, Block, GuardedQueue, Watchdog
from millpond.sqs.limits import MAX_BATCH
from millpond.sqs.queue import Failure
from tests.engine.test_processor import delivery_of
from tests.fakes import FakeQueue, ListOwner
from tests.rig import queue_settings
from tests.virtual import VirtualClock
from tests.worker_process import LocalQueues, WorkerProcess, local_sqs, write_project

pytestmark = pytest.mark.slow

VISIBILITY = 30
BEAT = 10.0
MAX_BLOCK = 60.0
FRESH = PULSE_SECONDS + TICK_SECONDS - 0.01  # the oldest pulse of a hub that turns
GONE = Failure("ReceiptHandleIsInvalid", "", sender_fault=True)


# --- the decision


def test_a_hub_with_a_pulse_is_not_blocked_however_long_it_was_before():
    assert Block(seconds=1_000, logged=True).after(FRESH, TICK_SECONDS) == Block(0.0, logged=False)


def test_a_block_is_as_long_as_the_ticks_that_have_seen_it():
    block = Block()
    for _ in range(8):
        block = block.after(pulse_age=100.0, tick=TICK_SECONDS)
    assert block == Block(8 * TICK_SECONDS, logged=False)


def test_what_was_told_of_a_block_stays_told_until_its_end():
    block = Block(5.0, logged=True).after(pulse_age=10.0, tick=TICK_SECONDS)
    assert block.logged
    assert not block.after(FRESH, TICK_SECONDS).after(10.0, TICK_SECONDS).logged


@pytest.mark.parametrize("tick", [1.0, 60.0, 86_400.0])
def test_a_tick_that_itself_came_late_counts_nothing_since_the_whole_process_stood(tick):
    assert Block(0.25).after(pulse_age=tick, tick=tick) == Block(0.25)


# --- one look after the other


class Exit(BaseException):
    """What os._exit raises here."""


class Stage:
    """A watchdog over one queue's leases, in a process whose hub stands still: only `step` moves the clock."""

    def __init__(self, beat_seconds: float = BEAT) -> None:
        self.clock = VirtualClock()
        self.queue = FakeQueue(self.clock)
        self.keeper = LeaseKeeper(
            "q",
            queue_settings(visibility_seconds=VISIBILITY, heartbeat_seconds=beat_seconds),
            self.queue,
            1_000,
            ListOwner(),
            self.clock,
            gevent.spawn,
        )
        self.leases: list[Lease] = []
        self.calls: list[list[tuple[str, int]]] = []
        self.on_call: Callable[[], object] = lambda: None
        self.pulse = Pulse(self.clock)
        self.watchdog = Watchdog(
            self.pulse,
            self.clock,
            [GuardedQueue(lambda: list(self.leases), self._extend, lambda: None)],
            beat_seconds=beat_seconds,
            max_block_seconds=MAX_BLOCK,
            handler_code=HANDLER_CODE,
        )

    def _extend(self, changes: Any) -> list[Failure | None]:
        self.calls.append(list(changes))
        self.on_call()
        return self.queue.change_visibility(changes)

    def take(self) -> Lease:
        self.queue.put("x")
        received = self.queue.receive(1, 0, VISIBILITY)[0]
        self.leases.append(self.keeper.take([], received.receipt_handle, self.clock.now()))
        self.keeper.begin([self.leases[-1]], self.clock.now())
        return self.leases[-1]

    def tick(self, seconds: float = TICK_SECONDS) -> bool:
        """No timer rings meanwhile: the hub stands still."""
        self.clock._now += seconds
        return self.watchdog.step()

    def block(self, seconds: float) -> None:
        for _ in range(int(seconds / TICK_SECONDS)):
            self.tick()

    def turn(self) -> None:
        """The hub turns again."""
        self.pulse.start()

    @property
    def extended(self) -> list[str]:
        return [handle for call in self.calls for handle, _ in call]


@pytest.fixture
def told(monkeypatch) -> list[dict[str, Any]]:
    """What the thread says."""
    lines: list[dict[str, Any]] = []

    def from_thread(level: int, name: str, message: str, /, **fields: Any) -> None:
        lines.append({"level": level, "event": name, "message": message, **fields})

    monkeypatch.setattr("millpond.observe.log.from_thread", from_thread)
    return lines


@pytest.fixture(autouse=True)
def no_exit(monkeypatch) -> None:
    """No test here can end pytest."""

    def leave(code: int) -> None:
        raise Exit(code)

    monkeypatch.setattr("millpond.process.watchdog.os._exit", leave)


@pytest.fixture
def stage(told) -> Stage:
    return Stage()


def test_while_the_hub_turns_the_thread_sends_nothing_and_says_nothing(stage, told):
    stage.take()
    for _ in range(200):
        stage.turn()
        assert stage.tick()
    assert stage.calls == told == []
    assert (stage.watchdog.hub_blocked, stage.watchdog.leases_rescued) == (0, 0)


def test_a_lease_is_extended_once_its_beat_is_overdue_and_not_before(stage):
    lease = stage.take()
    stage.block(BEAT - 2)
    assert stage.calls == []
    stage.block(4)
    assert stage.calls == [[(lease.handle, VISIBILITY)]]
    assert stage.watchdog.leases_rescued == 1


def test_leases_are_kept_through_a_block_of_any_length(stage):
    leases = [stage.take() for _ in range(25)]
    for _ in range(int(MAX_BLOCK / TICK_SECONDS) - 2):
        stage.tick()
        assert stage.queue.visible() == []
    stage.turn()
    assert not any(lease.is_lost(stage.clock.now()) for lease in leases)
    assert stage.watchdog.leases_rescued == 5 * 25  # a beat each ten seconds: no more than the hub itself would send


def test_it_is_ten_to_a_call_and_those_that_end_first_go_first(stage):
    for _ in range(25):
        stage.take()
        stage.clock._now += 0.01
    stage.leases.reverse()
    stage.block(BEAT + 2)
    assert [len(call) for call in stage.calls] == [10, 10, 5]
    assert stage.extended == [f"m{number}#1" for number in range(1, 26)]
    assert max(map(len, stage.calls)) == MAX_BATCH


def let_go(stage: Stage, lease: Lease) -> None:
    lease.let_go(60)


def end(stage: Stage, lease: Lease) -> None:
    stage.keeper.end([lease])


def withhold(stage: Stage, lease: Lease) -> None:
    assert lease.withhold()


def lose(stage: Stage, lease: Lease) -> None:
    lease.state = LOST


def expire(stage: Stage, lease: Lease) -> None:
    lease.deadline = stage.clock.now()


def hold_for_12_hours(stage: Stage, lease: Lease) -> None:
    lease.held_since = stage.clock.now() - 43_200


@pytest.mark.parametrize("change", [let_go, end, withhold, lose, expire, hold_for_12_hours])
def test_a_lease_is_left_alone_that_is_not_simply_held(stage, change):
    other, held = stage.take(), stage.take()
    change(stage, other)
    stage.block(BEAT + 2)
    assert stage.extended == [held.handle]
    assert not other.marked


def test_every_lease_is_marked_before_its_call_and_no_other_is_and_none_after_it(stage):
    leases = [stage.take() for _ in range(3)]
    leases[1].let_go(60)
    seen = []
    stage.on_call = lambda: seen.append([lease.marked for lease in leases])
    stage.block(BEAT + 2)
    assert seen == [[True, False, True]]
    assert not any(lease.marked for lease in leases)


@pytest.mark.parametrize("error", [Unreachable("no network"), ValueError("a bug"), SystemExit()], ids=repr)
def test_the_marks_are_gone_also_when_the_call_raises(stage, error):
    lease = stage.take()
    until = lease.known_until()

    def fail() -> None:
        assert lease.marked
        raise error

    stage.on_call = fail
    with suppress(ValueError, SystemExit):
        stage.block(BEAT + 1)
    assert stage.calls != []
    assert not lease.marked
    assert lease.known_until() == until
    assert stage.watchdog.leases_rescued == 0


def test_an_extension_that_fails_is_tried_again_at_the_next_look(stage):
    lease = stage.take()
    stage.queue.script["change_visibility"] = [Unreachable("no network"), Failure("InternalError"), GONE]
    stage.block(BEAT + 4)
    assert stage.extended == [lease.handle] * 4
    assert stage.watchdog.leases_rescued == 1
    assert lease.state is HELD  # which only the hub may say


def test_an_answer_that_comes_past_the_deadline_proves_nothing(stage):
    lease = stage.take()
    deadline = lease.deadline

    def late() -> None:
        stage.clock._now = deadline

    stage.on_call = late
    stage.block(BEAT + 1)
    assert len(stage.calls) == 1
    assert lease.known_until() == deadline
    assert stage.watchdog.leases_rescued == 0
    assert lease.is_lost(stage.clock.now())


def test_an_answer_just_before_the_deadline_counts_from_when_it_was_asked_for(stage):
    lease = stage.take()
    asked = []

    def slow() -> None:
        asked.append(stage.clock.now())
        stage.clock._now = lease.deadline - 0.01

    stage.on_call = slow
    while not stage.calls:
        stage.tick()
    assert lease.known_until() == asked[0] + VISIBILITY
    assert stage.watchdog.leases_rescued == 1
    stage.clock._now += 1
    assert not lease.is_lost(stage.clock.now())


def test_the_hub_takes_over_the_deadline_that_the_thread_has_gained(stage):
    lease = stage.take()
    before = lease.deadline
    stage.block(BEAT + 12)
    gained = lease.known_until()
    stage.clock._now = before + 0.5
    assert not lease.is_lost(stage.clock.now())
    assert lease.deadline == gained > before


def test_a_block_is_told_once_with_its_stack_and_the_next_one_again(stage, told):
    stage.block(20)
    assert stage.watchdog.hub_blocked == len(told) == 1
    assert told[0]["event"] == "worker.blocked"
    assert told[0]["level"] == 30
    assert "test_a_block_is_told_once_with_its_stack_and_the_next_one_again" in told[0]["traceback"]
    assert len(told[0]["traceback"]) <= MAX_STACK
    stage.turn()
    stage.tick()
    stage.block(20)
    assert stage.watchdog.hub_blocked == len(told) == 2


def test_a_short_standstill_is_no_block(stage, told):
    stage.tick(0.0)
    while stage.clock.now() - stage.pulse.last < BLOCKED_SECONDS:
        stage.tick()
    stage.turn()
    stage.tick()
    assert told == []


@pytest.mark.parametrize("tick", [TICK_SECONDS, 0.3, 0.33])
@pytest.mark.parametrize(("seconds", "blocks"), [(0.99, {0}), (1.5, {0, 1}), (2.0, {1})])
def test_a_block_of_two_seconds_always_counts_one_below_a_second_never_and_between_them_the_looks_say(
    stage, told, tick, seconds, blocks
):
    """As the metric's row says. On a busy machine the thread looks late, and the pulse was up to its gap ago."""
    counted = set()
    for pulse_ago in range(0, 25, 3):
        for phase in range(0, 33, 3):
            stage.turn()
            stage.tick(0.01)
            stage.watchdog.hub_blocked = 0
            left = pulse_ago / 100 + seconds - (first := min(tick, phase / 100))
            stage.tick(first)
            while left >= tick:
                stage.tick(tick)
                left -= tick
            stage.clock._now += left
            stage.turn()
            stage.tick(0.0)
            counted.add(stage.watchdog.hub_blocked)
    assert counted <= blocks
    assert len(told) > 0 or blocks == {0}


@pytest.mark.parametrize(("busy", "blocks"), [(3.0, 1), (1.6, 1), (1.4, 0), (0.0, 0)])
def test_a_call_that_holds_the_gil_counts_when_it_is_over_and_a_process_that_stood_still_does_not(
    stage, told, monkeypatch, busy, blocks
):
    """A regular expression held up everything for 4.4 s: no line, no count, no alert."""
    stage.block(0.5)
    stage.turn()
    stage.tick()
    before = time.process_time()
    monkeypatch.setattr(watchdog.time, "process_time", lambda: before + busy)
    stage.tick(3.0)
    assert stage.watchdog.hub_blocked == len(told) == blocks
    stage.block(2.0)  # the same one goes on
    assert stage.watchdog.hub_blocked == len(told) == 1
    assert blocks == 0 or told[0]["seconds"] == 3.0
    stage.turn()
    stage.tick()
    assert not stage.watchdog._block.logged


def test_a_call_that_held_the_gil_for_longer_than_a_block_may_last_ends_no_process(stage, told, monkeypatch):
    before = time.process_time()
    monkeypatch.setattr(watchdog.time, "process_time", lambda: before + 10 * MAX_BLOCK)
    assert stage.tick(5 * MAX_BLOCK)
    assert stage.watchdog.hub_blocked == 1
    assert "held the GIL for 300.0 s" in told[0]["message"]


def test_leases_are_extended_before_the_log_is_written(stage, told):
    """The log goes to a pipe, and whoever reads it may be slow."""
    lease = stage.take()
    lease.deadline = stage.clock.now() + BEAT  # overdue at once
    stage.block(2)
    assert [line["leases_rescued"] for line in told] == [1]


def test_a_stopped_process_is_not_taken_for_a_blocked_hub(stage, told):
    stage.take()
    for _ in range(10):
        stage.tick(10 * MAX_BLOCK)  # SIGSTOP, a laptop that sleeps; then the hub turns
        stage.turn()
        stage.tick()
    assert told == stage.calls == []


def test_a_process_that_is_held_up_as_a_whole_again_and_again_is_not_ended(stage):
    """The clock says that the hub has had no pulse for days; the thread has seen a few looks of it."""
    for _ in range(int(MAX_BLOCK / (2 * TICK_SECONDS)) - 1):
        assert stage.tick(86_400)


def test_a_block_of_max_block_seconds_ends_the_process_with_exit_code_2(stage, told):
    stage.block(MAX_BLOCK)
    assert [line["level"] for line in told] == [30]
    with pytest.raises(Exit) as left:
        stage.block(1)
    assert left.value.args == (CRASHED,) == (2,)
    assert told[-1]["level"] == 50
    assert "max_block_seconds = 60" in told[-1]["message"]


def while_it_speaks(monkeypatch, told: list[dict[str, Any]], meanwhile: Callable[[], object]) -> None:
    """`meanwhile`: what the other thread does while the first one says that the process ends."""
    speak = log.from_thread

    def from_thread(level: int, *text: str, **fields: Any) -> None:
        is_last = level == logging.CRITICAL and all(line["level"] != level for line in told)
        speak(level, *text, **fields)
        if is_last:
            meanwhile()

    monkeypatch.setattr("millpond.observe.log.from_thread", from_thread)


def test_the_last_word_is_said_once_and_the_other_thread_does_not_end_the_process_in_its_midst(
    stage, told, monkeypatch
):
    while_it_speaks(monkeypatch, told, lambda: stage.block(1))
    with pytest.raises(Exit):
        stage.block(MAX_BLOCK + 1)
    assert [line["level"] for line in told] == [30, 50]


def test_where_the_last_word_is_never_out_the_other_thread_ends_the_process(stage, told, monkeypatch):
    while_it_speaks(monkeypatch, told, lambda: stage.block(3_600))
    began = stage.clock.now()
    with pytest.raises(Exit):
        stage.block(MAX_BLOCK + 1)
    assert stage.clock.now() - began < MAX_BLOCK + 5


def test_a_thread_of_it_that_fails_ends_the_process(stage, told, monkeypatch):
    """Half an engine is none."""
    codes: list[int] = []
    monkeypatch.setattr("millpond.process.watchdog.os._exit", codes.append)
    stage.pulse.last = "not a time"
    stage.watchdog.start()
    end = time.monotonic() + 20
    while len(codes) < 2 and time.monotonic() < end:  # both threads are native
        gevent.sleep(0.001)
    assert codes == [CRASHED, CRASHED]
    assert [(line["level"], line["event"]) for line in told] == [(50, "worker.crashed")] * 2
    assert told[0]["message"].startswith("the watchdog died, so the process ends: TypeError")
    assert "in look" in told[0]["traceback"]


def test_after_stop_it_looks_no_more(stage, told):
    stage.take()
    stage.watchdog.stop()
    stage.clock._now += BEAT + 2
    assert not stage.watchdog.step()
    for _ in range(10):
        assert not stage.tick()
    assert stage.calls == told == []


def test_with_short_beats_it_does_not_wait_a_second(told):
    stage = Stage(beat_seconds=1.0)
    lease = stage.take()
    lease.deadline = stage.clock.now() + VISIBILITY - 1.0  # due now
    stage.block(PULSE_SECONDS + TICK_SECONDS + 0.5)
    assert stage.extended == [lease.handle]


def compute(stage: Stage) -> None:
    stage.block(2)


def test_the_handler_that_holds_up_the_hub_is_named(stage, told):
    def run(payload: Any, message: Any) -> None:
        compute(stage)

    route = Route("job", "jobs.run", msgspec.json.decode, run)
    Processor({"job": route}, RetrySettings(), stage.clock).process(delivery_of(clock=stage.clock))
    [line] = told
    assert "the handler test_the_handler_that_holds_up_the_hub_is_named.<locals>.run" in line["message"]
    assert re.search(r" blocks the hub at tests/\S+\.py:\d+ in \S+, so all other handlers wait", line["message"])
    assert "in compute" in line["traceback"]


def test_where_no_handler_is_running_nobody_is_blamed(stage, told):
    compute(stage)
    assert "no handler is running" in told[0]["message"]


# --- the log of a native thread


def native(call: Callable[[], object]) -> Any:
    """Begin it in a real thread; a real lock that is free once it has ended."""
    over = get_original("_thread", "allocate_lock")()
    over.acquire()

    def run() -> None:
        try:
            call()
        finally:
            over.release()

    get_original("_thread", "start_new_thread")(run, ())
    return over


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """The log goes into it; both its ends, neither of which blocks."""
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    os.set_blocking(writing, False)
    with open(writing, "w") as stream:
        output = log_output.LogOutput(stream, log_format.JsonFormat())
        logging.getLogger().addHandler(output)
        yield reading, writing
        logging.getLogger().removeHandler(output)
    os.close(reading)


def test_the_thread_writes_its_line_while_a_greenlet_holds_every_lock_of_the_log(pipe):
    reading, _ = pipe
    [output] = log_output.outputs()
    output.acquire()
    logging._lock.acquire()
    try:
        over = native(lambda: log.from_thread(30, "worker.blocked", "still", seconds=1.5))
        assert over.acquire(timeout=20)
    finally:
        logging._lock.release()
        output.release()
    line = msgspec.json.decode(os.read(reading, 65_536))
    del line["ts"]
    assert line == {"level": "warning", "event": "worker.blocked", "message": "still", "seconds": 1.5}


def test_the_thread_does_not_wait_for_a_pipe_that_nobody_reads(pipe):
    reading, writing = pipe
    with suppress(BlockingIOError):
        while True:
            os.write(writing, b"x" * 4_096)
    os.set_blocking(writing, True)  # as the worker's own standard output
    over = native(lambda: log.from_thread(30, "worker.blocked", "still"))
    assert over.acquire(timeout=20)
    while True:
        try:
            data = os.read(reading, 1_000_000)
        except BlockingIOError:
            break
        assert set(data) == {ord("x")}


# --- real workers

HANDLERS = """
import logging, time
import gevent, gevent.event
from gevent.monkey import get_original
from millpond import Message, handler

log = logging.getLogger("work")
over = gevent.event.Event()

@handler("ok")
def ok(payload: dict | None) -> None:
    log.info("fine")

@handler("wait", timeout=5)
def wait_for_over(payload: dict | None, message: Message) -> None:
    log.info("waiting")
    over.wait()

@handler("burn")
def burn(seconds: float, message: Message) -> None:
    log.info("burning")
    _compute(seconds)
    over.set()
    log.info("burnt")

def _compute(seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        sum(range(1_000))

@handler("hang")
def hang(seconds: float) -> None:
    log.info("hanging")
    get_original("time", "sleep")(seconds)  # as long as a computing one, for none of the tests' CPU

@handler("sleep")
def native_sleep(seconds: float) -> None:
    get_original("time", "sleep")(seconds)

class Slow:
    def __str__(self):
        get_original("time", "sleep")(6)
        return "a slow text"

@handler("text")
def slow_text(payload: dict | None) -> None:
    log.info("%s", Slow())
"""

Start = Callable[..., WorkerProcess]


@pytest.fixture(scope="module")
def queues(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalQueues]:
    """An SQS in a process of its own: it goes on while the worker's hub stands still."""
    with local_sqs(tmp_path_factory.mktemp("sqs")) as queues:
        yield queues


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """start(url) -> a worker on this queue with the shortest limits; every one is ended with the test."""
    numbers = itertools.count()
    with ExitStack() as stack:

        def start(url: str, max_block_seconds: float = 60) -> WorkerProcess:
            config = f"""
                [worker]
                handlers = ["jobs"]
                max_block_seconds = {max_block_seconds}
                [queues.q]
                url = "{url}"
                wait_seconds = 1
                visibility_seconds = 3
            """
            folder = write_project(tmp_path / str(next(numbers)), HANDLERS, config)
            return stack.enter_context(WorkerProcess(folder))

        yield start


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    return f"q{abs(hash(request.node.nodeid))}"


def expect_undelivered(queues: LocalQueues, name: str, worker: WorkerProcess, until: Callable[[], object]) -> None:
    """Whoever else asks for messages gets none, until so much is done."""
    while not until():
        assert queues.receive(name) == [], worker.output()
        assert worker.running, worker.output()
        time.sleep(0.05)


def blocks(worker: WorkerProcess, handler: str) -> list[dict[str, Any]]:
    """What was told of blocks by this handler: on a busy machine the hub can stand still by itself."""
    return [line for line in worker.all("worker.blocked") if f"the handler {handler} blocks" in line["message"]]


def test_a_handler_that_computes_costs_no_lease_and_no_other_handler_its_time(start, queues, name):
    queues.create(name)
    worker = start(queues.url(name))
    queues.send(name, "wait", number=5)
    for _ in range(5):
        worker.expect("log", message="waiting")
    queues.send(name, "burn", 6.0)
    worker.expect("log", message="burning")
    expect_undelivered(queues, name, worker, lambda: worker.all("log")[-1]["message"] == "burnt")
    blocked = worker.expect("worker.blocked", level="warning")
    assert "the handler burn blocks the hub at jobs/work.py:" in blocked["message"]
    assert " in _compute, so all other handlers wait; their leases are extended; @handler(" in blocked["message"]
    assert "in _compute" in blocked["traceback"]
    for _ in range(6):
        worker.expect("message.succeeded", attempt=1)
    worker.signal(SIGTERM)
    stopped = worker.expect("worker.stopped")
    assert (stopped["received"], stopped["succeeded"]) == (6, 6)
    assert "timed_out" not in stopped
    assert worker.exit_code() == 0
    assert worker.stderr == ""
    assert len(blocks(worker, "burn")) == 1
    assert queues.counts(name) == (0, 0, 0)


def test_each_call_that_blocks_the_hub_is_told_once_and_costs_no_lease(start, queues, name):
    queues.create(name)
    worker = start(queues.url(name))
    worker.expect("worker.ready")
    for number in (1, 2):
        queues.send(name, "sleep", 4.5)
        assert "the handler native_sleep blocks" in worker.expect("worker.blocked")["message"]
        expect_undelivered(queues, name, worker, lambda number=number: len(worker.all("message.succeeded")) == number)
    worker.signal(SIGTERM)
    assert worker.exit_code() == 0
    assert worker.expect("worker.stopped")["succeeded"] == 2
    assert len(blocks(worker, "native_sleep")) == 2


def test_a_handler_that_blocks_for_max_block_seconds_ends_the_process_and_its_message_comes_again(start, queues, name):
    queues.create(name)
    worker = start(queues.url(name), max_block_seconds=5)
    queues.send(name, "burn", 3_600.0)
    assert worker.exit_code(60) == 2
    last = worker.expect("worker.blocked", level="critical")
    assert "the handler burn blocks the hub at jobs/work.py:" in last["message"]
    assert "exit code 2" in last["message"]
    assert [line["level"] for line in blocks(worker, "burn")] == ["warning", "critical"]
    assert worker.lines[-1]["event"] == "worker.blocked"
    [message] = queues.receive(name, wait_seconds=20)
    assert message["Attributes"]["ApproximateReceiveCount"] == "2"


class Hole:
    """A way to an SQS that swallows, from `open` on, whatever is sent and answers nothing."""

    def __init__(self, endpoint: str) -> None:
        self._to = (endpoint.rsplit("/", 1)[1].split(":")[0], int(endpoint.rsplit(":", 1)[1]))
        self._server = StreamServer(("127.0.0.1", 0), self._serve)
        self._server.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self.open = False
        self.swallowed = 0

    def _serve(self, client: socket.socket, address: object) -> None:
        with client, socket.create_connection(self._to) as server:
            ways = [gevent.spawn(self._pipe, client, server, True), gevent.spawn(self._pipe, server, client, False)]
            gevent.joinall(ways)

    def _pipe(self, one: socket.socket, other: socket.socket, swallows: bool) -> None:
        with suppress(OSError):
            while data := one.recv(65_536):
                if self.open and swallows:
                    self.swallowed += 1
                else:
                    other.sendall(data)
            other.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self._server.stop(0)


@pytest.mark.clock
@pytest.mark.parametrize("number", [1, 30])
def test_max_block_seconds_are_kept_also_where_no_extension_is_answered(start, queues, name, number):
    queues.create(name)
    hole = Hole(queues.endpoint)
    try:
        worker = start(f"{hole.url}/000000000000/{name}", max_block_seconds=5)
        queues.send(name, "wait", number=number)
        for _ in range(number):
            worker.expect("log", message="waiting")
        queues.send(name, "hang", 3_600.0)
        worker.expect("log", message="hanging")
        began = time.monotonic()
        hole.open = True
        assert worker.exit_code(60) == 2
        assert 4 < time.monotonic() - began < 5 + 2.5
        assert hole.swallowed  # an extension was on its way
        levels = [line["level"] for line in worker.all("worker.blocked")]
        assert levels == ["warning", "critical"]
    finally:
        hole.close()


def test_a_greenlet_that_blocks_while_it_holds_the_logs_lock_does_not_stop_the_thread(start, queues, name):
    queues.create(name)
    worker = start(queues.url(name))
    queues.send(name, "text")
    assert "the handler slow_text blocks" in worker.expect("worker.blocked")["message"]
    assert worker.all("log") == []  # the line that is being made is not out: its lock is held
    expect_undelivered(queues, name, worker, lambda: worker.all("message.succeeded"))
    worker.expect("log", message="a slow text")
    worker.expect("message.succeeded", attempt=1)
    worker.signal(SIGTERM)
    assert worker.exit_code() == 0


def test_a_process_that_was_stopped_for_longer_than_max_block_seconds_goes_on(start, queues, name):
    queues.create(name)
    worker = start(queues.url(name), max_block_seconds=5)
    queues.send(name, "ok")
    worker.expect("message.succeeded")
    worker.signal(SIGSTOP)
    time.sleep(7)
    worker.signal(SIGCONT)
    queues.send(name, "ok")
    worker.expect("message.succeeded")
    worker.signal(SIGTERM)
    assert worker.exit_code() == 0
    assert [line["level"] for line in worker.all("worker.blocked") if line["level"] == "critical"] == []


def test_a_handler_that_blocks_in_its_around_is_named_by_the_users_own_function():
    named = []

    @contextlib.contextmanager
    def around(message):
        named.append(watchdog._culprit())
        yield

    route = Route("job", "tests.job", msgspec.json.decode, lambda payload, message: None, around=around)
    watchdog = Watchdog(
        Pulse(VirtualClock()), VirtualClock(), [], beat_seconds=20, max_block_seconds=60, handler_code=HANDLER_CODE
    )
    processor = Processor({"job": route}, RetrySettings(), VirtualClock())
    assert processor.process(delivery_of()).name == "succeeded"
    assert "around" in named[0]
    assert "test_watchdog.py" in named[0]
