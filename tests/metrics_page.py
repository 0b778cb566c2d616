"""docs/reference/metrics.md, made from the table: `python -m tests.metrics_page` writes it."""

from __future__ import annotations

from pathlib import Path

from millpond.observe.metric_row import MetricRow
from millpond.observe.metric_table import SECTIONS

PAGE = Path(__file__).parent.parent / "docs/reference/metrics.md"

HEAD = """\
# Metrics

What a worker says of itself once a second, to whoever is named in the settings: a StatsD server (`[statsd] host`), a
Prometheus that asks `GET /metrics` (`[http] listen`), CloudWatch by lines of the log (`[cloudwatch] namespace`).
This page is made from the table of the code, and so are the [dashboards and alerts](../dashboards.md).

`received` = the sum of the outcomes + `abandoned` + what is in hand. The words are in the [glossary](../glossary.md).

## How they are named

- **Graphite** (`[statsd] format = "graphite"`): counters and timers of a queue are `<prefix>.<queue>.<name>`. What says
  "by type" also is `<prefix>.<queue>.type.<type>.<name>`, with `_` for each dot of the type. Gauges end with the
  process: `<prefix>.<queue>.<name>.<process>`, `<prefix>.worker.<name>.<process>` and
  `<prefix>.worker.type.<type>.<name>.<process>`.
- **Datadog** (`format = "datadog"`): `<prefix>.<name>` with the tags `queue`, `type` and, of gauges, `worker`. The sum
  over the types is the queue's: no delivery is counted twice.
- **Prometheus**: as the last column says, with the labels `queue` and `type`; times are histograms in seconds.
  `millpond_worker_info` names the worker and its version.
- **CloudWatch**: `<name>`, with `_` for each dot, in the namespace of the settings. The dimension is `queue` (with
  `by_type = true` also `queue` and `type`), `type` for what a type has in all queues, `service` (the namespace) for the
  process. No process is a dimension: use Sum, Average or Maximum over the workers. A line is written each minute, in
  Lambda after each batch. It has at most 100 times of each timer, chosen at random. Each metric of each queue costs
  about 0.30 dollars a month: `metrics` says which are sent. The log has to be JSON.

The process is `[worker] name`. Where another process of the machine has that name, `_2` follows, then `_3`: two workers
of one host never overwrite each other's gauges. A type without a handler counts as `unknown`. Above 200 times a second
a timer is sampled in StatsD, and says so (`@rate`). A counter never is.
"""
TEXTS = {
    "Outcomes": "Each delivery ends in exactly one, or is `abandoned`.",
    "Causes": "Why deliveries did not succeed, counted beside their outcomes.",
    "What SQS says of a queue": """\
Each worker asks once a minute (a call for the queue, one for its dead letters: 4 cents a month), and only where
somebody sees its metrics, or types `worker.py status`. Where SQS denies that (`queue.depth_unknown` in the log) they
are not sent.""",
    "The types": "Over all queues of the process.",
}
COLUMNS = ("name", "type", "unit", "what it tells", "what to do when it rises", "panel", "Prometheus")


def page() -> str:
    """The whole page."""
    parts = [HEAD]
    for heading, rows in SECTIONS.items():
        text = f"{TEXTS[heading]}\n\n" if heading in TEXTS else ""
        parts.append(f"## {heading}\n\n{text}{_table(rows)}")
    return "\n".join(parts)


def _table(rows: tuple[MetricRow, ...]) -> str:
    lines = [COLUMNS, ("---",) * len(COLUMNS), *map(_cells, rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines).replace("| --- |", "|---|").replace(" --- |", "---|")


def _cells(row: MetricRow) -> tuple[str, ...]:
    kind = f"{row.kind}, by type" if row.by_type else row.kind
    return f"`{row.name}`", kind, row.unit, row.text, row.advice, row.panel or "none", f"`{row.prometheus_name}`"


if __name__ == "__main__":
    PAGE.write_text(page())
