"""Threads: real ones, for handlers that block or compute."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gevent.lock import Semaphore
from gevent.threadpool import ThreadPool


class Threads:
    """At most `size` threads, made when they are first needed; apart from gevent's own, which look names up.

    No interrupt reaches a thread. Whoever waits for it can be interrupted; its code then runs on, what it returns is
    nobody's, and until it ends there is one thread less for the others.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._free = Semaphore(size)  # gevent's own pool lets one more in than it has threads for
        self._pool: Any = None

    def begin(self, call: Callable[[], object]) -> Callable[[], object]:
        """Wait for a free thread and begin `call` in it. What is returned waits for its end, and has its value."""
        if self._pool is None:
            self._pool = ThreadPool(self._size)
        self._free.acquire()
        running = self._pool.spawn(_caught, call)
        running.rawlink(lambda _: self._free.release())

        def result() -> object:
            value, error = running.get()
            if error is not None:
                raise error
            return value

        return result


def _caught(call: Callable[[], object]) -> tuple[object, BaseException | None]:
    """gevent would print what a thread raises, and end it for SystemExit."""
    try:
        return call(), None
    except BaseException as error:
        return None, error
