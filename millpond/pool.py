"""The pool: a bounded number of greenlets that live as long as the worker, and the list of work that is ready."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Generic, TypeVar

import gevent
import gevent.pool

Item = TypeVar("Item")

#: A slot lets the others run once the hub has stood still for so long, or handlers that never wait would starve
#: beats and polls.
TURN_SECONDS = 0.010
#: How long it is parked then; with 0 it would be back before the loop has looked at timers and sockets.
LET_OTHERS_SECONDS = 0.0001


class Pool(Generic[Item]):
    """Up to `size` slots that take work from the ready list, in order.

    1. A slot is a greenlet that is never ended by force: an interrupt is aimed at a delivery, never at a slot.
       (A long-lived greenlet costs 3 to 5 us a message, a spawned one 12 to 20.)
    2. Slots are made when they are first needed. One without work is parked; it is woken from the hub, which looks in
       the same step whether it is still parked.
    3. One that is stuck for good is written off, and another may take its place.

    A piece of work is a call and what it is called with; it never raises. `crashed` hears of it, should it do so all
    the same.
    """

    def __init__(self, size: int, crashed: Callable[[gevent.Greenlet], object]) -> None:
        self._crashed = crashed
        self._size = size
        self._hub = gevent.get_hub()
        self._loop = self._hub.loop
        self._ready: deque[tuple[Callable[[Item], object], Item]] = deque()
        self._parked: dict[Any, None] = {}  # the last one first: its memory is still warm
        self._waking = False  # _wake is to come
        self._slots = gevent.pool.Group()
        self._written_off: set[Any] = set()
        self._closed = False

    def submit(self, do: Callable[[Item], object], item: Item) -> None:
        """Put work on the ready list; never blocks."""
        self._ready.append((do, item))
        if len(self._parked) >= len(self._ready):
            self._wake_soon()
        elif len(self._slots) < self._size:
            self._spawn()

    def _spawn(self) -> None:
        self._slots.spawn(self._slot).link_exception(self._crashed)

    def _wake_soon(self) -> None:
        if not self._waking:
            self._waking = True
            self._loop.run_callback(self._wake)

    def _wake(self) -> None:
        """In the hub: as many as there is work for, but only for a turn."""
        self._waking = False
        began = time.time()
        while self._parked and (self._ready or self._closed):
            self._parked.popitem()[0].switch()
            if time.time() - began > TURN_SECONDS:
                self._wake_later()
                break

    def _wake_later(self) -> None:
        """After the others' turn: a timer comes behind what is due, a callback before it."""
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

    def write_off(self, slot: Any) -> None:
        """Give a stuck slot up; should it ever come back, it ends. What is ready gets another in its place."""
        self._written_off.add(slot)
        self._slots.discard(slot)
        if self._ready:
            self._spawn()

    @property
    def written_off(self) -> int:
        """Slots that were given up."""
        return len(self._written_off)

    def close(self, timeout_seconds: float) -> bool:
        """Let the slots end once the ready list is empty, and join them. False where one is still busy."""
        self._closed = True
        self._wake_soon()
        return bool(self._slots.join(timeout_seconds))

    def _slot(self) -> None:
        while self._step():
            pass

    def _step(self) -> bool:
        if not self._ready:
            return not self._closed and self._park()
        do, item = self._ready.popleft()
        do(item)
        if self._ready and time.time() - self._loop.now() > TURN_SECONDS:
            self._wake_later()
            self._park()
        return not self._written_off or gevent.getcurrent() not in self._written_off

    def _park(self) -> bool:
        """Wait to be woken. A gevent.Timeout that a handler has left running comes here: it is nobody's."""
        slot = gevent.getcurrent()
        self._parked[slot] = None
        with suppress(BaseException):
            self._hub.switch()
        self._parked.pop(slot, None)  # it was not _wake that woke it
        return True
