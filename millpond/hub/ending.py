"""Ending: the signals that end a process, and the moment at which it ends whatever it is doing."""

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
from typing import Any

from gevent.monkey import get_original

from millpond.errors import STOPPED
from millpond.observe import log

# Native ones: gevent's belong to the hub, which may stand still.
_start_thread: Callable[..., Any] = get_original("_thread", "start_new_thread")
_get_ident: Callable[[], int] = get_original("_thread", "get_ident")
_sleep: Callable[[float], None] = get_original("time", "sleep")

NUMBERS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
#: While nothing is in hand (imports, setup(), the first calls) a process has so long after a signal.
IDLE_SECONDS = 3.0
#: The thread looks so often whether it may be longer by now.
TICK_SECONDS = 0.1
#: Frames of the stack in the log, the innermost ones, and characters: a pipe takes 4 KiB at once.
MAX_FRAMES, MAX_STACK = 12, 2_500


class Ending:
    """The end of one process.

    1. A signal that was ignored when the process began stays ignored: nohup's SIGHUP, SIGINT of a shell's background.
    2. A native thread hears of each signal as it comes, also while the main thread computes, or is in C code.
    3. After the first one (or `begin`) the process has `allow`ed seconds; then the thread ends it.
    """

    def __init__(self) -> None:
        self._seconds, self._code = IDLE_SECONDS, STOPPED
        self._began = 0.0  # on the monotonic clock; 0.0: nobody has asked
        self._main_thread = _get_ident()
        self._wakeup = -1  # a byte written there wakes the thread

    def watch(self) -> None:
        """Start the thread. In the main thread."""
        reading, self._wakeup = os.pipe()
        os.set_blocking(self._wakeup, False)
        signal.set_wakeup_fd(self._wakeup, warn_on_full_buffer=False)
        _start_thread(self._run, (reading,))

    def take(self, act: Callable[[int], object]) -> None:
        """`act` is called with the number of each signal, between any two steps of the main thread."""
        for number in NUMBERS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, lambda number, frame: act(number))

    def allow(self, seconds: float, code: int) -> None:
        """From the first signal on the process may go on for so long; the exit code, where it has to be ended then."""
        self._seconds, self._code = seconds, code

    def begin(self, seconds: float, code: int) -> None:
        """The same from now on, whether there was a signal or not."""
        self.allow(seconds, code)
        self._began = time.monotonic()
        if self._wakeup >= 0:
            with suppress(BlockingIOError):  # full: it is awake
                os.write(self._wakeup, bytes([signal.SIGTERM]))

    @property
    def seconds_left(self) -> float:
        """Infinite where nobody has asked for the end."""
        return self._seconds - (time.monotonic() - self._began) if self._began else math.inf

    def _run(self, reading: int) -> None:
        while not self._began:
            if set(os.read(reading, 64)) & set(NUMBERS):
                self._began = self._began or time.monotonic()
        while self.seconds_left > 0:
            _sleep(TICK_SECONDS)
        self._tell()
        os._exit(self._code)

    def _tell(self) -> None:
        stack = traceback.format_stack(sys._current_frames().get(self._main_thread))[-MAX_FRAMES:]
        text = f"the process has not ended within {self._seconds:g} s: it is ended, exit code {self._code}"
        log.from_thread(logging.WARNING, "worker.ended", text, traceback="".join(stack)[-MAX_STACK:])


def forget() -> None:
    """In a forked child: its signals are its own, and its parent's thread hears none of them."""
    signal.set_wakeup_fd(-1)
    for number in NUMBERS:
        if callable(signal.getsignal(number)):
            signal.signal(number, signal.SIG_DFL)
