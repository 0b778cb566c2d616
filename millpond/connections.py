"""The connections to one endpoint: taken for a call, kept after it, and closed once they cannot be trusted."""

from __future__ import annotations

import socket
import ssl
from collections import deque
from contextlib import suppress
from functools import cache
from threading import BoundedSemaphore
from time import monotonic
from urllib.parse import urlsplit

from millpond.connection import Answer, Connection
from millpond.errors import ConfigError, Unreachable
from millpond.stream import Stream, TlsStream

#: From the name to the end of the handshake.
CONNECT_SECONDS = 5.0
#: Connections that are opened at the same moment. A handshake is 1 to 2 ms of CPU; 50 at once would hold up the rest.
MAX_OPENING = 4
#: An idle connection is probed so often, or a gateway on the way forgets it (AWS's own after 350 s).
KEEPALIVE_SECONDS = 60

_TCP_OPTIONS = [
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
    *(
        (socket.IPPROTO_TCP, getattr(socket, name), seconds)
        for name, seconds in (("TCP_KEEPIDLE", KEEPALIVE_SECONDS), ("TCP_KEEPINTVL", 10))
        if hasattr(socket, name)  # not on every system
    ),
]


class Connections:
    """Keeps at most `kept` connections to one endpoint; as many more as calls need are opened and closed again.

    Threads and greenlets share it: a connection is in the deque or in the hands of one call. The last one used goes
    first, so that what a rush has opened falls idle. `ca_file`: what the endpoint's certificate is checked with.
    """

    def __init__(self, endpoint_url: str, kept: int, ca_file: str = "") -> None:
        self._kept: deque[Connection] = deque()
        parts = urlsplit(endpoint_url)
        self.host = parts.hostname or ""
        self.port = parts.port or (443 if parts.scheme == "https" else 80)
        self.tls = tls_context(ca_file) if parts.scheme == "https" else None
        self._most = kept
        self._opening = BoundedSemaphore(MAX_OPENING)
        #: How many were opened so far.
        self.opened = 0

    def exchange(self, wire: bytes, seconds: float) -> Answer:
        """Send a request, once, and read its answer, within these seconds. Raises Unreachable."""
        connection, left = self._usable(), seconds
        if connection is None:
            end = monotonic() + seconds
            connection, left = self._new(end), end - monotonic()
        answer = exchanged(connection, wire, left, seconds)
        self._keep(connection)
        return answer

    def close(self) -> None:
        """Close what is kept."""
        with suppress(IndexError):
            while True:
                self._kept.pop().close()

    def __del__(self) -> None:
        self.close()

    def _usable(self) -> Connection | None:
        while self._kept:
            try:
                connection = self._kept.pop()
            except IndexError:  # another thread was faster
                break
            if connection.usable():
                return connection
            connection.close()
        return None

    def _keep(self, connection: Connection) -> None:
        if not connection.clean:
            connection.close()
            return
        self._kept.append(connection)
        if len(self._kept) > self._most:
            with suppress(IndexError):  # other threads have taken them meanwhile
                self._kept.popleft().close()

    def _new(self, end: float) -> Connection:
        limit = min(end, monotonic() + CONNECT_SECONDS)
        if not self._opening.acquire(timeout=max(0.0, limit - monotonic())):
            raise Unreachable(f"no connection to {self.host}:{self.port}: others wait for one too")
        try:
            return self._usable() or self._open(limit)  # one may have come free meanwhile
        finally:
            self._opening.release()

    def _open(self, limit: float) -> Connection:
        sock, missing = None, "no connection"
        try:
            sock = socket.create_connection((self.host, self.port), max(0.001, limit - monotonic()))
            for option in _TCP_OPTIONS:
                sock.setsockopt(*option)
            missing = "no TLS" if self.tls else missing
            connection = Connection(self._stream(sock, limit))
        except BaseException as error:
            if sock is not None:
                sock.close()
            if isinstance(error, OSError | UnicodeError):  # UnicodeError: a name that cannot be in the DNS
                raise Unreachable(f"{missing} to {self.host}:{self.port}: {error}") from error
            raise
        self.opened += 1
        return connection

    def _stream(self, sock: socket.socket, limit: float) -> Stream:
        if self.tls is None:
            return Stream(sock)
        stream = TlsStream(sock, self.tls, self.host)
        stream.handshake(limit)
        return stream


def exchanged(connection: Connection, wire: bytes, left: float, seconds: float) -> Answer:
    """The answer to this request; where none comes, the connection is closed. Raises Unreachable.

    `left`: what is left of the `seconds` that the whole call has.
    """
    try:
        return connection.exchange(wire, left)
    except BaseException as error:  # an interrupt too: nobody reads the rest of this answer
        connection.close()
        if isinstance(error, OSError | EOFError | ValueError):
            raise Unreachable(_loss(error, seconds)) from error
        raise


def _loss(error: Exception, seconds: float) -> str:
    """What became of a request that was sent: SQS may have done it or not."""
    if isinstance(error, TimeoutError):
        return f"no answer in {seconds:g} s"
    if isinstance(error, ValueError):
        return f"no HTTP: {error}"
    return f"the connection ended before the answer did: {error}".removesuffix(": ")


@cache
def tls_context(ca_file: str) -> ssl.SSLContext:
    """One for all connections of the process: to load a full CA bundle takes 13 ms that no greenlet else can have.

    Raises ConfigError where the file cannot be read.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # which checks certificate and host name
    try:
        context.load_verify_locations(ca_file)
    except OSError as error:
        raise ConfigError(f"the CA bundle {ca_file} (AWS_CA_BUNDLE, REQUESTS_CA_BUNDLE): {error}") from None
    context.set_alpn_protocols(["http/1.1"])
    return context
