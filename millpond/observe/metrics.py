"""Metrics: counters, timers and gauges, gathered in memory, and handed once a second to whoever sends or shows them."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import NamedTuple, Protocol

import gevent

from millpond.foreign.trace import describe, traceback_of
from millpond.observe import log
from millpond.observe.last_minute import LastMinute
from millpond.observe.metric_row import MetricKey

FLUSH_SECONDS = 1.0
#: The longest that flush() and close() wait for an address: a process that drains has no more to give.
LAST_FLUSH_SECONDS = 0.5


class MetricReading(NamedTuple):
    """What a process says of itself now: gauges, and totals that it counts by itself."""

    gauges: Mapping[MetricKey, float]
    totals: Mapping[MetricKey, int]


class MetricSecond(NamedTuple):
    """What is new since the last time: what was counted, the times in milliseconds, and the gauges now."""

    counts: Mapping[MetricKey, int]
    times: Mapping[MetricKey, list[float]]
    gauges: Mapping[MetricKey, float]


class MetricSink(Protocol):
    """Sends metrics, or shows them. What shows them is asked for: it has nothing to send and to close."""

    def take(self, second: MetricSecond) -> object:
        """Take what is new; it is called once a second, and at the end."""

    def send(self, spread: bool) -> object:
        """Send what is due; `spread` over the second, or at once, because nothing may follow."""
        return None

    def close(self) -> object:
        """Nothing more is sent."""
        return None


class Metrics:
    """The metrics of one process. Nothing here raises or sends before the next flush; without a sink, nothing does.

    What is counted for each message is counted in a MetricCounter and a MetricTimer that were asked for once. `clock`
    and `sleep`: seconds.
    """

    def __init__(
        self,
        *sinks: MetricSink,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] = gevent.sleep,
    ) -> None:
        self._sinks = sinks
        self._clock = clock
        self._sleep = sleep
        self._counters: dict[tuple[MetricKey, ...], MetricCounter] = {}
        self._timers: dict[MetricKey, MetricTimer] = {}
        self._gauges: dict[MetricKey, Callable[[], float]] = {}
        self._readers: list[Callable[[], MetricReading]] = []
        self._greenlet: gevent.Greenlet | None = None
        self._last_minute = LastMinute()

    @property
    def is_on(self) -> bool:
        """Whether anybody sees them."""
        return bool(self._sinks)

    def counter(self, *keys: MetricKey) -> MetricCounter:
        """The counter of each of these keys."""
        return self._counters.setdefault(keys, MetricCounter())

    def timer(self, key: MetricKey) -> MetricTimer:
        """The timer of this key."""
        return self._timers.setdefault(key, MetricTimer(self.is_on))

    def gauge(self, key: MetricKey, read: Callable[[], float]) -> None:
        """Read this gauge once a second."""
        self._gauges[key] = read

    def reader(self, read: Callable[[], MetricReading]) -> None:
        """Read all these once a second."""
        self._readers.append(read)

    def start(self) -> None:
        """Start the greenlet that gathers and sends."""
        if self._sinks and self._greenlet is None:
            self._greenlet = gevent.spawn(self._run)

    def flush(self) -> None:
        """Send what there is, at once and unspread."""
        if self._sinks:
            with suppress(Exception), gevent.Timeout(LAST_FLUSH_SECONDS, False):
                self._step(spread=False)

    def close(self) -> None:
        """Stop, and send what is left. What is counted later is lost."""
        if self._greenlet is not None:
            self._greenlet.kill()
        self.flush()
        for sink in self._sinks:
            sink.close()

    def waited_seconds(self, queue: str) -> float | None:
        """How long the last messages of this queue have waited in it; None: that is not known."""
        return self._last_minute.waited_seconds(queue, self._clock())

    def totals(self) -> dict[MetricKey, int]:
        """All that was counted since the start."""
        totals: dict[MetricKey, int] = {}
        for keys, counter in list(self._counters.items()):
            for key in keys:
                totals[key] = totals.get(key, 0) + counter.total
        return totals

    def _run(self) -> None:
        while True:
            started = self._clock()
            try:
                self._step(spread=True)
            except Exception as error:
                text = f"the metrics of one second are lost: {describe(error)}"
                log.event(logging.WARNING, "metrics.failed", text, traceback=traceback_of(error))
            self._sleep(max(0.0, started + FLUSH_SECONDS - self._clock()))

    def _step(self, spread: bool) -> None:
        second = self._gather()
        for sink in self._sinks:
            sink.take(second)
        for sink in self._sinks:
            sink.send(spread)

    def _gather(self) -> MetricSecond:
        gauges: dict[MetricKey, float] = {}
        for read in self._readers:
            with suppress(Exception):
                reading = read()
                gauges |= reading.gauges
                for key, total in reading.totals.items():
                    self.counter(key).total = total
        counts, times = self._take_counts(), self._take_times()
        self._last_minute.add(self._clock(), counts, times)
        gauges |= self._read_gauges() | self._last_minute.gauges()
        rounded = {key: round(float(value), 3) for key, value in gauges.items() if math.isfinite(value)}
        return MetricSecond(counts, times, rounded)

    def _take_counts(self) -> dict[MetricKey, int]:
        counts: dict[MetricKey, int] = {}
        for keys, counter in list(self._counters.items()):
            if n := counter.take():
                counts |= {key: counts.get(key, 0) + n for key in keys}
        return counts

    def _take_times(self) -> dict[MetricKey, list[float]]:
        taken = {key: timer.take() for key, timer in list(self._timers.items())}
        return {key: times for key, times in taken.items() if times}

    def _read_gauges(self) -> dict[MetricKey, float]:
        values = {}
        for key, read in list(self._gauges.items()):
            with suppress(Exception):  # a gauge that cannot be read now is left out
                values[key] = float(read())
        return values


class MetricCounter:
    """A counter: `total` so far."""

    __slots__ = ("_taken", "total")

    def __init__(self) -> None:
        self.total = self._taken = 0

    def take(self) -> int:
        """What was counted since the last time."""
        new, self._taken = self.total - self._taken, self.total
        return new


class MetricTimer:
    """A timer: its times since the last flush. `add(milliseconds)` is one more, from one place."""

    __slots__ = ("_times", "add")

    def __init__(self, kept: bool) -> None:
        self._times: list[float] = []
        # Twice a message: a method of our own would cost 0.2 us each.
        self.add: Callable[[float], object] = self._times.append if kept else _ignore

    def take(self) -> list[float]:
        """What was added, and begin again."""
        times = self._times.copy()
        self._times.clear()
        return times


def _ignore(milliseconds: float) -> None:
    pass
