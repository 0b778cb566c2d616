"""The work that every Python consumer's handler does, and the books of it. Standard library only."""

from __future__ import annotations

import json
import os
import socket
import time

#: What a handler waits, by its framework's own cooperative sleep: 20 ms, unless the driver says otherwise.
SECONDS = float(os.environ.get("BENCH_SECONDS", "0.02"))


class Book:
    """Counts; tells the driver of the first message's start, of the 1,000th message's end and of the last one's.

    Where the driver asks for starts (a latency run), notes when each message's handler began, on the machine's
    monotonic clock, and writes that down at the last message's end.
    """

    def __init__(self) -> None:
        self.started = self.ended = 0
        self._total = int(os.environ["BENCH_TOTAL"])
        self._starts_file = os.environ.get("BENCH_STARTS", "")
        self._starts: list[tuple[int, float]] = []
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.connect(("127.0.0.1", int(os.environ["BENCH_MARKS"])))

    def start(self, number: int) -> None:
        if self._starts_file:
            self._starts.append((number, time.monotonic()))
        self.started += 1
        if self.started == 1:
            self._tell("first")

    def end(self) -> None:
        self.ended += 1
        if self.ended == 1_000:
            self._tell("thousandth")
        if self.ended == self._total:
            if self._starts_file:
                with open(self._starts_file, "w") as file:
                    json.dump(self._starts, file)
            self._tell("last")

    def _tell(self, mark: str) -> None:
        self._socket.send(mark.encode())
