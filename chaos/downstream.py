"""What the jobs of the peers call, a process of its own: `python -m chaos.downstream LOG`.

A line with a number in, "ok" or "busy" out, one a connection. It prints its port. Orders: `up` (rate: it takes so many
in any second and is too busy for the rest; 0: all), `closed` (nobody listens). LOG gets a line for each call: number,
"taken" or "busy", moment.
"""

from __future__ import annotations

import os
import sys
from collections import deque
from typing import Any

from gevent.server import StreamServer
from gevent.socket import socket as Socket  # noqa: N812  a class

from chaos import ordered
from chaos.moment import now

WINDOW_SECONDS = 1.0


class Downstream:
    """It counts, and says no."""

    def __init__(self, log: str) -> None:
        self.rate = 0.0
        self._taken: deque[float] = deque()
        self._log = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        self._server = self._listen(0)
        self.port: int = self._server.server_port

    def obey(self, order: dict[str, Any]) -> None:
        """One order: see above."""
        self.rate = order.get("rate", 0.0)
        if order["do"] == "closed":
            self._server.stop()
        elif self._server.closed:
            self._server = self._listen(self.port)

    def _listen(self, port: int) -> StreamServer:
        server = StreamServer(("127.0.0.1", port), self._serve, backlog=256)
        server.start()
        return server

    def _serve(self, sock: Socket, _address: object) -> None:
        try:
            n = int(sock.recv(100))
            took = self._takes()
            os.write(self._log, f"{n} {'taken' if took else 'busy'} {now():.4f}\n".encode())
            sock.sendall(b"ok\n" if took else b"busy\n")
        except (OSError, ValueError):
            pass  # it went away
        finally:
            sock.close()

    def _takes(self) -> bool:
        moment = now()
        while self._taken and moment - self._taken[0] >= WINDOW_SECONDS:
            self._taken.popleft()
        if self.rate and len(self._taken) >= self.rate:
            return False
        self._taken.append(moment)
        return True


if __name__ == "__main__":
    downstream = Downstream(sys.argv[1])
    ordered.obey(downstream.port, downstream.obey)
