"""Batcher: single items in, calls of up to ten out."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

from millpond.hub.backoff import call_seconds
from millpond.hub.clock import Clock, Event, Timer
from millpond.sqs.limits import MAX_BATCH, MAX_BYTES

Item = TypeVar("Item")

#: Longest pause before another try: a lease or a finished delete waits behind it.
MAX_PAUSE_SECONDS = 2.0
#: How much of a pace the newest batch makes; a longer time without any item counts as so many seconds.
NEWEST_WEIGHT, REST_SECONDS = 0.3, 0.1
#: The longest pause once the drain has begun.
HURRIED_PAUSE_SECONDS = 0.5


class Pace:
    """How fast items come: the mean seconds from one to the next, as the last batches show it.

    What comes after a rest has come slowly: a rest counts for REST_SECONDS, so that a few batches tell another tale.
    """

    def __init__(self) -> None:
        self._gap_seconds = REST_SECONDS
        self._since = -math.inf

    def took(self, number: int, now: float) -> None:
        """So many items have gone, which came since the last ones did."""
        gap = min(REST_SECONDS, (now - self._since) / number)
        self._gap_seconds += (gap - self._gap_seconds) * NEWEST_WEIGHT
        self._since = now

    def fills_batch_in(self, seconds: float) -> bool:
        """Whether ten come in that time."""
        return self._gap_seconds * MAX_BATCH <= seconds


class Batcher(Generic[Item]):
    """Collects items and hands them on in batches.

    1. A batch goes when it is full (ten items, 1 MiB), when its first item has lingered, or when somebody says that
       no more will come (`ripen`). It lingers for `linger_seconds` where ten come in that time, and else, as it would
       gain little, for `brief_seconds`.
    2. There are as many flushers as the backlog needs, up to `flushers`: one alone caps the rate at ten a round trip
       (632 a second at 15 ms, where four made 2,514). They are made when they are first needed, and stay: to wake one
       costs 6 us, to spawn one 18.
    3. What `call` gives back is tried again, after a pause that grows.
    4. It never blocks: `is_full` tells who fills it to hold back, `on_room` that it may go on.
    5. With `key_of`, items of one key go one after another, through failures too: one is with a call, or pauses before
       another try, and those behind it wait. So a call takes one of each key.

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
        limit: int,
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
        self._flushers = flushers
        self._limit = limit
        self._size_of = size_of
        self._key_of = key_of
        self._busy: set[str] = set()  # keys
        self._on_room = on_room
        self._waiting: deque[Item] = deque()
        self._pausing: dict[int, tuple[Timer, list[Item]]] = {}
        self._linger: Timer | None = None
        self._ripe = False  # what waits now goes, full batch or not
        self._hurried = False
        self._is_eager = key_of is not None  # each item may be the one that can go, where others wait for their keys
        self._made = 0  # flushers
        self._beds: list[Event] = []  # of those that sleep
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
        if fills_one or (self._linger is None and number < MAX_BATCH) or self._is_eager:
            self._kick()

    @property
    def is_full(self) -> bool:
        """More items are under way than the limit allows."""
        return self.count >= self._limit

    def hurry(self) -> None:
        """From now on nothing lingers and no pause is long: the drain has begun."""
        self._hurried = self._is_eager = True
        for key in list(self._pausing):
            self._resume(key)
        self.ripen()

    def _kick(self) -> None:
        if self._hurried or len(self._waiting) >= MAX_BATCH:
            self._start_flushers()
        elif self._linger is None:
            patient = self._pace.fills_batch_in(self._linger_seconds)
            seconds = self._linger_seconds if patient else self._brief_seconds
            self._linger = self._clock.timer(seconds, self.ripen)

    def ripen(self) -> None:
        """What waits goes now, full batch or not."""
        if not self._waiting:
            return
        self._stop_linger()
        self._ripe = True
        self._start_flushers()

    def _stop_linger(self) -> None:
        if self._linger is not None:
            self._linger.cancel()
            self._linger = None

    def _start_flushers(self) -> None:
        full, rest = divmod(len(self._waiting), MAX_BATCH)
        wanted = full + (1 if rest and (self._ripe or self._hurried) else 0)
        while self._starting < wanted and (self._beds or self._made < self._flushers):
            self._starting += 1
            if self._beds:
                self._beds.pop().set()
            else:
                self._made += 1
                self._spawn(self._flush)

    def _flush(self) -> None:
        bed = self._clock.event()
        while True:
            self._starting -= 1
            while self._flush_one():
                pass
            self._beds.append(bed)
            bed.wait()
            bed.clear()

    def _flush_one(self) -> bool:
        batch = self._take()
        if not batch:
            return False
        again = self._call(batch)
        if self._key_of is not None:
            self._busy.difference_update(map(self._key_of, batch))
            self._busy.update(map(self._key_of, again))
        self._done(len(batch) - len(again))
        if again:
            self._pause(list(again))
        else:
            self._failures = 0
        return True

    def _take(self) -> list[Item]:
        waiting = self._waiting
        if len(waiting) < MAX_BATCH and not (self._ripe or self._hurried):
            if waiting:
                self._kick()
            return []
        if self._key_of is not None:
            batch = self._pick(self._key_of)
        else:
            batch = [waiting.popleft() for _ in range(self._fit())]
        if not waiting:
            self._ripe = False
            self._stop_linger()
        elif self._key_of is None:
            self._see_to_the_rest()
        if batch:
            self._pace.took(len(batch), self._clock.now())
        return batch

    def _see_to_the_rest(self) -> None:
        """What is left behind a batch waits for no answer to its call."""
        if self._ripe or self._hurried:
            self._start_flushers()
        elif len(self._waiting) < MAX_BATCH:  # else they are on their way already
            self._kick()

    def _pick(self, key_of: Callable[[Item], str]) -> list[Item]:
        """The first of each key that is free, as many as fit into one call."""
        batch: list[Item] = []
        rest: deque[Item] = deque()
        size = 0
        passed: set[str] = set()  # keys whose first item must wait: none overtakes it
        while self._waiting and len(batch) < MAX_BATCH:
            item = self._waiting.popleft()
            key = key_of(item)
            if key in self._busy or key in passed:
                rest.append(item)
                continue
            size_of_it = self._size_of(item) if self._size_of is not None else 0
            if batch and size + size_of_it > MAX_BYTES:
                passed.add(key)
                rest.append(item)
                continue
            self._busy.add(key)
            size += size_of_it
            batch.append(item)
        rest.extend(self._waiting)
        self._waiting = rest
        return batch

    def _fit(self) -> int:
        """How many of those that wait fit into one call; the first always does."""
        number = min(len(self._waiting), MAX_BATCH)
        if self._size_of is None:
            return number
        size = 0
        for index in range(number):
            size += self._size_of(self._waiting[index])
            if index and size > MAX_BYTES:
                return index
        return number

    def _done(self, number: int) -> None:
        was_full = self.is_full
        self.count -= number
        if was_full and not self.is_full:
            self._on_room()

    def _pause(self, items: list[Item]) -> None:
        self._failures += 1
        longest = HURRIED_PAUSE_SECONDS if self._hurried else MAX_PAUSE_SECONDS
        seconds = min(longest, call_seconds(self._failures, None))
        key = id(items)
        self._pausing[key] = (self._clock.timer(seconds, lambda: self._resume(key)), items)

    def _resume(self, key: int) -> None:
        timer, items = self._pausing.pop(key)
        timer.cancel()
        if self._key_of is not None:
            self._busy.difference_update(map(self._key_of, items))
            self._waiting.extendleft(reversed(items))
        else:
            self._waiting.extend(items)
        self.ripen()
