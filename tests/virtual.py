"""A clock that moves only when a test says so."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable

import gevent
from gevent.event import Event as GeventEvent

#: More turns of the hub at one moment than this is a loop that never waits.
MAX_TURNS = 100_000


class VirtualTimer:
    __slots__ = ("call", "clock")

    def __init__(self, call: Callable[[], object], clock: VirtualClock) -> None:
        self.call: Callable[[], object] | None = call
        self.clock = clock

    def cancel(self) -> None:
        self.call = None

    def ring(self) -> None:
        """In the hub; what was cancelled a moment before does not ring."""
        if self.call is not None:
            self.clock.run(self.call)


class VirtualEvent:
    """A gevent event whose time-outs are the virtual clock's."""

    def __init__(self, clock: VirtualClock) -> None:
        self._clock = clock
        self._event = GeventEvent()
        self.set, self.clear, self.is_set = self._event.set, self._event.clear, self._event.is_set

    def wait(self, timeout: float | None = None) -> bool:
        if timeout is None or self.is_set():
            return bool(self._event.wait())
        over = GeventEvent()

        def wake(_: object) -> None:
            over.set()

        timer = self._clock.timer(timeout, over.set)
        self._event.rawlink(wake)
        try:
            over.wait()
        finally:
            self._event.unlink(wake)
            timer.cancel()
        return bool(self.is_set())


class VirtualClock:
    """Fulfils millpond.hub.clock.Clock. `advance` runs the timers that fall due, and lets greenlets run after each."""

    def __init__(self, start: float = 1_000.0) -> None:
        self._now = start
        self._timers: list[tuple[float, int, VirtualTimer]] = []
        self._order = itertools.count()
        self.on_error: Callable[[BaseException], object] = _raise

    def run(self, call: Callable[[], object]) -> None:
        """In the hub."""
        try:
            call()
        except BaseException as error:
            self.on_error(error)

    def now(self) -> float:
        return self._now

    def time(self) -> float:
        return 1_700_000_000.0 + self._now

    def sleep(self, seconds: float) -> None:
        over = GeventEvent()
        self.timer(seconds, over.set)
        over.wait()

    def event(self) -> VirtualEvent:
        return VirtualEvent(self)

    def timer(self, seconds: float, call: Callable[[], object]) -> VirtualTimer:
        timer = VirtualTimer(call, self)
        heapq.heappush(self._timers, (self._now + max(0.0, seconds), next(self._order), timer))
        return timer

    def soon(self, call: Callable[[], object]) -> None:
        gevent.get_hub().loop.run_callback(self.run, call)

    def advance(self, seconds: float) -> None:
        """Let so much time pass, timer by timer."""
        end = self._now + seconds
        settle()
        while self._timers and self._timers[0][0] <= end:
            when, _, timer = heapq.heappop(self._timers)
            if timer.call is not None:
                self._now = max(self._now, when)
                gevent.get_hub().loop.run_callback(timer.ring)  # in the hub, as the real ones
                settle()
        self._now = end
        settle()


def _raise(error: BaseException) -> None:
    raise error


def settle(turns: int = 1) -> None:
    """Let every greenlet that can run do so, until all of them wait: for at least so many turns of the hub."""
    callbacks = gevent.get_hub().loop._callbacks  # whatever wakes a greenlet passes through here
    for turn in range(MAX_TURNS):
        if turn >= turns and not callbacks:
            return
        gevent.sleep(0)
    raise RuntimeError("the hub never comes to rest: some greenlet spins")
