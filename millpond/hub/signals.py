"""The signals of a process: those that ask it to end, a thread that ends it by force, and those that steer it."""

from __future__ import annotations

import logging
import math
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Any

from gevent.monkey import get_original

from millpond.errors import FINISHED
from millpond.observe import log

# Native ones: gevent's belong to the hub, which may stand still.
_start_thread: Callable[..., Any] = get_original("_thread", "start_new_thread")
_get_ident: Callable[[], int] = get_original("_thread", "get_ident")
_sleep: Callable[[float], None] = get_original("time", "sleep")

NUMBERS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
#: Quiet, resume, dump: they end nothing.
STEERING_NUMBERS = (signal.SIGUSR1, signal.SIGUSR2, signal.SIGQUIT)
#: Until something can be in hand (imports, setup(), the first calls) a process has this long after a signal.
BEFORE_WORK_SECONDS = 3.0
#: How often the thread looks whether the limit has changed.
LIMIT_LOOK_SECONDS = 0.1
#: Frames of the stack in the log, the innermost ones, and characters: a pipe takes 4 KiB at once.
MAX_FRAMES, MAX_STACK = 12, 2_500


class ExitSignals:
    """SIGTERM, SIGINT and SIGHUP of one process.

    1. A signal that was ignored when the process began stays ignored: nohup's SIGHUP, SIGINT of a shell's background.
    2. A native thread sees each signal as it comes, also while the main thread computes, or is in C code.
    3. The process has `allow`ed seconds after the first one, or after `end_within`; then the thread ends it.
    """

    def __init__(self) -> None:
        self._seconds, self._code = BEFORE_WORK_SECONDS, FINISHED
        self._began = 0.0  # on the monotonic clock; 0.0: nobody has asked for the end
        self._main_thread = _get_ident()
        self._wakeup = -1  # a byte written there wakes the thread

    def start_thread(self) -> None:
        """Start the thread that ends the process. Call it in the main thread."""
        reading, self._wakeup = os.pipe()
        os.set_blocking(self._wakeup, False)
        signal.set_wakeup_fd(self._wakeup, warn_on_full_buffer=False)
        _start_thread(self._run, (reading,))

    @property
    def has_thread(self) -> bool:
        """True where the process is ours alone: the command line has started it."""
        return self._wakeup >= 0

    def let_through(self) -> None:
        """Take the signals that have come since `installed.hold_signals`, and all later ones as they come."""
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (*NUMBERS, *STEERING_NUMBERS))

    def on_signal(self, act: Callable[[int], object]) -> None:
        """Call `act` with the number of each signal, between any two steps of the main thread."""
        for number in NUMBERS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, lambda number, frame: act(number))

    def on_steering(self, act: Callable[[int, FrameType | None], object]) -> None:
        """The same for the signals that steer; `act` gets the frame in which the main thread stands, too."""
        for number in STEERING_NUMBERS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, act)

    def allow(self, seconds: float, code: int) -> None:
        """Let the process go on for this long after the first signal; `code`: its exit code if it is ended by force."""
        self._seconds, self._code = seconds, code

    def end_within(self, seconds: float, code: int) -> None:
        """The same from now on, whether there was a signal or not."""
        self.allow(seconds, code)
        self._began = time.monotonic()
        if self._wakeup >= 0:
            with suppress(BlockingIOError):  # full: it is awake
                os.write(self._wakeup, bytes([signal.SIGTERM]))

    @property
    def seconds_left(self) -> float:
        """Seconds until the process is ended by force; infinite where nobody has asked for its end."""
        return self._seconds - (time.monotonic() - self._began) if self._began else math.inf

    def _run(self, reading: int) -> None:
        while not self._began:
            if set(os.read(reading, 64)) & set(NUMBERS):
                self._began = self._began or time.monotonic()
        while self.seconds_left > 0:
            _sleep(LIMIT_LOOK_SECONDS)
        self._log_end()
        os._exit(self._code)

    def _log_end(self) -> None:
        stack = traceback.format_stack(sys._current_frames().get(self._main_thread))[-MAX_FRAMES:]
        text = f"the process did not end within {self._seconds:g} s and is ended by force, exit code {self._code}"
        log.from_thread(logging.WARNING, "worker.ended", text, traceback="".join(stack)[-MAX_STACK:])


def begin_child() -> None:
    """In a forked child: its signals are its own, and the thread of its parent sees none of them."""
    signal.set_wakeup_fd(-1)
    for number in (*NUMBERS, *STEERING_NUMBERS):
        if callable(signal.getsignal(number)):
            signal.signal(number, signal.SIG_DFL)
