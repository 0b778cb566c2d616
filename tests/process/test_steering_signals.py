"""SIGUSR1, SIGUSR2 and SIGQUIT on real processes at any moment of their lives, and the commands that do the same."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from signal import SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2

import pytest

from tests.worker_process import ROOT, SECONDS, WorkerProcess, local_queues, local_sqs, write_project

pytestmark = pytest.mark.slow

HANDLERS = """
import time
from pathlib import Path
from millpond import handler

@handler("ok")
def ok(payload: dict | None) -> None:
    pass

@handler("nap")
def nap(seconds: float) -> None:
    print("napping", flush=True)
    time.sleep(seconds)

@handler("burn")
def burn(seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass
"""
SLOW_ENDS = """
import msgspec

print("importing", flush=True)
time.sleep(0.5)

class Settings(msgspec.Struct):
    pass

def setup(settings: Settings) -> None:
    print("setting up", flush=True)
    time.sleep(1.5)

def teardown() -> None:
    print("tearing down", flush=True)
    time.sleep(1.0)
"""

IMPORTED_SLOWLY = """
import runpy, sys, time
from millpond import installed

def then(hold=installed.hold_signals):
    hold()
    print("importing the worker", flush=True)
    time.sleep(0.5)

installed.hold_signals = then
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")
"""

Start = Callable[..., WorkerProcess]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """start(handlers, level, program) -> a worker on a local queue, which is ended with the test."""
    with ExitStack() as stack:

        def start(handlers: str = HANDLERS, level: str = "info", url: str = "local", **options: str) -> WorkerProcess:
            config = f"""
                [worker]
                handlers = ["jobs"]
                drain_seconds = 10
                [queues.q]
                url = "{url}"
                wait_seconds = 20
                [local]
                port = 0
                [log]
                level = "{level}"
            """
            return stack.enter_context(WorkerProcess(write_project(tmp_path / "w", handlers, config), **options))

        yield start


def command(*arguments: str) -> tuple[int, str, str]:
    """`worker.py` with these arguments: its exit code, and what it has printed."""
    ended = subprocess.run(
        [sys.executable, str(ROOT / "worker.py"), *arguments], capture_output=True, text=True, timeout=SECONDS
    )
    return ended.returncode, ended.stdout, ended.stderr


def until_they_nap(worker: WorkerProcess, number: int) -> None:
    end = time.monotonic() + SECONDS
    while sum(line["message"] == "napping" for line in worker.lines) < number:
        assert time.monotonic() < end, worker.output()
        time.sleep(0.01)


def test_sigusr1_makes_a_worker_quiet_and_sigusr2_lets_it_receive_again(start):
    worker = start()
    queues = local_queues(worker)
    worker.expect("worker.ready")
    queues.send("q", "nap", 2.0)
    until_they_nap(worker, 1)
    worker.signal(SIGUSR1)
    assert "SIGUSR1 made the worker quiet: it receives nothing from q, and goes on with 1 message in hand" in str(
        worker.expect("worker.quiet")["message"]
    )
    worker.expect("message.succeeded", type="nap")
    queues.send("q", "ok", number=10)  # the poll that is open takes ten at the most
    queues.send("q", "ok", number=7)
    time.sleep(1.0)
    left = queues.counts("q")[0]
    assert left >= 7
    worker.signal(SIGUSR2)
    worker.expect("worker.resumed")
    end = time.monotonic() + SECONDS
    while queues.counts("q") != (0, 0, 0) and time.monotonic() < end:
        time.sleep(0.05)
    worker.signal(SIGTERM)
    assert worker.expect("worker.stopped")["succeeded"] == 18
    assert worker.exit_code() == 0


def test_sigquit_dumps_every_handler_with_its_stack_whatever_the_level_of_the_log_is(start):
    worker = start(level="info")
    queues = local_queues(worker)
    queues.send("q", "nap", 30.0, number=3)
    worker.expect("worker.ready")
    until_they_nap(worker, 3)
    assert command("level", "error", "--worker", str(worker.pid))[0] == 0
    worker.signal(SIGQUIT)
    assert "3 of 100 slots busy" in worker.expect("dump.worker")["message"]
    for _ in range(3):
        line = worker.expect("dump.handler", type="nap", queue="q", attempt=1)
        assert "jobs/work.py" in line["message"]
        assert "time.sleep(seconds)" in line["traceback"]
    assert worker.expect("dump.ended")["handlers"] == 3
    assert worker.running


def test_sigquit_is_answered_at_once_while_a_handler_computes(start):
    worker = start()
    queues = local_queues(worker)
    worker.expect("worker.ready")
    queues.send("q", "burn", 4.0)
    worker.expect("worker.blocked")
    worker.signal(SIGQUIT)
    assert "type" not in worker.expect("dump.worker")
    assert "while time.monotonic() < end" in worker.expect("dump.handler", type="burn")["traceback"]
    worker.expect("message.succeeded", type="burn")
    assert worker.running


def test_at_any_moment_the_three_signals_do_what_they_say_or_nothing(start):
    worker = start(HANDLERS + SLOW_ENDS)
    worker.expect("", message="importing")
    for number in (SIGQUIT, SIGUSR2, SIGUSR1):  # there is nothing to steer yet
        worker.signal(number)
    worker.expect("", message="setting up")
    for number in (SIGQUIT, SIGUSR2, SIGUSR1):
        worker.signal(number)
        time.sleep(0.1)
    assert " is booting" in worker.expect("dump.worker")["message"]
    worker.expect("worker.quiet")
    queues = local_queues(worker)
    worker.expect("worker.ready")
    queues.send("q", "nap", 2.0)
    time.sleep(0.7)
    assert queues.counts("q") == (1, 0, 0)
    worker.signal(SIGUSR2)
    worker.expect("worker.resumed")
    until_they_nap(worker, 1)
    worker.signal(SIGTERM)
    worker.expect("worker.draining", in_hand=1)
    for number in (SIGUSR1, SIGUSR2, SIGQUIT):
        worker.signal(number)
    assert " is draining" in worker.expect("dump.worker")["message"]
    worker.expect("message.succeeded")
    worker.expect("", message="tearing down")
    for number in (SIGUSR1, SIGUSR2, SIGQUIT):
        worker.signal(number)
    worker.expect("worker.stopped", succeeded=1)
    assert worker.exit_code() == 0
    assert worker.stderr == ""
    assert worker.all("greenlet.failed") == []


@pytest.mark.parametrize("numbers", [(SIGQUIT, SIGUSR2, SIGUSR1, SIGTERM), (SIGINT,), (SIGHUP, SIGUSR1)])
def test_a_signal_while_the_worker_itself_is_imported_ends_it_in_order_or_does_nothing(start, numbers):
    """That takes half a second, and on a busy machine two: SIGUSR1 would kill the process, SIGINT print a traceback."""
    worker = start(program=("-c", IMPORTED_SLOWLY, str(ROOT / "worker.py")))
    worker.expect("", message="importing the worker")
    for number in numbers:
        worker.signal(number)
    assert worker.exit_code() == 0
    assert "Traceback" not in worker.stderr


def test_under_nohup_sighup_stays_ignored(start):
    worker = start(executable="nohup", program=(sys.executable, str(ROOT / "worker.py")))
    worker.expect("worker.ready")
    worker.signal(SIGHUP)
    time.sleep(0.5)
    assert worker.all("worker.draining") == []
    worker.signal(SIGTERM)
    assert worker.expect("worker.draining")["why"] == "SIGTERM"
    assert worker.exit_code() == 0


@pytest.mark.clock
def test_an_idle_worker_at_an_emulator_on_this_machine_stops_within_a_second(start, tmp_path):
    with local_sqs(tmp_path) as queues:
        worker = start(url=queues.create("idle"))
        worker.expect("worker.ready")
        time.sleep(0.5)
        began = time.monotonic()
        worker.signal(SIGTERM)
        assert worker.expect("worker.draining")["message"] == "SIGTERM: nothing is in hand"
        assert worker.exit_code() == 0
        assert time.monotonic() - began < 1.0


def test_a_worker_is_looked_at_and_steered_by_commands(start):
    worker = start()
    queues = local_queues(worker)
    queues.send("q", "nap", 30.0, number=2)
    queues.send("q", "nothing")
    worker.expect("message.dead_lettered")
    until_they_nap(worker, 2)
    me = ("--worker", str(worker.pid))
    code, shown, _ = command("status", *me)
    assert code == 0
    assert "2 of 100 slots busy" in shown
    assert shown.count("jobs/work.py:") == 2
    assert "no handler for type 'nothing'" in shown
    code, line, _ = command("status", "--json", *me)
    found = json.loads(line)
    assert (found["worker"]["pid"], found["queues"][0]["in_hand"]) == (worker.pid, 2)
    assert command("quiet", "q", *me)[0] == 0
    worker.expect("worker.quiet", queues=["q"])
    assert command("resume", *me)[0] == 0
    worker.expect("worker.resumed")
    assert command("level", "debug", *me)[0] == 0
    worker.expect("log.level", before="info", now="debug")
    queues.send("q", "ok")
    worker.expect("message.started", type="ok")
    assert command("dump", *me)[0] == 0
    worker.expect("dump.ended", handlers=2)
    code, _, refused = command("quiet", "nowhere", *me)
    assert (code, "there is no queue nowhere in this worker; there are: q" in refused) == (1, True)
    code, _, nobody = command("status", "--worker", "no-such-worker")
    assert (code, "no worker no-such-worker runs here; there are: " in nobody) == (1, True)


def test_top_shows_a_worker_until_it_ends(start):
    worker = start()
    worker.expect("worker.ready")
    top = subprocess.Popen(
        [sys.executable, str(ROOT / "worker.py"), "top", "--seconds", "0.2", "--worker", str(worker.pid)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert top.stdout is not None
    assert f"(pid {worker.pid}," in top.stdout.readline()
    worker.signal(SIGINT)
    assert worker.exit_code() == 0
    rest, _ = top.communicate(timeout=SECONDS)
    assert top.returncode == 0
    assert "done/s" in rest


def test_top_ends_when_its_reader_leaves(start):
    worker = start()
    worker.expect("worker.ready")
    command = [sys.executable, str(ROOT / "worker.py"), "top", "--seconds", "0.1", "--worker", str(worker.pid)]
    top = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert top.stdout is not None
    top.stdout.readline()
    top.stdout.close()
    try:
        assert top.wait(SECONDS) == 0
    finally:
        top.kill()
    assert worker.running
