"""Batcher: single items in, calls of up to ten out."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

from millpond.hub.backoff import call_back_off_seconds
from millpond.hub.clock import Clock, Event, Timer
from millpond.sqs.limits import MAX_BATCH, MAX_BYTES

Item = TypeVar("Item")

#: The longest back-off before another try: a lease or a finished delete waits behind it.
MAX_BACK_OFF_SECONDS = 2.0
#: How much of a pace the newest batch makes; a longer time without any item counts as this many seconds.
NEWEST_WEIGHT, REST_SECONDS = 0.3, 0.1
#: The longest back-off once the drain has begun.
HURRIED_BACK_OFF_SECONDS = 0.5


class Pace:
    """How fast items come: the mean seconds from one to the next, as the last batches show it.

    A rest counts for no more than REST_SECONDS, so that a few batches after it show another pace.
    """

    def __init__(self) -> None:
        self._gap_seconds = REST_SECONDS
        self._since = -math.inf

    def add(self, number: int, now: float) -> None:
        """Take note of items that go now; they have come since the last ones went."""
        gap = min(REST_SECONDS, (now - self._since) / number)
        self._gap_seconds += (gap - self._gap_seconds) * NEWEST_WEIGHT
        self._since = now

    def fills_batch_in(self, seconds: float) -> bool:
        """Whether ten items come in that time."""
        return self._gap_seconds * MAX_BATCH <= seconds


class Batcher(Generic[Item]):
    """Collects items and hands them on in batches.

    1. A batch goes when it is full (ten items, 1 MiB), when its first item has lingered, or when no more will come
       (`flush`). It lingers for `linger_seconds` where ten come in that time, and else, as it would gain little, for
       `brief_seconds`.
    2. There are as many flushers as the backlog needs, up to `flushers`: one alone caps the rate at ten a round trip
       (632 a second at 15 ms, where four made 2,514). They are made when they are first needed, and stay: to wake one
       costs 6 us, to spawn one 18.
    3. What `call` gives back is tried again, after a back-off that grows.
    4. It never blocks: who fills it holds back while it `is_full`, and goes on when `on_room` is called.
    5. With `key_of`, items of one key go one after another, through failures too: one is with a call, or backs off
       before another try, and those behind it wait. So a call takes one of each key.

    `call` takes a batch and returns the items to try again; it handles its own errors.
    """

    def __init__(
        self,
        call: Callable[[list[Item]], Sequence[Item]],
        clock: Clock,
        spawn: Callable[..., Any],
        *,
        linger_seconds: float,
        brief_seconds: float = math.inf,
        flushers: int,
        max_waiting: int,
        size_of: Callable[[Item], int] | None = None,
        key_of: Callable[[Item], str] | None = None,
        on_room: Callable[[], object] = lambda: None,
    ) -> None:
        self._call = call
        self._clock = clock
        self._spawn = spawn
        self._linger_seconds = linger_seconds
        self._brief_seconds = min(brief_seconds, linger_seconds)
        self._pace = Pace()
        self._max_flushers = flushers
        self._max_waiting = max_waiting
        self._size_of = size_of
        self._key_of = key_of
        self._busy_keys: set[str] = set()
        self._on_room = on_room
        self._waiting: deque[Item] = deque()
        self._pausing: dict[int, tuple[Timer, list[Item]]] = {}
        self._linger: Timer | None = None
        self._is_due = False  # what waits now goes, full batch or not
        self._is_hurried = False
        self._looks_at_each = key_of is not None  # each item may be one that can go, where others wait for their keys
        self._flushers = 0
        self._asleep: list[Event] = []  # those of the flushers that sleep
        self._starting = 0  # flushers that have not looked at what waits yet
        self._failures = 0
        self.count = 0  # items put and not yet through: waiting, on their way, or pausing before another try

    def put(self, *items: Item) -> None:
        """Take items; never blocks."""
        before = len(self._waiting)
        self._waiting.extend(items)
        self.count += len(items)
        number = before + len(items)
        # Between two full batches nobody is to be woken: whoever takes the one sees to what is behind it.
        fills_one = number // MAX_BATCH > before // MAX_BATCH
        if fills_one or (self._linger is None and number < MAX_BATCH) or self._looks_at_each:
            self._start_or_linger()

    @property
    def is_full(self) -> bool:
        """More items are under way than `max_waiting`."""
        return self.count >= self._max_waiting

    def hurry(self) -> None:
        """From now on nothing lingers and no back-off is long: the drain has begun."""
        self._is_hurried = self._is_due = self._looks_at_each = True
        for key in list(self._pausing):
            self._resume(key)
        self.flush()

    def _start_or_linger(self) -> None:
        if self._is_hurried or len(self._waiting) >= MAX_BATCH:
            self._start_flushers()
        elif self._linger is None:
            patient = self._pace.fills_batch_in(self._linger_seconds)
            seconds = self._linger_seconds if patient else self._brief_seconds
            self._linger = self._clock.timer(seconds, self.flush)

    def flush(self) -> None:
        """What waits goes now, full batch or not."""
        if self._waiting:
            self._stop_linger()
            self._is_due = True
            self._start_flushers()

    def _stop_linger(self) -> None:
        if self._linger is not None:
            self._linger.cancel()
            self._linger = None

    def _start_flushers(self) -> None:
        full, rest = divmod(len(self._waiting), MAX_BATCH)
        wanted = full + (1 if rest and self._is_due else 0)
        while self._starting < wanted and (self._asleep or self._flushers < self._max_flushers):
            self._starting += 1
            if self._asleep:
                self._asleep.pop().set()
            else:
                self._flushers += 1
                self._spawn(self._run_flusher)

    def _run_flusher(self) -> None:
        woken = self._clock.event()
        while True:
            self._starting -= 1
            while self._flush_one():
                pass
            self._asleep.append(woken)
            woken.wait()
            woken.clear()

    def _flush_one(self) -> bool:
        batch = self._take()
        if not batch:
            return False
        again = self._call(batch)
        if self._key_of is not None:
            self._busy_keys.difference_update(map(self._key_of, batch))
            self._busy_keys.update(map(self._key_of, again))
        self._done(len(batch) - len(again))
        if again:
            self._back_off(list(again))
        else:
            self._failures = 0
        return True

    def _take(self) -> list[Item]:
        waiting = self._waiting
        if len(waiting) < MAX_BATCH and not self._is_due:
            if waiting:
                self._start_or_linger()
            return []
        if self._key_of is None and self._size_of is None:
            batch = [waiting.popleft() for _ in range(min(len(waiting), MAX_BATCH))]
        else:
            batch = self._pick()
        if not waiting:
            self._is_due = self._is_hurried
            self._stop_linger()
        elif self._key_of is None:
            self._see_to_the_rest()
        if batch:
            self._pace.add(len(batch), self._clock.now())
        return batch

    def _see_to_the_rest(self) -> None:
        """What is left behind a batch waits for no answer to its call."""
        if self._is_due:
            self._start_flushers()
        elif len(self._waiting) < MAX_BATCH:  # else they are on their way already
            self._start_or_linger()

    def _pick(self) -> list[Item]:
        """The first that fit into one call; of each key the first one, where no other of it is under way."""
        batch: list[Item] = []
        behind: list[Item] = []
        left = MAX_BYTES
        passed: set[str] = set()  # keys whose first item must wait: none overtakes it
        while self._waiting and len(batch) < MAX_BATCH:
            item = self._waiting.popleft()
            key = self._key_of(item) if self._key_of is not None else ""
            must_wait = key in self._busy_keys or key in passed
            size = self._size_of(item) if self._size_of is not None and not must_wait else 0
            if must_wait or (batch and size > left):
                behind.append(item)
                if self._key_of is None:
                    break
                passed.add(key)
                continue
            if self._key_of is not None:
                self._busy_keys.add(key)
            left -= size
            batch.append(item)
        self._waiting.extendleft(reversed(behind))
        return batch

    def _done(self, number: int) -> None:
        was_full = self.is_full
        self.count -= number
        if was_full and not self.is_full:
            self._on_room()

    def _back_off(self, items: list[Item]) -> None:
        self._failures += 1
        longest = HURRIED_BACK_OFF_SECONDS if self._is_hurried else MAX_BACK_OFF_SECONDS
        seconds = call_back_off_seconds(self._failures, None, most=longest)
        key = id(items)
        self._pausing[key] = (self._clock.timer(seconds, lambda: self._resume(key)), items)

    def _resume(self, key: int) -> None:
        timer, items = self._pausing.pop(key)
        timer.cancel()
        if self._key_of is not None:
            self._busy_keys.difference_update(map(self._key_of, items))
            self._waiting.extendleft(reversed(items))
        else:
            self._waiting.extend(items)
        self.flush()
