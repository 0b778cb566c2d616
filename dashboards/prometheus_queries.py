"""What Prometheus is asked for. A worker is known there by the address that is scraped: the label instance."""

from __future__ import annotations

from typing import NamedTuple

from dashboards.alerts import COUNTED_MINUTES, Alert
from dashboards.panels import By, OverWorkers, Panel
from millpond.observe.metric_row import MetricRow

RATE = "[$__rate_interval]"
QUANTILES = {"50 %": 0.5, "90 %": 0.9, "99 %": 0.99}
LABELS: dict[By, str] = {"": "", "queue": "queue", "type": "type", "worker": "instance"}


class PrometheusTarget(NamedTuple):
    """An expression, and how its lines are called."""

    expression: str
    legend: str


def targets_of(panel: Panel) -> list[PrometheusTarget]:
    """The targets of a panel: one for each metric, and for each quantile of a time."""
    named = len(panel.rows) > 1
    return [one for row in panel.rows for one in _targets(row, panel.by, panel.over_workers, named)]


def _targets(row: MetricRow, by: By, over_workers: OverWorkers, named: bool) -> list[PrometheusTarget]:
    name = row.short_name if named or not by else ""
    if row.kind == "timer":
        return [PrometheusTarget(_quantile(row, by, one), _legend(by, title)) for title, one in QUANTILES.items()]
    if row.kind == "counter":
        return [
            PrometheusTarget(_over("sum", by, f"rate({row.prometheus_name}{_where(row, by)}{RATE})"), _legend(by, name))
        ]
    return [PrometheusTarget(_over(over_workers, by, f"{row.prometheus_name}{_where(row, by)}"), _legend(by, name))]


def expression_of(alert: Alert) -> str:
    """When an alert fires."""
    text = f"{_value_of(alert, '')} > {alert.limit:g}"
    return f"{text} or absent({alert.row.prometheus_name})" if alert.silence else text


def number_of(alert: Alert) -> PrometheusTarget:
    """The number of an alert in the first row; of a counter, how many times in the time that is shown."""
    return PrometheusTarget(_value_of(alert, _where(alert.row, alert.by), "$__range"), _legend(alert.by, ""))


def _value_of(alert: Alert, where: str, counted: str = f"{COUNTED_MINUTES}m") -> str:
    name = f"{alert.row.prometheus_name}{where}"
    if alert.row.kind == "counter":
        return _over("sum", alert.by, f"increase({name}[{counted}])")
    return _over(alert.over_workers, alert.by, name)


def _where(row: MetricRow, by: By) -> str:
    """Only what the variables of the dashboard choose."""
    labels = ["queue"] if row.scope == "queue" else []
    labels += ["type"] if row.scope == "type" or by == "type" else []
    chosen = [f'{label}=~"${label}"' for label in labels]
    return "{" + ",".join([*chosen, 'instance=~"$worker"']) + "}"


def _over(function: str, by: By, what: str) -> str:
    """One line for each of what it is by."""
    name = {"average": "avg"}.get(function, function)
    return f"{name} by ({LABELS[by]}) ({what})" if by else f"{name}({what})"


def _quantile(row: MetricRow, by: By, quantile: float) -> str:
    what = f"rate({row.prometheus_name}_bucket{_where(row, by)}{RATE})"
    return f"histogram_quantile({quantile}, sum by (le, {LABELS[by]}) ({what}))"


def _legend(by: By, name: str) -> str:
    return " ".join(part for part in (f"{{{{{LABELS[by]}}}}}" if by else "", name) if part)
