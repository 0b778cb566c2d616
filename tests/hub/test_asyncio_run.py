"""asyncio.run in a handler that is interrupted."""

from __future__ import annotations

import asyncio
import inspect
import sys

import gevent
import pytest
from gevent.monkey import get_original

from millpond.errors import TimeLimitExceeded
from millpond.hub import asyncio_run
from tests.waiting import until

allocate_lock = get_original("_thread", "allocate_lock")
native_sleep = get_original("time", "sleep")


@pytest.fixture(autouse=True)
def adopted(monkeypatch) -> None:
    monkeypatch.setattr(asyncio, "run", asyncio.run)
    can_use_pidfd = getattr(asyncio.unix_events, "can_use_pidfd", None)  # from Python 3.12 on
    monkeypatch.setattr(asyncio.unix_events, "can_use_pidfd", can_use_pidfd, raising=False)
    asyncio_run.install()


def test_an_interrupt_cancels_the_coroutine_which_can_clean_up():
    told = []

    async def main() -> None:
        told.append("begun")
        try:
            await asyncio.sleep(3_600)
        finally:
            told.append("cleaned up")

    handler = gevent.spawn(lambda: asyncio.run(main()))
    until(lambda: told)
    handler.kill(TimeLimitExceeded())
    assert isinstance(handler.exception, TimeLimitExceeded)
    until(lambda: told == ["begun", "cleaned up"])


@pytest.mark.skipif(sys.version_info < (3, 12), reason="its loop_factory is the moment before")
def test_a_coroutine_does_not_begin_after_the_interrupt_of_its_handler():
    told, lock = [], allocate_lock()
    lock.acquire()

    def make() -> asyncio.AbstractEventLoop:
        told.append("thread")
        with lock:
            return asyncio.new_event_loop()

    async def main() -> None:
        told.append("begun")

    coroutine = main()
    handler = gevent.spawn(lambda: asyncio.run(coroutine, loop_factory=make))
    until(lambda: told)
    handler.kill(TimeLimitExceeded())
    lock.release()
    until(lambda: inspect.getcoroutinestate(coroutine) == inspect.CORO_CLOSED)
    assert told == ["thread"]


@pytest.mark.skipif(sys.version_info < (3, 12), reason="its loop_factory shows the loop")
def test_an_interrupt_that_comes_when_the_coroutine_has_just_ended_is_what_its_handler_sees():
    made: list[asyncio.AbstractEventLoop] = []
    lock = allocate_lock()
    lock.acquire()

    def make() -> asyncio.AbstractEventLoop:
        made.append(asyncio.new_event_loop())
        return made[0]

    async def main() -> None:
        with lock:
            pass

    handler = gevent.spawn(lambda: asyncio.run(main(), loop_factory=make))
    until(lambda: made)
    lock.release()
    while not made[0].is_closed():  # the hub stands still: nobody has heard of its end yet
        native_sleep(0.001)
    handler.kill(TimeLimitExceeded())
    assert isinstance(handler.exception, TimeLimitExceeded)
