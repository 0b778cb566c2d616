"""Forks: a child that a handler forks goes on with the code that forked it, and ends where that ends.

gevent lets it go on with its parent's greenlets: it would receive messages, and settle its parent's.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Callable
from concurrent.futures.thread import _WorkItem
from contextlib import suppress
from functools import partial
from multiprocessing.dummy import DummyProcess
from multiprocessing.pool import ThreadPool, mapstar, starmapstar  # type: ignore[attr-defined]
from types import FrameType
from typing import Any, NoReturn

from gevent import get_hub, getcurrent
from gevent._greenlet_primitives import SwitchOutGreenletWithLoop
from gevent._hub_local import get_hub_if_exists, set_hub, set_loop
from gevent.hub import Hub
from gevent.monkey import get_original
from gevent.threadpool import ThreadResult, _WorkerGreenlet
from greenlet import greenlet, settrace  # type: ignore[import-untyped]

from millpond.foreign.trace import describe, traceback_of
from millpond.hub import child_exits, process_locks, signals
from millpond.observe import log

_get_ident: Callable[[], int] = get_original("_thread", "get_ident")

_at_fork: list[Callable[[], object]] = []
_engine: list[Hub] = []  # its hub; none in a child
_is_child = False


def install(end_with_the_handler: Callable[[Callable[[BaseException | None], object]], object]) -> None:
    """Let subprocess, multiprocessing and os.fork work in every thread, with no engine in a forked child.

    `end_with_the_handler(end)` is called in a forked child: whatever comes out of the handler is to go to `end`.
    """
    if not _at_fork:
        os.register_at_fork(before=_hold_signals, after_in_parent=_release_signals, after_in_child=_begin_child)
    _at_fork[:] = [partial(end_with_the_handler, end)]
    _engine[:] = [get_hub()]
    child_exits.install()
    process_locks.install()
    setattr(ThreadPool, "Process", staticmethod(_pool_thread))  # noqa: B010


_forking: dict[int, tuple[int, Any]] = {}  # thread -> forks under way in it, and its mask of signals before


def _hold_signals() -> None:
    """Hold back signals: one that a child gets too early would go to its parent's handler, and to its parent's pipe."""
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
    """In the child: take the engine out of it, and let the greenlet that forked go on where it was."""
    global _is_child
    _is_child = True
    for call in _at_fork:
        call()
    if _engine and get_hub_if_exists() is _engine[0]:
        _leave(_engine.pop())
    _end_with(getcurrent())
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # libev's handler would take the exit codes of this one's children
    child_exits.begin_child()
    process_locks.begin_child()
    log.forget_locks()
    signals.begin_child()
    _, mask = _forking.pop(_get_ident())
    _forking.clear()
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _leave(engine: Hub) -> None:
    """Put a fresh hub in place of the engine's, whose timers, sockets and signals come no more: nobody runs its loop.

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
    """Wait for a watcher of the engine's loop."""
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


# The end of a child


def _ancestors(one: Any) -> list[Any]:
    """This greenlet, and those to which control goes after its end; a hub is the last one."""
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
    child = chain[-1]
    child.parent = top = _Top(current, root, get_hub().loop)
    greenlet.switch(top)
    report = threading.excepthook
    # Of a Thread, which is a greenlet, nothing else comes out.
    threading.excepthook = lambda given: end(given.exc_value) if getcurrent() is child else report(given)


class _Top(SwitchOutGreenletWithLoop):  # type: ignore[misc]
    """The parent, instead of the hub, of the greenlet that forked (or of the one within which that was)."""

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
        """A Greenlet keeps what it raised, and reports it to its hub."""
        end(error)


def _end_with_call(frame: FrameType | None) -> None:
    """Where a pool's thread forked, the end of the call is the end: it would go on with the other calls of the pool."""
    while frame is not None:
        if frame.f_code is _WorkItem.run.__code__:
            frame.f_locals["self"].future = _Result()
        elif frame.f_code is _RUN_TASK:
            result = frame.f_locals["thread_result"]
            result.async_watcher = _Watcher(result)
        frame = frame.f_back


#: How a thread of gevent's pools makes a call.
_RUN_TASK = vars(_WorkerGreenlet)["_WorkerGreenlet__run_task"].__code__


class _Result:
    """Stands in for the future of a call in a ThreadPoolExecutor."""

    def set_result(self, value: object) -> NoReturn:
        end(None)

    def set_exception(self, error: BaseException) -> NoReturn:
        end(error)


class _Tasks:
    """The tasks of one thread of a multiprocessing.pool.ThreadPool: each ends its process where that is a child."""

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


class _Watcher:
    """Stands in for the watcher by which a thread of gevent's pools reports the end of a call."""

    def __init__(self, result: ThreadResult) -> None:
        self._result = result

    def send(self) -> NoReturn:
        end(self._result.exception)


def caught(call: Callable[[], object]) -> tuple[object, BaseException | None]:
    """What `call` returned, and what it raised: gevent would print what a thread raises, and end it for SystemExit."""
    try:
        value, raised = call(), None
    except BaseException as error:
        value, raised = None, error
    if _is_child:
        end(raised)
    return value, raised


def end(error: BaseException | None) -> NoReturn:
    """End a forked child, where what the handler ran there has ended: its message is its parent's to settle."""
    code = 0 if error is None else 1
    if isinstance(error, SystemExit):
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
    elif error is not None:
        text = f"a process that a handler forked has failed: {describe(error)}"
        log.event(logging.ERROR, "child.failed", text, traceback=traceback_of(error))
    log.flush()
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):
            stream.flush()
    os._exit(code & 0xFF)
