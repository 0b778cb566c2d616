"""StatsdSender: sends the metrics of each second to a StatsD server, by UDP."""

from __future__ import annotations

import logging
import math
import socket
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import gevent

from millpond.observe import log
from millpond.observe.metric_row import MetricKey
from millpond.observe.metrics import MetricSecond, MetricSink
from millpond.observe.statsd_packets import Naming, Packer

#: The part of a second over which its packets are spread: in a trial, a burst of them lost 39 % of the lines.
SPREAD_SECONDS = 0.8
#: The number of bursts: each wakes the process up, which at a low load costs more than the packet.
BURSTS = 10
#: A host name is looked up again after this, and sooner where something failed.
RESOLVE_SECONDS = 60.0
RESOLVE_AGAIN_SECONDS = 10.0


class StatsdSender(MetricSink):
    """Sends to StatsD. What was counted waits for an address; times and gauges, which would be old, do not."""

    def __init__(
        self,
        host: str,
        port: int,
        naming: Naming,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] = gevent.sleep,
    ) -> None:
        self._socket = StatsdSocket(host, port)
        self._packer = Packer(naming)
        self._clock = clock
        self._sleep = sleep
        self._counts: dict[MetricKey, int] = {}
        self._second = MetricSecond({}, {}, {})
        self._packets: deque[str] = deque()

    def take(self, second: MetricSecond) -> None:
        for key, number in second.counts.items():
            self._counts[key] = self._counts.get(key, 0) + number
        self._second = second

    def send(self, spread: bool) -> None:
        """What a burst of before has left, and what was taken."""
        if not self._socket.ready(self._clock()):
            return
        self._packets += self._packer.packets(self._counts, self._second.gauges, self._second.times)
        self._counts = {}
        at_once = -(-len(self._packets) // BURSTS)
        while self._packets:
            for _ in range(min(at_once, len(self._packets))):
                self._socket.send(self._packets.popleft())
            if spread:
                self._sleep(SPREAD_SECONDS / BURSTS)

    def close(self) -> None:
        self._socket.close()


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
        self._closed = False

    def ready(self, now: float) -> bool:
        """Look the host name up where that is due. True: there is an address to send to."""
        if now >= self._ask_again and not self._closed:
            self._asked = now
            self._resolved = self._resolve()
            self._ask_again = now + (RESOLVE_SECONDS if self._resolved else RESOLVE_AGAIN_SECONDS)
        return self.address is not None and not self._closed

    def send(self, packet: str) -> None:
        """Send a packet. One that cannot be sent is lost, as any UDP packet may be."""
        try:
            if self._socket is not None:
                self._socket.sendto(packet.encode("ascii"), self.address)
        except OSError:
            self._ask_again = min(self._ask_again, self._asked + RESOLVE_AGAIN_SECONDS)

    def close(self) -> None:
        self._closed = True
        self._leave()

    def _leave(self) -> None:
        if self._socket is not None:
            self._socket.close()
        self._socket = None

    def _resolve(self) -> bool:
        try:
            found = socket.getaddrinfo(self._host, self._port, type=socket.SOCK_DGRAM)
            # StatsD listens on IPv4 by default; "localhost" has ::1 first on many machines.
            family, *_, address = min(found, key=lambda entry: entry[0] != socket.AF_INET)
            if self._socket is None or self._socket.family != family:
                self._leave()
                self._socket = socket.socket(family, socket.SOCK_DGRAM)
            self.address = address
            return True
        except (OSError, ValueError) as error:  # ValueError: a name that no DNS could hold
            if self._resolved:  # once for as long as it lasts
                text = f"cannot resolve [statsd] host = {self._host}, so no metrics are sent until it is found: {error}"
                log.event(logging.WARNING, "statsd.unreachable", text)
            return False
