"""The metrics as Prometheus reads them: text exposition format 0.0.4, made anew for each scrape."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import accumulate
from typing import TypeVar

from millpond.observe.histograms import BOUNDS_MS, MetricHistogram, MetricHistograms
from millpond.observe.metric_row import MetricKey, MetricRow
from millpond.observe.metric_table import METRICS

PROMETHEUS_TYPE = "text/plain; version=0.0.4; charset=utf-8"

Value = TypeVar("Value")
Labels = tuple[tuple[str, str], ...]


def prometheus_text(totals: Mapping[MetricKey, int], kept: MetricHistograms, worker: Mapping[str, str]) -> str:
    """All metrics of the process: `totals` of its counters, and what is `kept` of the rest. `worker`: what it is, as
    labels of `millpond_worker_info`."""
    lines = [
        *_head("millpond_worker_info", "gauge", "The process; its value is always 1."),
        _line("millpond_worker_info", tuple(worker.items()), 1),
    ]
    totals = with_zeros(totals)
    for row in METRICS.values():
        lines += _rows_of(row, totals, kept)
    return "\n".join(lines) + "\n"


def with_zeros(totals: Mapping[MetricKey, int]) -> dict[MetricKey, int]:
    """The totals, and 0 for what was not counted yet of a queue, or of a type that it has brought: increase() does not
    see the first one of a counter that begins with 1."""
    queues = {key.queue for key in totals if key.queue}
    of_types = {(key.queue, key.event_type) for key in totals if key.event_type}
    counters = [row for row in METRICS.values() if row.kind == "counter" and row.scope == "queue"]
    plain = [MetricKey(row.name, queue) for row in counters if not row.by_type for queue in queues]
    typed = [MetricKey(row.name, *place) for row in counters if row.by_type for place in of_types]
    return dict.fromkeys([*plain, *typed], 0) | {**totals}


def _rows_of(row: MetricRow, totals: Mapping[MetricKey, int], kept: MetricHistograms) -> list[str]:
    """The lines of one metric; none where it has no value yet."""
    if row.kind == "timer":
        lines = [line for key, one in _of(row, kept.timers) for line in _histogram(row, _labels(key), one)]
        return [*_head(row.prometheus_name, "histogram", row.text), *lines] if lines else []
    values: Mapping[MetricKey, float] = totals if row.kind == "counter" else kept.gauges
    name = row.prometheus_name
    lines = [_line(name, _labels(key), value * row.prometheus_scale) for key, value in _of(row, values)]
    return [*_head(name, row.kind, row.text), *lines] if lines else []


def _of(row: MetricRow, values: Mapping[MetricKey, Value]) -> Iterator[tuple[MetricKey, Value]]:
    return ((key, value) for key, value in sorted(values.items()) if key.name == row.name)


def _head(name: str, kind: str, text: str) -> list[str]:
    help_text = text.replace("`", "").replace("\\", "\\\\").replace("\n", " ")
    return [f"# HELP {name} {help_text}", f"# TYPE {name} {kind}"]


def _histogram(row: MetricRow, labels: Labels, one: MetricHistogram) -> Iterator[str]:
    name, scale = row.prometheus_name, row.prometheus_scale
    sums = accumulate(one.numbers)
    for bound, number in zip(BOUNDS_MS, sums, strict=False):
        yield _line(f"{name}_bucket", (*labels, ("le", _number(bound * scale))), number)
    yield _line(f"{name}_bucket", (*labels, ("le", "+Inf")), one.count)
    yield _line(f"{name}_sum", labels, one.sum_ms * scale)
    yield _line(f"{name}_count", labels, one.count)


def _labels(key: MetricKey) -> Labels:
    return tuple((name, value) for name, value in (("queue", key.queue), ("type", key.event_type)) if value)


def _line(name: str, labels: Labels, value: float) -> str:
    text = ",".join(f'{label}="{_escaped(what)}"' for label, what in labels)
    return f"{name}{{{text}}} {_number(value)}" if text else f"{name} {_number(value)}"


def _number(value: float) -> str:
    return f"{value:.15g}"


def _escaped(text: str) -> str:
    return (
        text.encode("utf-8", "backslashreplace").decode().replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    )
