"""CloudwatchLines: metrics for CloudWatch as lines of the log, in its format for logs (EMF): no call is made."""

from __future__ import annotations

import logging
import random
import re
import time
from collections.abc import Callable, Container, Mapping
from typing import Any, NamedTuple

from millpond.observe.log_format import LogDocument, record_of
from millpond.observe.log_output import outputs
from millpond.observe.metric_row import MetricKey, MetricScope
from millpond.observe.metric_table import METRICS
from millpond.observe.metrics import MetricSecond, MetricSink

#: CloudWatch keeps one value a minute: lines that come more often cost more, and show no more.
LINE_SECONDS = 60.0
#: Values of one metric in one line, at most: the format's own limit. Of more times a random choice stands there.
MAX_VALUES_A_LINE = 100
#: Characters of the value of a dimension, at most: a line with a longer one is no metric.
MAX_DIMENSION = 1024
#: Units of the table as CloudWatch has them; all else is a Count.
CLOUDWATCH_UNITS = {"ms": "Milliseconds", "s": "Seconds", "%": "Percent", "bytes": "Bytes", "dollars": "None"}
#: The dimensions of each scope. No process is one: each would be metrics of its own, which are paid for one by one.
DIMENSIONS: dict[MetricScope, tuple[str, ...]] = {"queue": ("queue",), "type": ("type",), "worker": ("service",)}

CloudwatchValue = float | list[float]


class DimensionSet(NamedTuple):
    """The dimensions of one line, and their values."""

    names: tuple[str, ...]
    values: tuple[str, ...]


class CloudwatchLines(MetricSink):
    """Writes a line each minute for each queue (and, with `by_type`, for each type) that has something to say.

    `names`: the metrics that are sent: CloudWatch bills each of them, for each queue.
    """

    def __init__(
        self,
        namespace: str,
        names: Container[str],
        by_type: bool,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._namespace = namespace
        self._names = names
        self._by_type = by_type
        self._clock = clock
        self._written_at = clock()
        self._counts: dict[MetricKey, int] = {}
        self._times: dict[MetricKey, TimeSample] = {}
        self._gauges: dict[MetricKey, float] = {}

    def take(self, second: MetricSecond) -> None:
        for key, number in second.counts.items():
            self._counts[key] = self._counts.get(key, 0) + number
        for key, times in second.times.items():
            if key.name in self._names:
                self._times.setdefault(key, TimeSample()).add(times)
        self._gauges.update(second.gauges)

    def send(self, spread: bool) -> None:
        """Write the lines, once a minute; at the end, or of an invocation, at once."""
        if spread and self._clock() < self._written_at + LINE_SECONDS:
            return
        self._written_at = self._clock()
        for place, values in self._by_dimensions().items():
            document = cloudwatch_document(self._namespace, place, values, round(time.time() * 1000))
            record = record_of(logging.INFO, "worker.metrics", "metrics for CloudWatch", document)
            for output in outputs():
                output.handle(record)
        self._counts, self._times, self._gauges = {}, {}, {}

    def _by_dimensions(self) -> dict[DimensionSet, dict[str, CloudwatchValue]]:
        found: dict[DimensionSet, dict[str, CloudwatchValue]] = {}
        for key, number in self._counts.items():
            for place in self._sets_of(key):
                values: Any = found.setdefault(place, {})
                values[key.name] = values.get(key.name, 0) + number
        for key, value in self._gauges.items():
            for place in self._sets_of(key)[-1:]:
                found.setdefault(place, {})[key.name] = value
        for key, sample in self._times.items():
            for place in self._sets_of(key):
                merged: Any = found.setdefault(place, {}).setdefault(key.name, [])
                merged += sample.values
        return found

    def _sets_of(self, key: MetricKey) -> list[DimensionSet]:
        """Where a metric counts: for its queue, and for its type there."""
        if key.name not in self._names or key.name not in METRICS:
            return []
        values = {"queue": key.queue, "type": key.event_type, "service": self._namespace}
        names = DIMENSIONS[METRICS[key.name].scope]
        found = [names] + ([(*names, "type")] if self._by_type and key.event_type and key.queue else [])
        return [DimensionSet(one, tuple(dimension_value(values[name]) for name in one)) for one in found]


def dimension_value(text: str) -> str:
    """A value as CloudWatch takes it: ASCII that is printed, not blank, of 1024 characters at the most."""
    value = re.sub(r"[^ -~]", "_", text[:MAX_DIMENSION])
    return value if value.strip() else "_"


def cloudwatch_document(
    namespace: str, place: DimensionSet, values: Mapping[str, CloudwatchValue], now_ms: int
) -> LogDocument:
    """The members that CloudWatch reads: what is metric and what is dimension, and their values beside it."""
    metrics = [{"Name": _member(name), "Unit": _unit(name)} for name in values]
    directive = {"Namespace": namespace, "Dimensions": [list(place.names)], "Metrics": metrics}
    found: dict[str, Any] = dict(zip(place.names, place.values, strict=True))
    for name, value in values.items():
        found[_member(name)] = _fitting(value) if isinstance(value, list) else value
    return LogDocument({"_aws": {"Timestamp": now_ms, "CloudWatchMetrics": [directive]}, **found})


def _fitting(values: list[float]) -> list[float]:
    chosen = values if len(values) <= MAX_VALUES_A_LINE else random.sample(values, MAX_VALUES_A_LINE)
    return [round(max(0.0, value), 3) for value in chosen]


def _member(name: str) -> str:
    return name.replace(".", "_")


def _unit(name: str) -> str:
    return CLOUDWATCH_UNITS.get(METRICS[name].unit, "Count")


class TimeSample:
    """A random choice of the times of one minute, each second weighed by how many it had."""

    def __init__(self) -> None:
        self.values: list[float] = []
        self._number = 0

    def add(self, times: list[float]) -> None:
        """Choose from what was chosen and from these."""
        before, self._number = self._number, self._number + len(times)
        if self._number <= MAX_VALUES_A_LINE:
            self.values += times
            return
        size = MAX_VALUES_A_LINE
        new = sum(random.random() * self._number >= before for _ in range(size))
        new = max(min(new, len(times)), size - len(self.values))
        self.values = random.sample(self.values, size - new) + random.sample(times, new)
