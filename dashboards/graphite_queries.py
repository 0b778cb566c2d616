"""What Graphite is asked for: StatsD's default names, and gauges that end with their process."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple

from dashboards.alerts import Alert
from dashboards.panels import By, OverWorkers, Panel
from millpond.observe.metric_row import MetricRow

#: What StatsD makes of the times of one flush, without any setting.
TIMES = ("median", "upper_90", "upper")


class GraphitePlace(NamedTuple):
    """Whose metrics are asked for: the variables of the dashboard, or all for an alert."""

    prefix: str = "$prefix"
    queue: str = "$queue"
    type: str = "$type"
    worker: str = "$worker"


CHOSEN = GraphitePlace()
EVERYWHERE = GraphitePlace("millpond", "*", "*", "*")


def targets_of(panel: Panel) -> list[str]:
    """The targets of a panel: one for all metrics of a kind."""
    kinds = groupby(panel.rows, key=lambda row: (row.kind, row.scope))
    return [target(list(rows), panel.by, panel.over_workers, len(panel.rows) > 1) for _, rows in kinds]


def target(
    rows: Sequence[MetricRow],
    by: By,
    over_workers: OverWorkers,
    named: bool,
    place: GraphitePlace = CHOSEN,
) -> str:
    """These metrics, one line for each of what they are by; `named`: each line says its metric too."""
    kind = rows[0].kind
    function = "sum" if kind == "counter" else "max" if kind == "timer" else over_workers
    nodes = [*_nodes_of(kind, by), *((_NAME[kind],) if named or not by else ()), *((-1,) if kind == "timer" else ())]
    grouped = f"groupByNodes({_path(rows, by, place)}, '{function}', {', '.join(map(str, nodes))})"
    return named_again(f"consolidateBy({grouped}, 'max')", len(nodes)) if function == "max" else grouped


def target_of(alert: Alert) -> str:
    """The worst of an alert's metric; of a counter, its rate.

    It is one series: Grafana knows several by the tags that Graphite gives them, which are the same for all that one
    function has made, and an alert with such results is an error to it.
    """
    return f"maxSeries({target([alert.row], alert.by, alert.over_workers, False, EVERYWHERE)})"


def number_of(alert: Alert) -> str:
    """The number of an alert in the first row; of a counter, how many times in each minute."""
    text = target([alert.row], alert.by, alert.over_workers, False)
    return named_again(f"hitcount({text}, '1min')", 1) if alert.row.kind == "counter" else text


def named_again(text: str, nodes: int) -> str:
    """The series with its name of before: Graphite calls each one by the function that made it."""
    return f"aliasByNode({text}, {', '.join(map(str, range(nodes)))})"


#: The node with the metric's name, from the end of its path.
_NAME = {"counter": -1, "gauge": -2, "timer": -2}


def _nodes_of(kind: str, by: By) -> tuple[int, ...]:
    """The node with what it is by: before the name; a process is the last one of a gauge, and unknown of a counter."""
    if by == "worker":
        return (-1,) if kind == "gauge" else (-2,)
    return (_NAME[kind] - 1,) if by else ()


def _path(rows: Sequence[MetricRow], by: By, place: GraphitePlace) -> str:
    names = [row.short_name for row in rows]
    name = names[0] if len(names) == 1 else f"{{{','.join(names)}}}"
    scope, kind = rows[0].scope, rows[0].kind
    nodes = ["stats", *{"counter": (), "gauge": ("gauges",), "timer": ("timers",)}[kind], place.prefix]
    nodes += ["worker"] if scope != "queue" else [place.queue]
    nodes += ["type", place.type] if scope == "type" or by == "type" else []
    return ".".join([*nodes, name, *{"counter": (), "gauge": (place.worker,), "timer": (_TIMES,)}[kind]])


_TIMES = f"{{{','.join(TIMES)}}}"
