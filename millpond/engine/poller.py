"""Pollers: permits first, then the long poll."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple
from uuid import uuid4

from millpond.app.config import QueueSettings
from millpond.engine.permits import Share, Waiter
from millpond.errors import QueueError, Unreachable
from millpond.hub.backoff import call_seconds
from millpond.hub.clock import Clock, Event
from millpond.hub.countdown import Countdown
from millpond.sqs.http_connection import TOO_LARGE
from millpond.sqs.queue import Queue, Received

#: An answer that comes so long after its poll's wait is missed.
OVERDUE_SECONDS = 1.0
#: Beside other queues a poll that expects messages waits so long, for it holds a permit for each that it asks for; one
#: of a queue that is quiet four times as long, then longer: all permits of a busy queue are the others' soon after.
BRIEF_SECONDS = 2
#: After an answer that was too large half as many messages are asked for, and each so many seconds one more.
RECOVERY_SECONDS = 60.0
#: While nothing gets through a pause grows up to this.
MAX_PAUSE_SECONDS = 60.0
#: SQS knows an attempt id for five minutes; an answer of the last moment is no use.
ATTEMPT_SECONDS = 240.0


class Attempt(NamedTuple):
    """A receive by its ReceiveRequestAttemptId ("" on a standard queue): since when, and for how many messages.

    Made again it brings what it brought, however few are asked for then.
    """

    id: str
    since: float
    asked: int


class Pollers:
    """The long polls of one queue.

    1. One is open while the queue is quiet; another joins when a receive comes back full, one leaves when it comes
       back empty. There are never more than `pollers`.
    2. A receive that fails backs off by the kind of error and never ends the process. One that backs off, or whose
       answer is overdue, is not counted on: the others stay, and another takes the place of the last one.
    3. After `pause` (a handler's Unavailable) one message at a time is a probe, until one of them gets through; while
       none does the pauses grow. Messages that are kept in hand (`probe_kept` starts one) take turns with the queue's.
    4. A receive of a FIFO queue whose answer was lost is made again, by the same ReceiveRequestAttemptId: its messages
       come, where else they and their groups would be stuck until the visibility time-out.
    5. Beside other queues a poll asks for few messages, and for more as they come (`next_ask`), since each costs a
       permit while it is open; on a quiet queue it asks for one. After an answer that was too large it asks for fewer.
    6. After `stop` no receive begins; the open ones are left to return, for an aborted poll still takes messages.

    `deliver` gets what each receive brought, and by when at the latest SQS has handed it out. `failed` is told the
    error and how many receives failed in a row.
    """

    def __init__(
        self,
        queue: Queue,
        settings: QueueSettings,
        share: Share,
        clock: Clock,
        spawn: Callable[..., Any],
        deliver: Callable[[list[Received], float], object],
        failed: Callable[[QueueError, int, bool], object],
        probe_kept: Callable[[], bool] = lambda: False,
    ) -> None:
        self._queue = queue
        self._settings = settings
        self._is_fifo = settings.is_fifo  # read once: each receive asks
        self._share = share
        self._clock = clock
        self._spawn = spawn
        self._deliver = deliver
        self._failed = failed
        self._probe_kept = probe_kept
        self._waiters: set[Waiter] = set()
        self._failures = 0
        self._paused_until = -math.inf
        self._least_pause: float  # the longer the more probes have not got through
        self.probing = False  # after a pause, until a message gets through
        self._in_turns = False  # the last probe was a message that was kept in hand
        self._longest_wait = settings.wait_seconds
        self._probe_settled: Event = clock.event()
        self._stopping: Event = clock.event()
        self._ends_by: dict[object, float] = {}  # open poll -> when it must be back
        self._overdue: Countdown[object] = Countdown(settings.wait_seconds + OVERDUE_SECONDS, self._miss, clock)
        self._missed: set[object] = set()  # open polls that should be back
        self._rests: dict[object, float] = {}  # those that back off, and until when
        self._unanswered: list[Attempt] = []  # their answers were lost
        self._lost_until = -math.inf
        self._delay: float
        self._early = 0
        self._brought = 0  # by the last receive
        self._most = settings.max_messages  # that a receive may ask for now
        self._fewer_since: float
        self.active = 0
        self.empty_in_a_row = 0
        self.empty_since = 0.0  # when the last receive that came back empty was asked for
        self.ever_received = False
        self.ended: Event = clock.event()  # stopped, and no poll is open

    def start(self) -> None:
        """Open the first poll."""
        self.active += 1
        self._spawn(self._run)

    def stop(self) -> None:
        """Begin no further receive."""
        self._stopping.set()
        self._probe_settled.set()
        self.look_again()
        if self.active == 0:
            self.ended.set()

    def pause(self, seconds: float) -> None:
        """No receive for so long, then one message at a time until `probe_passed`."""
        now = self._clock.now()
        if not self.probing:
            self._least_pause = 1.0
        elif now >= self._paused_until:
            self._least_pause = min(MAX_PAUSE_SECONDS, 2 * self._least_pause)
        self.probing = True
        self._paused_until = max(self._paused_until, now + max(seconds, self._least_pause))
        self._probe_settled.set()
        self.look_again()

    def pause_left(self) -> float:
        """Seconds until the pause is over."""
        return max(0.0, self._paused_until - self._clock.now())

    def is_probe(self, started: float) -> bool:
        """Whether what began then began after the pause."""
        return started >= self._paused_until

    def probe_passed(self) -> None:
        """A message got through: receive as before."""
        if self.probing:
            self.probing = self._in_turns = False
            self._longest_wait = self._settings.wait_seconds
            self._probe_settled.set()

    def probe_over(self) -> None:
        """A message has ended in a way that says nothing: the next one is the probe."""
        self._probe_settled.set()

    def look_again(self) -> None:
        """A poll that waits for permits knows nothing of the pause, or of a message that is kept since."""
        for waiter in list(self._waiters):
            self._share.dismiss(waiter)

    def open_until(self) -> float:
        """When the last open poll can still take messages; 0.0 where none is open.

        One whose connection was lost counts until its time is over: SQS does not notice, and takes messages for it.
        """
        until = max((self._lost_until, *self._ends_by.values()))
        return until if until > self._clock.now() else 0.0

    def _run(self) -> None:
        try:
            while self.step():
                pass
        finally:
            self.active -= 1
            if self._stopping.is_set() and self.active == 0:
                self.ended.set()

    def step(self) -> bool:
        """Permits, one receive, and what it brought handed on. False: this poll leaves."""
        if self.probing and self._at_work() > 1:
            return False
        self._wait_out_pause()
        if self.probing and self._has_probed_kept():
            return True
        quiet = not (self._brought or self._share.alone)
        asked = self._acquire(quiet)
        if asked == 0:
            return not self._stopping.is_set()
        self._probe_settled.clear()
        started, wait_seconds = self._clock.now(), self._wait_seconds(quiet)
        received = self._receive(asked, wait_seconds)
        got = len(received or ())
        self._share.polled(asked, got, quiet)
        if received is None:
            self._probe_settled.set()
            return self._back_off()
        self._failures = 0
        self._deliver(received, started + wait_seconds)
        return self._after(asked, got, started, wait_seconds)

    def _has_probed_kept(self) -> bool:
        """In turns: a message of the queue's may be of another type, and get through. Where all permits are with those
        that are kept, one of these."""
        if self._in_turns and self._share.room() > 0:
            self._in_turns, self._longest_wait = False, min(self._settings.wait_seconds, BRIEF_SECONDS)
            return False
        self._in_turns, self._longest_wait = self._probe_kept(), self._settings.wait_seconds
        if self._in_turns:
            self._probe_settled.clear()
        return self._in_turns

    def _acquire(self, quiet: bool) -> int:
        if self._stopping.is_set():
            return 0
        waiter = self._share.waiter(self._want(), self.empty_in_a_row == 0, quiet)
        self._waiters.add(waiter)
        asked = self._share.acquire(waiter)
        self._waiters.remove(waiter)
        if asked and self._stopping.is_set():
            self._share.polled(asked, 0, quiet)
            return 0
        return asked

    def _want(self) -> int:
        if self.probing:
            return 1
        if self._most < self._settings.max_messages and self._clock.now() - self._fewer_since > RECOVERY_SECONDS:
            self._most, self._fewer_since = self._most + 1, self._clock.now()
        return self._most if self._share.alone else next_ask(self._brought, self._most)

    def _wait_seconds(self, quiet: bool) -> int:
        most = self._longest_wait
        if self._share.alone:
            return most
        seconds = min(most, BRIEF_SECONDS << 2 * min(self.empty_in_a_row, 2))
        return self._share.look_seconds(seconds) if quiet else seconds

    def _receive(self, asked: int, wait_seconds: int) -> list[Received] | None:
        settings = self._settings
        key, now = object(), self._clock.now()
        self._ends_by[key] = now + wait_seconds
        self._overdue.add(key)
        attempt = self._attempt(asked, now)
        try:
            received = self._queue.receive(attempt.asked, wait_seconds, settings.visibility_seconds, attempt.id)
        except QueueError as error:
            if error.code == TOO_LARGE:
                self._most, self._fewer_since = max(1, min(self._most, asked // 2)), now
            elif isinstance(error, Unreachable):
                self._lost_until = max(self._lost_until, self._ends_by[key])
                if attempt.id:
                    self._unanswered.append(attempt)
            self._failures += 1
            self._failed(error, self._failures, self.ever_received)
            self._delay = call_seconds(self._failures, error)
            return None
        finally:
            del self._ends_by[key]
            self._overdue.remove(key)
            self._missed.discard(key)
        self.ever_received = True
        return received

    def _attempt(self, asked: int, now: float) -> Attempt:
        """The first whose answer was lost, where there are permits for all that it may bring, or a new one."""
        self._unanswered = [attempt for attempt in self._unanswered if now - attempt.since < ATTEMPT_SECONDS]
        for attempt in self._unanswered:
            if attempt.asked <= asked:
                self._unanswered.remove(attempt)
                return attempt
        return Attempt(uuid4().hex if self._is_fifo else "", now, asked)

    def _miss(self, key: object) -> None:
        """In the hub: this poll hangs. Where no other is at work, one more is opened: nobody else would receive."""
        self._missed.add(key)
        if self._at_work() == 0 and self.active < self._settings.pollers and not self._stopping.is_set():
            self.start()

    def _at_work(self) -> int:
        """Polls to count on; no poll leaves where it is the only one of these."""
        return self.active - len(self._rests) - len(self._missed)

    def _back_off(self) -> bool:
        """In an outage one poll alone asks: another that rests, and will be back sooner, is enough."""
        until = self._clock.now() + self._delay
        if any(other <= until for other in self._rests.values()):
            return False
        self._rest(self._delay)
        return self._at_work() == 1 and not self._stopping.is_set()

    def _rest(self, seconds: float) -> None:
        key = object()
        self._rests[key] = self._clock.now() + seconds
        self._stopping.wait(seconds)
        del self._rests[key]

    def _after(self, asked: int, got: int, started: float, wait_seconds: int) -> bool:
        self._brought = got
        self.empty_in_a_row = 0 if got else self.empty_in_a_row + 1
        self.empty_since = 0.0 if got else started
        if got == asked and self._is_one_too_few() and not self.probing:
            self.start()
        if self._settings.pause_seconds:
            self._stopping.wait(self._settings.pause_seconds)
        return self._after_empty(started, wait_seconds) if got == 0 else not self._stopping.is_set()

    def _is_one_too_few(self) -> bool:
        """The last receive came back full: another poll would have permits, and no larger receive would do."""
        grown = self._share.alone or self._want() == self._most
        return grown and self.active < self._settings.pollers and self._share.room() > 0

    def _after_empty(self, started: float, wait_seconds: int) -> bool:
        """A long poll that comes back empty long before its time (SQS at its in-flight limit, a proxy's error page)
        must not become a hot loop."""
        if self._at_work() > 1:
            return False
        early = self._clock.now() - started < wait_seconds / 2
        self._early = self._early + 1 if early else 0
        if early:
            self._rest(call_seconds(self._early, None))
        return not self._stopping.is_set()

    def _wait_out_pause(self) -> None:
        if self.probing and self._share.held and not self._stopping.is_set():
            self._probe_settled.wait(self._settings.visibility_seconds)
        while not self._stopping.is_set() and (left := self._paused_until - self._clock.now()) > 0:
            self._stopping.wait(left)


def next_ask(got: int, most: int) -> int:
    """What a poll asks for after one that brought so many: twice that, so a busy queue has `most` after four."""
    return max(1, min(most, 2 * got))
