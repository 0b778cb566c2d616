"""A mail server that can be down, silent or slow, a process of its own: `python -m chaos.relay LOG`.

It prints its port. Orders: `up` (rate, code, phase), `closed` (nobody listens), `greets` (code: says that at each
connection and closes it), `hung` (takes connections and says nothing). An order ends the sessions of the time before.
LOG gets a line for each mail that it took, and each that it refused: number, "taken" or the phase, moment. The number
is that of the recipient, m17@d1.example.
"""

from __future__ import annotations

import os
import re
import socket
import sys
from collections import deque
from contextlib import suppress
from typing import Any

import gevent
from gevent.server import StreamServer
from gevent.socket import socket as Socket  # noqa: N812  a class

from chaos import ordered
from chaos.moment import now

#: Mails that it takes within any second are counted.
WINDOW_SECONDS = 1.0
EXTENSIONS = ("relay.example", "PIPELINING", "SIZE 20000000", "8BITMIME", "ENHANCEDSTATUSCODES")
_NUMBER = re.compile(rb"(?i)^RCPT TO:<m([0-9]+)@")
#: Domains of the recipients: a newsletter has many.
DOMAINS = 50


def address(n: int) -> str:
    """Of the recipient of mail n."""
    return f"m{n}@d{n % DOMAINS}.example"


class Relay:
    """What all sessions share."""

    def __init__(self, log: str) -> None:
        self.mode, self.rate, self.code, self.phase = "up", 0.0, "454 4.7.0 too fast", "MAIL"
        self._taken: deque[float] = deque()
        self._log = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        self._sessions: set[Socket] = set()
        self._server = self._listen(0)
        self.port: int = self._server.server_port

    def obey(self, order: dict[str, Any]) -> None:
        """One order: see above."""
        self.mode = order["do"]
        self.rate, self.code = order.get("rate", 0.0), order.get("code", self.code)
        self.phase = order.get("phase", "MAIL")
        for sock in list(self._sessions):
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        if self.mode == "closed":
            self._server.stop()
        elif self._server.closed:
            self._server = self._listen(self.port)

    def _listen(self, port: int) -> StreamServer:
        server = StreamServer(("127.0.0.1", port), self._serve, backlog=256)
        server.start()
        return server

    def takes(self, phase: str) -> bool:
        """Whether it has room for one more now, asked once a mail."""
        if phase != self.phase or not self.rate:
            return True
        moment = now()
        while self._taken and moment - self._taken[0] >= WINDOW_SECONDS:
            self._taken.popleft()
        if len(self._taken) >= self.rate:
            return False
        self._taken.append(moment)
        return True

    def write(self, n: int, what: str) -> None:
        os.write(self._log, f"{n} {what} {now():.4f}\n".encode())

    def _serve(self, sock: Socket, _address: object) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._sessions.add(sock)
        try:
            if self.mode == "hung":
                sock.recv(1)
            elif self.mode == "greets":
                sock.sendall(self.code.encode() + b"\r\n")
            else:
                Session(self, sock).run()
        except OSError:
            pass  # either side went away
        finally:
            self._sessions.discard(sock)
            sock.close()


class Session:
    """One connection, to its end."""

    def __init__(self, relay: Relay, sock: Socket) -> None:
        self._relay = relay
        self._sock = sock
        self._read = b""
        self._n = -1
        self._sender = False

    def run(self) -> None:
        self._say("220 relay.example")
        while line := self._line():
            verb = line[:4].upper().decode()
            if verb == "QUIT":
                return self._say("221 bye")
            getattr(self, f"_do_{verb.lower()}", self._do_other)(line)
        return None

    def _do_ehlo(self, _line: bytes) -> None:
        *lines, last = EXTENSIONS
        self._say("\r\n".join([*(f"250-{text}" for text in lines), f"250 {last}"]))

    def _do_mail(self, _line: bytes) -> None:
        self._n, self._sender = -1, self._relay.takes("MAIL")
        if not self._sender:
            self._relay.write(-1, "MAIL")
        self._say("250 2.1.0 fine" if self._sender else self._relay.code)

    def _do_rcpt(self, line: bytes) -> None:
        found = _NUMBER.match(line)
        if self._sender and found:
            self._n = int(found[1])
        self._say("250 2.1.5 fine" if self._sender else "503 5.5.1 MAIL first")

    def _do_data(self, _line: bytes) -> None:
        if self._n < 0:
            return self._say("503 5.5.1 no recipient")
        self._say("354 go ahead")
        while (line := self._line()) and line != b".\r\n":
            pass
        if not line:
            return None
        took = self._relay.takes("end")
        self._relay.write(self._n, "taken" if took else "end")
        self._n, self._sender = -1, False
        return self._say("250 2.0.0 taken" if took else self._relay.code)

    def _do_rset(self, _line: bytes) -> None:
        self._n, self._sender = -1, False
        self._say("250 fine")

    def _do_noop(self, _line: bytes) -> None:
        self._say("250 fine")

    def _do_other(self, _line: bytes) -> None:
        self._say("502 5.5.2 what?")

    def _say(self, text: str) -> None:
        self._sock.sendall(text.encode() + b"\r\n")

    def _line(self) -> bytes:
        """The next line, b"" at the end."""
        while b"\n" not in self._read:
            data = self._sock.recv(65_536)
            if not data:
                return b""
            self._read += data
        line, end, self._read = self._read.partition(b"\n")
        return line + end


if __name__ == "__main__":
    gevent.get_hub().NOT_ERROR += (OSError,)
    relay = Relay(sys.argv[1])
    ordered.obey(relay.port, relay.obey)
