"""Exits of child processes: any thread can wait for one, and every child keeps its own exit code.

gevent waits for a child in the hub's thread alone, and libev, by which it waits, takes away the exit codes of all
other children.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import gevent.os
import gevent.subprocess
from gevent import get_hub
from gevent.monkey import get_original

_start_thread: Callable[..., Any] = get_original("_thread", "start_new_thread")
_allocate_lock: Callable[[], Any] = get_original("_thread", "allocate_lock")
_waitpid: Callable[[int, int], tuple[int, int]] = get_original("os", "waitpid")
_execute_as_gevent: Callable[..., None] = gevent.subprocess.Popen._execute_child
_signal_as_gevent: Callable[..., None] = gevent.subprocess.Popen.send_signal


def install() -> None:
    """Let a process that subprocess starts be waited for in every thread. A second call changes nothing."""
    gevent.os._watch_child = _watch
    if gevent.subprocess.Popen._execute_child.__module__ != __name__:
        gevent.subprocess.Popen._execute_child = _execute_child
        gevent.subprocess.Popen.send_signal = _send_signal


def begin_child() -> None:
    """In a forked child: the children of its parent are not its own."""
    global _exits_lock
    _exits_lock = _allocate_lock()
    _exits.clear()
    gevent.os._watched_children.clear()


class _Exit:
    """The exit of one process: a native thread waits for it, and wakes every watcher in the loop of its own thread."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.status: int | None = None
        self._lock = _allocate_lock()
        self._wakers: list[Callable[[], object]] = []
        _start_thread(self._wait, ())

    def _wait(self) -> None:
        status = 0
        with suppress(ChildProcessError):  # other code has waited for it: nobody knows its status
            _, status = _waitpid(self.pid, 0)
        with self._lock:
            self.status = status
            for wake in self._wakers:
                wake()

    def wake_by(self, wake: Callable[[], object]) -> None:
        with self._lock:
            self._wakers.append(wake)
            if self.status is not None:
                wake()

    def forget(self, wake: Callable[[], object]) -> None:
        with self._lock:
            self._wakers.remove(wake)


_exits: weakref.WeakValueDictionary[int, _Exit] = weakref.WeakValueDictionary()
_exits_lock = _allocate_lock()


class ExitWatcher:
    """A child watcher of gevent's loop, for any thread. It is its own `loop`, which gevent asks for another watcher."""

    def __init__(self, pid: int, loop: Any, ref: bool = True) -> None:
        self.pid = self.rpid = pid
        self.loop = self
        self._waker = loop.async_(ref=ref)
        self._running = False
        with _exits_lock:
            self._exit = _exits.get(pid) or _Exit(pid)
            _exits[pid] = self._exit

    @property
    def rstatus(self) -> int:
        return self._exit.status or 0

    def child(self, pid: int, trace: object = False, ref: bool = True) -> ExitWatcher:
        return ExitWatcher(pid, get_hub().loop, ref)

    def start(self, callback: Callable[..., object], *args: Any) -> None:
        self._waker.start(callback, *args)
        self._running = True
        self._exit.wake_by(self._waker.send)

    def stop(self) -> None:
        if self._running:
            self._running = False
            self._exit.forget(self._waker.send)
            self._waker.stop()

    def close(self) -> None:
        self.stop()
        self._waker.close()

    def __enter__(self) -> ExitWatcher:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


class _PopenLoop:
    """The loop as Popen sees it: without libev's handler of SIGCHLD, which takes every child's exit code."""

    sig_pending = False

    def __init__(self, loop: Any) -> None:
        self.real_loop = loop

    def install_sigchld(self) -> None:
        pass

    def child(self, pid: int, trace: object = False, ref: bool = True) -> ExitWatcher:
        return ExitWatcher(pid, self.real_loop, ref)


def _watch(pid: int, callback: Callable[..., object] | None = None, loop: Any = None, ref: bool = False) -> None:
    watcher = ExitWatcher(pid, getattr(loop, "real_loop", loop) or get_hub().loop, ref)
    gevent.os._watched_children[pid] = watcher
    watcher.start(gevent.os._on_child, watcher, callback)


def _execute_child(self: Any, *args: Any) -> None:
    self._loop = _PopenLoop(self._loop)
    _execute_as_gevent(self, *args)


def _send_signal(self: Any, number: int) -> None:
    """The thread that waits knows of an end before the loop does: as in the standard library, that is no error."""
    with suppress(ProcessLookupError):
        _signal_as_gevent(self, number)
