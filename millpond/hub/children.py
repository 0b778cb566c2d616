"""Children: the processes that handlers start, and this one where it is one of them.

gevent's own way has three faults for a worker. A child can be waited for in the hub's thread alone; libev, which waits
for it, takes the exit codes of all other children away; and a forked child goes on with its parent's greenlets.
"""

from __future__ import annotations

import concurrent.futures.thread
import logging
import math
import os
import signal
import sys
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures.thread import _WorkItem
from contextlib import suppress
from functools import partial
from multiprocessing.connection import Connection
from multiprocessing.dummy import DummyProcess
from multiprocessing.pool import ThreadPool, mapstar, starmapstar  # type: ignore[attr-defined]
from multiprocessing.synchronize import SemLock
from select import PIPE_BUF
from types import FrameType
from typing import Any, NoReturn

import gevent
import gevent.os
import gevent.subprocess
from gevent import get_hub, getcurrent
from gevent._greenlet_primitives import SwitchOutGreenletWithLoop
from gevent._hub_local import get_hub_if_exists, set_hub, set_loop
from gevent.hub import Hub
from gevent.monkey import get_original
from gevent.socket import wait_read, wait_write
from gevent.threadpool import ThreadResult, _WorkerGreenlet
from greenlet import greenlet, settrace  # type: ignore[import-untyped]

from millpond.foreign.trace import describe, traceback_of
from millpond.hub import signals
from millpond.observe import log

_start_thread: Callable[..., Any] = get_original("_thread", "start_new_thread")
_allocate_lock: Callable[[], Any] = get_original("_thread", "allocate_lock")
_NativeLock: Any = get_original("_thread", "LockType")
_get_ident: Callable[[], int] = get_original("_thread", "get_ident")
_waitpid: Callable[[int, int], tuple[int, int]] = get_original("os", "waitpid")

#: A lock of multiprocessing that is taken is tried again after this.
LOOK_SECONDS = 0.005
#: True in a child that a handler has forked: nothing of the engine may go on there.
forked = False


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
        with suppress(ChildProcessError):  # somebody else has waited for it: nobody knows its status
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


class Child:
    """A watcher as gevent's loop has them, for any thread. It is its own `loop`, which gevent asks for another one."""

    def __init__(self, pid: int, loop: Any, ref: bool = True) -> None:
        self.pid = self.rpid = pid
        self.loop = self
        self._real_loop = loop
        self._waker = loop.async_(ref=ref)
        self._running = False
        with _exits_lock:
            self._exit = _exits.get(pid) or _Exit(pid)
            _exits[pid] = self._exit

    @property
    def rstatus(self) -> int:
        return self._exit.status or 0

    def child(self, pid: int, trace: object = False, ref: bool = True) -> Child:
        return Child(pid, get_hub().loop, ref)

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

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


class _Loop:
    """The loop as Popen sees it: without libev's handler of SIGCHLD, which takes every child's exit code."""

    sig_pending = False

    def __init__(self, loop: Any) -> None:
        self._real_loop = loop

    def install_sigchld(self) -> None:
        pass

    def child(self, pid: int, trace: object = False, ref: bool = True) -> Child:
        return Child(pid, self._real_loop, ref)


def adopt(end_with_the_handler: Callable[[Callable[[BaseException | None], object]], object]) -> None:
    """subprocess, multiprocessing and os.fork work in every thread, and a forked child has no engine in it.

    `end_with_the_handler(end)` is called in a forked child: whatever comes out of the handler is to go to `end`.
    """
    _at_fork[:] = [partial(end_with_the_handler, end)]
    _engine[:] = [get_hub()]
    wait_anywhere()
    if SemLock._make_methods is not _make_methods:  # type: ignore[attr-defined]
        os.register_at_fork(before=_hold_signals, after_in_parent=_release_signals, after_in_child=_begin_child)
        for name, call in (("_recv", _read), ("_send", _write)):
            getattr(Connection, name).__defaults__ = (call,)
        _share_lock()
        for name, method in (("_make_methods", _make_methods), ("__enter__", lambda self: self.acquire())):
            setattr(SemLock, name, method)
        setattr(ThreadPool, "Process", staticmethod(_pool_thread))  # noqa: B010
        os.close = _close


def wait_anywhere() -> None:
    """A process that subprocess starts can be waited for in every thread. All that a test of an application needs."""
    gevent.os._watch_child = _watch
    execute = gevent.subprocess.Popen._execute_child
    if execute.__name__ != _execute_child.__name__ or execute.__module__ != __name__:
        _originals.append(execute)
        gevent.subprocess.Popen._execute_child = _execute_child
        signalled = gevent.subprocess.Popen.send_signal
        gevent.subprocess.Popen.send_signal = lambda self, number: _send_signal(signalled, self, number)


def _send_signal(signalled: Callable[..., None], process: Any, number: int) -> None:
    """The thread that waits knows of an end before the loop does: as in the standard library, that is no error."""
    with suppress(ProcessLookupError):
        signalled(process, number)


_gevents_close: Callable[[int], None] = os.close


def _close(fd: int) -> None:
    """gevent closes what is no file in the next turn of the loop, and wakes none for it (since 25.8.1): in a thread,
    where nothing else turns its loop, a pipe had no end for as long as somebody waited for that."""
    _gevents_close(fd)
    if (hub := get_hub_if_exists()) is not None:
        turn = hub.loop.timer(0.0)
        turn.start(turn.close)


_originals: list[Callable[..., None]] = []
_at_fork: list[Callable[[], object]] = []
_engine: list[Hub] = []  # its hub; none in a child


def _read(number: int, size: int) -> bytes:
    """From a pipe of multiprocessing, without holding up the hub."""
    wait_read(number)
    return os.read(number, size)


def _write(number: int, data: Any) -> int:
    wait_write(number)
    return os.write(number, data[:PIPE_BUF])


def _execute_child(self: Any, *args: Any) -> None:
    self._loop = _Loop(self._loop)
    _originals[0](self, *args)


def _watch(pid: int, callback: Callable[..., object] | None = None, loop: Any = None, ref: bool = False) -> None:
    watcher = Child(pid, getattr(loop, "_real_loop", loop) or get_hub().loop, ref)
    gevent.os._watched_children[pid] = watcher
    watcher.start(gevent.os._on_child, watcher, callback)


class _SharedLock:
    """For threads and greenlets together: a lock of gevent can leave a greenlet asleep that a thread should wake."""

    def __init__(self) -> None:
        self._lock = _allocate_lock()
        self.release = self._lock.release

    def acquire(self) -> bool:
        return _acquire(self._lock)

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
    if not block or (forked and not isinstance(lock, _NativeLock)):
        return bool(lock.acquire(block, timeout))
    end = math.inf if timeout is None else time.monotonic() + timeout
    while not lock.acquire(False):
        if time.monotonic() >= end:
            return False
        gevent.sleep(LOOK_SECONDS)
    return True


_forking: dict[int, tuple[int, Any]] = {}  # thread -> forks on their way there, and its mask of signals before


def _hold_signals() -> None:
    """One that a child gets before it is its own would be its parent's: the handler, and the pipe that it writes to."""
    number, mask = _forking.get(_get_ident(), (0, None))
    if not number:  # of two, as logging's own lock may switch greenlets here
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, signals.NUMBERS)
    _forking[_get_ident()] = number + 1, mask


def _release_signals() -> None:
    number, mask = _forking.pop(_get_ident())
    if number > 1:
        _forking[_get_ident()] = number - 1, mask
    else:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _begin_child() -> None:
    """The greenlet that forked goes on where it was; of the engine nothing does."""
    global forked, _exits_lock
    forked = True
    for call in _at_fork:
        call()
    if _engine and get_hub_if_exists() is _engine[0]:
        _leave(_engine.pop())
    _end_with(getcurrent())
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # libev's handler would take the exit codes of this one's children
    _exits_lock = _allocate_lock()
    _exits.clear()
    _share_lock()
    gevent.os._watched_children.clear()
    log.forget_locks()
    signals.forget()
    _, mask = _forking.pop(_get_ident())
    _forking.clear()
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _leave(engine: Hub) -> None:
    """A fresh hub in place of the engine's, whose timers, sockets and signals come no more: nobody runs its loop.

    What the code that forked has from before (sockets, locks, events) asks for the engine's hub, and gets this one.
    Through it they could wake greenlets of the parent, which are to sleep on.
    """
    hub = Hub(default=False)
    set_hub(hub)
    set_loop(hub.loop)
    if getcurrent() is engine:
        engine.loop.break_()
    engine.loop = hub.loop
    engine.switch = hub.switch
    engine.wait = partial(_wait_anew, hub)
    engine.handle_error = lambda context, kind, error, frames: end(error)
    settrace(partial(_keep_asleep, engine, hub, set()))


def _wait_anew(hub: Hub, watcher: Any) -> None:
    """For a watcher of the engine's loop."""
    if not hasattr(watcher, "fd"):
        hub.wait(watcher)
        return
    with hub.loop.io(watcher.fd, watcher.events) as fresh:
        hub.wait(fresh)


def _keep_asleep(engine: Hub, hub: Hub, awake: set[greenlet], event: str, switch: tuple[greenlet, greenlet]) -> None:
    """After each switch, in the greenlet that it went to. `awake`: those of the parent that this code switched to."""
    origin, target = switch
    if engine in switch:  # what was called in it has ended, or one of those below it
        end(None)
    if target in awake or _ancestors(target)[-1] is not engine:
        return
    if origin is not hub:
        awake.add(target)
    while target not in awake:
        hub.switch()


def _ancestors(one: Any) -> list[Any]:
    """Itself, and those to which control goes after its end; a hub is the last one."""
    chain = [one]
    while not isinstance(chain[-1], Hub | _Top) and chain[-1].parent is not None:
        chain.append(chain[-1].parent)
    return chain


def _end_with(current: Any) -> None:
    """The process ends where control would go back to a hub or to a pool's thread: both are the parent's."""
    frame: FrameType | None = sys._getframe()
    *chain, root = _ancestors(current)
    for one in chain:
        _end_with_call(frame if one is current else one.gr_frame)
    if root.parent is None or not chain:
        return
    forked = chain[-1]
    forked.parent = top = _Top(current, root, get_hub().loop)
    greenlet.switch(top)
    tell = threading.excepthook
    # Of a Thread, which is a greenlet, nothing else comes out.
    threading.excepthook = lambda given: end(given.exc_value) if getcurrent() is forked else tell(given)


class _Top(SwitchOutGreenletWithLoop):  # type: ignore[misc]
    """Instead of the hub it is the parent of the greenlet that forked, or of the one in whose midst that was."""

    def __init__(self, current: Any, parent: Any, loop: Any) -> None:
        super().__init__(partial(self._wait, current), parent)
        self.loop = loop

    @staticmethod
    def _wait(current: Any) -> NoReturn:
        try:
            greenlet.switch(current)  # back to it at once; what comes is the end
        except BaseException as error:
            end(error)
        end(None)

    def handle_error(self, context: object, kind: object, error: BaseException, frames: object) -> NoReturn:
        """A Greenlet keeps what it raised, and tells its hub."""
        end(error)


def _end_with_call(frame: FrameType | None) -> None:
    """Where a pool's thread forked, the end of the call is the end: it would go on with the other calls of the pool."""
    while frame is not None:
        if frame.f_code is _WorkItem.run.__code__:
            frame.f_locals["self"].future = _Result()
        elif frame.f_code is _RUN_TASK:
            result = frame.f_locals["thread_result"]
            result.async_watcher = _Told(result)
        frame = frame.f_back


#: How a thread of gevent's pools makes a call.
_RUN_TASK = vars(_WorkerGreenlet)["_WorkerGreenlet__run_task"].__code__


class _Result:
    """Of a call in a ThreadPoolExecutor."""

    def set_result(self, value: object) -> NoReturn:
        end(None)

    def set_exception(self, error: BaseException) -> NoReturn:
        end(error)


class _Tasks:
    """For one thread of a multiprocessing.pool.ThreadPool."""

    def __init__(self, tasks: Any) -> None:
        self._tasks = tasks

    def get(self) -> tuple[Any, ...] | None:
        task = self._tasks.get()
        if task is None:
            return None
        job, index, call, args, more = task
        if call is not mapstar and call is not starmapstar:
            return job, index, partial(_to_its_end, call), args, more
        [(call_one, chunk)] = args
        return job, index, call, [(partial(_to_its_end, call_one), chunk)], more


def _to_its_end(call: Callable[..., object], *args: Any, **more: Any) -> object:
    pid = os.getpid()
    try:
        value = call(*args, **more)
    except BaseException as error:
        if os.getpid() != pid:
            end(error)
        raise
    if os.getpid() != pid:
        end(None)
    return value


def _pool_thread(context: object, target: Any, args: Any) -> Any:
    tasks, *rest = args
    return DummyProcess(target=target, args=(_Tasks(tasks), *rest))


class _Told:
    """Instead of the watcher by which a thread of gevent's pools tells that a call has ended."""

    def __init__(self, result: ThreadResult) -> None:
        self._result = result

    def send(self) -> NoReturn:
        end(self._result.exception)


def caught(call: Callable[[], object]) -> tuple[object, BaseException | None]:
    """What it returned, or raised: gevent would print what a thread raises, and end it for SystemExit."""
    try:
        value, raised = call(), None
    except BaseException as error:
        value, raised = None, error
    if forked:
        end(raised)
    return value, raised


def end(error: BaseException | None) -> NoReturn:
    """What the handler ran there has ended in a forked child: its message is its parent's to settle."""
    code = 0 if error is None else 1
    if isinstance(error, SystemExit):
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
    elif error is not None:
        text = f"a process that the handler forked ends: {describe(error)}"
        log.event(logging.ERROR, "child.failed", text, traceback=traceback_of(error))
    log.flush()
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):
            stream.flush()
    os._exit(code & 0xFF)
