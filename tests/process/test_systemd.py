"""SystemdNotifier: what comes to a real notify socket, from a process on a virtual clock and from a real worker."""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from pathlib import Path
from signal import SIGTERM
from typing import Any

import gevent
import pytest

from millpond.process.health import HANGS_SECONDS, Health
from millpond.process.systemd import (
    EXTEND_SECONDS,
    STATUS_SECONDS,
    NotifySocket,
    SystemdNotifier,
    notify_socket,
    watchdog_seconds,
)
from tests.handlers import Gate, fine
from tests.process.running import LONG, die
from tests.worker_process import WorkerProcess, local_sqs, write_project

EXTEND = f"EXTEND_TIMEOUT_USEC={EXTEND_SECONDS}000000"


class Manager:
    """systemd's end of a notify socket."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(f"\0{name[1:]}" if name.startswith("@") else name)
        self._socket.settimeout(0.0)
        self.lines: list[str] = []

    def heard(self) -> list[str]:
        """The lines that have come since the last call."""
        new: list[str] = []
        while True:
            try:
                new += self._socket.recv(65_536).decode().split("\n")
            except BlockingIOError:
                self.lines += new
                return new

    def expect(self, line: str) -> list[str]:
        """All lines up to this one, and those that came with it."""
        found: list[str] = []
        with gevent.Timeout(20, AssertionError(f"no {line}")):
            while not any(one.startswith(line) for one in found):
                found += self.heard()
                gevent.sleep(0.01)
        return found

    def close(self) -> None:
        self._socket.close()


@pytest.fixture(params=["path", "abstract"])
def manager(request, tmp_path):
    one = Manager(str(tmp_path / "notify") if request.param == "path" else f"@millpond-test-{id(request)}")
    yield one
    one.close()


@pytest.fixture
def notified(process, manager):
    """notified(handlers, watchdog=, **settings) -> a running process; what it says goes to `manager`."""
    places = []

    def make(*handlers: Any, watchdog: float = 0.0, **settings: Any):
        one = process(*handlers, start=False, **settings)
        one.health = Health(one.core)
        place = notify_socket({"NOTIFY_SOCKET": manager.name})
        places.append(place)
        one.notifier = SystemdNotifier(one.core, one.health, place, watchdog)
        one.notifier.start()
        one.start(followers=[one.health, one.notifier])
        return one

    yield make
    for place in places:
        place._socket.close()


def test_it_is_ready_and_stops_and_its_status_says_what_it_does(notified, manager, clock):
    gate = Gate()
    one = notified({"job": gate}, drain_seconds=LONG, timeout=1e6)
    assert manager.heard() == [
        "STATUS=booting: no queue is received from yet",
        "READY=1",
        "STATUS=ready: 0 in hand, 0 succeeded, 0 dead-lettered",
    ]
    one.rig.put("job", {}, 2)
    clock.advance(STATUS_SECONDS + 1)
    assert manager.heard() == ["STATUS=ready: 2 in hand, 0 succeeded, 0 dead-lettered"]
    clock.advance(5 * STATUS_SECONDS)
    assert manager.heard() == []  # nothing is new
    one.signal(SIGTERM)
    assert manager.heard() == ["STOPPING=1", EXTEND, "STATUS=draining: 2 in hand, 0 succeeded, 0 dead-lettered"]
    gate.event.set()
    clock.advance(21)
    assert one.exit_code == 0
    assert manager.heard()[-1] == "STATUS=stopped"


def test_what_finds_a_full_socket_is_sent_later(notified, manager, clock):
    """systemd would end a worker of which it never hears that it is ready."""
    other = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    other.settimeout(0.0)
    address = f"\0{manager.name[1:]}" if manager.name.startswith("@") else manager.name
    with other, suppress(BlockingIOError):
        while True:
            other.sendto(b"STATUS=of another", address)
    one = notified({"job": Gate()}, drain_seconds=LONG, timeout=1e6)
    assert "READY=1" not in manager.heard()
    clock.advance(STATUS_SECONDS + 1)
    assert manager.heard() == ["READY=1", "STATUS=ready: 0 in hand, 0 succeeded, 0 dead-lettered"]
    clock.advance(STATUS_SECONDS + 1)
    assert manager.heard() == []
    assert one.exit_code is None


def test_while_it_drains_it_asks_for_more_time_again_and_again(notified, manager, clock):
    one = notified({"job": Gate()}, drain_seconds=float("inf"), timeout=1e6)
    one.rig.put("job")
    clock.advance(1)
    one.signal(SIGTERM)
    manager.heard()
    for _ in range(20):
        clock.advance(EXTEND_SECONDS / 2)
        assert EXTEND in manager.heard()


def test_the_watchdog_is_fed_at_half_of_its_time_in_the_drain_too(notified, manager, clock):
    one = notified({"job": Gate()}, watchdog=30.0, drain_seconds=LONG, timeout=1e6)
    one.rig.put("job")
    assert manager.heard()[1:3] == ["READY=1", "WATCHDOG=1"]
    for _ in range(6):
        clock.advance(15)
        assert "WATCHDOG=1" in manager.heard()
    one.signal(SIGTERM)
    for _ in range(3):
        clock.advance(15)
        assert "WATCHDOG=1" in manager.heard()


def test_a_worker_whose_pollers_hang_does_not_feed_the_watchdog_and_says_so(notified, manager, clock, monkeypatch):
    one = notified({"job": fine}, watchdog=10.0)
    clock.advance(1)
    monkeypatch.setattr(one.rig.consumer.pollers._share, "acquire", lambda *args: gevent.sleep(1e6))
    clock.advance(20 + HANGS_SECONDS + 11)
    assert "WATCHDOG=1" in manager.heard()
    clock.advance(20)
    heard = manager.heard()
    assert "WATCHDOG=1" not in heard
    assert heard[0].startswith("STATUS=q: no poll has begun for ")


def test_what_its_greenlet_raises_ends_the_process(notified, clock, quiet_hub, monkeypatch):
    one = notified({"job": fine})
    monkeypatch.setattr(one.notifier, "_step", die)
    clock.advance(30)
    assert one.exit_code == 2


def test_a_socket_that_is_gone_is_one_warning_and_the_work_goes_on(notified, manager, clock, caplog):
    one = notified({"job": fine}, watchdog=10.0)
    manager.close()
    if not manager.name.startswith("@"):
        Path(manager.name).unlink()
    (message_id,) = one.rig.put("job")
    clock.advance(60)
    assert one.rig.queue.deleted == {message_id: 1}
    (record,) = [one for one in caplog.records if getattr(one, "event", "") == "systemd.failed"]
    assert record.getMessage().startswith("cannot reach systemd by NOTIFY_SOCKET: ")


def test_a_socket_that_nobody_reads_holds_nobody_up(manager):
    place = NotifySocket(manager.name)
    with gevent.Timeout(5):
        for _ in range(10_000):
            place.send("STATUS=" + "x" * 1_000)
    place._socket.close()


@pytest.mark.parametrize("name", ["", "vsock:2:1234", "notify"])
def test_without_a_socket_that_it_knows_there_is_no_notifier(name):
    assert notify_socket({"NOTIFY_SOCKET": name}) is None


@pytest.mark.parametrize(
    ("environ", "seconds"),
    [
        ({}, 0.0),
        ({"WATCHDOG_USEC": "30000000"}, 30.0),
        ({"WATCHDOG_USEC": "500000", "WATCHDOG_PID": "{pid}"}, 0.5),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, 0.0),
        ({"WATCHDOG_USEC": "soon"}, 0.0),
    ],
)
def test_the_watchdogs_time_is_that_of_this_process(environ, seconds):
    assert watchdog_seconds({key: value.format(pid=os.getpid()) for key, value in environ.items()}) == seconds


HANDLERS = """
import time
from millpond import handler

@handler("nap", timeout=600)
def nap(seconds: float) -> None:
    time.sleep(seconds)
"""


@pytest.mark.slow
@pytest.mark.parametrize("manager", ["abstract"], indirect=True)
def test_a_real_worker_is_ready_feeds_the_watchdog_and_stops(tmp_path, manager):
    with local_sqs(tmp_path) as queues:
        config = f"""
            [worker]
            handlers = ["jobs"]
            drain_seconds = "until done"
            [queues.q]
            url = "{queues.create("q")}"
            wait_seconds = 1
        """
        folder = write_project(tmp_path / "project", HANDLERS, config)
        with WorkerProcess(folder, NOTIFY_SOCKET=manager.name, WATCHDOG_USEC="400000") as worker:
            assert manager.expect("READY=1")[0] == "STATUS=booting: no queue is received from yet"
            queues.send("q", "nap", 1.5)
            manager.expect("STATUS=ready: 1 in hand")
            manager.expect("WATCHDOG=1")
            worker.signal(SIGTERM)
            assert EXTEND in manager.expect("STOPPING=1")
            manager.expect("WATCHDOG=1")
            assert worker.exit_code() == 0
            assert manager.expect("STATUS=stopped")[-1] == "STATUS=stopped"
