"""What a running worker does on signals, and how it ends: real processes, their log lines, their exit codes."""

from __future__ import annotations

import itertools
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from datetime import datetime
from pathlib import Path
from signal import SIGHUP, SIGINT, SIGTERM
from typing import Any

import pytest

from tests.worker_process import SECONDS, LocalQueues, WorkerProcess, local_queues, local_sqs, write_project

pytestmark = pytest.mark.slow

HANDLERS = """
import logging, sys, time
import gevent
from millpond import Reject, handler

log = logging.getLogger("work")

@handler("ok")
def ok(payload: dict | None) -> None:
    pass

@handler("reject")
def reject(payload: dict | None) -> None:
    raise Reject("never")

@handler("nap")
def nap(seconds: float) -> None:
    log.info("napping")
    time.sleep(seconds)

@handler("swallow")
def swallow(payload: dict | None) -> None:
    log.info("napping")
    while True:
        try:
            time.sleep(60)
        except BaseException:
            pass

@handler("exit")
def leave(payload: dict | None) -> None:
    sys.exit(7)

@handler("interrupt")
def interrupt(payload: dict | None) -> None:
    raise KeyboardInterrupt

@handler("spawn")
def spawn(payload: dict | None) -> None:
    for kind in (SystemExit, KeyboardInterrupt, SystemError, ValueError):
        gevent.spawn(_raise, kind)
    gevent.sleep(0.01)

def _raise(kind):
    raise kind("from a greenlet that a handler spawned")
"""

Start = Callable[..., WorkerProcess]


@pytest.fixture(scope="module")
def queues(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalQueues]:
    """An SQS in a process of its own, as AWS is: its open polls do not end with the worker's drain."""
    with local_sqs(tmp_path_factory.mktemp("sqs")) as queues:
        yield queues


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """start(url, *arguments, **settings) -> a worker on this queue; every one is ended with the test."""
    numbers = itertools.count()
    with ExitStack() as stack:

        def start(
            url: str,
            *arguments: str,
            drain_seconds: float = 10,
            wait_seconds: int = 1,
            handlers: str = HANDLERS,
            more: str = "",
        ) -> WorkerProcess:
            config = f"""
                [worker]
                handlers = ["jobs"]
                drain_seconds = {drain_seconds}
                [queues.q]
                url = "{url}"
                wait_seconds = {wait_seconds}
                visibility_seconds = 30
                [local]
                port = 0
                {more}
            """
            folder = write_project(tmp_path / str(next(numbers)), handlers, config)
            return stack.enter_context(WorkerProcess(folder, *arguments))

        yield start


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """A queue's name that no other test has."""
    return f"q{abs(hash(request.node.nodeid))}"


def seconds_between(first: dict[str, Any], second: dict[str, Any]) -> float:
    return (datetime.fromisoformat(second["ts"]) - datetime.fromisoformat(first["ts"])).total_seconds()


def signal_until_the_end(worker: WorkerProcess, number: int) -> None:
    end = time.monotonic() + SECONDS
    while worker.running and not worker.all("worker.stopped"):
        assert time.monotonic() < end, worker.output()
        worker.signal(number)
        time.sleep(0.05)


# --- idle


def test_sigterm_sigint_and_sighup_each_stop_an_idle_worker_in_order(start, queues, name):
    queues.create(name)
    workers = [(number, start(queues.url(name))) for number in (SIGTERM, SIGINT, SIGHUP)]
    for number, worker in workers:
        worker.expect("worker.ready", queues=["q"])
        worker.signal(number)
    for number, worker in workers:
        assert worker.expect("worker.draining")["why"] == number.name
        stopped = worker.expect("worker.stopped")
        assert (stopped["why"], stopped["exit_code"], stopped["received"]) == (number.name, 0, 0)
        assert worker.exit_code() == 0
        assert worker.stderr == ""


def test_an_open_long_poll_of_20_seconds_outlasts_neither_the_drain_nor_the_local_queue(start, queues, name):
    local = start("local", wait_seconds=20, drain_seconds=25)
    outside = start(queues.create(name), wait_seconds=20, drain_seconds=2)
    for worker in (local, outside):
        worker.expect("worker.ready")
    queues.send(name, "nap", 1.0)  # an idle worker waits for no poll at an emulator
    outside.expect("log")
    for worker in (local, outside):
        worker.signal(SIGTERM)
    assert "SQS may hold the worker's long poll open for" in outside.expect("worker.draining")["message"]
    began = local.expect("worker.draining")
    assert seconds_between(began, local.expect("worker.stopped")) < 12
    began = time.monotonic()
    assert outside.exit_code() == 0
    assert time.monotonic() - began < 12
    assert local.exit_code() == 0


# --- at work


def test_handlers_finish_within_the_drain_and_repeated_sigterms_change_nothing(start, queues, name):
    queues.create(name)
    queues.send(name, "nap", 2.0, number=5)
    worker = start(queues.url(name))
    for _ in range(5):
        worker.expect("log", message="napping")
    worker.signal(SIGTERM)
    assert worker.expect("worker.draining")["in_hand"] == 5
    signal_until_the_end(worker, SIGTERM)  # also after the half second that a Ctrl-C has to wait
    assert worker.expect("worker.stopped")["succeeded"] == 5
    assert worker.exit_code() == 0
    assert len(worker.all("worker.draining")) == 1
    assert queues.counts(name) == (0, 0, 0)


def test_what_was_counted_last_is_sent_before_the_process_ends(start):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        more = f'[statsd]\nhost = "127.0.0.1"\nport = {server.getsockname()[1]}\n'
        worker = start("local", more=more)  # it answers its open poll at once: no flush comes between
        queues = local_queues(worker)
        worker.expect("worker.ready")
        queues.send("q", "ok", number=10)
        for _ in range(10):
            worker.expect("message.succeeded")
        worker.signal(SIGTERM)
        assert worker.exit_code() == 0
        server.setblocking(False)
        packets = []
        with suppress(BlockingIOError):
            while True:
                packets += server.recv(65_536).decode().splitlines()
    counts = [line.split(":")[1].split("|")[0] for line in packets if line.startswith("millpond.q.succeeded:")]
    assert sum(map(int, counts)) == 10


def test_a_handler_longer_than_the_drain_is_interrupted_and_its_message_is_visible_again(start, queues, name):
    queues.create(name)
    queues.send(name, "nap", 60.0)
    worker = start(queues.url(name), drain_seconds=2)
    worker.expect("log", message="napping")
    worker.signal(SIGTERM)
    worker.expect("message.released")
    assert worker.expect("worker.stopped")["stuck"] == 0  # it was interrupted, not written off
    assert worker.exit_code() == 0
    [message] = queues.receive(name, wait_seconds=10)
    assert message["Attributes"]["ApproximateReceiveCount"] == "2"


def test_a_second_ctrl_c_after_half_a_second_gives_everything_back_at_once(start, queues, name):
    queues.create(name)
    queues.send(name, "nap", 60.0)
    worker = start(queues.url(name), drain_seconds=60)
    worker.expect("log", message="napping")
    signal_until_the_end(worker, SIGINT)  # those of the first half second change nothing: a terminal can send one twice
    began = worker.expect("worker.draining")
    released = worker.expect("message.released")
    assert 0.5 <= seconds_between(began, released) < 30
    assert worker.exit_code() == 0
    assert len(queues.receive(name, wait_seconds=10)) == 1


def test_what_is_given_back_is_not_taken_by_the_poll_that_the_process_leaves_open(start, queues, name):
    queues.create(name)
    worker = start(queues.url(name), wait_seconds=3, drain_seconds=2)
    worker.expect("worker.ready")
    queues.send(name, "nap", 60.0)
    worker.expect("log", message="napping")
    worker.signal(SIGTERM)
    worker.expect("message.released")
    assert worker.expect("worker.stopped")["stuck"] == 0  # it was interrupted, not written off
    assert worker.exit_code() == 0
    [message] = queues.receive(name, wait_seconds=10)  # that poll would have kept it for 30 s
    assert message["Attributes"]["ApproximateReceiveCount"] == "2"


def test_a_handler_that_swallows_interrupts_does_not_hold_the_process(start, queues, name):
    queues.create(name)
    queues.send(name, "swallow")
    worker = start(queues.url(name), drain_seconds=2)
    worker.expect("log", message="napping")
    worker.signal(SIGTERM)
    began = worker.expect("worker.draining")
    stopped = worker.expect("worker.stopped")
    assert stopped["stuck"] == 1
    assert seconds_between(began, stopped) < 8  # it would be given up for stuck after 10 s
    assert worker.exit_code() == 0
    assert len(queues.receive(name)) == 1


def test_a_thread_of_a_handlers_module_does_not_hold_the_process(start):
    thread = "\nimport threading\nthreading.Thread(target=time.sleep, args=[60]).start()\n"
    worker = start("local", handlers=HANDLERS + thread)
    worker.expect("worker.ready")
    worker.signal(SIGTERM)
    assert worker.exit_code() == 0


def test_no_exit_or_keyboard_interrupt_in_a_handler_or_in_its_greenlets_stops_the_worker(start, queues, name):
    queues.create(name)
    for kind in ("exit", "interrupt", "spawn"):
        queues.send(name, kind)
    worker = start(queues.url(name))
    told = [worker.expect_any({"message.succeeded", "message.retried"}) for _ in range(3)]  # in any order
    assert {(line["event"], line["type"]) for line in told} == {
        ("message.succeeded", "spawn"),
        ("message.retried", "exit"),
        ("message.retried", "interrupt"),
    }
    assert len(worker.all("greenlet.failed")) == 3  # a SystemExit is no error in a greenlet
    queues.send(name, "ok")
    worker.expect("message.succeeded", type="ok")
    worker.signal(SIGTERM)
    assert worker.exit_code() == 0
    assert worker.stderr == ""


def test_a_log_handler_of_the_users_that_raises_stops_no_worker(start, queues, name):
    queues.create(name)
    handlers = f"""{HANDLERS}
class Raising(logging.Handler):
    def emit(self, record):
        raise SystemExit("no disk")

logging.getLogger().addHandler(Raising())
"""
    queues.send(name, "reject", number=3)
    queues.send(name, "ok", number=3)
    worker = start(queues.url(name), handlers=handlers)
    until_done = [worker.expect_any({"message.succeeded", "message.dead_lettered"}) for _ in range(6)]
    assert {line["event"] for line in until_done} == {"message.succeeded", "message.dead_lettered"}
    worker.signal(SIGTERM)
    assert worker.exit_code() == 0
    assert "no disk" in worker.all("log.failed")[0]["message"]
    assert len(queues.receive(f"{name}-dead")) == 3


# --- at boot


SLOW_IMPORT = 'import time\nprint("importing", flush=True)\ntime.sleep(60)\n'
SLOW_SETUP = """
import msgspec, time
from millpond import handler

class Settings(msgspec.Struct):
    pass

def setup(settings: Settings) -> None:
    print("setting up", flush=True)
    time.sleep(1)

@handler("ok")
def ok(payload: dict) -> None:
    pass
"""


def test_a_signal_while_handlers_are_imported_ends_the_boot_without_a_traceback(start):
    workers = [(number, start("local", handlers=SLOW_IMPORT)) for number in (SIGINT, SIGTERM)]
    for number, worker in workers:
        worker.expect("", message="importing")
        worker.signal(number)
    for _, worker in workers:
        assert worker.exit_code() == 0
        assert worker.stderr == ""


def test_a_signal_during_setup_stops_the_worker_before_it_receives(start):
    workers = [start("local", handlers=SLOW_SETUP) for _ in range(2)]
    for worker, number in zip(workers, (SIGTERM, SIGINT), strict=True):
        worker.expect("", message="setting up")
        worker.signal(number)
    for worker in workers:
        assert worker.exit_code() == 0
        assert worker.all("worker.ready") == []
        assert worker.stderr == ""


WAITS = {
    "in gevent": "time.sleep(3600)",
    "on a socket": "a, b = socket.socketpair(); a.recv(1)",
    "and swallows": "\n    while True:\n        try: time.sleep(3600)\n        except BaseException: pass",
    "natively": "get_original('time', 'sleep')(3600)",
    "computing": "\n    while True: pass",
}
ENDLESS_SETUP = """
import msgspec, socket, time
from gevent.monkey import get_original
from millpond import handler

class Settings(msgspec.Struct):
    pass

def setup(settings: Settings) -> None:
    print("setting up", flush=True)
    WAIT

def teardown() -> None:
    print("torn down", flush=True)

@handler("ok")
def ok(payload: dict | None) -> None:
    pass
"""


TEARDOWN = """
import socket
from gevent.monkey import get_original

def teardown() -> None:
    WAIT
"""
WAITING = """
import socket, time
from gevent.monkey import get_original
from millpond import handler

@handler("wait")
def work(payload: dict | None) -> None:
    print("waiting", flush=True)
    WAIT
"""
AT_THE_EXIT = """
import atexit, socket
from gevent.monkey import get_original

def last() -> None:
    WAIT

atexit.register(last)
"""


@pytest.mark.parametrize("wait", WAITS.values(), ids=WAITS)
def test_a_setup_that_waits_for_ever_is_left_at_a_signal(start, wait):
    worker = start("local", drain_seconds=3, handlers=ENDLESS_SETUP.replace("WAIT", wait))
    worker.expect("", message="setting up")
    began = time.monotonic()
    worker.signal(SIGTERM)
    assert worker.exit_code() == 0
    assert time.monotonic() - began < 6
    assert worker.all("worker.ready") == []
    assert worker.all("worker.stopped") or worker.all("worker.ended")
    assert worker.stderr == ""


def test_a_boot_that_waits_for_an_answer_of_sqs_is_left_at_a_signal(start):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        worker = start(f"http://127.0.0.1:{silent.getsockname()[1]}/000000000000/q", drain_seconds=3)
        connection, _ = silent.accept()
        with connection:
            began = time.monotonic()
            worker.signal(SIGTERM)
            assert worker.exit_code() == 0
            assert time.monotonic() - began < 6
            assert worker.expect("worker.stopped")["exit_code"] == 0


def test_a_boot_that_waits_for_keys_is_left_at_a_signal(start, tmp_path):
    (tmp_path / "0" / ".aws").mkdir(parents=True)
    asked = tmp_path / "asked"
    (tmp_path / "0" / ".aws" / "config").write_text(
        f'[default]\ncredential_process = sh -c "touch {asked}; sleep 60"\n'
    )
    worker = start("https://sqs.eu-west-1.amazonaws.com/000000000000/q", drain_seconds=3)
    end = time.monotonic() + 20
    while not asked.exists():
        assert time.monotonic() < end, worker.output()
        time.sleep(0.05)
    began = time.monotonic()
    worker.signal(SIGTERM)
    assert worker.exit_code() == 0
    assert time.monotonic() - began < 6


@pytest.mark.parametrize("wait", WAITS.values(), ids=WAITS)
def test_a_teardown_that_waits_for_ever_ends_with_the_drain(start, wait):
    teardown = TEARDOWN.replace("WAIT", wait)
    worker = start("local", drain_seconds=3, handlers=HANDLERS + teardown)
    worker.expect("worker.ready")
    began = time.monotonic()
    worker.signal(SIGTERM)
    worker.exit_code()
    assert time.monotonic() - began < 7
    assert worker.all("worker.stopped") or worker.all("worker.ended")


@pytest.mark.parametrize("wait", WAITS.values(), ids=WAITS)
def test_a_handler_that_waits_for_ever_does_not_hold_the_drain_however_it_waits(start, queues, name, wait):
    handlers = WAITING.replace("WAIT", wait)
    queues.create(name)
    queues.send(name, "wait")
    worker = start(queues.url(name), drain_seconds=3, handlers=handlers)
    worker.expect("", message="waiting")
    began = time.monotonic()
    worker.signal(SIGTERM)
    assert worker.exit_code() in (0, 1)
    assert time.monotonic() - began < 7


ATEXIT = (
    HANDLERS
    + """
import atexit

def last() -> None:
    print("last", flush=True)

def broken() -> None:
    raise ValueError("no such file")

def first() -> None:
    print("first", flush=True)
    time.sleep(0.1)

for function in (last, broken, first):
    atexit.register(function)
"""
)


def test_what_is_registered_with_atexit_runs_once_in_its_order_and_its_errors_are_told(start):
    worker = start("local", handlers=ATEXIT)
    worker.expect("worker.ready")
    worker.signal(SIGTERM)
    assert worker.exit_code() == 0
    lines = [line["message"] if line["event"] == "" else line["event"] for line in worker.lines]
    assert lines[-4:] == ["worker.stopped", "first", "atexit.failed", "last"]
    [failed] = worker.all("atexit.failed")
    assert "ValueError: no such file" in failed["traceback"]


@pytest.mark.parametrize("wait", WAITS.values(), ids=WAITS)
def test_an_exit_function_that_waits_for_ever_ends_with_the_drain(start, wait):
    waits = AT_THE_EXIT.replace("WAIT", wait)
    worker = start("local", drain_seconds=2, handlers=HANDLERS + waits)
    worker.expect("worker.ready")
    began = time.monotonic()
    worker.signal(SIGTERM)
    assert worker.exit_code() == 0
    assert time.monotonic() - began < 7


def test_a_signal_that_was_ignored_stays_ignored(start):
    ignored = [signal.signal(number, signal.SIG_IGN) for number in (SIGHUP, SIGINT)]
    try:
        worker = start("local")
    finally:
        for number, before in zip((SIGHUP, SIGINT), ignored, strict=True):
            signal.signal(number, before)
    worker.expect("worker.ready")
    for number in (SIGHUP, SIGINT):  # nohup ignores the first, a shell the second for what runs in its background
        worker.signal(number)
    time.sleep(0.5)
    assert worker.all("worker.draining") == []
    worker.signal(SIGTERM)
    assert worker.expect("worker.draining")["why"] == "SIGTERM"
    assert worker.exit_code() == 0


def test_a_crash_in_a_library_in_c_leaves_the_line_of_the_handler_on_standard_error(start):
    handlers = """
import ctypes
from millpond import handler

@handler("crash")
def crash(payload: dict | None) -> None:
    ctypes.string_at(0)
"""
    worker = start("local", handlers=handlers)
    local_queues(worker).send("q", "crash")
    assert worker.exit_code() == -signal.SIGSEGV
    assert "Fatal Python error: Segmentation fault" in worker.stderr
    assert 'jobs/work.py", line 7 in crash' in worker.stderr


def test_a_setup_that_calls_sys_exit_is_a_crash_not_a_success(start):
    worker = start("local", handlers=SLOW_SETUP.replace("time.sleep(1)", "raise SystemExit(0)"))
    assert worker.exit_code() == 2
    assert "SystemExit" in worker.expect("worker.crashed")["traceback"]


def test_a_queue_that_does_not_exist_is_exit_3(start, queues):
    worker = start(queues.url("nowhere"))
    assert worker.exit_code() == 3
    assert "[queues.q]" in worker.stderr
    assert "does not exist" in worker.stderr


def test_a_queue_that_does_not_exist_stops_no_other_and_is_worked_on_when_it_does(start, queues, name):
    queues.create(name)
    more = f'[queues.other]\nurl = "{queues.url(name + "-later")}"\nwait_seconds = 1'
    worker = start(queues.url(name), more=more)
    assert "work goes on with the others" in worker.expect("queue.refused", queue="other")["message"]
    queues.send(name, "ok")
    worker.expect("message.succeeded", queue="q")
    queues.create(name + "-later")
    queues.send(name + "-later", "ok")
    worker.expect("message.succeeded", queue="other")
    worker.signal(SIGTERM)
    assert worker.exit_code() == 0


def test_where_no_queue_exists_each_is_named_and_it_is_exit_3(start, queues):
    worker = start(queues.url("nowhere"), more=f'[queues.other]\nurl = "{queues.url("neither")}"')
    assert worker.exit_code() == 3
    assert [line.split(" ")[0] for line in worker.stderr.splitlines()] == ["[queues.q]", "[queues.other]"]


def test_until_empty_does_not_wait_for_a_queue_that_is_not_there_and_says_so(start, queues, name):
    queues.create(name)
    more = f'[queues.other]\nurl = "{queues.url("nowhere")}"\nwait_seconds = 1'
    worker = start(queues.url(name), "--until-empty", more=more)
    assert worker.exit_code() == 1
    worker.expect("queue.left", queue="other")


def test_a_bad_configuration_is_exit_3_with_every_finding_on_a_line(start):
    worker = start("nonsense", more="[retry]\nmax_attempts = 0\nbase = 3")
    assert worker.exit_code() == 3
    assert [line.split(": ")[1].split(" =")[0] for line in worker.stderr.splitlines()] == [
        "[queues.q] url",
        "[retry] max_attempts",
        "[retry] base",
    ]


# --- other ends


@pytest.mark.parametrize(
    "defect",
    [
        "from millpond.engine.poller import Pollers\nPollers._step = lambda self, poll: 1 / 0",
        "from millpond.hub.pulse import Pulse\nPulse._tick = lambda self: 1 / 0",
    ],
    ids=["in a greenlet", "in a timer"],
)
def test_a_defect_of_the_engine_takes_the_process_down_with_exit_2(start, defect):
    broken = f"{HANDLERS}\n{defect}\n"
    worker = start("local", handlers=broken)
    crashed = worker.expect("worker.crashed")
    assert "ZeroDivisionError" in crashed["traceback"]
    assert worker.exit_code() == 2


def test_what_cannot_be_given_back_is_abandoned_and_exit_1(start, tmp_path):
    with local_sqs(tmp_path) as queues:
        queues.create("q")
        queues.send("q", "nap", 60.0)
        worker = start(queues.url("q"), drain_seconds=1)
        worker.expect("log", message="napping")
    worker.signal(SIGTERM)
    assert worker.exit_code() == 1
    assert worker.expect("worker.stopped")["exit_code"] == 1


def test_until_empty_is_exit_0_or_1_where_a_message_was_dead_lettered_or_is_left(start, queues, name):
    for kind, number in (("ok", 15), ("reject", 15), ("nap", 1)):
        queues.create(f"{name}-{kind}")
        queues.send(f"{name}-{kind}", kind, 60.0 if kind == "nap" else None, number)
    fine, bad, left = (
        start(queues.url(f"{name}-{kind}"), "--until-empty", drain_seconds=2) for kind in ("ok", "reject", "nap")
    )
    left.expect("log", message="napping")
    left.signal(SIGTERM)
    assert fine.expect("worker.stopped", why="empty")["succeeded"] == 15
    assert bad.expect("worker.stopped", why="empty")["dead_lettered"] == 15
    assert left.expect("worker.stopped", why="SIGTERM")["exit_code"] == 1
    assert (fine.exit_code(), bad.exit_code(), left.exit_code()) == (0, 1, 1)
    assert queues.counts(f"{name}-reject-dead")[0] == 15
