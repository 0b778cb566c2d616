"""Home: whose sockets and threads a call uses, the process's (gevent's, where it has patched) or the system's own.

What is gevent's belongs to the hub of one thread. A real thread beside it, for example that of a handler with
thread=True, needs the system's own.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module
from time import monotonic
from typing import Any, Generic, TypeVar

#: (module, name) -> what has this name: ("socket", "socket") is a class.
Home = Callable[[str, str], Any]
Value = TypeVar("Value")

#: The time between two looks whether a call has ended: at first, and at last.
FIRST_LOOK_SECONDS, MAX_LOOK_SECONDS = 0.0001, 0.05


def process(module: str, name: str) -> Any:
    """What has this name in the process now."""
    return getattr(import_module(module), name)


def system(module: str, name: str) -> Any:
    """What has this name in Python itself, whatever was patched."""
    monkey = sys.modules.get("gevent.monkey")
    return monkey.get_original(module, name) if monkey else process(module, name)


def hub_thread() -> int:
    """The native id of the thread whose hub has all sockets; 0 where gevent has patched nothing."""
    monkey = sys.modules.get("gevent.monkey")
    patched = monkey is not None and monkey.is_module_patched("socket")
    return int(sys.modules["gevent.hub"].MAIN_THREAD_IDENT) if patched else 0


def home() -> Home:
    """The home of the current thread."""
    hub = hub_thread()
    return system if hub and system("_thread", "get_ident")() != hub else process


def thread_beside() -> int:
    """The native id of the current thread, where it is a real one beside gevent's hub; else 0."""
    return int(system("_thread", "get_ident")()) if home() is system else 0


class Errand(Generic[Value]):
    """A call in a thread of its own (a greenlet, where patched), for which a caller waits only as long as it wants.

    The caller looks now and then: it shares no lock that a hanging call, or another thread's hub, could hold.
    """

    def __init__(self, call: Callable[[], Value], home: Home) -> None:
        self._home = home
        self._outcome: tuple[Value | None, BaseException | None] | None = None
        self._began = monotonic()
        try:
            home("_thread", "start_new_thread")(self._run, (call,))
        except RuntimeError:  # no thread is left, or the interpreter ends: better without a limit than not at all
            self._run(call)

    def _run(self, call: Callable[[], Value]) -> None:
        try:
            self._outcome = call(), None
        except BaseException as error:  # `result` raises it
            self._outcome = None, error
        finally:
            if self._home is system:
                _leave_no_hub()

    @property
    def done(self) -> bool:
        """Whether it has ended, one way or the other."""
        return self._outcome is not None

    @property
    def age(self) -> float:
        """Seconds since it began."""
        return monotonic() - self._began

    def result(self, seconds: float) -> Value:
        """What the call returns or raises. TimeoutError: it has not ended within these seconds, and goes on."""
        end, pause, sleep = monotonic() + seconds, FIRST_LOOK_SECONDS, home()("time", "sleep")
        while self._outcome is None:
            left = end - monotonic()
            if left <= 0:
                raise TimeoutError("timed out")
            sleep(min(left, pause))
            pause = min(2 * pause, MAX_LOOK_SECONDS)
        value, error = self._outcome
        if error is not None:
            raise error
        return value  # type: ignore[return-value]


class _TimeIsOver(BaseException):
    """No Exception: an SDK's own loops would take it for an error of the network, and try again."""


def within(seconds: float, call: Callable[[], Value]) -> Value:
    """What the call returns or raises. TimeoutError: it has not ended within these seconds.

    A greenlet is interrupted. In a process without gevent nothing can be: there the call goes on in a thread of its
    own, and nobody waits for it.
    """
    if seconds <= 0:
        raise TimeoutError("timed out")
    if not hub_thread():
        return Errand(call, process).result(seconds)
    gevent = sys.modules["gevent"]
    timer = gevent.get_hub().loop.timer(seconds)
    # In the hub, which has control only while the caller waits inside its call.
    timer.start(gevent.getcurrent().throw, _TimeIsOver, update=True)
    try:
        return call()
    except _TimeIsOver:
        raise TimeoutError("timed out") from None
    finally:
        timer.close()


def _leave_no_hub() -> None:
    """Destroy the hub of a thread that used gevent's sockets: it would stay after the thread's end (gevent#1601)."""
    local = sys.modules.get("gevent._hub_local")
    hub = local.get_hub_if_exists() if local else None
    if hub is not None:
        hub.destroy(destroy_loop=True)
