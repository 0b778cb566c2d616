"""The end of a forked child: it ends where the code that forked it ends, wherever that ran, and never goes on as its
parent: not with the greenlets of its hub, nor with the other calls of a thread pool.
"""

from __future__ import annotations

import logging
import os
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
from gevent.hub import Hub
from gevent.threadpool import ThreadResult, _WorkerGreenlet
from greenlet import greenlet  # type: ignore[import-untyped]

from millpond.foreign.trace import describe, traceback_of
from millpond.observe import log

_is_child = False


def install() -> None:
    """Prepare the pools of multiprocessing.pool.ThreadPool: their threads cannot be read in a child."""
    setattr(ThreadPool, "Process", staticmethod(_pool_thread))  # noqa: B010


def begin_child() -> None:
    """In a forked child: the greenlet that forked goes on where it was, and its end is the process's."""
    global _is_child
    _is_child = True
    _end_with(getcurrent())


def ancestors(one: Any) -> list[Any]:
    """This greenlet, and those to which control goes after its end; a hub is the last one."""
    chain = [one]
    while not isinstance(chain[-1], Hub | _Top) and chain[-1].parent is not None:
        chain.append(chain[-1].parent)
    return chain


def _end_with(current: Any) -> None:
    """The process ends where control would go back to a hub or to a pool's thread: both are the parent's."""
    frame: FrameType | None = sys._getframe()
    *chain, root = ancestors(current)
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
