"""`dlq replay --all` of 5,000 letters: Ctrl-C, kill -9, and a queue that refuses a tenth of them; audited by ids."""

from __future__ import annotations

import re
import signal
from collections import Counter

import gevent
import pytest

from millpond.local import LocalSqs
from tests.dead_letters.conftest import Refusals
from tests.dead_letters.letters import Letters
from tests.worker_process import WorkerProcess, write_project

NUMBER = 5_000
KEYS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_REGION": "eu-west-1"}
pytestmark = pytest.mark.slow


@pytest.fixture
def letters(monkeypatch, tmp_path):
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    server = LocalSqs(port=0)
    server.start()
    letters = Letters(server)
    write_project(tmp_path, "", f'[queues.emails]\nurl = "{letters.url}"\n')
    yield letters
    server.stop()


def replay(folder) -> WorkerProcess:
    return WorkerProcess(folder, "dlq", "replay", "--all", **KEYS)


def sent(letters) -> int:
    return letters.counts(letters.url)[0]


def until_sent(letters, number):
    with gevent.Timeout(30):
        while sent(letters) < number:
            gevent.sleep(0.01)


def audit(letters, ids) -> Counter[str]:
    """How often each message is in the queue; what is not there must be a dead letter still."""
    dead = letters.event_ids(letters.dead_url)
    found = Counter(letters.event_ids(letters.url))
    assert sorted({*found, *dead}) == ids  # nothing is lost
    return found + Counter(dead)


def test_ctrl_c_in_the_middle_loses_and_doubles_nothing(letters, tmp_path):
    ids = letters.put(NUMBER)
    with replay(tmp_path) as process:
        until_sent(letters, 1_000)
        process.signal(signal.SIGINT)
        assert process.exit_code() == 1
        assert "stopped before the end: interrupted; the rest are dead letters as before" in process.stderr
    moved = int(re.findall(r"(\d+) letters replayed", process.lines[0]["message"])[0])
    assert letters.counts(letters.url) == (moved, 0)
    assert letters.counts(letters.dead_url) == (NUMBER - moved, 0)  # all are visible at once
    assert 1_000 <= moved < NUMBER
    assert set(audit(letters, ids).values()) == {1}


def test_kill_9_in_the_middle_loses_nothing_and_doubles_at_most_the_batch_in_the_air(letters, tmp_path):
    ids = letters.put(NUMBER)
    with replay(tmp_path) as process:
        until_sent(letters, 1_000)
        process.signal(signal.SIGKILL)
        process.exit_code()
    held = letters.counts(letters.dead_url)[1]
    assert held <= 20  # one batch, and the letters of one receive
    make_visible(letters)  # as their leases' end does, within a minute
    with replay(tmp_path) as process:
        assert process.exit_code() == 0
    assert letters.counts(letters.dead_url) == (0, 0)
    doubled = [one for one, times in audit(letters, ids).items() if times > 1]
    assert len(doubled) <= 10


def make_visible(letters):
    queue = letters.server._account._find("emails-dead", "")
    until = [queue._in_flight.time(key) for key in queue._messages if key in queue._in_flight]
    queue.advance(max(until, default=0.0))  # none is held where the kill came between two receives


def test_a_queue_that_refuses_a_tenth_of_the_sends_gets_all_of_them_once(letters, tmp_path, monkeypatch):
    refusals = Refusals(monkeypatch)
    ids = letters.put(NUMBER)
    refusals.every, refusals.every_call = 10, 20
    with replay(tmp_path) as process:
        assert process.exit_code(60) == 0, process.stderr
    assert letters.counts(letters.dead_url) == (0, 0)
    assert set(audit(letters, ids).values()) == {1}


def test_a_second_ctrl_c_ends_it_at_once_and_loses_nothing(letters, tmp_path, monkeypatch):
    refusals = Refusals(monkeypatch)
    ids = letters.put(100)
    refusals.every_call = 1  # nothing is taken, so that it waits
    with replay(tmp_path) as process:
        with gevent.Timeout(30):
            while not refusals._calls:
                gevent.sleep(0.01)
        process.signal(signal.SIGINT)
        process.signal(signal.SIGINT)
        assert process.exit_code() == 1
    assert set(audit_after_leases(letters, ids).values()) == {1}


def audit_after_leases(letters, ids):
    if letters.counts(letters.dead_url)[1]:
        make_visible(letters)
    return audit(letters, ids)
