"""Pipes, locks of multiprocessing, and the one lock of all ThreadPoolExecutors: whoever waits there holds up no hub."""

from __future__ import annotations

import concurrent.futures.thread
import math
import os
import time
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import Connection
from multiprocessing.synchronize import SemLock
from select import PIPE_BUF
from typing import Any

import gevent
from gevent._hub_local import get_hub_if_exists
from gevent.monkey import get_original
from gevent.socket import wait_read, wait_write

_allocate_lock: Callable[[], Any] = get_original("_thread", "allocate_lock")
_close_as_gevent: Callable[[int], None] = os.close
_NativeLock: Any = get_original("_thread", "LockType")

#: A lock of multiprocessing that is taken is tried again after this.
LOCK_LOOK_SECONDS = 0.005

_in_child = False  # no engine here that a wait could hold up


def install() -> None:
    """Let every greenlet and thread wait for these locks and pipes."""
    for name, call in (("_recv", _read), ("_send", _write)):
        getattr(Connection, name).__defaults__ = (call,)
    _share_lock()
    for name, method in (("_make_methods", _make_methods), ("__enter__", lambda self: self.acquire())):
        setattr(SemLock, name, method)
    os.close = _close


def begin_child() -> None:
    """In a forked child: what a thread of its parent holds is free, and a wait may block."""
    global _in_child
    _in_child = True
    _share_lock()


def _read(number: int, size: int) -> bytes:
    """Read from a pipe of multiprocessing."""
    wait_read(number)
    return os.read(number, size)


def _write(number: int, data: Any) -> int:
    wait_write(number)
    return os.write(number, data[:PIPE_BUF])


def _close(fd: int) -> None:
    """gevent closes what is no file in the next turn of the loop, and wakes none for it (since 25.8.1): in a thread,
    where nothing else turns its loop, a pipe stayed open for as long as a reader waited for its end."""
    _close_as_gevent(fd)
    if (hub := get_hub_if_exists()) is not None:
        turn = hub.loop.timer(0.0)
        turn.start(turn.close)


class _SharedLock:
    """For threads and greenlets together: a lock of gevent can leave a greenlet asleep that a thread should wake."""

    def __init__(self) -> None:
        lock = _allocate_lock()
        self.acquire, self.release = partial(_acquire, lock), lock.release

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *exception: object) -> None:
        self.release()


def _share_lock() -> None:
    """The one lock that all ThreadPoolExecutors of a process have in common."""
    setattr(concurrent.futures.thread, "_global_shutdown_lock", _SharedLock())  # noqa: B010


def _make_methods(self: Any) -> None:
    """Of a lock of multiprocessing: it is a native one, which nobody may wait for in the hub's thread."""
    self.acquire = partial(_acquire, self._semlock)
    self.release = self._semlock.release


def _acquire(lock: Any, block: bool = True, timeout: float | None = None) -> bool:
    if not block or (_in_child and not isinstance(lock, _NativeLock)):
        return bool(lock.acquire(block, timeout))
    end = math.inf if timeout is None else time.monotonic() + timeout
    while not lock.acquire(False):
        if time.monotonic() >= end:
            return False
        gevent.sleep(LOCK_LOOK_SECONDS)
    return True
