"""[statsd] and [log]: what a worker says of itself, and where."""

from __future__ import annotations

from typing import Literal

import msgspec

from millpond.app.setting_types import Host, Port, Rate, Text
from millpond.foreign.secrets import Unshown


class StatsdSettings(Unshown, msgspec.Struct, frozen=True):
    """[statsd]: metrics; off where host is empty."""

    host: Host = ""
    port: Port = 8125
    prefix: Text = "millpond"


class LogSettings(Unshown, msgspec.Struct, frozen=True):
    """[log]: standard output."""

    level: Literal["debug", "info", "warning", "error", "critical"] = "info"
    format: Literal["auto", "text", "json"] = "auto"
    succeeded_per_second: Rate = 10.0
