"""Metrics: counters, timers and gauges, gathered in memory and sent to StatsD once a second."""

from __future__ import annotations

import logging
import math
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress

import gevent

from millpond.foreign.trace import describe, traceback_of
from millpond.observe import log
from millpond.observe.statsd_packets import Packer, StatsdSocket, Times, metric_name

FLUSH_SECONDS = 1.0
#: The part of a second over which its packets are spread: in a trial, a burst of them lost 39 % of the lines.
SPREAD_SECONDS = 0.8
#: The number of bursts: each wakes the process up, which at a low load costs more than the packet.
BURSTS = 10
#: The longest that flush() and close() wait for an address: a process that drains has no more to give.
LAST_FLUSH_SECONDS = 0.5


class Metrics:
    """The metrics of one process. Nothing here raises or sends before the next flush; without a host, nothing does.

    What is counted for each message is counted in a MetricCounter and a MetricTimer that were asked for once.

    `process` tells this process's gauges from those of others. `clock` and `sleep`: seconds.
    """

    def __init__(
        self,
        host: str,
        port: int,
        prefix: str,
        process: str,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] = gevent.sleep,
    ) -> None:
        self._on = bool(host)
        self._socket = StatsdSocket(host, port)
        self._packer = Packer(metric_name(prefix))
        self._process = metric_name(process).replace(".", "_")  # one node of the path: dashboards ask for <name>.*
        self._clock = clock
        self._sleep = sleep
        self._counters: dict[tuple[str, ...], MetricCounter] = {}
        self._timers: dict[tuple[str, ...], MetricTimer] = {}
        self._gauges: dict[str, Callable[[], float]] = {}
        self._packets: deque[str] = deque()
        self._sender: gevent.Greenlet | None = None

    def counter(self, *names: str) -> MetricCounter:
        """The counter `<prefix>.<name>`, of each of these names."""
        return self._counters.setdefault(names, MetricCounter())

    def timer(self, *names: str) -> MetricTimer:
        """The timer `<prefix>.<name>`, of each of these names."""
        return self._timers.setdefault(names, MetricTimer(self._on))

    def gauge(self, name: str, read: Callable[[], float]) -> None:
        """Send what `read` returns, at each flush, as the gauge `<prefix>.<name>.<process>`."""
        self._gauges[name] = read

    def start(self) -> None:
        """Start the greenlet that sends."""
        if self._on and self._sender is None:
            self._sender = gevent.spawn(self._run)

    def flush(self) -> None:
        """Send what there is, at once and unspread."""
        if not self._on:
            return
        with suppress(Exception), gevent.Timeout(LAST_FLUSH_SECONDS, False):
            if self._socket.address or self._socket.ready(self._clock()):
                self._gather()
                self._send(spread_seconds=0)

    def close(self) -> None:
        """Stop the sender and send what is left. What is counted later is lost."""
        if self._sender is not None:
            self._sender.kill()
        self.flush()
        self._socket.close()

    def _run(self) -> None:
        while True:
            started = self._clock()
            try:
                if self._socket.ready(started):
                    self._gather()
                    self._send(SPREAD_SECONDS)
                else:
                    self._drop_times()
            except Exception as error:
                text = f"the metrics of one second are lost: {describe(error)}"
                log.event(logging.WARNING, "statsd.failed", text, traceback=traceback_of(error))
            self._sleep(max(0.0, started + FLUSH_SECONDS - self._clock()))

    def _gather(self) -> None:
        """Turn what was counted since the last time into packets. Until there is an address, it goes on counting."""
        counts = self._take_counts()
        timings = {name: Times.of(times) for name, times in self._take_times().items()}
        gauges = {f"{metric_name(name)}.{self._process}": value for name, value in self._read_gauges().items()}
        self._packets += self._packer.packets(counts, gauges, timings)

    def _drop_times(self) -> None:
        """Counters can wait for an address; times would fill the memory."""
        for timer in list(self._timers.values()):
            timer.take()

    def _take_counts(self) -> dict[str, int]:
        counts: dict[str, int] = {}
        for names, counter in list(self._counters.items()):
            if n := counter.take():
                counts |= {name: counts.get(name, 0) + n for name in names}
        return counts

    def _take_times(self) -> dict[str, list[float]]:
        taken: dict[str, list[float]] = {}
        for names, timer in list(self._timers.items()):
            if times := timer.take():
                for name in names:
                    taken.setdefault(name, []).extend(times)
        return taken

    def _read_gauges(self) -> dict[str, float]:
        values = {}
        for name, read in list(self._gauges.items()):
            with suppress(Exception):  # a gauge that cannot be read now is left out
                value = round(float(read()), 3)
                if math.isfinite(value):
                    values[name] = value
        return values

    def _send(self, spread_seconds: float) -> None:
        at_once = -(-len(self._packets) // BURSTS)
        while self._packets:
            for _ in range(min(at_once, len(self._packets))):
                self._socket.send(self._packets.popleft())
            if spread_seconds:
                self._sleep(spread_seconds / BURSTS)


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
