"""The metrics as Prometheus reads them: text exposition format 0.0.4, made anew for each scrape."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import accumulate
from typing import TypeVar

from millpond.observe.histograms import BOUNDS_MS, MetricHistogram, MetricHistograms
from millpond.observe.metric_row import UNKNOWN_TYPE, MetricKey, MetricRow
from millpond.observe.metric_table import METRICS

Value = TypeVar("Value")
Labels = tuple[tuple[str, str], ...]
#: A queue and one of its types; "" is the queue itself.
ZeroPlace = tuple[str, str]
#: Pairs of a queue and a type that have zeros before anything was counted of them: each is 20 lines of 70 bytes. Of
#: more pairs each appears with its first message.
MAX_ZERO_PLACES = 100


def prometheus_text(
    totals: Mapping[MetricKey, int], kept: MetricHistograms, worker: Mapping[str, str], places: Iterable[ZeroPlace] = ()
) -> str:
    """All metrics of the process: `totals` of its counters, and what is `kept` of the rest. `worker`: what it is, as
    labels of `millpond_worker_info`; `places`: as `with_zeros` has them."""
    lines = [
        *_head("millpond_worker_info", "gauge", "The process; its value is always 1."),
        _line("millpond_worker_info", tuple(worker.items()), 1),
    ]
    counters = _by_name(with_zeros(totals, places))
    gauges, timers = _by_name(kept.gauges), _by_name(kept.timers)
    for row in METRICS.values():
        if row.kind == "timer":
            lines += _times_of(row, timers.get(row.name, ()))
        else:
            lines += _values_of(row, (counters if row.kind == "counter" else gauges).get(row.name, ()))
    return "\n".join(lines) + "\n"


def with_zeros(totals: Mapping[MetricKey, int], places: Iterable[ZeroPlace] = ()) -> dict[MetricKey, int]:
    """The totals, and 0 for what was not counted yet of a queue, or of a type that it has brought, or of these
    `places`: increase() does not see the first one of a counter that begins with 1."""
    of_types = {(key.queue, key.event_type): None for key in totals if key.event_type} | dict.fromkeys(places)
    queues = {key.queue: None for key in totals if key.queue} | {queue: None for queue, _ in of_types}
    counters = [row for row in METRICS.values() if row.kind == "counter" and row.scope == "queue"]
    plain = [MetricKey(row.name, queue) for row in counters if not row.by_type for queue in queues]
    typed = [MetricKey(row.name, *place) for row in counters if row.by_type for place in of_types if place[1]]
    return dict.fromkeys([*plain, *typed], 0) | {**totals}


def places_of(queues: Iterable[str], types: Collection[str]) -> list[ZeroPlace]:
    """Where zeros are shown from the start: each queue, and each type there, as far as these are MAX_ZERO_PLACES."""
    names = [*queues]
    kinds = ["", UNKNOWN_TYPE, *types] if len(names) * len(types) <= MAX_ZERO_PLACES else [""]
    return [(queue, kind) for queue in names for kind in kinds]


def _by_name(values: Mapping[MetricKey, Value]) -> dict[str, list[tuple[MetricKey, Value]]]:
    """In order, by the names of the metrics."""
    found: dict[str, list[tuple[MetricKey, Value]]] = {}
    for key in sorted(values):
        found.setdefault(key.name, []).append((key, values[key]))
    return found


def _values_of(row: MetricRow, values: Iterable[tuple[MetricKey, float]]) -> list[str]:
    """The lines of one counter or gauge; none where it has no value yet."""
    name, scale = row.prometheus_name, row.prometheus_scale
    lines = [_line(name, _labels(key), value * scale) for key, value in values]
    return [*_head(name, row.kind, row.text), *lines] if lines else []


def _times_of(row: MetricRow, values: Iterable[tuple[MetricKey, MetricHistogram]]) -> list[str]:
    """The lines of one timer; none where it has no time yet."""
    lines = [line for key, one in values for line in _histogram(row, _labels(key), one)]
    return [*_head(row.prometheus_name, "histogram", row.text), *lines] if lines else []


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
