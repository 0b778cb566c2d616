"""Time as the engine reads it: consumers, leases and batches ask nothing else, so that a test can replace it."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

import gevent
from gevent.event import Event as GeventEvent

# A lease runs on while a laptop sleeps, CLOCK_MONOTONIC does not (Linux; elsewhere the monotonic clock has to do).
_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


class Timer(Protocol):
    """A call that is to come."""

    def cancel(self) -> None: ...


class Event(Protocol):
    """A flag to wait for."""

    def set(self) -> None: ...

    def clear(self) -> None: ...

    def is_set(self) -> bool: ...

    def wait(self, timeout: float | None = None) -> bool: ...


class Clock(Protocol):
    """Seconds throughout.

    `on_error` is called in the hub with what a `call` raises: gevent would print it, and half an engine go on.
    """

    on_error: Callable[[BaseException], object]

    def now(self) -> float:
        """Monotonic seconds, for deadlines."""
        ...

    def time(self) -> float:
        """Seconds since the epoch, for people."""
        ...

    def sleep(self, seconds: float) -> None: ...

    def event(self) -> Event: ...

    def timer(self, seconds: float, call: Callable[[], object]) -> Timer:
        """Call `call` in the hub after this time: it must not block, and no greenlet runs beside it."""
        ...

    def soon(self, call: Callable[[], object]) -> None:
        """Call `call` in the hub at its next turn: it must not block."""
        ...


class SystemClock:
    """The machine's own time and gevent's own timers."""

    def __init__(self) -> None:
        # It is called five times a message: a method around it costs twice what it does.
        self.now = partial(time.clock_gettime, _CLOCK)
        self.time = time.time
        self.on_error: Callable[[BaseException], object] = _raise

    def sleep(self, seconds: float) -> None:
        gevent.sleep(seconds)

    def event(self) -> Event:
        event: Event = GeventEvent()
        return event

    def timer(self, seconds: float, call: Callable[[], object]) -> LoopTimer:
        return LoopTimer(seconds, self._guarded(call))

    def soon(self, call: Callable[[], object]) -> None:
        gevent.get_hub().loop.run_callback(self._guarded(call))

    def _guarded(self, call: Callable[[], object]) -> Callable[[], None]:
        def guarded() -> None:
            try:
                call()
            except BaseException as error:
                self.on_error(error)

        return guarded


def _raise(error: BaseException) -> None:
    raise error


class LoopTimer:
    """A timer of the event loop (0.2 us; a sleeping greenlet costs 12)."""

    __slots__ = ("_timer",)

    def __init__(self, seconds: float, call: Callable[[], object]) -> None:
        self._timer: Any = gevent.get_hub().loop.timer(seconds)
        # update: the loop's own idea of now is as old as its turn; after a handler that blocked, too old.
        self._timer.start(call, update=True)

    def cancel(self) -> None:
        self._timer.close()
