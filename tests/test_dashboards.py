"""dashboards/: what is committed is what the table of metrics makes. `make dashboards` shows it on real daemons."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from dashboards import graphite_queries, prometheus_queries
from dashboards.alert_files import grafana_alerts, prometheus_alerts
from dashboards.alerts import ALERTS, PAGE
from dashboards.panels import PANELS
from millpond.observe.metric_row import MetricRow
from millpond.observe.metric_table import METRICS

ROOT = Path(__file__).parent.parent
BOARDS = {
    kind: json.loads((ROOT / f"dashboards/{kind}/dashboard.json").read_text()) for kind in ("graphite", "prometheus")
}
PROMETHEUS_NAMES = {row.prometheus_name: name for name, row in METRICS.items()}


def graphs(board: Any) -> dict[str, list[str]]:
    """The queries of each panel that shows a course, by its title."""
    return {
        panel["title"]: [target.get("target") or target["expr"] for target in panel["targets"]]
        for panel in board["panels"]
        if panel["type"] == "timeseries"
    }


def names_in(kind: str, query: str) -> Iterator[str]:
    """The metrics that a query asks for, read from its text alone."""
    if kind == "prometheus":
        for name in re.findall(r"millpond_\w+", query):
            yield PROMETHEUS_NAMES.get(name.removesuffix("_bucket"), name)
        return
    path = re.findall(
        r"stats\.(?:(?:gauges|timers)\.)?\$prefix\.(\$queue|worker)\.(type\.\$type\.)?({[^}]*}|\w+)", query
    )
    for place, of_type, names in path:
        scope = {"$queue": "", "worker": "type." if of_type else "worker."}[place]
        yield from (f"{scope}{name}" for name in names.strip("{}").split(","))


@pytest.mark.parametrize("kind", BOARDS)
def test_each_metric_of_the_table_is_on_the_panel_that_its_row_names(kind):
    shown = {
        title: {name for one in queries for name in names_in(kind, one)}
        for title, queries in graphs(BOARDS[kind]).items()
    }
    assert [row.name for row in METRICS.values() if row.name not in shown.get(row.panel, ())] == []
    assert {name for names in shown.values() for name in names} == METRICS.keys()


@pytest.mark.parametrize("kind", BOARDS)
def test_each_query_is_the_one_that_the_table_makes(kind):
    made = {"graphite": graphite_queries.targets_of, "prometheus": prometheus_queries.targets_of}[kind]
    wanted = {panel.title: [getattr(one, "expression", one) for one in made(panel)] for panel in PANELS}
    assert graphs(BOARDS[kind]) == wanted


@pytest.mark.parametrize("kind", BOARDS)
def test_each_panel_says_what_its_metrics_tell_and_what_to_do(kind):
    texts = {panel["title"]: panel["description"] for panel in BOARDS[kind]["panels"] if panel["type"] == "timeseries"}
    missing = [row.name for row in METRICS.values() if not {row.text, row.advice} <= said_in(texts[row.panel], row)]
    assert missing == []


def said_in(text: str, row: MetricRow) -> set[str]:
    return {part for part in (row.text, row.advice) if part in text}


@pytest.mark.parametrize("kind", BOARDS)
def test_the_first_row_has_a_number_for_each_alert(kind):
    titles = [panel["title"] for panel in BOARDS[kind]["panels"]]
    assert titles[:2] == ["Is anything wrong?", "Workers"]
    assert titles[2 : 2 + len(ALERTS)] == [alert.title for alert in ALERTS]


@pytest.mark.parametrize("kind", BOARDS)
def test_the_panels_fill_the_page_and_none_lies_on_another(kind):
    places = [panel["gridPos"] for panel in BOARDS[kind]["panels"]]
    cells = [
        (x, y) for at in places for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])
    ]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) == 23


@pytest.mark.parametrize(
    ("path", "made"), [("graphite/alerts.yaml", grafana_alerts), ("prometheus/alerts.yaml", prometheus_alerts)]
)
def test_the_alerts_are_those_of_the_table(path, made):
    assert yaml.safe_load((ROOT / "dashboards" / path).read_text()) == yaml.safe_load(made())


def test_each_alert_leads_to_its_section():
    page = (ROOT / PAGE).read_text()
    headings = {
        f"{PAGE}#{re.sub(r'[^a-z0-9 -]', '', line.lower()).replace(' ', '-')}"
        for line in re.findall("^#+ (.*)$", page, re.M)
    }
    assert {alert.section for alert in ALERTS} - headings == set()
