"""The queries of the committed dashboards, asked as Grafana asks them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

from tests.dashboards.daemons import ROOT, STEP_SECONDS
from tests.dashboards.scenario import Run

Points = list[tuple[float, float]]
#: What Grafana puts in for its variables, where all of each is chosen. $__rate_interval is four scrapes.
GRAPHITE = {"$prefix": "millpond", "$queue": "*", "$type": "*", "$worker": "*"}
PROMETHEUS = {"$queue": ".*", "$type": ".*", "$worker": ".*", "$__rate_interval": f"{4 * STEP_SECONDS}s"}


class Asked(NamedTuple):
    """A panel and what its queries brought: the points of each line by its name."""

    title: str
    kind: str
    unit: str
    lines: dict[str, Points]

    def highest(self, line: str = "", begin: float = 0.0, end: float = float("inf")) -> float:
        """The highest value of the lines with this in their name, between two moments."""
        found = [
            value for name, points in self.lines.items() if line in name for at, value in points if begin <= at <= end
        ]
        return max(found, default=float("nan"))

    def last(self, line: str = "") -> float:
        """The last value of the line."""
        (points,) = (points for name, points in self.lines.items() if line in name)
        return points[-1][1]


def panels(kind: str) -> list[Any]:
    """The panels of a dashboard as it is committed."""
    board = json.loads((ROOT / f"dashboards/{kind}/dashboard.json").read_text())
    return [panel for panel in board["panels"] if panel["type"] != "row"]


def asked(run: Run, kind: str, end: float) -> Iterator[Asked]:
    """Each panel and what it shows of the run, until this moment."""
    ask = {"graphite": _graphite, "prometheus": _prometheus}[kind]
    for panel in panels(kind):
        lines: dict[str, Points] = {}
        for target in panel["targets"]:
            lines |= ask(run, target, end)
        yield Asked(panel["title"], panel["type"], panel["fieldConfig"]["defaults"]["unit"], lines)


def filled(text: str, variables: dict[str, str]) -> str:
    """A query with its variables filled in."""
    for name, value in sorted(variables.items(), reverse=True):
        text = text.replace(name, value)
    assert "$" not in text, text
    return text


def _graphite(run: Run, target: dict[str, Any], end: float) -> dict[str, Points]:
    return run.graphite.render(filled(target["target"], GRAPHITE), run.began - 5, end)


def _prometheus(run: Run, target: dict[str, Any], end: float) -> dict[str, Points]:
    seconds = {"$__range": f"{end - run.began:.0f}s"}
    found = run.prometheus.range(filled(target["expr"], PROMETHEUS | seconds), run.began, end)
    return {_legend(target["legendFormat"], labels): points for labels, points in found}


def _legend(text: str, labels: Any) -> str:
    for name, value in labels.items():
        text = text.replace(f"{{{{{name}}}}}", value)
    return text
