"""Answers that a scripted server gives, and what a client makes of them."""

from __future__ import annotations

from pathlib import Path

from botocore.httpsession import get_cert_path
from gevent.select import select

from millpond.sqs.connection_pool import ConnectionPool
from millpond.sqs.http_connection import HttpAnswer
from tests.http_server import Server

ROOT = Path(__file__).parent.parent.parent
EVERYBODYS = str(get_cert_path(True))
ENDED = "the connection ended before the answer did"
LENGTH = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 11\r\n"
    b"X-Two: 1\r\nx-two: 2\r\n\r\nhello world"
)
CHUNKED = (
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"5;name=value\r\nhello\r\n006\r\n world\r\n0\r\nX-Trailer: a\r\nX-Other: b\r\n\r\n"
)
INTERIM = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + LENGTH
TO_ITS_END = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhello world"


def send(client: ConnectionPool, body: bytes = b"{}", seconds: float = 5) -> HttpAnswer:
    return client.exchange(b"POST / HTTP/1.1\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body), seconds)


def works(client: ConnectionPool, server: Server, body: bytes = b"still right") -> None:
    """The script is over: an answer is the request's own body, and nothing of an answer before it."""
    server.script.clear()
    assert send(client, body).body == body


def idle_end(client: ConnectionPool) -> None:
    """Until the connection that goes next has something to read."""
    assert select([client._kept[-1]._stream._socket], [], [], 5)[0]
