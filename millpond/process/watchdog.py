"""Watchdog: extends leases, from a thread of its own, while a handler that computes or waits in C blocks the hub."""

from __future__ import annotations

import logging
import os
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from types import CodeType, FrameType
from typing import Any, NamedTuple

from gevent.monkey import get_original

from millpond.engine.lease import Lease
from millpond.errors import CRASHED
from millpond.foreign.trace import own_frames, place_of_frame
from millpond.hub.clock import Clock
from millpond.hub.pulse import PULSE_SECONDS, Pulse
from millpond.observe import log
from millpond.sqs.entries import results_of
from millpond.sqs.limits import MAX_BATCH
from millpond.sqs.queue import Failure

# Native ones: gevent's belong to the hub, which is blocked just when they are needed.
_start_thread: Callable[..., Any] = get_original("_thread", "start_new_thread")
_new_lock: Callable[[], Any] = get_original("_thread", "allocate_lock")
_get_ident: Callable[[], int] = get_original("_thread", "get_ident")
_sleep: Callable[[float], None] = get_original("time", "sleep")

#: A hub without a pulse for this long is blocked; sooner where a beat is due sooner.
BLOCKED_SECONDS = 1.0
#: How often the thread looks.
TICK_SECONDS = 0.25
#: A call that extends leases can hang: it may delay the log line about the block by this.
LOG_DELAY_SECONDS = 2.0
#: A look that comes this late proves nothing: on a busy machine one comes after 0.3 s.
LATE_LOOK_SECONDS = 1.0
#: Frames of the stack in the log, the innermost ones, and characters: a pipe takes 4 KiB at once.
MAX_FRAMES, MAX_STACK = 12, 2_500


BLOCKS = "so all other handlers wait; their leases are extended; @handler(..., thread=True) gives it a real thread"
NOBODY = "no handler is running, so see the traceback"
HELD_GIL = (
    "in one call that held the GIL for {:.1f} s (a regular expression, JSON, a sort): no lease was extended meanwhile"
)
HELD_BEFORE = "the hub was blocked by one call that held the GIL for {:.1f} s; its handler's line has as many `seconds`"


class GuardedQueue(NamedTuple):
    """One queue, as the thread sees it. `change_visibility` is as in queue.Queue, but by no socket and no lock of ours.

    `hand_over` gives it the keys of now; in a greenlet.
    """

    leases: Callable[[], list[Lease]]
    change_visibility: Callable[[Sequence[tuple[str, int]]], list[Failure | None]]
    hand_over: Callable[[], object]


class Block(NamedTuple):
    """How long the hub has been blocked, as the thread has seen it, and whether that is logged.

    Only ticks that came in time count: where the whole process was stopped, or the GIL was held, nobody is to blame.
    """

    seconds: float = 0.0
    logged: bool = False

    def after(self, pulse_age: float, tick: float) -> Block:
        """The block a tick later. `pulse_age`: seconds since the hub's last pulse."""
        if pulse_age < PULSE_SECONDS + TICK_SECONDS:
            return Block()
        return Block(self.seconds + (min(tick, TICK_SECONDS) if tick < LATE_LOOK_SECONDS else 0.0), self.logged)


def was_held(tick: float, busy: float) -> bool:
    """Whether a look came late since the process computed, and held the GIL: one that stood still computes nothing."""
    return tick >= LATE_LOOK_SECONDS and busy >= tick / 2


class Watchdog:
    """Two native threads beside the hub.

    1. Log once, with the stack, which handler blocks the hub, when it has not turned for a while.
    2. Extend meanwhile each lease whose beat is overdue (`Lease.mark` has the rules of that).
    3. End the process with exit code 2 after `max_block_seconds`: what it held is visible again a visibility time-out
       later. The second thread looks at that time alone, whatever the calls of the first one take.

    They take no lock that a greenlet could hold, logging's included. What holds the GIL (some C code) stops them too:
    it is logged and counted when it is over, and never ends the process.
    """

    def __init__(
        self,
        pulse: Pulse,
        clock: Clock,
        guards: Sequence[GuardedQueue],
        *,
        beat_seconds: float,
        max_block_seconds: float,
        handler_code: CodeType,
    ) -> None:
        self._pulse = pulse
        self._clock = clock
        self._guards = guards
        self._blocked_seconds = min(BLOCKED_SECONDS, beat_seconds / 2)
        self._max_block_seconds = max_block_seconds
        self._handler_code = handler_code
        self._hub_thread = _get_ident()
        self._looking = _new_lock()  # the threads' own
        self._block = Block()
        self._looked = clock.now()
        self._computed = time.process_time()
        self._stopped = False
        self._giving_up = False  # one of the threads says so
        self.hub_blocked = 0  # written by the threads alone
        self.leases_rescued = 0

    def start(self) -> None:
        """Start the threads. Call it in the hub's thread."""
        self._looked, self._computed = self._clock.now(), time.process_time()
        _start_thread(self._run, (self.step,))
        _start_thread(self._run, (self.look,))

    def stop(self) -> None:
        """Let the threads end at their next tick."""
        self._stopped = True

    def hand_over_keys(self) -> None:
        """In a greenlet, now and then: the threads may not ask a provider of credentials."""
        for guard in self._guards:
            guard.hand_over()

    def _run(self, step: Callable[[], bool]) -> None:
        try:
            while step():
                _sleep(TICK_SECONDS)
        except Exception as error:  # the crash rule: half an engine is none
            trace = traceback.format_exc()[-MAX_STACK:]
            log.from_thread(
                logging.CRITICAL,
                "worker.crashed",
                f"the watchdog died, so the process ends: {error!r}",
                traceback=trace,
            )
            os._exit(CRASHED)

    def step(self) -> bool:
        """Look, and do what is due. False: the watchdog is stopped."""
        if self.look() and self._block.seconds >= self._blocked_seconds:
            for guard in self._guards:
                self._extend(guard)
            self._log_block()
        return not self._stopped

    def look(self) -> bool:
        """See whether the hub turns; end the process where it has not for too long. False: the watchdog is stopped."""
        if self._stopped:
            return False
        with self._looking:
            now, computed, before = self._clock.now(), time.process_time(), self._block
            tick, busy = now - self._looked, computed - self._computed
            self._block = before.after(now - self._pulse.last, tick)
            self._looked, self._computed = now, computed
            held = tick if was_held(tick, busy) and not before.logged else 0.0
            if held:
                self.hub_blocked += 1
                self._block = self._block._replace(logged=now - self._pulse.last >= held)
        if held:
            self._log_held(held)
        if self._block.seconds >= self._blocked_seconds + LOG_DELAY_SECONDS:
            self._log_block()
        if self._block.seconds >= self._max_block_seconds:
            self._give_up()
        return True

    def _log_block(self) -> None:
        with self._looking:
            known, self._block = self._block, self._block._replace(logged=True)
        if not known.logged and known.seconds:
            self.hub_blocked += 1
            culprit = self._culprit()
            self._log(logging.WARNING, f"{culprit}, {BLOCKS}" if culprit else f"the hub is blocked: {NOBODY}")

    def _log_held(self, seconds: float) -> None:
        """Log, when it is over, what has stopped this thread too."""
        culprit = self._culprit()
        text = f"{culprit}, {HELD_GIL}" if culprit else HELD_BEFORE
        self._log(logging.WARNING, text.format(seconds), seconds)

    def _extend(self, guard: GuardedQueue) -> None:
        """Extend leases, ten a call, those that end first first; with new leases none is due twice in one round."""
        leases = sorted(guard.leases(), key=lambda lease: lease.deadline)
        for first in range(0, len(leases), MAX_BATCH):
            now = self._clock.now()
            marked = [(lease, change) for lease in leases[first : first + MAX_BATCH] if (change := lease.mark(now))]
            if marked:
                self._send(guard, marked, now)

    def _send(self, guard: GuardedQueue, marked: list[tuple[Lease, tuple[str, int]]], started: float) -> None:
        results: list[Failure | None] = []
        try:
            results = results_of(guard.change_visibility, [change for _, change in marked])
        finally:
            results = results or [Failure("crash")] * len(marked)
            now = self._clock.now()
            for (lease, (handle, seconds)), failure in zip(marked, results, strict=True):
                in_time = failure is None and now < lease.known_until()  # a late answer proves nothing
                lease.unmark(handle, started + seconds if in_time else 0.0)
                self.leases_rescued += in_time

    # What it logs

    def _stack(self) -> list[FrameType]:
        """The stack of the hub's thread, the innermost frame last."""
        innermost = sys._current_frames().get(self._hub_thread)
        return [frame for frame, _ in traceback.walk_stack(innermost)][::-1] if innermost is not None else []

    def _culprit(self) -> str:
        """The handler that blocks the hub, and where it stands; "" for none."""
        innermost = sys._current_frames().get(self._hub_thread)
        frames = own_frames(innermost, self._handler_code.co_filename)
        if not frames:
            return ""
        handler = frames[-1].f_code.co_qualname
        return f"the handler {handler} blocks the hub at {place_of_frame(frames[0])}"

    def _log(self, level: int, text: str, seconds: float = 0.0) -> None:
        frames = self._stack()[-MAX_FRAMES:]
        lines = traceback.StackSummary.extract((frame, frame.f_lineno) for frame in frames).format()
        fields = {
            "seconds": round(seconds or self._clock.now() - self._pulse.last, 1),
            "leases_rescued": self.leases_rescued,
        }
        log.from_thread(level, "worker.blocked", text, **fields, traceback="".join(lines)[-MAX_STACK:])

    def _give_up(self) -> None:
        """End the process, by the thread that comes first: the other one would end it in the middle of the log line."""
        with self._looking:
            is_first, self._giving_up = not self._giving_up, True
        if is_first:
            limit = f"max_block_seconds = {self._max_block_seconds:g}"
            text = f"the hub was blocked for {limit}: {self._culprit() or NOBODY}"
            self._log(logging.CRITICAL, f"{text}; the process ends with exit code {CRASHED}")
        elif self._block.seconds < self._max_block_seconds + LOG_DELAY_SECONDS:
            return
        os._exit(CRASHED)
