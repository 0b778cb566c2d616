"""Threads: real ones, for handlers that block or compute, and the line of messages that wait for one."""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Callable
from typing import Any

from gevent import getcurrent
from gevent.event import Event
from gevent.threadpool import ThreadPool

from millpond.errors import MillpondError
from millpond.hub.countdown import Time
from millpond.hub.forked import caught
from millpond.hub.pool import Pool, Slot
from millpond.observe import log
from millpond.observe.screen import counted

#: Where other handlers want permits, a message waits this long for a thread at the most, then it is put off ...
MAX_TURN_SECONDS = 300.0
#: ... unless as many have ended within this time as stand before it.
SOON_SECONDS = 10.0
#: Whoever waits looks this often whether it is to be put off; the first look is also the first line in the log.
TURN_LOOK_SECONDS = 1.0
#: While messages wait, that is logged this often.
LOG_SECONDS = 60.0
#: Handlers that one line of the log names.
MAX_NAMED_TURNS = 5


class NoThread(MillpondError):
    """No thread is free, and the line is full or the wait was too long: the message is put off."""


class NotStarted(MillpondError):
    """The drain has begun before the handler had a thread."""


class Threads:
    """At most `size` threads, made when they are first needed; apart from gevent's own, which look names up.

    1. No interrupt reaches a thread. The greenlet that waits for it can be interrupted; the code then runs on, what it
       returns is ignored, and until it ends the others have one thread less.
    2. A message that waits for a thread stands in line. It takes no slot: the caller's has stepped aside until its
       handler has ended. But each holds a permit; where other handlers want some (`shared`) half are left for them, and
       what would not begin soon is put off.
    3. As soon as one has waited for a second, and then once a minute, it is logged which handlers have the threads.
    4. A thread that cannot be started (the platform's limit) is tried again each second while a message waits for it.
    """

    def __init__(self, size: int, time: Time, shared: bool) -> None:
        self._size = size
        self._time = time
        self._shared = shared
        self._pool: Any = None
        self._line: deque[_Turn] = deque()
        self._running: dict[_Turn, float] = {}  # and since when each
        self._ends: deque[float] = deque(maxlen=1_000)
        self._trouble = ""  # why no thread could be started
        self._logged_at = -math.inf
        self._put_off = 0
        self._draining = False

    def begin(self, call: Callable[[], object], where: str, is_last: Callable[[], bool]) -> Callable[[], object]:
        """Wait for a free thread and begin `call`, of the handler `where`, in it. Returns a function that waits for its
        end and returns its value.

        `is_last`: the message cannot be put off again, so it may wait for longer, and in a longer line.
        Raises NoThread and NotStarted.
        """
        slot = getcurrent()
        pool = slot.pool if isinstance(slot, Slot) else None
        turn = _Turn(where, self._time.now(), pool)
        step_back = _aside(pool)
        try:
            if not self._seat(turn):
                self._stand_in_line(turn, is_last)
            running = self._start(turn, call)
        except BaseException:
            step_back()
            raise

        def result() -> object:
            try:
                value, error = running.get()
            finally:
                step_back()
            if error is not None:
                raise error
            return value

        return result

    def drain(self) -> None:
        """Let none of those in line begin any more."""
        self._draining = True
        for turn in self._line:
            turn.woken.set()

    def resume(self) -> None:
        """Let threads begin again, after `drain`: the next invocation of a Lambda function begins."""
        self._draining = False

    # A thread

    def _start(self, turn: _Turn, call: Callable[[], object]) -> Any:
        try:
            running = self._pool.spawn(caught, call)
        except BaseException:
            self._leave(turn)
            raise
        running.rawlink(lambda _: self._end(turn))
        return running

    def _end(self, turn: _Turn) -> None:
        self._ends.append(self._time.now())
        self._leave(turn)

    def _leave(self, turn: _Turn) -> None:
        """Take it out of the line and out of its thread, and call the next one."""
        self._running.pop(turn, None)
        if turn in self._line:
            self._line.remove(turn)
        self._call_next()

    def _call_next(self) -> None:
        while self._line and self._seat(self._line[0]):
            turn = self._line.popleft()
            turn.seated = True
            turn.woken.set()

    def _seat(self, turn: _Turn) -> bool:
        """Give it a thread, where one is free or can be made."""
        if len(self._running) >= self._size or not self._has_thread(len(self._running) + 1):
            return False
        self._running[turn] = self._time.now()
        return True

    def _has_thread(self, number: int) -> bool:
        """Grow the pool to this size. True: it has it.

        It does not grow by itself: where no thread can be made it would raise, but keep the call, and run it later.
        """
        if self._pool is None:
            self._pool = ThreadPool(0)
        if self._pool.size >= number:
            return True
        try:
            self._pool.maxsize = number
            self._pool.size = number
        except RuntimeError as error:  # can't start new thread
            self._pool.maxsize = number - 1
            self._trouble = str(error)
            return False
        self._trouble = ""
        return True

    # The line

    def _stand_in_line(self, turn: _Turn, is_last: Callable[[], bool]) -> None:
        self._line.append(turn)
        try:
            while not turn.seated:
                self._nap(turn)
                if not turn.seated:
                    self._look(turn, is_last)
        except BaseException:
            self._leave(turn)
            raise

    def _nap(self, turn: _Turn) -> None:
        timer = self._time.timer(TURN_LOOK_SECONDS, turn.woken.set)
        try:
            turn.woken.wait()
            turn.woken.clear()
        finally:
            timer.cancel()

    def _look(self, turn: _Turn, is_last: Callable[[], bool]) -> None:
        if self._draining:
            raise NotStarted("the worker shuts down")
        self._call_next()  # where no thread could be started there may be room for one now
        if turn.seated:
            return
        if self._shared and turn.pool is not None and self._must_go(turn, turn.pool.size, is_last):
            self._put_off += 1
            self._log()
            raise NoThread(f"no thread was free for this handler: {self._taken()}")
        self._log()

    def _must_go(self, turn: _Turn, slots: int, is_last: Callable[[], bool]) -> bool:
        """True where it holds a permit that others may need, and would not begin soon."""
        now, before = self._time.now(), self._line.index(turn)
        soon = len(self._ends) > before and now - self._ends[-1 - before] < SOON_SECONDS
        if soon or (before < slots // 2 and now - turn.since < MAX_TURN_SECONDS):
            return False
        return not is_last() or before >= slots - self._size - max(1, slots // 10)

    def _taken(self) -> str:
        """Why no thread is free, as the end of a sentence."""
        running = len(self._running)
        if self._trouble:
            were = "was" if running == 1 else "were"
            return f"only {running} of {counted(self._size, 'thread')} {were} started ({self._trouble})"
        return "the only thread is taken" if self._size == 1 else f"all {self._size} threads are taken"

    def _log(self) -> None:
        now = self._time.now()
        if now - self._logged_at < LOG_SECONDS:
            return
        self._logged_at = now
        named = [
            f"{turn.where} for {now - since:.0f} s" for turn, since in list(self._running.items())[:MAX_NAMED_TURNS]
        ]
        if (more := len(self._running) - len(named)) > 0:
            named.append(f"{more} more")
        waits = "waits" if len(self._line) == 1 else "wait"
        put_off = f", and {counted(self._put_off, 'message')} had to be put off," if self._put_off else ""
        taken = ", taken" if self._trouble else ""
        who = f"{taken} by {', '.join(named)}" if named else ""
        text = (
            f"{counted(len(self._line), 'message')} {waits} for a thread{put_off} because {self._taken()}{who}: "
            "raise [worker] threads, or let these handlers end sooner"
        )
        log.event(logging.WARNING, "threads.busy", text, waiting=len(self._line), put_off=self._put_off)


class _Turn:
    """The turn of one message that wants a thread."""

    def __init__(self, where: str, since: float, pool: Pool[Any] | None) -> None:
        self.where = where
        self.since = since
        self.pool = pool  # whose slot it came from
        self.seated = False  # a thread is kept for it
        self.woken = Event()


def _aside(pool: Pool[Any] | None) -> Callable[[], object]:
    """Let this slot step aside. Returns what brings it back."""
    if pool is None:
        return lambda: None
    pool.step_aside()
    return pool.step_back
