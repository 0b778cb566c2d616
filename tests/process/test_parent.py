"""Several workers under a parent: real processes, by log lines and exit codes; and what is decided without one."""

from __future__ import annotations

import _socket
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import msgspec
import pytest

from millpond.app.config import load
from millpond.errors import CRASHED, FINISHED, MISCONFIGURED
from millpond.process import parent as parent_module
from millpond.process.control import Order, addresses, ask
from millpond.process.member import Member, MemberState, Word, end_text, exit_code_of, restart_seconds
from millpond.process.memory_limit import MEMORY_LOOK_SECONDS, MemoryLimit, resident_bytes
from millpond.process.parent import Parent
from millpond.process.parent_link import ParentLink, Seat, seat_of
from millpond.process.parent_log import ParentLog
from millpond.process.parent_notifier import ParentNotifier
from millpond.process.parent_plan import ParentPlan
from millpond.process.snapshot import Snapshot
from tests.process.running import events
from tests.waiting import until
from tests.worker_process import ROOT, SECONDS, WorkerProcess, local_sqs, write_project

HANDLERS = """
import os
import time
import msgspec
from millpond import handler

@handler("ok")
def ok(payload: dict | None) -> None:
    pass

@handler("waits")
def wait(payload: dict | None) -> None:
    while not os.path.exists(os.environ["GO"]):
        time.sleep(0.02)

class Settings(msgspec.Struct):
    pass

def setup(settings: Settings) -> None:
    if os.environ.get("BROKEN"):
        raise OSError("no setup today")
"""


@pytest.fixture(scope="module")
def queues(tmp_path_factory):
    with local_sqs(tmp_path_factory.mktemp("sqs")) as queues:
        queues.create("jobs")
        yield queues


@pytest.fixture
def project(tmp_path, queues):
    config = f"""
[worker]
handlers = ["jobs"]
processes = 2
drain_seconds = 10
[queues.jobs]
url = "{queues.url("jobs")}"
wait_seconds = 1
visibility_seconds = 5
[log]
format = "json"
"""
    return write_project(tmp_path / "project", HANDLERS, config)


KEYS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_REGION": "us-east-1"}


def children(pid: int) -> list[int]:
    """The processes that this one has started, and that still run."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = entry.read_text().rpartition(")")[2].split()[:2]
        except OSError:
            continue
        if int(parent) == pid and state != "Z":
            found.append(int(entry.parent.name))
    return sorted(found)


def order(pid: int, order: Order) -> Snapshot:
    """Give a worker this order by its control socket; what it shows of itself then."""
    [address] = [one for one in addresses() if f"/{pid}-" in one]
    snapshot = ask(address, order, SECONDS).snapshot
    assert snapshot is not None
    return snapshot


@pytest.mark.slow
def test_a_killed_worker_is_replaced_and_signals_to_all_at_once_are_one_drain(project, queues):
    queues.send("jobs", "ok", number=40)
    with WorkerProcess(project, GO=str(project / "go"), **KEYS) as parent:
        for _ in range(2):
            parent.expect("worker.ready")
        until(lambda: not sum(queues.counts("jobs")))
        killed, other = children(parent.pid)
        os.kill(killed, signal.SIGKILL)
        died = time.monotonic()
        assert parent.expect("workers.replaced")["exit_code"] == CRASHED
        parent.expect("worker.ready")
        assert time.monotonic() - died < 10  # 1 s on a machine that has nothing else to do
        queues.send("jobs", "ok", number=20)  # a poll of the dead one may take some, for a visibility time-out
        until(lambda: not sum(queues.counts("jobs")))
        fresh = {*children(parent.pid)} - {other}
        queues.send("jobs", "waits", number=20)
        until(lambda: sum(order(pid, Order("status")).worker.in_hand for pid in (*fresh, other)) == 20)
        for pid in (parent.pid, *fresh, other, parent.pid, *fresh, other):
            os.kill(pid, signal.SIGTERM)
        drains = [parent.expect("worker.draining", why="SIGTERM") for _ in range(2)]
        assert sum(line["in_hand"] for line in drains) == 20
        (project / "go").touch()
        assert parent.exit_code() == FINISHED
        assert len(parent.all("worker.draining")) == 2
        assert sum(queues.counts("jobs")) == 0
        own, (end,) = parent.all("worker.stopped"), parent.all("workers.stopped")
        assert len(own) == end["workers"] == 2
        assert end["succeeded"] == sum(line.get("succeeded", 0) for line in own) >= 40
        assert end["received"] == sum(line["received"] for line in own)
        assert [line["workers"] for line in parent.all("workers.uncounted")] == [1]


@pytest.mark.slow
def test_a_worker_made_quiet_by_an_operator_stays_so_when_another_takes_its_place(project, queues):
    with WorkerProcess(project, **KEYS) as parent:
        for _ in range(2):
            parent.expect("worker.ready")
        quieted = children(parent.pid)
        for pid in quieted:
            order(pid, Order("quiet"))
        queues.send("jobs", "ok", number=60)  # an open poll takes ten at the most
        for pid in quieted:
            os.kill(pid, signal.SIGKILL)
        for _ in range(2):
            parent.expect("worker.ready")
        assert [line["queues"] for line in parent.all("worker.quiet")] == [["jobs"], ["jobs"], [], []]
        for pid in children(parent.pid):
            seen = order(pid, Order("status"))
            assert (seen.worker.state, seen.queues[0].polls_open, seen.queues[0].received) == ("quiet", 0, 0)
        parent.signal(signal.SIGUSR2)
        while sum(queues.counts("jobs")[:1]):
            time.sleep(0.05)
        parent.signal(signal.SIGTERM)
        assert parent.exit_code() == FINISHED


@pytest.mark.slow
def test_workers_drain_when_their_parent_is_killed(project):
    with WorkerProcess(project, **KEYS) as parent:
        for _ in range(2):
            parent.expect("worker.ready")
        workers = children(parent.pid)
        for pid in workers:
            os.kill(pid, signal.SIGSTOP)
            os.kill(pid, signal.SIGCONT)
            assert order(pid, Order("status")).worker.state == "running"  # a pause is not its parent's end
        assert parent.all("worker.orphaned") == []
        parent.signal(signal.SIGKILL)
        try:
            for _ in range(2):
                parent.expect("worker.stopped", exit_code=FINISHED)
        except AssertionError:
            for pid in workers:  # or they would hold the pipe of their log, and the test its end
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            raise
        assert len(parent.all("worker.orphaned")) == 2
        while any(Path(f"/proc/{pid}/environ").exists() for pid in workers):
            time.sleep(0.02)


@pytest.mark.slow
def test_workers_that_cannot_boot_end_all_with_their_code_and_a_word_of_why(project):
    with WorkerProcess(project, BROKEN="1", **KEYS) as parent:
        assert parent.exit_code() == MISCONFIGURED
        assert len(parent.all("workers.failed")) == 1
        assert parent.all("workers.replaced") == []


def test_the_parent_loads_neither_gevent_nor_an_sdk():
    code = "import sys, millpond.process.parent\nassert not {'gevent', 'greenlet', 'boto3'} & {*sys.modules}"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=30)


def test_a_worker_is_started_again_nearly_at_once_then_ever_later_to_a_minute():
    assert [restart_seconds(ends) for ends in (1, 2, 3, 7, 8, 5_000)] == [0.5, 1, 2, 32, 60, 60]


def test_a_worker_that_was_well_for_long_is_started_again_at_once():
    member = Member(1)
    waits = []
    for lived in (1, 1, 1, 61, 1):
        member.state, member._since = MemberState.READY, 0.0
        member.ended(lived)
        waits.append(member.rest(lived))
    assert waits == [0.5, 1, 2, 0.5, 1]


@pytest.mark.parametrize(
    ("status", "asked", "code"),
    [(0, False, 0), (3 << 8, False, 3), (9, False, CRASHED), (15, True, FINISHED), (15, False, CRASHED), (11, True, 2)],
)
def test_the_exit_code_of_a_worker(status, asked, code):
    assert exit_code_of(status, asked) == code


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (0, "has ended"),
        (2 << 8, "has ended"),
        (9, "was killed by SIGKILL (by the kernel for its memory, or by kill -9)"),
        (11 | 0x80, "was killed by SIGSEGV (by a library in C)"),
        (15, "was killed by SIGTERM"),
        (63, "was killed by signal 63"),
    ],
)
def test_a_worker_that_was_killed_is_named_with_the_signal(status, said):
    member = Member(1)
    member.end_by(status, False)
    assert member.end == end_text(status) == said


def test_each_worker_has_a_name_and_a_port_of_its_own(tmp_path):
    text = '[worker]\nname = "web"\n[http]\nlisten = "[::1]:8080"\n[queues.q]\nurl = "https://sqs.eu-west-1.amazonaws.com/1/q"'
    (tmp_path / "config.toml").write_text(text)
    settings = load(tmp_path / "config.toml", {})
    made = [Seat(5, number).settle(settings) for number in (1, 2)]
    assert [one.worker.name for one in made] == ["web-1", "web-2"]
    assert [one.http.listen for one in made] == ["[::1]:8080", "[::1]:8081"]


def test_what_a_worker_starts_itself_does_not_take_itself_for_one_of_several():
    reading, writing = os.pipe()
    environ = {"MILLPOND_PARENT": f'{reading} 3 ["a b"]'}
    os.set_inheritable(reading, True)
    assert seat_of(environ) == Seat(reading, 3, frozenset({"a b"}))
    assert environ == {}
    assert not os.get_inheritable(reading)
    assert seat_of(environ) is None
    os.close(reading)
    os.close(writing)


def test_a_worker_that_is_too_large_drains(process, caplog):
    one = process({})
    sizes = iter([100 << 20, 200 << 20, (200 << 20) + 1])
    MemoryLimit(one.core, 200 << 20, lambda: next(sizes)).ready(())
    one.clock.advance(2 * MEMORY_LOOK_SECONDS)
    assert not one.core.stopping
    one.clock.advance(MEMORY_LOOK_SECONDS)
    assert one.core.why == "memory"
    assert "worker.large" in events(caplog)


def test_the_memory_of_this_process_is_known():
    assert 10 << 20 < resident_bytes() < 4 << 30


def test_what_a_worker_says_leaves_its_link_as_it_was():
    """Non-blocking, the read that waits for the parent's end would fail once SIGSTOP or a frozen cgroup ends it."""
    ours, theirs = _socket.socketpair()
    link = ParentLink(Seat(theirs.fileno(), 1))
    link.ready([])
    link.ended()
    assert os.get_blocking(theirs.fileno())
    assert ours.recv(4_096).count(b"\n") == 2
    ours.close()
    theirs.close()


# What the parent sends on


class Recorded(Parent):
    """A parent of three: two are ready, one boots. `sent`: what goes to each."""

    def __init__(self) -> None:
        super().__init__(ParentPlan(3, []), ParentLog("critical", "json"), ParentNotifier("", ""))
        self.sent: dict[int, list[int]] = {}
        for member in self._members:
            sent = self.sent[member.number] = []
            member.signal = sent.append
            member.state = MemberState.READY if member.number < 3 else MemberState.BOOTING

    def get(self, *numbers: int, later: bool = False) -> None:
        self._stopped_at -= 1 if later else 0
        self._wakeup.send(bytes(numbers))
        self._obey()


@pytest.fixture
def parent():
    one = Recorded()
    yield one
    one._signals.close()
    one._wakeup.close()


def test_the_first_signal_goes_on_once_as_sigterm_and_a_later_ctrl_c_as_it_is(parent):
    parent.get(signal.SIGINT, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    assert parent.sent == {1: [signal.SIGTERM], 2: [signal.SIGTERM], 3: [signal.SIGTERM]}
    parent.get(signal.SIGTERM, later=True)
    parent.get(signal.SIGINT)
    assert parent.sent[1] == [signal.SIGTERM, signal.SIGINT]


@pytest.mark.parametrize(
    ("numbers", "later"),
    [
        ([signal.SIGUSR1], [signal.SIGUSR1]),
        ([signal.SIGUSR1, signal.SIGQUIT], [signal.SIGUSR1]),
        ([signal.SIGUSR1, signal.SIGUSR2], []),
        ([signal.SIGQUIT], []),
    ],
)
def test_quiet_and_resume_go_to_who_is_ready_and_to_who_boots_once_it_is(parent, numbers, later):
    booting = parent._members[2]
    for number in numbers:
        parent.get(number)
    assert parent.sent == {1: numbers, 2: numbers, 3: []}  # by default these signals end a process
    said(booting, Word(ready=True))
    assert parent.sent[3] == later


def said(member: Member, *words: Word) -> None:
    """The member has said this to its parent."""
    ours, theirs = socket.socketpair()
    with theirs:
        ours.setblocking(False)
        member._close()
        member.link = ours
        theirs.sendall(b"".join(msgspec.json.encode(word) + b"\n" for word in words))
    member.read_words()
    assert member.link is None


def test_who_takes_the_place_of_a_quiet_one_is_quiet_from_its_start_and_others_are_not(parent, monkeypatch):
    first, second, _ = parent._members
    said(first, Word(quiet=("jobs",)))
    seats = []
    monkeypatch.setattr(os, "posix_spawn", lambda path, command, environ, **_: seats.append(environ) or 1)
    for member in (first, second):
        parent._note_end(member, CRASHED, 0.0)
        parent._start(member, 0.0)
        said(member, Word(ready=True))
    assert [seat["MILLPOND_PARENT"].split(" ", 2)[1:] for seat in seats] == [["1", '["jobs"]'], ["2", "[]"]]
    assert (parent.sent[1], parent.sent[2]) == ([], [])


def test_who_has_grown_too_large_is_replaced_at_once_each_time_also_where_all_run_until_empty(parent):
    """Else `--until-empty` with max_memory_mb would end, by exit code 0, with most of the work undone."""
    parent._plan = ParentPlan(3, [], until_empty=True)
    first, second, _ = parent._members
    for _ in range(4):
        first.state = MemberState.READY
        said(first, Word(books={}, why="memory"))
        parent._note_end(first, FINISHED, 5.0)
        assert (first.state, first.due) == (MemberState.RESTING, 5.5)
    said(second, Word(books={}, why="empty"))
    parent._note_end(second, FINISHED, 5.0)
    assert second.state is MemberState.OVER


def test_what_is_no_word_of_a_worker_ends_no_parent(parent):
    booting = parent._members[2]
    ours, theirs = socket.socketpair()
    with theirs:
        ours.setblocking(False)
        booting.link = ours
        theirs.sendall(b'stray\n\xff\n{"ready": 5}\n{"ready": true}\n')
    assert booting.read_words()
    assert booting.state is MemberState.READY


def test_the_books_of_who_was_replaced_are_added_to_those_of_who_came_after(parent):
    first, second, _ = parent._members
    for member, received in ((first, 3), (first, 4), (second, 5)):
        member.state = MemberState.READY
        said(member, Word(books={"jobs": {"received": received, "succeeded": 1}}))
        parent._note_end(member, FINISHED, 0.0)
    assert parent._books == {"jobs": {"received": 12, "succeeded": 3}}


def test_who_has_not_ended_ten_seconds_after_the_drains_limit_is_killed_and_nobody_before(parent, monkeypatch):
    parent._plan = ParentPlan(3, [], drain_seconds=25.0)
    monkeypatch.setattr(parent_module.select, "select", lambda *arguments: None)
    parent.get(signal.SIGTERM)
    parent._wait(parent._stopped_at + 34.9)
    assert parent.sent[1] == [signal.SIGTERM]
    parent._wait(parent._stopped_at + 35.0)
    assert parent.sent[1] == parent.sent[3] == [signal.SIGTERM, signal.SIGKILL]


def test_what_a_worker_was_asked_itself_while_it_booted_is_not_asked_again(parent):
    said(parent._members[2], Word(quiet=("",)), Word(ready=True))
    assert parent.sent[3] == []
    assert parent._members[2].quiet == ("",)


@pytest.mark.parametrize("code", [FINISHED, CRASHED, MISCONFIGURED])
def test_while_another_is_ready_one_that_dies_at_boot_is_started_again(parent, code):
    for _ in range(5):
        parent._note_end(parent._members[2], code, 0.0)
        assert parent._members[2].state is MemberState.RESTING
        parent._members[2].state = MemberState.BOOTING


def test_where_none_is_ready_the_third_that_crashes_at_its_boot_ends_all(parent):
    for member in parent._members:
        member.state = MemberState.BOOTING
    states = []
    for member in parent._members:
        parent._note_end(member, CRASHED, 0.0)
        states.append(member.state)
    assert states == [MemberState.RESTING, MemberState.RESTING, MemberState.OVER]
    assert (parent._why, parent._codes) == ("failed", [CRASHED])


def test_systemd_learns_that_all_are_ready_and_that_they_drain(tmp_path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.setblocking(False)
        notifier = ParentNotifier(str(tmp_path / "notify"), "20000000")
        members = [Member(1), Member(2)]
        sent = []
        for second, ready, stopping in ((0, 0, False), (1, 1, False), (2, 2, False), (12, 2, False), (13, 2, True)):
            for member in members:
                member.state = MemberState.READY if member.number <= ready else MemberState.BOOTING
            notifier.look(members, stopping, second)
            notifier.look(members, stopping, second)  # nothing is new
            sent.append(systemd.recv(4_096).decode().split("\n"))
        with pytest.raises(BlockingIOError):
            systemd.recv(4_096)
        notifier.close()
    assert sent == [
        ["STATUS=0 of 2 workers are ready", "WATCHDOG=1"],
        ["STATUS=1 of 2 workers are ready", "WATCHDOG=1"],
        ["STATUS=2 of 2 workers are ready", "READY=1", "WATCHDOG=1"],
        ["STATUS=2 of 2 workers are ready", "WATCHDOG=1"],
        ["STATUS=2 of 2 workers are ready, and all drain", "STOPPING=1", "EXTEND_TIMEOUT_USEC=60000000", "WATCHDOG=1"],
    ]
