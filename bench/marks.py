"""What a consumer tells the driver: its first message's start, its 1,000th message's end and its last one's."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable

#: Seconds without a mark after which a run is given up.
PATIENCE_SECONDS = 120


class Marks:
    """A UDP socket on this machine; the consumer sends one short datagram a mark."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self._socket.settimeout(0.5)
        self._sink = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._sink.bind(("127.0.0.1", 0))

    @property
    def port(self) -> int:
        return int(self._socket.getsockname()[1])

    @property
    def statsd_port(self) -> int:
        """Where StatsD can send to; nobody reads it, so it costs the driver nothing."""
        return int(self._sink.getsockname()[1])

    def wait(self, mark: str, is_running: Callable[[], bool], seconds: float = PATIENCE_SECONDS) -> None:
        """Returns as the mark arrives. Raises RuntimeError where the consumer ends before, or nothing comes."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            try:
                if self._socket.recv(100) == mark.encode():
                    return
            except TimeoutError:
                if not is_running():
                    raise RuntimeError(f"it ended before its {mark} message") from None
        raise RuntimeError(f"no {mark} message in {seconds} s")

    def close(self) -> None:
        self._socket.close()
        self._sink.close()
