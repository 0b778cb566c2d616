"""Forks: a child that a handler forks goes on with the code that forked it, and has no engine in it.

gevent lets a forked child go on with its parent's greenlets: it would receive messages, and settle its parent's.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from functools import partial
from typing import Any

from gevent import get_hub, getcurrent
from gevent._hub_local import get_hub_if_exists, set_hub, set_loop
from gevent.hub import Hub
from gevent.monkey import get_original
from greenlet import greenlet, settrace  # type: ignore[import-untyped]

from millpond.hub import child_end, child_exits, process_locks, signals
from millpond.hub.child_end import ancestors, end
from millpond.observe import log

_get_ident: Callable[[], int] = get_original("_thread", "get_ident")

_at_fork: list[Callable[[], object]] = []
_engine: list[Hub] = []  # its hub; none in a child


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
    child_end.install()


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
    for call in _at_fork:
        call()
    if _engine and get_hub_if_exists() is _engine[0]:
        _leave(_engine.pop())
    child_end.begin_child()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # libev's handler would take the exit codes of this one's children
    child_exits.forget()
    process_locks.begin_child()
    log.forget_locks()
    signals.forget()
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
    if target in awake or ancestors(target)[-1] is not engine:
        return
    if origin is not hub:
        awake.add(target)
    while target not in awake:
        hub.switch()
