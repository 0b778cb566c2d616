"""StatsD on the wire: names, lines and packets, and the socket that sends them.

The statsd package writes the lines and packs them. What it would do to a worker is kept away here: it raises for a
name that is not ASCII, for a host that cannot be resolved and after close; it resolves the host once, for ever; it
sends packets as fast as they come.
"""

from __future__ import annotations

import logging
import math
import random
import re
import socket
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, NamedTuple

from statsd import StatsClient

from millpond.observe import log

#: Timings of one name that one flush sends; of more, a random choice of this number, with their @rate.
MAX_TIMES = 200
#: Bytes of a packet: what any IP network carries in one piece (where one is cut up, a lost piece loses all of it),
#: the package's own default, and what StatsD's documentation names for the internet.
PACKET_BYTES = 512
#: A host name is looked up again after this, and sooner where something failed.
RESOLVE_SECONDS = 60.0
RESOLVE_AGAIN_SECONDS = 10.0
#: Characters of prefix, name and process each, so that a line always fits a packet.
NAME_LENGTH = 120


@lru_cache(maxsize=4096)
def metric_name(name: str) -> str:
    """A name as StatsD and Graphite take it: letters, digits, _ and -, with single dots between them."""
    return re.sub(r"\.\.+", ".", re.sub(r"[^a-zA-Z0-9_.-]", "_", name[:NAME_LENGTH])).strip(".")


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

    def __init__(self, prefix: str) -> None:  # the package's own would resolve the host
        self._prefix = prefix
        self._maxudpsize = PACKET_BYTES
        self._packets: list[str] = []

    def packets(
        self, counts: Mapping[str, int], gauges: Mapping[str, float], timings: Mapping[str, Times]
    ) -> list[str]:
        """The packets: counters first, and in packets of their own, since those that come last are rather dropped."""
        with self.pipeline() as pipe:
            for name, n in counts.items():
                pipe.incr(metric_name(name), n)
        with self.pipeline() as pipe:
            for name, value in gauges.items():
                pipe.gauge(name, value)
        with self.pipeline() as pipe:
            for name, times in timings.items():
                # Not timing(rate=...): that would draw again. A clock behind AWS's makes latencies below 0, which
                # StatsD refuses.
                rate = f"|@{times.rate:.6f}" if times.rate < 1 else ""
                for value in times.values:
                    pipe._send_stat(metric_name(name), f"{max(0.0, value):.3f}|ms{rate}", 1)
        packets, self._packets = self._packets, []
        return packets

    def _send(self, data: str) -> None:
        self._packets.append(data)


class StatsdSocket:
    """A UDP socket and its address, which is looked up again now and then, and kept while that fails."""

    def __init__(self, host: str, port: int) -> None:
        self.address: Any = None
        self._host = host
        self._port = port
        self._socket: socket.socket | None = None
        self._resolved = True
        self._asked = -math.inf
        self._ask_again = -math.inf

    def ready(self, now: float) -> bool:
        """Look the host name up where that is due. True: there is an address to send to."""
        if now >= self._ask_again:
            self._asked = now
            self._resolved = self._resolve()
            self._ask_again = now + (RESOLVE_SECONDS if self._resolved else RESOLVE_AGAIN_SECONDS)
        return self.address is not None

    def send(self, packet: str) -> None:
        """Send a packet. One that cannot be sent is lost, as any UDP packet may be."""
        try:
            if self._socket is not None:
                self._socket.sendto(packet.encode("ascii"), self.address)
        except OSError:
            self._ask_again = min(self._ask_again, self._asked + RESOLVE_AGAIN_SECONDS)

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
        self._socket = None

    def _resolve(self) -> bool:
        try:
            found = socket.getaddrinfo(self._host, self._port, type=socket.SOCK_DGRAM)
            # StatsD listens on IPv4 by default; "localhost" has ::1 first on many machines.
            family, *_, address = min(found, key=lambda entry: entry[0] != socket.AF_INET)
            if self._socket is None or self._socket.family != family:
                self.close()
                self._socket = socket.socket(family, socket.SOCK_DGRAM)
            self.address = address
            return True
        except (OSError, ValueError) as error:  # ValueError: a name that no DNS could hold
            if self._resolved:  # once for as long as it lasts
                text = f"cannot resolve [statsd] host = {self._host}, so no metrics are sent until it is found: {error}"
                log.event(logging.WARNING, "statsd.unreachable", text)
            return False
