"""ProcessMetrics: the metrics of one process, and whoever sends or shows them, as the settings want it."""

from __future__ import annotations

from collections.abc import Collection
from http import HTTPStatus

from millpond import __version__
from millpond.app.config import AllSettings
from millpond.app.output_settings import StatsdSettings
from millpond.http.http_server import PlainAnswer, Routes
from millpond.observe.cloudwatch_lines import CloudwatchLines
from millpond.observe.histograms import MetricHistograms
from millpond.observe.metrics import Metrics, MetricSink
from millpond.observe.prometheus import places_of, prometheus_text
from millpond.observe.statsd_packets import DatadogNaming, GraphiteNaming
from millpond.observe.statsd_sender import StatsdSender
from millpond.process.process_name import ProcessName


class ProcessMetrics:
    """The `metrics` of a process, for these sinks too. StatsD comes last: its packets take a part of each second.

    `types`: those that have a handler.
    """

    def __init__(self, settings: AllSettings, *own_sinks: MetricSink, types: Collection[str] = ()) -> None:
        sinks = [*own_sinks]
        self._name = settings.worker.name
        self._histograms = MetricHistograms()
        self._places = places_of(settings.queues, types)
        if settings.http.listen:
            sinks.append(self._histograms)
        if settings.cloudwatch.namespace:
            wanted = settings.cloudwatch
            sinks.append(CloudwatchLines(wanted.namespace, frozenset(wanted.metrics), wanted.by_type))
        if settings.statsd.host:
            self._process = ProcessName(settings.worker.name)
            sinks.append(statsd_sender(settings.statsd, self._process.text))
        self.metrics = Metrics(*sinks)

    @property
    def pages(self) -> Routes:
        """GET /metrics, where [http] listens."""
        return {"/metrics": lambda: PlainAnswer(HTTPStatus.OK, self.prometheus_text())}

    def prometheus_text(self) -> str:
        """The metrics now, as Prometheus reads them."""
        worker = {"name": self._name, "version": __version__}
        return prometheus_text(self.metrics.totals(), self._histograms, worker, self._places).rstrip("\n")


def statsd_sender(settings: StatsdSettings, process: str) -> StatsdSender:
    """What sends to the StatsD server of these settings, in its format."""
    naming = GraphiteNaming if settings.format == "graphite" else DatadogNaming
    return StatsdSender(settings.host, settings.port, naming(settings.prefix, process))
