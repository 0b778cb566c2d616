"""Health: when a worker is well and when it takes work; asked over HTTP of a real one, by its own health check."""

from __future__ import annotations

import re
import subprocess
import sys
from functools import partial
from pathlib import Path
from signal import SIGTERM
from typing import Any

import gevent
import msgspec
import pytest
from gevent.event import Event

from millpond.errors import FINISHED, Unreachable
from millpond.process.health import HANGS_SECONDS, Health, Stage, health_of, readiness_of
from tests.handlers import Gate, fine
from tests.process.running import LONG, die
from tests.worker_process import ROOT, WorkerProcess, local_sqs, write_project


@pytest.mark.parametrize(
    ("stage", "well_at", "status"),
    [
        (Stage.BOOTING, {}, 200),
        (Stage.READY, {}, 200),
        (Stage.READY, {"a": 1_000.0 - HANGS_SECONDS, "b": 1_020.0}, 200),
        (Stage.READY, {"a": 1_000.0 - HANGS_SECONDS - 1, "b": 1_020.0}, 503),
        (Stage.DRAINING, {"a": 0.0}, 200),
    ],
)
def test_a_worker_is_well_while_each_queue_was_well_a_moment_ago(stage, well_at, status):
    assert health_of(stage, well_at, 1_000.0).status == status


def test_a_worker_that_is_not_well_says_which_queue_it_is_and_what_helps():
    assert health_of(Stage.READY, {"a": 935.0, "b": 1_000.0}, 1_000.0).text == (
        "a: no poll has begun for 65 s, though one is due: start this worker again"
    )


def test_it_is_ready_from_worker_ready_until_the_drain():
    assert [readiness_of(stage).status for stage in Stage] == [503, 200, 503]
    assert readiness_of(Stage.DRAINING).text == "draining: no message is received any more"


# A whole process on a virtual clock


@pytest.fixture
def healthy(process):
    """healthy(handlers, **settings) -> a running process, and its health."""

    def make(*handlers, start=True, **settings):
        one = process(*handlers, start=False, **settings)
        one.health = Health(one.core)
        one.begin = partial(one.start, followers=[one.health])
        if start:
            one.begin()
        return one

    return make


def states(one: Any) -> tuple[int, int]:
    return one.health.healthz().status, one.health.readyz().status


def test_a_quiet_queue_is_well_between_its_long_polls(healthy, clock):
    one = healthy({"job": fine})
    for _ in range(20):
        clock.advance(13)
        assert states(one) == (200, 200)


def test_a_worker_with_all_permits_in_hand_is_well_and_so_it_is_when_they_come_back(healthy, clock):
    gate = Gate()
    one = healthy({"job": gate}, concurrency=2, timeout=1e5)
    one.rig.put("job", {}, 2)
    for _ in range(10):
        clock.advance(400)
        assert one.rig.consumer.in_hand == 2
        assert states(one) == (200, 200)
    hold = one.rig.queue.gates["receive"] = Event()
    gate.event.set()
    clock.advance(0.01)
    assert states(one) == (200, 200)
    hold.set()


def test_a_gap_between_polls_is_no_silence(healthy, clock):
    one = healthy({"job": fine}, start=False)
    pollers = one.rig.consumer.pollers
    pollers._settings = msgspec.structs.replace(pollers._settings, pause_seconds=10 * HANGS_SECONDS)
    one.begin()
    for _ in range(30):
        clock.advance(59)
        assert states(one) == (200, 200)


def test_an_outage_is_not_held_against_the_worker(healthy, clock):
    one = healthy({"job": fine})
    one.rig.queue.script["receive"] += [Unreachable("gone")] * 1_000
    for _ in range(20):
        clock.advance(30)
        assert states(one) == (200, 200)


def test_a_narrow_intake_is_rightly_silent(healthy, clock):
    one = healthy({"job": fine})
    intake = one.rig.consumer.pollers.intake
    intake.full(None, in_any_case=True)
    intake.wait_for_look = lambda: gevent.sleep(1e6)
    for _ in range(10):
        clock.advance(59)
        assert states(one) == (200, 200)


@pytest.mark.parametrize("where", ["acquire", "receive"])
def test_a_poller_that_hangs_is_seen(healthy, clock, where, monkeypatch):
    """Before its call, with all permits free; or in it, where the client would not keep its own limit."""
    one = healthy({"job": fine}, pollers=1)
    clock.advance(1)
    pollers = one.rig.consumer.pollers
    monkeypatch.setattr(pollers._share if where == "acquire" else pollers._queue, where, lambda *args: Event().wait())
    seconds = 19 + (20 if where == "receive" else 0) + HANGS_SECONDS
    clock.advance(seconds)
    assert states(one) == (200, 200)
    clock.advance(1)
    assert states(one) == (503, 200)


def test_the_drain_is_well_and_takes_nothing_more(healthy, clock):
    gate = Gate()
    one = healthy({"job": gate}, drain_seconds=LONG)
    one.rig.put("job")
    clock.advance(1)
    one.signal(SIGTERM)
    clock.advance(1)
    assert states(one) == (200, 503)
    gate.event.set()
    clock.advance(30)
    assert one.exit_code == FINISHED


def test_what_its_watch_raises_ends_the_process(healthy, clock, quiet_hub, monkeypatch):
    one = healthy({"job": fine})
    monkeypatch.setattr(one.health, "look", die)
    clock.advance(30)
    assert one.exit_code == 2


# A real process


HANDLERS = """
import time
import msgspec
from millpond import handler

@handler("nap", timeout=600)
def nap(seconds: float) -> None:
    time.sleep(seconds)

class Settings(msgspec.Struct):
    pass

def setup(settings: Settings):
    from pathlib import Path
    while not Path("go").exists():
        time.sleep(0.05)
"""


def check(*arguments: str, **environ: str) -> tuple[int, str]:
    """The health check as Docker runs it: its exit code, and what it prints."""
    command = [sys.executable, "-m", "millpond.healthcheck", *arguments]
    done = subprocess.run(command, env={"PYTHONPATH": str(ROOT), **environ}, capture_output=True, text=True, timeout=20)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.slow
def test_the_health_check_sees_a_boot_a_worker_at_work_a_drain_and_its_end(tmp_path: Path) -> None:
    with local_sqs(tmp_path) as queues:
        url = queues.create("q")
        config = f"""
            [worker]
            handlers = ["jobs"]
            [queues.q]
            url = "{url}"
            wait_seconds = 1
            [http]
            listen = "${{HTTP_LISTEN}}"
        """
        folder = write_project(tmp_path / "project", HANDLERS, config)
        with WorkerProcess(folder, HTTP_LISTEN="127.0.0.1:0") as worker:
            port = worker.expect("http.ready")["port"]
            ready = f"http://127.0.0.1:{port}/readyz"
            assert check(HTTP_LISTEN=f"0.0.0.0:{port}") == (0, "booting: no queue is received from yet\n")
            assert check(ready)[0] == 1
            (folder / "go").touch()
            worker.expect("worker.ready")
            assert check(HTTP_LISTEN=f"127.0.0.1:{port}") == check(ready) == (0, "ready\n")
            queues.send("q", "nap", 2.0)
            while queues.counts("q")[1] == 0:
                gevent.sleep(0.02)
            worker.signal(SIGTERM)
            worker.expect("worker.draining", in_hand=1)
            assert check(f"http://127.0.0.1:{port}/healthz") == (0, "draining: no message is received any more\n")
            assert check(ready)[0] == 1
            assert worker.exit_code() == 0
            code, text = check(HTTP_LISTEN=f"127.0.0.1:{port}")
            assert (code, worker.stderr) == (1, "")
            assert re.fullmatch(r"cannot ask http://127.0.0.1:\d+/healthz: .*refused; .* \(HTTP_LISTEN\) .*\n", text)


@pytest.mark.slow
def test_a_port_that_is_taken_is_exit_3_and_names_the_setting(tmp_path: Path) -> None:
    with local_sqs(tmp_path) as queues:
        place = queues.endpoint.removeprefix("http://")
        config = f'[worker]\nhandlers = ["jobs"]\n[queues.q]\nurl = "{queues.url("q")}"\n[http]\nlisten = "{place}"'
        with WorkerProcess(write_project(tmp_path / "project", HANDLERS, config)) as worker:
            assert worker.exit_code() == 3
            assert worker.stderr == f'[http] listen = "{place}": cannot listen there: Address already in use\n'


def test_the_health_check_refuses_what_it_does_not_understand():
    for arguments in (["https://127.0.0.1:8080/"], ["a", "b"]):
        code, text = check(*arguments)
        assert code == 1
        assert text.startswith("usage: ")
    assert check("http://127.0.0.1/healthz")[0] == 1


def test_the_health_check_loads_neither_gevent_nor_an_http_client():
    code = "import sys, millpond.healthcheck; print({'gevent', 'http', 'ssl', 'email', 'asyncio'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
