"""StatsD: counters, timers and gauges, gathered in memory and sent once a second.

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
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import lru_cache
from typing import Any, NamedTuple

import gevent
from statsd import StatsClient

FLUSH_SECONDS = 1.0
#: The part of a second over which its packets are spread: in a trial, a burst of them lost 39 % of the lines.
SPREAD_SECONDS = 0.8
#: In so many bursts: each wakes the process up, which at a low load costs more than the packet.
BURSTS = 10
#: Timings of one name that one flush sends; of more, a random choice of so many, with their @rate.
MAX_SAMPLES = 200
#: Bytes of a packet: what any IP network carries in one piece (where one is cut up, a lost piece loses all of it),
#: the package's own default, and what StatsD's documentation names for the internet.
PACKET_BYTES = 512
#: A host name is looked up again after this, and sooner where something failed.
RESOLVE_SECONDS = 60.0
RESOLVE_AGAIN_SECONDS = 10.0
#: The longest that flush() and close() wait for an address: a process that drains has no more to give.
LAST_FLUSH_SECONDS = 0.5
#: Characters of prefix, name and process each, so that a line always fits a packet.
NAME_LENGTH = 120

_log = logging.getLogger("millpond")


class Metrics:
    """The metrics of one process. Nothing here raises or sends before the next flush; without a host, nothing does.

    What is counted for each message is counted in a Tally and a Sample that were asked for once.

    `process` tells this process's gauges from those of others. `clock` and `sleep`: seconds.
    """

    def __init__(
        self,
        host: str,
        port: int,
        prefix: str,
        process: str,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] = gevent.sleep,
    ) -> None:
        self._on = bool(host)
        self._line = _Line(host, port)
        self._packer = _Packer(clean(prefix))
        self._process = clean(process).replace(".", "_")  # one node of the path: dashboards ask for <name>.*
        self._clock = clock
        self._sleep = sleep
        self._tallies: dict[tuple[str, ...], Tally] = {}
        self._samples: dict[tuple[str, ...], Sample] = {}
        self._gauges: dict[str, Callable[[], float]] = {}
        self._packets: deque[str] = deque()
        self._sender: gevent.Greenlet | None = None

    def tally(self, *names: str) -> Tally:
        """What the counter `<prefix>.<name>` of each of these names counts."""
        return self._tallies.setdefault(names, Tally())

    def sample(self, *names: str) -> Sample:
        """What the timer `<prefix>.<name>` of each of these names is told."""
        return self._samples.setdefault(names, Sample(self._on))

    def gauge(self, name: str, read: Callable[[], float]) -> None:
        """Send what `read` returns, at each flush, as the gauge `<prefix>.<name>.<process>`."""
        self._gauges[name] = read

    def start(self) -> None:
        """Start the greenlet that sends."""
        if self._on and self._sender is None:
            self._sender = gevent.spawn(self._run)

    def flush(self) -> None:
        """Send what there is, at once and unspread."""
        if not self._on:
            return
        with suppress(Exception), gevent.Timeout(LAST_FLUSH_SECONDS, False):
            if self._line.address or self._line.ready(self._clock()):
                self._gather()
                self._send(spread_seconds=0)

    def close(self) -> None:
        """Stop the sender and send what is left. What is counted later is nowhere."""
        if self._sender is not None:
            self._sender.kill()
        self.flush()
        self._line.close()

    def _run(self) -> None:
        while True:
            started = self._clock()
            try:
                if self._line.ready(started):
                    self._gather()
                    self._send(SPREAD_SECONDS)
                else:
                    self._drop_times()
            except Exception:
                _log.warning("a second of metrics is lost", extra={"event": "statsd.failed"}, exc_info=True)
            self._sleep(max(0.0, started + FLUSH_SECONDS - self._clock()))

    def _gather(self) -> None:
        """Turn what was counted since the last time into packets. Until there is an address, it goes on counting."""
        counts = self._take_counts()
        timings = {name: Times.of(times) for name, times in self._take_times().items()}
        gauges = {f"{clean(name)}.{self._process}": value for name, value in self._read_gauges().items()}
        self._packets += self._packer.packets(counts, gauges, timings)

    def _drop_times(self) -> None:
        """Counters can wait for an address; times would fill the memory."""
        for sample in list(self._samples.values()):
            sample.take()

    def _take_counts(self) -> dict[str, int]:
        counts: dict[str, int] = {}
        for names, tally in list(self._tallies.items()):
            if n := tally.take():
                counts |= {name: counts.get(name, 0) + n for name in names}
        return counts

    def _take_times(self) -> dict[str, list[float]]:
        taken: dict[str, list[float]] = {}
        for names, sample in list(self._samples.items()):
            if times := sample.take():
                for name in names:
                    taken.setdefault(name, []).extend(times)
        return taken

    def _read_gauges(self) -> dict[str, float]:
        values = {}
        for name, read in list(self._gauges.items()):
            with suppress(Exception):  # a gauge that cannot be read now is left out
                value = round(float(read()), 3)
                if math.isfinite(value):
                    values[name] = value
        return values

    def _send(self, spread_seconds: float) -> None:
        at_once = -(-len(self._packets) // BURSTS)
        while self._packets:
            for _ in range(min(at_once, len(self._packets))):
                self._line.send(self._packets.popleft())
            if spread_seconds:
                self._sleep(spread_seconds / BURSTS)


@lru_cache(maxsize=4096)
def clean(name: str) -> str:
    """A name as StatsD and Graphite take it: letters, digits, _, - and single dots between them."""
    return re.sub(r"\.\.+", ".", re.sub(r"[^a-zA-Z0-9_.-]", "_", name[:NAME_LENGTH])).strip(".")


class Tally:
    """A counter: `total` so far."""

    __slots__ = ("_told", "total")

    def __init__(self) -> None:
        self.total = self._told = 0

    def take(self) -> int:
        """What was counted since the last time."""
        new, self._told = self.total - self._told, self.total
        return new


class Sample:
    """A timer: its times since the last flush. `add(milliseconds)` is one more, from one place."""

    __slots__ = ("_times", "add")

    def __init__(self, kept: bool) -> None:
        self._times: list[float] = []
        # Twice a message: a method of our own would cost 0.2 us each.
        self.add: Callable[[float], object] = self._times.append if kept else _ignore

    def take(self) -> list[float]:
        """What was added, and begin again."""
        times = self._times.copy()
        self._times.clear()
        return times


def _ignore(milliseconds: float) -> None:
    pass


class Times(NamedTuple):
    """Some times of one name in milliseconds, and the part of all that they are."""

    values: list[float]
    rate: float

    @staticmethod
    def of(times: list[float]) -> Times:
        """All of them, or a random choice of MAX_SAMPLES."""
        if len(times) <= MAX_SAMPLES:
            return Times(times, 1.0)
        return Times(random.sample(times, MAX_SAMPLES), MAX_SAMPLES / len(times))


class _Packer(StatsClient):  # type: ignore[misc]  # the package has no types
    """The lines and the packing of the statsd package; its packets are kept instead of sent."""

    def __init__(self, prefix: str) -> None:  # the package's own would resolve the host
        self._prefix = prefix
        self._maxudpsize = PACKET_BYTES
        self._packets: list[str] = []

    def packets(
        self, counts: Mapping[str, int], gauges: Mapping[str, float], timings: Mapping[str, Times]
    ) -> list[str]:
        """Counters first, and in packets of their own: where some are dropped on the way, it is rather not those."""
        with self.pipeline() as pipe:
            for name, n in counts.items():
                pipe.incr(clean(name), n)
        with self.pipeline() as pipe:
            for name, value in gauges.items():
                pipe.gauge(name, value)
        with self.pipeline() as pipe:
            for name, sample in timings.items():
                # Not timing(rate=...): that would draw again. A clock behind AWS's makes latencies below 0, which
                # StatsD refuses.
                rate = f"|@{sample.rate:.6f}" if sample.rate < 1 else ""
                for value in sample.values:
                    pipe._send_stat(clean(name), f"{max(0.0, value):.3f}|ms{rate}", 1)
        packets, self._packets = self._packets, []
        return packets

    def _send(self, data: str) -> None:
        self._packets.append(data)


class _Line:
    """A UDP socket, and the address it sends to: looked up again now and then, kept while that fails."""

    def __init__(self, host: str, port: int) -> None:
        self.address: Any = None
        self._host = host
        self._port = port
        self._socket: socket.socket | None = None
        self._resolved = True
        self._asked = -math.inf
        self._ask_again = -math.inf

    def ready(self, now: float) -> bool:
        """True where there is an address to send to; looks the name up where that is due."""
        if now >= self._ask_again:
            self._asked = now
            self._resolved = self._resolve()
            self._ask_again = now + (RESOLVE_SECONDS if self._resolved else RESOLVE_AGAIN_SECONDS)
        return self.address is not None

    def send(self, packet: str) -> None:
        """Send a packet. One that cannot be sent is lost, as any may be on its way."""
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
            # StatsD listens on IPv4 where it is not told otherwise; "localhost" has ::1 first on many machines.
            family, *_, address = min(found, key=lambda entry: entry[0] != socket.AF_INET)
            if self._socket is None or self._socket.family != family:
                self.close()
                self._socket = socket.socket(family, socket.SOCK_DGRAM)
            self.address = address
            return True
        except (OSError, ValueError) as error:  # ValueError: a name that no DNS could hold
            if self._resolved:  # once for as long as it lasts
                text = f"[statsd] host {self._host} cannot be resolved: {error}"
                _log.warning(text, extra={"event": "statsd.unreachable"})
            return False
