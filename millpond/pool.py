"""The pool: a bounded number of greenlets that live as long as the worker, and the list of work that is ready."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import gevent
import gevent.pool
from gevent.queue import Empty, SimpleQueue

Work = TypeVar("Work")

#: A slot lets the others run once the hub has stood still for so long, or handlers that never wait would starve
#: beats and polls.
TURN_SECONDS = 0.010


class Pool(Generic[Work]):
    """Up to `size` slots that take work from the ready list, in order.

    1. A slot is a greenlet that is never ended by force: an interrupt is aimed at a delivery, never at a slot.
       (A long-lived greenlet fed by a queue costs 3 to 5 us a message, a spawned one 12 to 20.)
    2. Slots are made when they are first needed.
    3. One that is stuck for good is written off, and another may take its place.

    `do` handles one piece of work and never raises; `crashed` hears of it, should it do so all the same.
    """

    def __init__(self, size: int, do: Callable[[Work], object], crashed: Callable[[gevent.Greenlet], object]) -> None:
        self._do = do
        self._crashed = crashed
        self._ready: SimpleQueue[Work | None] = SimpleQueue()
        self._slots = gevent.pool.Pool(size)
        self._idle = 0
        self._written_off: set[Any] = set()

    def submit(self, work: Work) -> None:
        """Put work on the ready list; never blocks."""
        self._ready.put(work)
        self._grow()

    def _grow(self) -> None:
        if self._ready.qsize() > self._idle and self._slots.free_count() > 0:
            self._slots.spawn(self._slot).link_exception(self._crashed)

    def take_ready(self) -> list[Work]:
        """Take back everything that no slot has taken yet."""
        taken: list[Work] = []
        while True:
            try:
                work = self._ready.get_nowait()
            except Empty:
                return taken
            if work is not None:
                taken.append(work)

    @property
    def ready(self) -> int:
        """How much work waits for a slot."""
        return int(self._ready.qsize())

    def write_off(self, slot: Any) -> None:
        """Give a stuck slot up; should it ever come back, it ends. What is ready gets another in its place."""
        self._written_off.add(slot)
        self._slots.discard(slot)
        self._grow()

    @property
    def written_off(self) -> int:
        """Slots that were given up."""
        return len(self._written_off)

    def close(self, timeout_seconds: float) -> bool:
        """Let the slots end once the ready list is empty, and join them. False where one is still busy."""
        for _ in range(len(self._slots)):
            self._ready.put(None)
        return bool(self._slots.join(timeout_seconds))

    def _slot(self) -> None:
        while self._step():
            pass

    def _step(self) -> bool:
        self._idle += 1
        work = self._ready.get()
        self._idle -= 1
        if work is None:
            return False
        self._do(work)
        if time.time() - gevent.get_hub().loop.now() > TURN_SECONDS:
            gevent.sleep(0)
        return not self._written_off or gevent.getcurrent() not in self._written_off
