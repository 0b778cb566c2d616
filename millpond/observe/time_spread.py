"""TimeSpread: how times are spread, in few numbers: any percentile of them, to within a few percent."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence

#: In milliseconds, from 0.1 ms to ten hours: each bound is 19 % above the one before.
SPREAD_BOUNDS_MS = tuple(0.1 * 2 ** (step / 4) for step in range(115))


class TimeSpread:
    """The times of one thing, in milliseconds. `numbers`: how many fell between each bound and the one before."""

    __slots__ = ("count", "least", "most", "numbers")

    def __init__(self) -> None:
        self.numbers = [0] * (len(SPREAD_BOUNDS_MS) + 1)
        self.count = 0
        self.least, self.most = math.inf, 0.0

    def add(self, times: Sequence[float]) -> None:
        """Add times in milliseconds, at least one."""
        numbers = self.numbers
        for time in times:
            numbers[bisect_left(SPREAD_BOUNDS_MS, time)] += 1
        self.count += len(times)
        self.least, self.most = min(self.least, *times), max(self.most, *times)

    def merge(self, other: TimeSpread) -> None:
        """Add the times of another one."""
        self.numbers = [one + more for one, more in zip(self.numbers, other.numbers, strict=True)]
        self.count += other.count
        self.least, self.most = min(self.least, other.least), max(self.most, other.most)

    def percentile(self, percent: float) -> float | None:
        """The time that this share of all does not exceed; None where there is none. Between two bounds the times are
        taken to lie evenly."""
        if not self.count:
            return None
        rank, before = max(1, math.ceil(self.count * percent / 100)), 0
        for index, number in enumerate(self.numbers):
            if before + number >= rank:
                return min(self.most, max(self.least, _between(index, (rank - before - 0.5) / number)))
            before += number
        raise AssertionError("the count is the sum of the numbers")


def _between(index: int, share: float) -> float:
    low = SPREAD_BOUNDS_MS[index - 1] if index else 0.0
    high = SPREAD_BOUNDS_MS[min(index, len(SPREAD_BOUNDS_MS) - 1)]
    return low + (high - low) * share
