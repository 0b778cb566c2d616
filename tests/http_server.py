"""A server that plays scripted answers over a real socket."""

from __future__ import annotations

import io
import re
import socket
import ssl
from collections import deque

import gevent
from gevent.server import StreamServer


class Server:
    """Answers each request with the next step of `script`, or else with the request's own body.

    A step is bytes, or pieces of bytes and of callables. `HANG_UP` ends the connection. Nothing is answered before
    `answers_from` requests have come.
    """

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.script: deque = deque()
        self.requests: list[bytes] = []
        self.connections = 0
        self.answers_from = 0
        self.lost: list[str] = []
        self.open: set[socket.socket] = set()
        self._tls = tls
        self._server = StreamServer(("127.0.0.1", 0), self._serve)
        self._server.start()
        self.port = self._server.server_port
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self.port}"

    def close(self) -> None:
        self._server.stop(0)

    def _serve(self, sock: socket.socket, address: object) -> None:
        self.connections += 1
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # or a second piece waits 40 ms for an ACK
        try:
            if self._tls is not None:
                sock = self._tls.wrap_socket(sock, server_side=True, suppress_ragged_eofs=True)
            self.open.add(sock)
            with sock.makefile("rb") as stream:
                while wire := _request(stream):
                    self.requests.append(wire)
                    while len(self.requests) < self.answers_from:
                        gevent.sleep(0.001)
                    self._answer(sock, self.script.popleft() if self.script else echo(wire))
        except OSError as error:
            self.lost.append(str(error))  # the client has gone, or never wanted this certificate
        finally:
            self.open.discard(sock)
            sock.close()

    def _answer(self, sock: socket.socket, step) -> None:
        for piece in [step] if isinstance(step, bytes) else step:
            if callable(piece):
                piece()
            else:
                sock.sendall(piece)
                gevent.sleep(0)

    def wait_until_open(self, number: int) -> None:
        while len(self.open) != number:
            gevent.sleep(0.001)


def _request(stream: io.BufferedReader) -> bytes:
    head = b""
    while (line := stream.readline()) not in (b"", b"\r\n"):
        head += line
    length = re.search(rb"(?im)^content-length: (\d+)", head)
    return head + b"\r\n" + stream.read(int(length[1]) if length else 0) if head else b""


def HANG_UP() -> None:  # noqa: N802
    raise ConnectionResetError


def echo(wire: bytes) -> bytes:
    body = wire.partition(b"\r\n\r\n")[2]
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)


def pieces(answer: bytes, size: int):
    """Each arrives before the next leaves."""
    for at in range(0, len(answer), size):
        yield answer[at : at + size]
        yield lambda: gevent.sleep(0.001)


def sqs_answer(body: bytes, status: bytes = b"200 OK", more: bytes = b"") -> bytes:
    head = b"HTTP/1.1 %b\r\nContent-Type: application/x-amz-json-1.0\r\n%bContent-Length: %d\r\n\r\n"
    return head % (status, more, len(body)) + body
