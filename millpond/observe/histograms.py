"""MetricHistograms: what a scrape shows of the timers: how many took how long, since the start; and the last gauges."""

from __future__ import annotations

from bisect import bisect_right
from itertools import pairwise

from millpond.observe.metric_row import MetricKey
from millpond.observe.metrics import MetricSecond, MetricSink
from millpond.observe.time_spread import put_in_order

#: Upper bounds in milliseconds: from a handler of a millisecond to a message that waited for ten hours.
BOUNDS_MS = (
    *(1.0, 2.5, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1_000.0, 2_500.0, 5_000.0, 10_000.0, 30_000.0, 60_000.0),
    *(300_000.0, 1_800_000.0, 7_200_000.0, 36_000_000.0),
)


class MetricHistogram:
    """The times of one timer. `numbers`: how many fell under each bound and over the one before, and over all."""

    __slots__ = ("count", "numbers", "sum_ms")

    def __init__(self) -> None:
        self.numbers = [0] * (len(BOUNDS_MS) + 1)
        self.count, self.sum_ms = 0, 0.0

    def add(self, times: list[float]) -> None:
        """Add times in milliseconds."""
        put_in_order(times)
        places = [0, *(bisect_right(times, bound) for bound in BOUNDS_MS), len(times)]
        for index, (low, high) in enumerate(pairwise(places)):
            self.numbers[index] += high - low
        self.count += len(times)
        self.sum_ms += sum(times)


class MetricHistograms(MetricSink):
    """Keeps the timers of one process as histograms, and its gauges as they were a second ago."""

    def __init__(self) -> None:
        self.timers: dict[MetricKey, MetricHistogram] = {}
        self.gauges: dict[MetricKey, float] = {}

    def take(self, second: MetricSecond) -> None:
        for key, times in second.times.items():
            self.timers.setdefault(key, MetricHistogram()).add(times)
        self.gauges = {**second.gauges}
