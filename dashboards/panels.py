"""The rows and panels of both dashboards, in the order of the questions of whoever looks at three in the morning."""

from __future__ import annotations

from typing import Literal, NamedTuple

from millpond.observe.metric_row import MetricRow
from millpond.observe.metric_table import METRICS

#: What each line of a panel is one of, beside its metric.
By = Literal["", "queue", "type", "worker"]
#: How the gauges that several workers send of one thing become one number.
OverWorkers = Literal["sum", "max", "min", "average"]


class Panel(NamedTuple):
    """A panel: the metrics whose row in the table names it; or `names`, which have their own panel too."""

    title: str
    text: str
    by: By = ""
    over_workers: OverWorkers = "sum"
    names: tuple[str, ...] = ()

    @property
    def rows(self) -> tuple[MetricRow, ...]:
        """Its metrics."""
        if self.names:
            return tuple(METRICS[name] for name in self.names)
        return tuple(row for row in METRICS.values() if row.panel == self.title)


class PanelRow(NamedTuple):
    """Panels side by side under a heading, and the question that they answer."""

    title: str
    question: str
    panels: tuple[Panel, ...]


#: Under the first row, "Is anything wrong?", which has a number for each alert.
PANEL_ROWS = (
    PanelRow(
        "Backlog and age",
        "Do messages wait, how many, how long, and would another worker help?",
        (
            Panel("Waiting in the queue", "What SQS says of each queue, asked once a minute.", "queue", "max"),
            Panel("Oldest message", "How long messages wait in each queue.", "queue", "max"),
            Panel("Backlog per worker", "The number to scale on.", "queue", "average"),
        ),
    ),
    PanelRow(
        "Throughput and errors",
        "What becomes of the messages, and why do some not succeed?",
        (
            Panel("Outcomes", "Each delivery ends in exactly one."),
            Panel("Causes", "Why deliveries did not succeed."),
            Panel("Error rate", "Of what ended in the last minute; of the worst worker.", "queue", "max"),
            Panel(
                "Outcomes by type",
                "Which type succeeds, and which does not.",
                "type",
                names=("succeeded", "retried", "dead_lettered"),
            ),
            Panel("Causes by type", "Which type fails.", "type", names=("failed", "timed_out", "rejected")),
            Panel("Error rate by type", "Of what ended in the last minute; of the worst worker.", "type", "max"),
        ),
    ),
    PanelRow(
        "Latencies",
        "How long do messages wait, and how long do handlers run?",
        (
            Panel("Latency", "From the send to the start of the first attempt.", "queue"),
            Panel("Duration", "In the handler.", "queue"),
            Panel("Latency by type", "The same by type.", "type", names=("latency",)),
            Panel("Duration by type", "The same by type.", "type", names=("duration",)),
        ),
    ),
    PanelRow(
        "Dead letters",
        "How many are there, since when, and of which type?",
        (
            Panel("Dead letters", "What waits in the dead-letter queue of each queue.", "queue", "max"),
            Panel("Dead-lettered by type", "When they were sent there.", "type", names=("dead_lettered",)),
            Panel("Follow-ups dead-lettered", "Messages that handlers left behind, and no queue took."),
        ),
    ),
    PanelRow(
        "Messages in hand and their leases",
        "Does the worker hold what it cannot work on, and does it keep what it holds?",
        (
            Panel("In hand", "Messages held by all workers together."),
            Panel("Oldest in hand", "The oldest message that a worker holds.", "queue", "max"),
            Panel("Redelivered, abandoned, stuck", "What should be rare: leases that ended, handlers that do not."),
        ),
    ),
    PanelRow(
        "Types",
        "Which type waits for what it needs?",
        (
            Panel("Breakers", "1: what the type needs is down, and its messages wait.", "type", "max"),
            Panel("Running", "Handlers of each type that run, in all workers.", "type"),
            Panel("Held", "Messages that wait for the breaker, rate or concurrency of their type.", "type"),
            Panel("Rate", "How many of each type may begin in a second; 0 where there is no limit.", "type"),
        ),
    ),
    PanelRow(
        "Workers",
        "Do the processes fare well, and when did each begin?",
        (
            Panel("Slots", "All at work: more copies, or more concurrency."),
            Panel("Receives", "Messages that receives brought, and receives that failed."),
            Panel("Polls open", "0 while messages wait: quiet, full, or receives fail.", "queue"),
            Panel("Last receive", "Of the worker that received last.", "queue", "min"),
            Panel(
                "Hub lag", "How late timers fire: what computes without waiting makes heartbeats late.", "worker", "max"
            ),
            Panel("Hub blocked, leases rescued", "Times that a handler held up all others, and what saved its leases."),
            Panel("Memory", "Of each process, and what the messages in hand take of it.", "worker", "max"),
            Panel("Uptime", "It begins anew with each deploy.", "worker", "max"),
        ),
    ),
    PanelRow(
        "Cost",
        "What does SQS bill?",
        (
            Panel("Requests", "Calls to SQS."),
            Panel(
                "Requests per 1,000 messages",
                "Of the worst worker since its start: full batches make 200.",
                "queue",
                "max",
            ),
            Panel("Dollars per million messages", "At that number of requests.", "queue", "max"),
        ),
    ),
)
PANELS = tuple(panel for row in PANEL_ROWS for panel in row.panels)
