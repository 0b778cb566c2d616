"""Upstream: the queue behind the proxy, over kept connections."""

from __future__ import annotations

from socket import IPPROTO_TCP, TCP_NODELAY

from gevent.socket import create_connection

from chaos.http import HttpMessage, Wire, request


class Upstream:
    """One call at a time on each connection; as many of them as calls are under way."""

    def __init__(self, host: str, port: int) -> None:
        self._address = (host, port)
        self._idle: list[Wire] = []

    def call(self, data: bytes) -> HttpMessage:
        """A request's bytes out, its answer in. Raises OSError."""
        wire = self._idle.pop() if self._idle else self._connect()
        try:
            wire.send(data)
            answer = wire.next()
        except BaseException:
            wire.close()
            raise
        if answer is None:
            wire.close()
            raise ConnectionError("the queue has ended")
        self._idle.append(wire)
        return answer

    def ask(self, operation: str, body: bytes) -> HttpMessage:
        """A call of the proxy's own."""
        return self.call(request(operation, body))

    def _connect(self) -> Wire:
        sock = create_connection(self._address)
        sock.setsockopt(IPPROTO_TCP, TCP_NODELAY, 1)
        return Wire(sock)
