"""The alerts: what is wrong, from when on, and what to do. The first row of each dashboard shows the same numbers."""

from __future__ import annotations

from typing import NamedTuple

from dashboards.panels import By, OverWorkers
from millpond.observe.metric_row import MetricRow
from millpond.observe.metric_table import METRICS

#: How far back a counter is looked at.
COUNTED_MINUTES = 10
PAGE = "docs/dashboards.md"


class Alert(NamedTuple):
    """It fires where a metric is above `limit` for `minutes`; `silence`: where nobody sends it, too."""

    name: str
    title: str
    metric: str
    by: By
    over_workers: OverWorkers
    limit: float
    minutes: int
    severity: str
    what: str
    action: str
    silence: bool = False

    @property
    def row(self) -> MetricRow:
        """The metric."""
        return METRICS[self.metric]

    @property
    def section(self) -> str:
        """Where the documentation says what to do."""
        return f"{PAGE}#{self.title.lower().replace(' ', '-')}"


ALERTS = (
    Alert(
        "MillpondDeadLetters",
        "Dead letters wait",
        "dead_letters",
        "queue",
        "max",
        0,
        1,
        "warning",
        "dead letters wait in the dead-letter queue of",
        "See why: `python worker.py dlq ls --group`. Mend it, then `python worker.py dlq replay --reason TEXT`.",
    ),
    Alert(
        "MillpondOldestMessage",
        "Messages wait too long",
        "oldest_seconds",
        "queue",
        "max",
        300,
        5,
        "critical",
        "messages have waited over 5 minutes in",
        "Slots all busy: add workers. Slots free: look for an open breaker, or for receives that fail.",
    ),
    Alert(
        "MillpondNoReceives",
        "No receives",
        "receive_age_seconds",
        "queue",
        "min",
        60,
        2,
        "critical",
        "no worker has received for over a minute from",
        "See whether a worker runs, and `receive.failed` in its log: `python worker.py check`.",
        silence=True,
    ),
    Alert(
        "MillpondBreakerOpen",
        "Breaker open",
        "type.breaker",
        "type",
        "max",
        0,
        1,
        "critical",
        "a server is down that is needed by",
        "`breaker.opened` in the log names it. Nothing is lost: the messages wait until it is back.",
    ),
    Alert(
        "MillpondHubBlocked",
        "Hub blocked",
        "worker.hub_blocked",
        "worker",
        "sum",
        0,
        0,
        "warning",
        "a handler has held up all others for seconds in",
        "`worker.blocked` in the log names the handler and its line: give it a thread, `@handler(..., thread=True)`.",
    ),
    Alert(
        "MillpondErrorRate",
        "Error rate high",
        "error_percent",
        "queue",
        "max",
        10,
        5,
        "critical",
        "over a tenth of the deliveries fail in",
        "See which type: the panel Causes by type. Then `error` and `reason` in the log.",
    ),
)
