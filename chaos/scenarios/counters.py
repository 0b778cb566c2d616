"""Counters: what workers count for StatsD, summed up. The books in their logs do not show everything."""

from __future__ import annotations

import socket
import threading
from collections import Counter

#: Nothing has come for so long: nothing more is under way.
QUIET_SECONDS = 0.2


class Counters(threading.Thread):
    """A StatsD daemon on `port` of 127.0.0.1, for counters alone; it ends with the `with` block."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.numbers: Counter[str] = Counter()
        self._ending = threading.Event()
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self._socket.settimeout(QUIET_SECONDS)
        self.port: int = self._socket.getsockname()[1]

    def run(self) -> None:
        while True:
            try:
                self._read(self._socket.recv(65_536).decode("ascii"))
            except TimeoutError:
                if self._ending.is_set():
                    return

    def _read(self, packet: str) -> None:
        for line in packet.splitlines():
            name, _, value = line.partition(":")
            if value.endswith("|c"):
                self.numbers[name] += int(value.removesuffix("|c"))

    def finish(self) -> None:
        """Read what has come, and no more."""
        self._ending.set()
        self.join()

    def __enter__(self) -> Counters:
        self.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.finish()
        self._socket.close()
