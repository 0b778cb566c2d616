"""A worker and a relay that takes a number of messages in a second and refuses the rest, in simulated time."""

from __future__ import annotations

import heapq
import random
from collections import deque
from typing import NamedTuple, Protocol

from millpond.app.handler_options import rate_limit
from millpond.engine.rate import TypeRate


class Event(NamedTuple):
    at: float
    kind: str
    began: float


class Relay(Protocol):
    per_second: float

    def takes(self, now: float) -> bool: ...


class Bucket:
    """A token bucket, as SES has one."""

    def __init__(self, per_second: float, depth: float) -> None:
        self.per_second, self.depth = per_second, depth
        self._tokens, self._at = depth, 0.0

    def takes(self, now: float) -> bool:
        self._tokens = min(self.depth, self._tokens + (now - self._at) * self.per_second)
        self._at = now
        is_taken = self._tokens >= 1
        self._tokens -= is_taken
        return is_taken


class AnySecond:
    """So many in any second."""

    def __init__(self, per_second: float) -> None:
        self.per_second = per_second
        self._taken: deque[float] = deque()

    def takes(self, now: float) -> bool:
        while self._taken and self._taken[0] <= now - 1:
            self._taken.popleft()
        is_taken = len(self._taken) < self.per_second
        if is_taken:
            self._taken.append(now)
        return is_taken


class EachSecond:
    """So many in each second of the clock."""

    def __init__(self, per_second: float) -> None:
        self.per_second = per_second
        self._second, self._number = -1, 0

    def takes(self, now: float) -> bool:
        if int(now) != self._second:
            self._second, self._number = int(now), 0
        self._number += 1
        return self._number <= self.per_second


class Worker:
    """Slots that all have work, a TypeRate before them, and a relay behind them."""

    def __init__(
        self,
        relay: Relay,
        written: str | None = None,
        slots: int = 100,
        seconds: float = 300.0,
        change: tuple[float, float] | None = None,
        after: float | None = None,
        work: tuple[float, float] = (0.15, 0.25),
        refusal: tuple[float, float] = (0.02, 0.08),
        on_the_way: float = 0.003,
    ) -> None:
        self.relay = relay
        self.rate = TypeRate(rate_limit(written) if written else None)
        self.started: list[float] = []
        self.accepted: list[float] = []
        self.refused: list[float] = []
        self._chance = random.Random(1)
        self._after, self._work, self._refusal, self._on_the_way = after, work, refusal, on_the_way
        self._running, self._slots = 0, slots
        self._timer_at = float("inf")
        self._events: list[Event] = []
        self._run(seconds, change)

    def a_second(self, moments: list[float], begin: float, end: float) -> float:
        return sum(begin <= moment < end for moment in moments) / (end - begin)

    def _run(self, seconds: float, change: tuple[float, float] | None) -> None:
        self._begin_more(0.0)
        while self._events and (event := heapq.heappop(self._events)).at < seconds:
            if change and event.at >= change[0]:
                self.relay.per_second = change[1]
            getattr(self, f"_{event.kind}")(event.at, event.began)
            self._begin_more(event.at)

    def _begin_more(self, now: float) -> None:
        while self._running < self._slots:
            wait = self.rate.take(now)
            if wait:
                if now + wait < self._timer_at:
                    self._timer_at = now + wait
                    self._push(self._timer_at + self._chance.uniform(0, 0.003), "may_begin", now)
                return
            self._running += 1
            self.started.append(now)
            self._push(now + self._chance.uniform(0, self._on_the_way), "arrives", now)

    def _push(self, at: float, kind: str, began: float) -> None:
        heapq.heappush(self._events, Event(at, kind, began))

    def _may_begin(self, now: float, began: float) -> None:
        self._timer_at = float("inf")

    def _arrives(self, now: float, began: float) -> None:
        is_taken = self.relay.takes(now)
        seconds = self._chance.uniform(*(self._work if is_taken else self._refusal))
        self._push(now + seconds, "succeeds" if is_taken else "is_refused", began)

    def _succeeds(self, now: float, began: float) -> None:
        self._running -= 1
        self.accepted.append(now)
        self.rate.succeeded(now)

    def _is_refused(self, now: float, began: float) -> None:
        self.refused.append(now)
        self.rate.too_fast(now, self._after, began=began, running=self._running)
        self._running -= 1
