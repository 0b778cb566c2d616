"""Core: what every part of a process stands on: its pool, its core greenlets, its signals, and why it stops."""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable
from typing import Any, TypeVar

import gevent

from millpond.engine.delivery import Delivery
from millpond.errors import CRASHED, FINISHED, LEFT, Stopped
from millpond.foreign.trace import describe, traceback_of
from millpond.hub.clock import Clock, Event
from millpond.hub.forked import caught
from millpond.hub.pool import Pool, watch
from millpond.hub.pulse import Pulse
from millpond.hub.signals import ExitSignals
from millpond.observe import log

Built = TypeVar("Built")

#: A second Ctrl-C counts from here on: terminals and wrappers send the first one twice.
SECOND_SIGNAL_SECONDS = 0.5
#: What has not come to its end this long after the drain's is ended by force: platforms kill 5 s after it.
GRACE_SECONDS = 1.0
#: A boot that a signal ends has this long to let go of what it waits for.
LET_GO_SECONDS = 1.0


class Core:
    """One process, as long as it lives.

    1. It starts the core greenlets: one that dies, or is killed, takes the process down (exit code 2). So does an error
       in a timer of the engine.
    2. It keeps why the process stops: the first reason counts, but a crash outweighs it.
    3. `over` is set when all is settled, or when nothing more is to be waited for: a crash, a second Ctrl-C.

    `drain_seconds` may be infinite.
    """

    def __init__(self, concurrency: int, drain_seconds: float, clock: Clock, signals: ExitSignals) -> None:
        self.pool: Pool[Delivery] = Pool(concurrency, self._crashed)
        self.pulse = Pulse(clock)
        self.clock = clock
        clock.on_error = self.crash
        self.drain_seconds = drain_seconds
        self.signals = signals
        self.started = clock.now()
        self.stopped_at: float
        self.why = ""  # a signal's name, "empty", "refused" or "crash"
        self.exit_code = FINISHED
        self.over: Event = clock.event()
        self._stop: Event = clock.event()

    def install_signals(self) -> None:
        """SIGTERM, SIGINT, SIGHUP drain; a second SIGINT gives back at once."""
        loop = gevent.get_hub().loop
        self.signals.on_signal(lambda number: loop.run_callback_threadsafe(self._signalled, number))

    def _signalled(self, number: int) -> None:
        if not self.stopping:
            self.stop(signal.Signals(number).name)
        elif number == signal.SIGINT and self.clock.now() - self.stopped_at > SECOND_SIGNAL_SECONDS:
            self.over.set()

    def stop(self, why: str, exit_code: int = FINISHED) -> None:
        """Begin the drain. Its limit counts from here, where a handler may keep the hub from every further step."""
        if exit_code == CRASHED or self.exit_code == FINISHED:
            self.exit_code = exit_code
        if not self.stopping:
            self.why, self.stopped_at = why, self.clock.now()
            self.signals.end_within(self.limit_seconds, self.end_code(left=True))
        self._stop.set()

    @property
    def limit_seconds(self) -> float:
        """From the beginning of the drain until the process is ended by force."""
        return self.drain_seconds + GRACE_SECONDS

    def end_code(self, left: bool) -> int:
        """The exit code at the end; `left`: messages are left that a drain without trouble would have settled."""
        return LEFT if left and self.exit_code == FINISHED else self.exit_code

    @property
    def stopping(self) -> bool:
        """True once the drain was asked for."""
        return bool(self._stop.is_set())

    def wait(self, seconds: float) -> bool:
        """Sleep, but not past a signal. True: the drain was asked for."""
        self._stop.wait(seconds)
        return self.stopping

    def spawn(self, function: Callable[..., object], *args: Any) -> gevent.Greenlet:
        """Start a core greenlet: one that nothing but the end of the process ends."""
        greenlet = gevent.spawn(function, *args)
        watch(greenlet, self._crashed)
        return greenlet

    def _crashed(self, greenlet: gevent.Greenlet) -> None:
        self.crash(greenlet.exception or greenlet.value)  # the GreenletExit of one that was killed: by a handler, say

    def crash(self, error: BaseException) -> None:
        """A part of the engine failed: the process ends now, and nothing is drained."""
        text = f"the worker stops, because a part of its engine failed: {describe(error)}"
        log.event(logging.CRITICAL, "worker.crashed", text, traceback=traceback_of(error))
        self.stop("crash", CRASHED)
        self.over.set()

    def boot(self, build: Callable[[], Built]) -> Built | None:
        """Call `build` in a greenlet of its own, so that a signal ends what it waits for. Raises what it raises.

        Returns None where a signal came first.
        """
        booting = gevent.spawn(caught, build)
        gevent.wait([booting, self._stop], count=1)
        if not booting.ready():
            booting.kill(Stopped("a signal ends the boot"), timeout=LET_GO_SECONDS)
        built, error = booting.value if booting.successful() else (None, None)
        if error is not None and not self.stopping:
            raise error
        return built
