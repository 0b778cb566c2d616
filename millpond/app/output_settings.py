"""[statsd] and [log]: what a worker says of itself, and where."""

from __future__ import annotations

from typing import Literal

import msgspec

from millpond.app.setting_types import Host, MetricNames, Namespace, Port, Rate, Text
from millpond.foreign.secrets import Unshown

LogLevel = Literal["debug", "info", "warning", "error", "critical"]


class StatsdSettings(Unshown, msgspec.Struct, frozen=True):
    """[statsd]: metrics; off where host is empty."""

    host: Host = ""
    port: Port = 8125
    prefix: Text = "millpond"
    format: Literal["graphite", "datadog"] = "graphite"


#: What an alarm or a scaling rule needs. CloudWatch bills each metric of each queue.
CLOUDWATCH_METRICS = (
    *("succeeded", "retried", "dead_lettered", "lease_lost", "duration", "latency", "in_hand", "error_percent"),
    *("oldest_seconds", "dead_letters", "backlog_per_worker", "worker.hub_blocked"),
)


class CloudwatchSettings(Unshown, msgspec.Struct, frozen=True):
    """[cloudwatch]: metrics as lines of the log, each minute; off where namespace is empty."""

    namespace: Namespace = ""
    metrics: MetricNames = CLOUDWATCH_METRICS
    by_type: bool = False


class LogSettings(Unshown, msgspec.Struct, frozen=True):
    """[log]: standard output."""

    level: LogLevel = "info"
    format: Literal["auto", "text", "json"] = "auto"
    succeeded_per_second: Rate = 10.0
