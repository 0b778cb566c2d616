"""Pool: a bounded number of greenlets that live as long as the worker, and the list of work that is ready."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

import gevent
import gevent.pool

Item = TypeVar("Item")

#: A slot lets the others run once the hub has been busy for this long, or handlers that never wait would starve beats
#: and polls.
TURN_SECONDS = 0.010
#: How long it is parked then; with 0 it would be back before the loop has served timers and sockets.
LET_OTHERS_SECONDS = 0.0001


class Pool(Generic[Item]):
    """Up to `size` slots that take work from the ready list, in order.

    1. A slot is a greenlet that is never ended by force: an interrupt is aimed at a delivery, never at a slot.
       (A long-lived greenlet costs 3 to 5 us a message, a spawned one 12 to 20.)
    2. Slots are made when they are first needed. One without work is parked; it is woken from the hub, which looks in
       the same step whether it is still parked.
    3. One that is stuck for good is written off, and another may take its place. So it may while one waits for a thread
       (`step_aside`); where there are too many then, the one that comes back ends with its work.

    A piece of work is a call and what it is called with; it never raises. `crashed` is called with a slot that died all
    the same.
    """

    def __init__(self, size: int, crashed: Callable[[gevent.Greenlet], object]) -> None:
        self.size = size
        self._crashed = crashed
        self._most = size  # slots, those included that have stepped aside
        self._hub = gevent.get_hub()
        self._loop = self._hub.loop
        self._ready: deque[tuple[Callable[[Item], object], Item]] = deque()
        self._parked: dict[Any, None] = {}  # the last one first: its memory is still warm
        self._waking = False  # _wake is to come
        self._slots = gevent.pool.Group()
        self._leaving: set[Any] = set()  # slots that end with their work
        self.written_off = 0  # slots that were given up
        self._closed = False

    def submit(self, do: Callable[[Item], object], items: Sequence[Item]) -> None:
        """Put work on the ready list, a call for each item; never blocks."""
        self._ready.extend([(do, item) for item in items])
        if self._parked:
            self._wake_soon()
        for _ in range(min(len(items), len(self._ready) - len(self._parked), self._most - len(self._slots))):
            self._spawn()

    def _spawn(self) -> None:
        slot = Slot(self)
        watch(slot, self._crashed)
        self._slots.start(slot)

    def _wake_soon(self) -> None:
        if not self._waking:
            self._waking = True
            self._loop.run_callback(self._wake)

    def _wake(self) -> None:
        """In the hub: wake as many slots as there is work for, but only for a turn."""
        self._waking = False
        began = time.time()
        while self._parked and (self._ready or self._closed):
            self._parked.popitem()[0].switch()
            if time.time() - began > TURN_SECONDS:
                self._wake_later()
                break

    def _wake_later(self) -> None:
        """Wake slots after the others' turn: a timer comes behind what is due, a callback before it."""
        if self._waking:
            return
        self._waking = True
        timer = self._loop.timer(LET_OTHERS_SECONDS)

        def wake() -> None:
            timer.close()
            self._wake()

        timer.start(wake)

    def take_ready(self) -> list[tuple[Callable[[Item], object], Item]]:
        """Take back everything that no slot has taken yet."""
        taken = list(self._ready)
        self._ready.clear()
        return taken

    @property
    def ready(self) -> int:
        """How much work waits for a slot."""
        return len(self._ready)

    @property
    def busy(self) -> int:
        """How many slots are at work."""
        return len(self._slots) - len(self._parked)

    def write_off(self, slot: Any) -> None:
        """Give up a stuck slot: if it ever comes back, it ends. What is ready gets another in its place."""
        self.written_off += 1
        self._leaving.add(slot)
        self._slots.discard(slot)
        if self._ready:
            self._spawn()

    def step_aside(self) -> None:
        """Let another slot work in the place of the one that calls, until `step_back`."""
        self._most += 1
        if len(self._parked) < len(self._ready):
            self._spawn()

    def step_back(self) -> None:
        """Let the slot that stepped aside work again."""
        self._most -= 1
        if len(self._slots) > self._most:
            self._leaving.add(gevent.getcurrent())
            self._slots.discard(gevent.getcurrent())

    def close(self, timeout_seconds: float) -> bool:
        """Let the slots end once the ready list is empty, and join them. False where one is still busy."""
        self._closed = True
        self._wake_soon()
        return bool(self._slots.join(timeout_seconds))

    def end(self, timeout_seconds: float) -> None:
        """End by force the slots that have not ended; one inside a handler is to be written off before."""
        gevent.killall(list(self._slots), block=False)
        self._slots.join(timeout_seconds)

    def serve(self) -> None:
        """The life of a slot: do what is ready, for a turn, then wait for more.

        In one frame: each that stands below a handler's sleep costs 0.2 us a switch.
        """
        ready, leaving, slot = self._ready, self._leaving, gevent.getcurrent()
        while True:
            while ready:
                do, item = ready.popleft()
                do(item)
                if slot in leaving:
                    leaving.discard(slot)  # or every one that ever left would stay in memory
                    return
                if ready and time.time() - self._loop.now() > TURN_SECONDS:
                    self._wake_later()
                    break
            if self._closed and not ready:
                return
            do = item = None  # type: ignore[assignment]  # or a parked slot would keep what it has done
            self._parked[slot] = None
            try:  # noqa: SIM105  # suppress() is three calls, for each message
                self._hub.switch()
            except BaseException:  # noqa: S110  # a gevent.Timeout that a handler has left running: it belongs to no work
                pass
            self._parked.pop(slot, None)  # not _wake, but something else woke it


class Slot(gevent.Greenlet):  # type: ignore[misc]
    """One of a pool's greenlets."""

    def __init__(self, pool: Pool[Any]) -> None:
        super().__init__(pool.serve)
        self.pool = pool


def watch(greenlet: gevent.Greenlet, crashed: Callable[[gevent.Greenlet], object]) -> None:
    """Call `crashed` where this greenlet ends by an error or by force: link_exception() skips a GreenletExit."""

    def ended(greenlet: gevent.Greenlet) -> None:
        if not greenlet.successful() or isinstance(greenlet.value, gevent.GreenletExit):
            crashed(greenlet)

    greenlet.link(ended)
