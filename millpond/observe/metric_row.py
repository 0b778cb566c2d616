"""MetricRow: what is known of one metric; MetricKey: one metric of one queue, type or process."""

from __future__ import annotations

from typing import Literal, NamedTuple

import msgspec

MetricKind = Literal["counter", "gauge", "timer"]
MetricScope = Literal["queue", "type", "worker"]

#: What stands where a type has no handler: one from the wire can be anything.
UNKNOWN_TYPE = "unknown"
#: Units of the table -> the unit in a Prometheus name, and how many of it are one of the table's.
PROMETHEUS_UNITS: dict[str, tuple[str, float]] = {
    "ms": ("seconds", 0.001),
    "s": ("seconds", 1.0),
    "%": ("percent", 1.0),
}


class MetricKey(NamedTuple):
    """A metric of the table, of this queue and this message type, where it is one of a queue or of a type."""

    name: str
    queue: str = ""
    event_type: str = ""


class MetricRow(msgspec.Struct, frozen=True):
    """One metric. `name`: "worker." or "type." before it say its scope, all else is of a queue.

    `by_type`: it is known for each type of the queue, too. `panel`: of the dashboard; "" where it is in none.
    """

    name: str
    kind: MetricKind
    unit: str
    text: str
    advice: str
    panel: str = ""
    by_type: bool = False

    @property
    def scope(self) -> MetricScope:
        """Whose it is."""
        return scope_of(self.name)

    @property
    def short_name(self) -> str:
        """Its name without its scope: the last part of a path."""
        return short_name(self.name)

    @property
    def prometheus_name(self) -> str:
        """Its name at /metrics; a timer is a histogram."""
        name = self.short_name
        if self.unit in PROMETHEUS_UNITS:
            unit = PROMETHEUS_UNITS[self.unit][0]
            name = f"{name.removesuffix(f'_{self.unit}').removesuffix(f'_{unit}')}_{unit}"
        scope = "" if self.scope == "queue" else f"{self.scope}_"
        return f"millpond_{scope}{name}" + ("_total" if self.kind == "counter" else "")

    @property
    def prometheus_scale(self) -> float:
        """What a value of the table is multiplied by there."""
        return PROMETHEUS_UNITS.get(self.unit, ("", 1.0))[1]


def scope_of(name: str) -> MetricScope:
    """The scope that a name says."""
    if name.startswith("worker."):
        return "worker"
    return "type" if name.startswith("type.") else "queue"


def short_name(name: str) -> str:
    """A name without its scope."""
    return name.removeprefix("worker.").removeprefix("type.")
