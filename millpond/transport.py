"""HTTP/1.1 to one endpoint, over connections that are kept: what botocore calls in the place of urllib3.

urllib3, http.client and email.parser are half of what a boto3 call costs; SQS needs little of what they can do. A
request is sent once and never again: a receive sent twice strands a batch, and the engine has its own back-off. A
connection is kept only after a complete answer, with nothing behind it.
"""

from __future__ import annotations

import os
import socket
import ssl
from collections import deque
from contextlib import suppress
from functools import cache
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from botocore.awsrequest import AWSResponse
from botocore.exceptions import (
    ConnectionClosedError,
    ConnectTimeoutError,
    EndpointConnectionError,
    HTTPClientError,
    ReadTimeoutError,
    SSLError,
)
from botocore.httpsession import get_cert_path
from botocore.utils import get_environ_proxies

from millpond.connection import Connection


def install(client: Any, ca_bundle: str | None) -> None:
    """Let this boto3 client send through a Transport; where a proxy applies, botocore's own way stays.

    `ca_bundle` is the file that the AWS configuration names, if it does. Raises ValueError where it cannot be read.
    """
    url, config = client.meta.endpoint_url, client.meta.config
    proxies = get_environ_proxies(url) if config.proxies is None else config.proxies
    if not proxies.get(urlsplit(url).scheme):
        # Not an answer to `before-send`: botocore calls all handlers of that event, even when one of them (moto, a
        # test) has answered, and the request would be sent all the same.
        client._endpoint.http_session = Transport(url, config, ca_bundle)


class Transport:
    """Sends requests to one endpoint. Time-outs and how many connections are kept come from a botocore Config.

    Threads and greenlets share it without a lock: a connection is in the deque or in the hands of one call. The last
    one used goes first.
    """

    def __init__(self, endpoint_url: str, config: Any, ca_bundle: str | None = None) -> None:
        self._kept: deque[Connection] = deque()
        self._config = config
        parts = urlsplit(endpoint_url)
        default_port = 443 if parts.scheme == "https" else 80
        self._host, self._port = parts.hostname or "", parts.port or default_port
        self._origin = f"{parts.scheme}://{parts.netloc}"
        self._tls = _tls(_ca_file(ca_bundle)) if parts.scheme == "https" else None
        name = f"[{self._host}]" if ":" in self._host else self._host
        port = "" if self._port == default_port else f":{self._port}"  # the signature is for a name without the default
        self._fields = f"Host: {name}{port}\r\nAccept-Encoding: identity".encode()

    def send(self, request: Any) -> AWSResponse:
        """The whole answer to an AWSPreparedRequest. Raises what botocore knows: HTTPClientError, EndpointConnection-,
        ConnectTimeout-, SSL-, ConnectionClosed- and ReadTimeoutError."""
        wire = self._wire(request)
        connection = self._take()
        try:
            status, headers, content = connection.exchange(wire, self._config.read_timeout)
        except BaseException as error:
            connection.close()
            if isinstance(error, TimeoutError):
                raise ReadTimeoutError(endpoint_url=request.url) from error
            if isinstance(error, OSError | EOFError):
                raise ConnectionClosedError(endpoint_url=request.url) from error
            if isinstance(error, ValueError):
                raise HTTPClientError(error=error) from error
            raise
        self._keep(connection)
        return AWSResponse(request.url, status, headers, _Raw(content))

    def close(self) -> None:
        """Close what is kept."""
        with suppress(IndexError):
            while True:
                self._kept.pop().close()

    def __del__(self) -> None:
        self.close()

    def _wire(self, request: Any) -> bytes:
        target = request.url.removeprefix(self._origin) or "/"
        if not target.startswith("/"):
            raise HTTPClientError(error=f"{request.url} is not at {self._origin}")
        lines = [f"{request.method} {target} HTTP/1.1\r\n".encode() + self._fields]
        for name, value in request.headers.items():
            lines.append(b"%b: %b" % (name.encode(), value if isinstance(value, bytes) else value.encode()))
        head = b"\r\n".join(lines)
        if not head.count(b"\r") == head.count(b"\n") == len(lines) + 1:
            raise HTTPClientError(error="a header has a line break in it: is there one in a key or session token?")
        return b"%b\r\n\r\n%b" % (head, request.body or b"")

    def _take(self) -> Connection:
        while True:
            try:
                connection = self._kept.pop()
            except IndexError:
                return self._open()
            if connection.usable():
                return connection
            connection.close()

    def _keep(self, connection: Connection) -> None:
        if not connection.clean:
            connection.close()
            return
        self._kept.append(connection)
        if len(self._kept) > self._config.max_pool_connections:
            with suppress(IndexError):  # other threads have taken them meanwhile
                self._kept.popleft().close()

    def _open(self) -> Connection:
        sock = None
        try:
            sock = socket.create_connection((self._host, self._port), self._config.connect_timeout)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            if self._tls is not None:
                sock = self._tls.wrap_socket(
                    sock, server_hostname=self._host, do_handshake_on_connect=False, suppress_ragged_eofs=False
                )
                sock.do_handshake()
        except BaseException as error:
            if sock is not None:
                sock.close()
            if isinstance(error, TimeoutError):
                raise ConnectTimeoutError(endpoint_url=self._origin) from error
            if isinstance(error, ssl.SSLError):
                raise SSLError(endpoint_url=self._origin, error=error) from error
            if isinstance(error, OSError | UnicodeError):  # UnicodeError: a name that cannot be in the DNS
                raise EndpointConnectionError(endpoint_url=self._origin) from error
            raise
        return Connection(sock)


class _Raw(NamedTuple):
    """What AWSResponse reads its content from."""

    content: bytes

    def stream(self) -> tuple[bytes]:
        return (self.content,)


def _ca_file(ca_bundle: str | None) -> str:
    """Where botocore looks for it: what the configuration names, or else certifi's."""
    return str(get_cert_path(ca_bundle or os.environ.get("REQUESTS_CA_BUNDLE") or True))


@cache
def _tls(ca_file: str) -> ssl.SSLContext:
    """One for all connections of the process: to load a full CA bundle takes 13 ms that no greenlet else can have."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # which checks certificate and host name
    try:
        context.load_verify_locations(ca_file)
    except OSError as error:
        raise ValueError(f"the CA bundle {ca_file} (AWS_CA_BUNDLE, REQUESTS_CA_BUNDLE): {error}") from None
    context.set_alpn_protocols(["http/1.1"])
    return context
