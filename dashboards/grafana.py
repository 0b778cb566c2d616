"""The dashboards as Grafana reads them, by the package of its published schema (grafana-foundation-sdk)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from grafana_foundation_sdk.builders import common as look
from grafana_foundation_sdk.builders import dashboard as build
from grafana_foundation_sdk.builders import prometheus as prometheus_query
from grafana_foundation_sdk.builders import stat, timeseries
from grafana_foundation_sdk.cog import builder as cog
from grafana_foundation_sdk.cog import variants
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common, dashboard

from dashboards import graphite_queries, prometheus_queries
from dashboards.alerts import ALERTS, Alert
from dashboards.panels import PANEL_ROWS, Panel
from dashboards.prometheus_queries import PrometheusTarget
from millpond.observe.metric_row import MetricRow

SOURCE = "$source"
PANELS_A_LINE = 3
COLUMNS = 24
#: The unit of the table -> Grafana's, as StatsD and as Prometheus send it. Others are plain numbers.
UNITS = {"ms": ("ms", "s"), "s": ("s", "s"), "%": ("percent", "percent"), "bytes": ("bytes", "bytes")}
FIRST_ROW = "Is anything wrong?"


class GraphiteTarget(variants.Dataquery):
    """A query of Graphite; the package has none."""

    def __init__(self, ref_id: str, target: str) -> None:
        self.ref_id, self.target = ref_id, target

    def to_json(self) -> dict[str, object]:
        return {"refId": self.ref_id, "target": self.target, "textEditor": True}


class Built(cog.Builder[Any]):
    """What is there already, where the package wants a builder."""

    def __init__(self, built: Any) -> None:
        self._built = built

    def build(self) -> Any:
        return self._built


class Backend:
    """Where the metrics are, and how it is asked."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.source = dashboard.DataSourceRef(type_val=kind, uid=SOURCE)

    def unit(self, row: MetricRow) -> str:
        """How Grafana shows a metric."""
        unit = "cps" if row.kind == "counter" else row.unit
        return UNITS.get(unit, (unit, unit) if unit == "cps" else ("short", "short"))[self.kind == "prometheus"]

    def targets(self, panel: Panel) -> Iterator[cog.Builder[variants.Dataquery]]:
        """The queries of a panel."""
        if self.kind == "graphite":
            return map(self._target, range(26), graphite_queries.targets_of(panel))
        return map(self._target, range(26), prometheus_queries.targets_of(panel))

    def number(self, alert: Alert) -> cog.Builder[variants.Dataquery]:
        """The query of an alert in the first row."""
        queries = graphite_queries if self.kind == "graphite" else prometheus_queries
        return self._target(0, queries.number_of(alert))

    def workers(self) -> cog.Builder[variants.Dataquery]:
        """How many workers run."""
        series = "stats.gauges.$prefix.worker.uptime_seconds.*"
        return self._target(
            0,
            f"alias(sumSeries(isNonNull({series})), 'workers')"
            if self.kind == "graphite"
            else PrometheusTarget("count(millpond_worker_info)", "workers"),
        )

    def _target(self, index: int, query: str | PrometheusTarget) -> cog.Builder[variants.Dataquery]:
        ref_id = chr(ord("A") + index)
        if isinstance(query, str):
            return Built(GraphiteTarget(ref_id, query))
        return prometheus_query.Dataquery().ref_id(ref_id).expr(query.expression).legend_format(query.legend).range()

    def variables(self) -> Iterator[cog.Builder[dashboard.VariableModel]]:
        """What can be chosen above the panels."""
        yield build.DatasourceVariable("source").label("Data source").type(self.kind)
        if self.kind == "graphite":
            yield (
                build.TextBoxVariable("prefix")
                .label("StatsD prefix")
                .default_value("millpond")
                .current(dashboard.VariableOption(text="millpond", value="millpond"))
            )
            yield self._variable("queue", "stats.gauges.$prefix.*", "*").regex("/^(?!worker$).*/")
            yield self._variable("type", "stats.gauges.$prefix.worker.type.*", "*")
            yield self._variable("worker", "stats.gauges.$prefix.worker.uptime_seconds.*", "*")
        else:
            yield self._variable("queue", "label_values(millpond_in_hand, queue)", ".*")
            yield self._variable("type", "label_values(millpond_type_running, type)", ".*")
            yield self._variable("worker", "label_values(millpond_worker_info, instance)", ".*")

    def _variable(self, name: str, query: str, every: str) -> build.QueryVariable:
        return (
            build.QueryVariable(name)
            .label(name.capitalize())
            .datasource(self.source)
            .query(query)
            .refresh(dashboard.VariableRefresh.ON_TIME_RANGE_CHANGED)
            .sort(dashboard.VariableSort.ALPHABETICAL_ASC)
            .multi(True)
            .include_all(True)
            .all_value(every)
            .current(dashboard.VariableOption(text=["All"], value=["$__all"], selected=True))
        )


def dashboard_json(kind: str) -> str:
    """The dashboard for this kind of data source."""
    backend = Backend(kind)
    board = (
        build.Dashboard("Millpond")
        .uid({"graphite": "millpond"}.get(kind, f"millpond-{kind}"))
        .description(f"Made from the table of metrics by `python -m dashboards`; see docs/dashboards.md. Data: {kind}.")
        .tags(["millpond"])
        .time("now-1h", "now")
        .refresh("10s")
        .timezone("browser")
        .tooltip(dashboard.DashboardCursorSync.CROSSHAIR)
        .variables(list(backend.variables()))
    )
    if kind == "prometheus":
        board.annotation(_deploys(backend))
    ids = iter(range(1, 1000))
    board.with_row(build.Row(FIRST_ROW).id(next(ids)))
    for number in _first_row(backend):
        board.with_panel(number.id(next(ids)).span(COLUMNS // (len(ALERTS) + 1)).height(4))
    for row in PANEL_ROWS:
        board.with_row(build.Row(f"{row.title}: {row.question}").id(next(ids)))
        for panel, width in zip(row.panels, widths(len(row.panels)), strict=True):
            board.with_panel(_graph(panel, backend).id(next(ids)).span(width).height(8))
    return JSONEncoder(indent=1, sort_keys=True).encode(board.build()) + "\n"


def widths(number: int) -> list[int]:
    """The columns of each panel of a row: each line is filled."""
    lines = -(-number // PANELS_A_LINE)
    in_line = [number // lines + (line < number % lines) for line in range(lines)]
    return [COLUMNS // many for many in in_line for _ in range(many)]


def _deploys(backend: Backend) -> cog.Builder[dashboard.AnnotationQuery]:
    """A mark where a process began."""
    return (
        build.AnnotationQuery()
        .name("Workers that started")
        .datasource(backend.source)
        .enable(True)
        .icon_color("blue")
        .expr('millpond_worker_uptime_seconds{instance=~"$worker"} < 15')
    )


def _first_row(backend: Backend) -> Iterator[stat.Panel]:
    workers = _number("Workers", "Processes that send metrics.", backend, backend.workers())
    yield workers.thresholds(_thresholds("red", ("green", 1))).unit("short")
    for alert in ALERTS:
        number = _number(alert.title, f"{_sentence(alert)}\n\n{alert.action}", backend, backend.number(alert))
        number.thresholds(_thresholds("green", ("red", alert.limit + (1 if alert.limit == 0 else 0))))
        number.decimals(0 if alert.row.kind == "counter" else 1)
        number.unit("short" if alert.row.kind == "counter" else backend.unit(alert.row))
        yield number


def _sentence(alert: Alert) -> str:
    where = {"queue": "a queue", "type": "a type", "worker": "a worker"}[alert.by]
    return f"Red: {alert.what} {where}."


def _number(title: str, text: str, backend: Backend, query: cog.Builder[variants.Dataquery]) -> stat.Panel:
    counted = backend.kind == "graphite" and title in {alert.title for alert in ALERTS if alert.row.kind == "counter"}
    return (
        stat.Panel()
        .title(title)
        .description(text)
        .datasource(backend.source)
        .with_target(query)
        .reduce_options(look.ReduceDataOptions().calcs(["sum" if counted else "lastNotNull"]))
        .color_mode(common.BigValueColorMode.BACKGROUND)
        .graph_mode(common.BigValueGraphMode.NONE)
        .no_value("0" if counted else "-")
    )


def _thresholds(base: str, *steps: tuple[str, float]) -> cog.Builder[dashboard.ThresholdsConfig]:
    found = [
        dashboard.Threshold(color=base),
        *(dashboard.Threshold(value=value, color=color) for color, value in steps),
    ]
    return build.ThresholdsConfig().mode(dashboard.ThresholdsMode.ABSOLUTE).steps(found)


def _graph(panel: Panel, backend: Backend) -> timeseries.Panel:
    graph = (
        timeseries.Panel()
        .title(panel.title)
        .description(described(panel))
        .datasource(backend.source)
        .unit(backend.unit(panel.rows[0]))
        .min(0)
        .fill_opacity(10)
        .show_points(common.VisibilityMode.NEVER)
        .legend(_legend())
    )
    for query in backend.targets(panel):
        graph.with_target(query)
    return graph


def _legend() -> cog.Builder[common.VizLegendOptions]:
    legend = look.VizLegendOptions().show_legend(True).placement(common.LegendPlacement.BOTTOM)
    return legend.display_mode(common.LegendDisplayMode.LIST)


def described(panel: Panel) -> str:
    """What a panel shows, and what to do, in the words of the table."""
    lines = [f"- `{row.name}`: {row.text} *{row.advice}*" for row in panel.rows]
    return "\n".join([panel.text, "", *lines])
