"""The alerts as Prometheus reads them, and as Grafana does for Graphite."""

from __future__ import annotations

from typing import Any

import yaml

from dashboards import graphite_queries, prometheus_queries
from dashboards.alerts import ALERTS, COUNTED_MINUTES, PAGE, Alert
from dashboards.prometheus_queries import LABELS

HEAD = f"# Made by `python -m dashboards` from dashboards/alerts.py; {PAGE} says what to do about each.\n"
#: How far back Grafana looks for the last value of a gauge.
GAUGE_MINUTES = 5
#: As deploy/docker/grafana/datasources names it; Grafana's own name of its expressions.
GRAPHITE, EXPRESSION = "graphite", "__expr__"


def prometheus_alerts() -> str:
    """Rules of Prometheus."""
    rules = [
        {
            "alert": alert.name,
            "expr": prometheus_queries.expression_of(alert),
            "for": f"{alert.minutes}m",
            "labels": {"severity": alert.severity},
            "annotations": _annotations(alert, _prometheus_label(alert)),
        }
        for alert in ALERTS
    ]
    return _yaml({"groups": [{"name": "millpond", "rules": rules}]})


def grafana_alerts() -> str:
    """Alert rules that Grafana provisions, on Graphite."""
    rules = [_grafana_rule(alert) for alert in ALERTS]
    group = {"orgId": 1, "name": "millpond", "folder": "Millpond", "interval": "1m", "rules": rules}
    return _yaml({"apiVersion": 1, "groups": [group]})


def _prometheus_label(alert: Alert) -> str:
    """Whose alert it is; where nobody sends the metric, that is not known."""
    label = f"$labels.{LABELS[alert.by]}"
    return f'{{{{ or {label} "any {alert.by}" }}}}' if alert.silence else f"{{{{ {label} }}}}"


def _grafana_rule(alert: Alert) -> dict[str, Any]:
    """A: the series; B: one number of each; C: whether it is above the limit."""
    counted = alert.row.kind == "counter"
    query = {"refId": "A", "target": graphite_queries.target_of(alert), "textEditor": True}
    number: dict[str, Any] = {
        "refId": "B",
        "type": "reduce",
        "expression": "A",
        "reducer": "max" if counted else "last",
    }
    number |= {"settings": {"mode": "dropNN"}}
    above = {"evaluator": {"type": "gt", "params": [alert.limit]}}
    fires = {"refId": "C", "type": "threshold", "expression": "B", "conditions": [above]}
    return {
        "uid": alert.name.lower(),
        "title": alert.title,
        "condition": "C",
        "for": f"{alert.minutes}m",
        "noDataState": "Alerting" if alert.silence else "OK",
        "execErrState": "Error",
        "labels": {"severity": alert.severity},
        "annotations": _annotations(alert, f"some {alert.by}"),
        "data": [
            _grafana_query(query, GRAPHITE, COUNTED_MINUTES if counted else GAUGE_MINUTES),
            _grafana_query(number, EXPRESSION, 0),
            _grafana_query(fires, EXPRESSION, 0),
        ],
    }


def _grafana_query(model: dict[str, Any], source: str, minutes: int) -> dict[str, Any]:
    return {
        "refId": model["refId"],
        "relativeTimeRange": {"from": minutes * 60, "to": 0},
        "datasourceUid": source,
        "model": {**model, "datasource": {"uid": source, "type": source}},
    }


def _annotations(alert: Alert, where: str) -> dict[str, str]:
    sentence = f"{alert.what} {where}."
    return {
        "summary": f"{sentence[0].upper()}{sentence[1:]}",
        "description": alert.action,
        "runbook": alert.section,
    }


def _yaml(what: dict[str, Any]) -> str:
    text: str = yaml.safe_dump(what, sort_keys=False, width=1000)
    return HEAD + text
