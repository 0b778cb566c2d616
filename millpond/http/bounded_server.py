"""BoundedServer: a WSGI server that slow clients can neither fill nor keep busy."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from gevent import Timeout
from gevent.pool import Group
from gevent.pywsgi import WSGIHandler, WSGIServer
from gevent.socket import socket as Socket  # noqa: N812  a class

from millpond.http.lobby import Lobby

#: Connections at once whose request has come. Where one more has, who has taken longest for its answer makes place.
MAX_HTTP_CLIENTS = 50
#: From its request on a connection is closed after this, whatever it does.
CONNECTION_SECONDS = 2.0
#: Where a request has its Connection.
CONNECTION = "millpond.connection"


class Connection(WSGIHandler):  # type: ignore[misc]
    """One connection. pywsgi itself has no time limit, and prints what a client does wrong to standard error."""

    is_spared = False  # it is not waiting for its client, or it is a stream

    def handle(self) -> None:
        with Timeout(CONNECTION_SECONDS, False) as self._limit:
            super().handle()

    @contextmanager
    def spared(self) -> Iterator[None]:
        """Nobody takes the place of this connection meanwhile."""
        self.is_spared = True
        try:
            yield
        finally:
            self.is_spared = False

    def stream(self, parts: Iterator[bytes]) -> Iterator[bytes]:
        """These parts: each may be awaited for as long as it takes, and must be taken within the limit."""
        try:
            with self.spared():
                while True:
                    self._limit.cancel()
                    part = next(parts, None)
                    self._limit.start()
                    if part is None:
                        return
                    yield part
        finally:
            parts.close()  # type: ignore[attr-defined]  # it is a generator

    def get_environ(self) -> dict[str, Any]:
        return {**super().get_environ(), CONNECTION: self}

    def _handle_client_error(self, ex: Exception) -> tuple[str, bytes]:
        return "400", b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"

    def handle_error(self, kind: type[BaseException], error: BaseException, frames: object) -> None:
        """Close the connection: the client has gone, or its time is over."""
        self.close_connection = True


class BoundedServer(WSGIServer):  # type: ignore[misc]
    """Takes a connection into its lobby, and serves it in a greenlet once its request is there."""

    def __init__(self, listener: Socket, application: Callable[..., Any]) -> None:
        super().__init__(listener, application, spawn=None, log=None, error_log=None)
        self._lobby = Lobby(self._admit, self.start_accepting)
        self._served: dict[Connection, None] = {}  # in the order in which they came
        self._greenlets = Group()

    def full(self) -> bool:
        """Whether nobody is accepted until the lobby says that there is room."""
        return self._lobby.is_full

    def do_handle(self, connection: Socket, address: Any) -> None:
        self._lobby.enter(connection, address)

    def stop(self, timeout: float | None = None) -> None:
        super().stop(timeout)
        self._lobby.close()
        self._greenlets.kill(timeout=1)

    def _admit(self, socket: Socket, address: Any) -> None:
        if len(self._served) >= MAX_HTTP_CLIENTS:
            slowest = next((one for one in self._served if not one.is_spared), None)
            if slowest is None:
                socket.close()
                return
            del self._served[slowest]
            slowest.socket.close()  # whoever waits for it gets an error, and ends
        connection = Connection(socket, address, self)
        self._served[connection] = None
        self._greenlets.start(self._greenlets.greenlet_class(self._serve, connection))

    def _serve(self, connection: Connection) -> None:
        try:
            connection.handle()
        finally:
            self._served.pop(connection, None)
