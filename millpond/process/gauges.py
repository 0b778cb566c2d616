"""Gauges: what a snapshot of the process says, in numbers for the metrics."""

from __future__ import annotations

import math
from collections.abc import Mapping

from millpond.hub.clock import Clock
from millpond.observe.gauge_metrics import DEPTH_GAUGES
from millpond.observe.metric_row import MetricKey
from millpond.observe.metrics import MetricReading
from millpond.process.observer import Observer
from millpond.process.snapshot import QueueSnapshot, Snapshot, TypeSnapshot, WorkerSnapshot

#: A snapshot looks at each message in hand. Of each 2,000 it is good for a second more.
IN_HAND_A_SECOND = 2_000
#: What a million calls cost in most regions, in dollars; the first million of a month is free.
DOLLARS_A_MILLION_CALLS, FIFO_DOLLARS_A_MILLION_CALLS = 0.40, 0.50


class SnapshotGauges:
    """Reads gauges from snapshots; where very many messages are in hand, not from a new one each second."""

    def __init__(self, observer: Observer, clock: Clock) -> None:
        self._observer = observer
        self._clock = clock
        self._reading = MetricReading({}, {})
        self._good_until = 0.0
        self._silent_at: dict[str, float] = {}  # of each queue: when none of its receives could begin

    def read(self) -> MetricReading:
        """The gauges and totals now."""
        now = self._clock.now()
        if now >= self._good_until:
            snapshot = self._observer.take(most_running=0)
            self._silent_at |= {queue.name: now for queue in snapshot.queues if queue.rightly_silent}
            self._reading = reading_of(snapshot, {name: now - at for name, at in self._silent_at.items()})
            self._good_until = now + snapshot.worker.in_hand // IN_HAND_A_SECOND
        return self._reading


def reading_of(snapshot: Snapshot, silent_seconds: Mapping[str, float] = {}) -> MetricReading:
    """All gauges and totals of a snapshot. `silent_seconds`: how long ago each queue was rightly silent."""
    gauges = worker_gauges(snapshot.worker)
    totals = {
        MetricKey("worker.hub_blocked"): snapshot.worker.hub_blocked,
        MetricKey("worker.leases_rescued"): snapshot.worker.leases_rescued,
    }
    for queue in snapshot.queues:
        longest = min(snapshot.worker.uptime_seconds, silent_seconds.get(queue.name, math.inf))
        gauges |= queue_gauges(queue, longest) | depth_gauges(queue)
        totals[MetricKey("requests", queue.name)] = queue.requests
    for kind in snapshot.types:
        gauges |= type_gauges(kind)
    return MetricReading(gauges, totals)


def worker_gauges(worker: WorkerSnapshot) -> dict[MetricKey, float]:
    """Those of the process."""
    return {
        MetricKey("worker.slots_busy"): worker.slots_busy,
        MetricKey("worker.slots"): worker.slots,
        MetricKey("worker.memory_bytes"): worker.memory_bytes,
        MetricKey("worker.bytes_in_hand"): worker.bytes_in_hand,
        MetricKey("worker.uptime_seconds"): worker.uptime_seconds,
    }


def queue_gauges(queue: QueueSnapshot, longest_seconds: float) -> dict[MetricKey, float]:
    """Those of a queue, as the worker sees it. It may have received for so long."""
    price = FIFO_DOLLARS_A_MILLION_CALLS if queue.url.endswith(".fifo") else DOLLARS_A_MILLION_CALLS
    last = queue.last_receive_seconds
    values = {
        "in_hand": queue.in_hand,
        "ready": queue.ready,
        "held": queue.held,
        "requests_per_1000": queue.requests_per_1000,
        "dollars_per_million": queue.requests_per_1000 / 1000 * price,
        "oldest_in_hand_seconds": queue.oldest_in_hand_seconds,
        "polls_open": queue.polls_open,
        "receive_age_seconds": longest_seconds if last is None else min(last, longest_seconds),
    }
    return {MetricKey(name, queue.name): value for name, value in values.items()}


def depth_gauges(queue: QueueSnapshot) -> dict[MetricKey, float]:
    """What SQS said of a queue, as far as it did."""
    depth = queue.depth
    if depth is None:
        return {}
    values = {row.name: getattr(depth, row.name) for row in DEPTH_GAUGES}
    return {MetricKey(name, queue.name): value for name, value in values.items() if value is not None}


def type_gauges(kind: TypeSnapshot) -> dict[MetricKey, float]:
    """Those of a type."""
    values = {"breaker": kind.breaker != "closed", "rate": kind.rate, "running": kind.running, "held": kind.held}
    return {MetricKey(f"type.{name}", "", kind.event_type): float(value) for name, value in values.items()}
