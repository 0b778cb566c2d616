"""StatsD on the wire: names, lines and packets.

The statsd package writes the lines and packs them. What it would do to a worker is kept away here: it raises for a
name that is not ASCII, for a host that cannot be resolved and after close; it resolves the host once, for ever; it
sends packets as fast as they come.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import NamedTuple, Protocol

from statsd import StatsClient

from millpond.observe.metric_row import MetricKey, short_name

#: Timings of one name that one flush sends; of more, a random choice of this number, with their @rate.
MAX_TIMES = 200
#: Bytes of a packet: what any IP network carries in one piece (where one is cut up, a lost piece loses all of it),
#: the package's own default, and what StatsD's documentation names for the internet.
PACKET_BYTES = 512
#: Characters of prefix, name and process each, so that a line always fits a packet.
NAME_LENGTH = 120


@lru_cache(maxsize=4096)
def metric_name(name: str) -> str:
    """A name as StatsD and Graphite take it: letters, digits, _ and -, with single dots between them."""
    return re.sub(r"\.\.+", ".", re.sub(r"[^a-zA-Z0-9_.-]", "_", name[:NAME_LENGTH])).strip(".")


@lru_cache(maxsize=4096)
def metric_node(name: str) -> str:
    """The same as one node of a path: without a dot, so that dashboards can ask for `<name>.*`."""
    return metric_name(name).replace(".", "_")


class LineName(NamedTuple):
    """How a line begins, and how it ends: with its tags."""

    stat: str
    tags: str = ""


class Naming(Protocol):
    """How metrics are named."""

    def summed(self, key: MetricKey) -> list[LineName]:
        """Of a counter or a timer: the server sums up those of all processes."""

    def of_process(self, key: MetricKey) -> LineName:
        """Of a gauge, which no other process overwrites."""


class GraphiteNaming(Naming):
    """Paths: `<prefix>.<queue>.<name>`, what is known by type also under `<queue>.type.<type>`; gauges end with the
    process."""

    def __init__(self, prefix: str, process: str) -> None:
        self._prefix = f"{metric_name(prefix)}." if metric_name(prefix) else ""
        self._process = metric_node(process)

    def summed(self, key: MetricKey) -> list[LineName]:
        places = [key.queue or "worker"]
        if key.event_type:
            places.append(f"{places[0]}.type.{metric_node(key.event_type)}")
        return [LineName(f"{self._prefix}{metric_name(f'{place}.{short_name(key.name)}')}") for place in places]

    def of_process(self, key: MetricKey) -> LineName:
        return LineName(f"{self.summed(key)[-1].stat}.{self._process}")


class DatadogNaming(Naming):
    """Names with tags: `<prefix>.<name>`, with #queue, type and (of gauges) worker. Each is sent once: the sum over the
    types is the queue's."""

    def __init__(self, prefix: str, process: str) -> None:
        self._prefix = f"{metric_name(prefix)}." if metric_name(prefix) else ""
        self._process = process

    def summed(self, key: MetricKey) -> list[LineName]:
        return [self._line_name(key)]

    def of_process(self, key: MetricKey) -> LineName:
        return self._line_name(key, ("worker", self._process))

    def _line_name(self, key: MetricKey, *more: tuple[str, str]) -> LineName:
        tags = [("queue", key.queue), ("type", key.event_type), *more]
        text = ",".join(f"{name}:{tag_value(value)}" for name, value in tags if value)
        return LineName(f"{self._prefix}{metric_name(key.name)}", f"|#{text}" if text else "")


@lru_cache(maxsize=4096)
def tag_value(value: str) -> str:
    """A value as Datadog takes it in a tag."""
    return re.sub(r"[^a-zA-Z0-9_./-]", "_", value[:NAME_LENGTH])


class Times(NamedTuple):
    """Some times of one name in milliseconds, and the part of all that they are."""

    values: list[float]
    rate: float

    @staticmethod
    def of(times: list[float]) -> Times:
        """All of them, or a random choice of MAX_TIMES."""
        if len(times) <= MAX_TIMES:
            return Times(times, 1.0)
        return Times(random.sample(times, MAX_TIMES), MAX_TIMES / len(times))


class Packer(StatsClient):  # type: ignore[misc]  # the package has no types
    """Writes lines and packs them as the statsd package does; the packets are returned instead of sent."""

    def __init__(self, naming: Naming) -> None:  # the package's own would resolve the host
        self._prefix = ""
        self._naming = naming
        self._maxudpsize = PACKET_BYTES
        self._packets: list[str] = []

    def packets(
        self,
        counts: Mapping[MetricKey, int],
        gauges: Mapping[MetricKey, float],
        times: Mapping[MetricKey, list[float]],
    ) -> list[str]:
        """The packets: counters first, and in packets of their own, since those that come last are rather dropped."""
        with self.pipeline() as pipe:
            for name, n in self._sums(counts).items():
                pipe._send_stat(name.stat, f"{n}|c{name.tags}", 1)
        with self.pipeline() as pipe:
            for key, value in gauges.items():
                name = self._naming.of_process(key)
                for one in (0, value) if value < 0 else (value,):  # a sign would make it a difference
                    pipe._send_stat(name.stat, f"{one}|g{name.tags}", 1)
        with self.pipeline() as pipe:
            for name, some in self._samples(times).items():
                # Not timing(rate=...): that would draw again. A clock behind AWS's makes latencies below 0, which
                # StatsD refuses.
                end = (f"|@{some.rate:.6f}" if some.rate < 1 else "") + name.tags
                for one in some.values:
                    pipe._send_stat(name.stat, f"{max(0.0, one):.3f}|ms{end}", 1)
        packets, self._packets = self._packets, []
        return packets

    def _sums(self, counts: Mapping[MetricKey, int]) -> dict[LineName, int]:
        sums: dict[LineName, int] = {}
        for key, number in counts.items():
            for name in self._naming.summed(key):
                sums[name] = sums.get(name, 0) + number
        return sums

    def _samples(self, times: Mapping[MetricKey, list[float]]) -> dict[LineName, Times]:
        merged: dict[LineName, list[float]] = {}
        for key, some in times.items():
            for name in self._naming.summed(key):
                merged.setdefault(name, []).extend(some)
        return {name: Times.of(some) for name, some in merged.items()}

    def _send(self, data: str) -> None:
        self._packets.append(data)
