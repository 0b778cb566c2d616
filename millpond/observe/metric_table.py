"""The table of all metrics. docs/reference/metrics.md, /metrics, the dashboards and their tests are made from it."""

from __future__ import annotations

from millpond.observe.counted_metrics import CAUSES, COUNTERS, OUTCOMES, TIMES
from millpond.observe.gauge_metrics import DEPTH_GAUGES, QUEUE_GAUGES, TYPE_GAUGES, WORKER_METRICS
from millpond.observe.metric_row import MetricRow

#: The rows under their headings, in the order of the page.
SECTIONS: dict[str, tuple[MetricRow, ...]] = {
    "Outcomes": OUTCOMES,
    "Causes": CAUSES,
    "Times": TIMES,
    "Other counters of a queue": COUNTERS,
    "Gauges of a queue": QUEUE_GAUGES,
    "What SQS says of a queue": DEPTH_GAUGES,
    "The types": TYPE_GAUGES,
    "The process": WORKER_METRICS,
}
#: Each metric by its name.
METRICS: dict[str, MetricRow] = {row.name: row for rows in SECTIONS.values() for row in rows}
