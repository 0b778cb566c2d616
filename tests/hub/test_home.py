"""Whose sockets and threads a call uses, and a call that nobody waits for longer than he likes."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from typing import Any

import gevent
import pytest
from gevent.monkey import get_original
from gevent.threadpool import ThreadPool

from millpond.hub.home import (
    FIRST_LOOK_SECONDS,
    MAX_LOOK_SECONDS,
    Errand,
    home,
    hub_thread,
    process,
    system,
    thread_beside,
    within,
)

native_ident = get_original("_thread", "get_ident")


@pytest.fixture
def beside():
    """Runs a call in a real thread beside the hub."""
    pool = ThreadPool(1)
    yield lambda call: pool.spawn(call).get()
    pool.kill()


def test_greenlets_of_the_hub_have_the_processs_own_and_real_threads_the_systems(beside):
    assert hub_thread() == native_ident()
    assert (home(), thread_beside()) == (process, 0)
    assert beside(home) is system
    assert beside(lambda: thread_beside() == native_ident())
    assert process("socket", "socket") is socket.socket
    assert system("socket", "socket") is get_original("socket", "socket")


def test_an_errand_has_the_value_or_the_error_of_its_call(beside):
    def fail() -> None:
        raise ValueError("no")

    for one in (process, system):
        assert Errand(lambda: 7, one).result(5) == 7
        with pytest.raises(ValueError, match="no"):
            Errand(fail, one).result(5)
    assert beside(lambda: Errand(lambda: 7, system).result(5)) == 7


@pytest.mark.clock
def test_who_waits_is_let_go_in_time_and_the_errand_goes_on():
    go = gevent.event.Event()
    errand = Errand(lambda: go.wait() and "late", process)
    began = time.monotonic()
    with pytest.raises(TimeoutError, match="timed out"):
        errand.result(0.05)
    assert time.monotonic() - began < 1
    assert not errand.done
    assert errand.age >= 0.05
    go.set()
    assert errand.result(5) == "late"
    assert errand.done


def test_the_end_of_a_long_errand_is_noticed_soon(monkeypatch):
    pauses: list[float] = []
    sleep = time.sleep

    def paused(seconds: float) -> None:
        pauses.append(seconds)
        sleep(seconds)

    monkeypatch.setattr(time, "sleep", paused)
    Errand(lambda: gevent.sleep(0.3), process).result(5)
    assert max(pauses) <= MAX_LOOK_SECONDS


def test_a_long_errand_is_looked_at_ever_less_often(monkeypatch):
    pauses: list[float] = []
    go = gevent.event.Event()
    sleep = time.sleep

    def paused(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 12:
            go.set()
        sleep(0)

    monkeypatch.setattr(time, "sleep", paused)
    assert Errand(go.wait, process).result(5)
    doubled = [FIRST_LOOK_SECONDS * 2**number for number in range(9)]
    assert pauses[:12] == pytest.approx([*doubled, *[MAX_LOOK_SECONDS] * 3])


@pytest.mark.parametrize("value", [7, None])
def test_where_no_thread_can_be_started_the_call_is_made_all_the_same(value: Any):
    """At the interpreter's end, or with no thread left: a message that can be sent is sent."""

    def refuse(call: object, arguments: object) -> None:
        raise RuntimeError("can't start new thread")

    errand = Errand(lambda: value, lambda module, name: refuse if name == "start_new_thread" else process(module, name))
    assert errand.result(5) == value


@pytest.mark.skipif(not os.path.exists("/proc/self/fd"), reason="counts descriptors as Linux shows them")
def test_a_native_errand_leaves_no_hub_behind():
    """Two descriptors each, for an event loop that nobody runs any more."""

    def count() -> int:
        return len(os.listdir("/proc/self/fd"))

    gevent.sleep(0.05)
    before = count()
    for _ in range(10):
        Errand(lambda: gevent.sleep(0.001), system).result(5)
    end = time.monotonic() + 5
    while count() > before + 5 and time.monotonic() < end:
        gevent.sleep(0.01)
    assert count() <= before + 5


def test_a_call_within_its_time_has_its_value_or_its_error_and_nothing_is_cut_later():
    def fail() -> None:
        raise ValueError("no")

    assert within(0.05, lambda: 7) == 7
    with pytest.raises(ValueError, match="no"):
        within(0.05, fail)
    gevent.sleep(0.1)


@pytest.mark.clock
def test_no_loop_inside_a_call_swallows_its_limit():
    """botocore takes a TimeoutError in a provider of credentials for the network's, and tries again, for ever."""

    def stubborn() -> None:
        while True:
            with contextlib.suppress(Exception):
                gevent.sleep(60)

    began = time.monotonic()
    with pytest.raises(TimeoutError, match="timed out"):
        within(0.05, stubborn)
    assert 0.04 < time.monotonic() - began < 2


def test_a_call_is_not_begun_once_its_time_is_over():
    with pytest.raises(TimeoutError):
        within(0, lambda: pytest.fail("begun"))


@pytest.mark.clock
def test_a_thread_beside_the_hub_is_let_go_in_time_too(beside):
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        beside(lambda: within(0.05, lambda: gevent.sleep(60)))
    assert time.monotonic() - began < 2
