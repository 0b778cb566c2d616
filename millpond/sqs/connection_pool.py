"""The kept connections to one endpoint: taken for a call, kept after it, closed where they cannot be trusted."""

from __future__ import annotations

import ssl
from collections import deque
from contextlib import suppress
from functools import cache
from threading import BoundedSemaphore
from time import monotonic
from urllib.parse import urlsplit

from millpond.errors import ConfigError, Unanswered, Unreachable
from millpond.hub.home import Home, hub_thread, process, system
from millpond.sqs.dial import Dialer
from millpond.sqs.http_connection import HttpAnswer, HttpConnection

#: Opening a connection, from the lookup of the name to the end of the handshake, over all addresses.
CONNECT_SECONDS = 5.0
#: Connections that are opened at once. A handshake takes 1 to 2 ms of CPU: 50 of them would hold up everything else.
MAX_OPENING = 4
_get_ident = system("_thread", "get_ident")


class ConnectionPool:
    """Keeps at most `kept` connections to one endpoint; as many more as calls need are opened and closed again.

    Threads and greenlets share it: a connection is in the deque, or one call has it. The one used last is taken first,
    so that connections opened in a rush fall idle. `ca_file`: what the endpoint's certificate is checked with.

    Where gevent has patched, its sockets belong to the hub's thread. Real threads beside it share others, which are
    the system's own.
    """

    def __init__(self, endpoint_url: str, kept: int, ca_file: str = "", home: Home = process) -> None:
        self._kept: deque[HttpConnection] = deque()
        self._beside: ConnectionPool | None = None
        parts = urlsplit(endpoint_url)
        self.host = parts.hostname or ""
        self.port = parts.port or (443 if parts.scheme == "https" else 80)
        self.tls = tls_context(ca_file) if parts.scheme == "https" else None
        self._most = kept
        self._made_with = endpoint_url, ca_file
        self._hub_thread = hub_thread() if home is process else 0
        if self._hub_thread:
            self._beside = ConnectionPool(endpoint_url, kept, ca_file, system)
        self._dialer = Dialer(home, self.host, self.port, self.tls)
        # The system shares the CPU among real threads, and gevent's locks are not for them.
        self._opening = None if home is system else BoundedSemaphore(MAX_OPENING)

    def exchange(self, wire: bytes, seconds: float) -> HttpAnswer:
        """Send a request, once, and read its answer, all within these seconds. Raises Unreachable."""
        if self._beside is not None and _get_ident() != self._hub_thread:
            return self._beside.exchange(wire, seconds)
        connection, left = self._usable(), seconds
        if connection is None:
            end = monotonic() + seconds
            connection, left = self._new(end), end - monotonic()
        answer = _exchanged(connection, wire, left, seconds)
        self._keep(connection)
        return answer

    def for_thread(self) -> ConnectionPool:
        """One that keeps a connection of the system's own, for a native thread that shares nothing with the hub."""
        endpoint_url, ca_file = self._made_with
        return ConnectionPool(endpoint_url, 1, ca_file, system)

    def close(self) -> None:
        """Close the kept connections."""
        with suppress(IndexError):
            while True:
                self._kept.pop().close()
        if self._beside is not None:
            self._beside.close()

    def __del__(self) -> None:
        self.close()

    def _usable(self) -> HttpConnection | None:
        while True:
            try:
                connection = self._kept.pop()
            except IndexError:  # none is left
                return None
            if connection.usable():
                return connection
            connection.close()

    def _keep(self, connection: HttpConnection) -> None:
        if not connection.reusable:
            connection.close()
            return
        self._kept.append(connection)
        if len(self._kept) > self._most:
            with suppress(IndexError):  # other threads have taken them
                self._kept.popleft().close()

    def _new(self, end: float) -> HttpConnection:
        limit = min(end, monotonic() + CONNECT_SECONDS)
        if self._opening is None:
            return HttpConnection(self._dialer.dial(limit))
        if not self._opening.acquire(timeout=max(0.0, limit - monotonic())):
            raise Unreachable(f"no connection to {self.host}:{self.port}: other calls are still opening theirs")
        try:
            return self._usable() or HttpConnection(self._dialer.dial(limit))  # one may be free by now
        finally:
            self._opening.release()


def _exchanged(connection: HttpConnection, wire: bytes, left: float, seconds: float) -> HttpAnswer:
    """The answer to this request. Where none comes, the connection is closed and Unanswered raised.

    `left`: what is left of the `seconds` that the whole call has.
    """
    try:
        return connection.exchange(wire, left)
    except BaseException as error:  # an interrupt too: nobody reads the rest of this answer
        connection.close()
        if isinstance(error, OSError | EOFError | ValueError):
            raise Unanswered(_loss(error, seconds)) from error
        raise


def _loss(error: Exception, seconds: float) -> str:
    """Why a request that was sent has no answer; SQS may have done it."""
    if isinstance(error, TimeoutError):
        return f"no answer in {seconds:.3g} s"
    if isinstance(error, ValueError):
        return f"the answer is not valid HTTP: {error}"
    return f"the connection ended before the answer did: {error}".removesuffix(": ")


@cache
def tls_context(ca_file: str) -> ssl.SSLContext:
    """One context for all connections of the process: loading a full CA bundle blocks the hub for 13 ms.

    Raises ConfigError where the file cannot be read.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # which checks certificate and host name
    context.options &= ~ssl.OP_IGNORE_UNEXPECTED_EOF  # Python 3.11 sets it: an answer that is cut would pass as whole
    try:
        context.load_verify_locations(ca_file)
    except OSError as error:
        raise ConfigError(f"cannot read the CA bundle {ca_file} (AWS_CA_BUNDLE, REQUESTS_CA_BUNDLE): {error}") from None
    context.set_alpn_protocols(["http/1.1"])
    return context
