"""HTTP/1.1 as far as SQS needs it: requests off a connection, one after the other, and an answer's bytes.

Every part of a request has its limits: of bytes and lines here, of time by its connection (admission.py). Whoever
sends without a pause is not read without one: the other greenlets of the process have their turn.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus
from time import monotonic
from typing import NamedTuple

import gevent
from gevent.socket import socket as Socket  # noqa: N812  a class

from millpond.local.access import AccessGuard
from millpond.local.admission import HEAD_SECONDS, REQUEST_SECONDS, ServerConnection
from millpond.local.sqs_error import Unreadable, no_request

#: Bytes of a request: 1 MiB of message, each byte six in JSON at the most (\u0001), and room for the rest.
MAX_REQUEST_BYTES = 7 * 1_048_576
#: Bytes and lines of the head of a request.
MAX_REQUEST_HEAD_BYTES = 65_536
MAX_HEAD_LINES = 200
#: Chunks of one body, and bytes around them: lengths, extensions, trailers.
MAX_REQUEST_CHUNKS = 4096
MAX_FRAMING_BYTES = 65_536

_RECEIVE_BYTES = 65_536
# After this many reads the others have their turn, even if the next bytes are here already.
_READS = 8
# And after this many requests: a client that waits for its answers gives them their turn anyway.
_REQUESTS = 64
# `http://host` before the path: a client sends it if this server is set as its proxy (HTTP_PROXY).
_REQUEST_LINE = re.compile(r"([A-Z]{1,20}) (?:http://([^/ ]{1,300}))?(/[!-~]*) HTTP/1\.([01])")
# A name is a token, with nothing before the colon; a line that goes on in the next one (obs-fold) has none (RFC 9112).
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_NO_CONTROL = bytes(code for code in range(256) if code == 9 or (code >= 32 and code != 127))
_LENGTH = re.compile(r"[0-9]{1,15}")
_CHUNK_LENGTH = re.compile(rb"([0-9A-Fa-f]{1,7})[ \t]*(;.*)?")
# If one of these came twice, another program could read another value.
_SINGLE = frozenset({"host", "content-length", "transfer-encoding", "x-amz-target", "origin", "sec-fetch-site"}) | {
    "content-type",
    "expect",
}


class HttpRequest(NamedTuple):
    """One request. `headers`: by names in lower case. `stays`: the client goes on to use the connection."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes | bytearray
    stays: bool


class HttpRequests:
    """The requests over one connection."""

    def __init__(self, socket: Socket, connection: ServerConnection, guard: AccessGuard) -> None:
        self._socket = socket
        self._connection = connection
        self._guard = guard
        self._read: bytes | bytearray = b""  # and not yet used
        self._reads = 0
        self._framing = 0

    def next(self) -> HttpRequest | None:
        """The next request, None if the client has ended. Raises Unreadable, and OSError if the connection broke."""
        self._connection.rest()
        head = self._head()
        if head is None:
            return None
        line, headers = _parsed(head)
        is_new = line[4] == "1"
        self._guard.check(headers, line[2], host_is_needed=is_new)
        length = _body_length(headers, is_new)
        if headers.get("expect", "").lower() == "100-continue":
            self._socket.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        body = self._chunks() if length is None else self._body(length)
        self._connection.work()
        return HttpRequest(line[1], line[3], headers, body, is_new and headers.get("connection", "").lower() != "close")

    def _head(self) -> bytes | bytearray | None:
        self._reads += 1
        if self._read or not self._reads % _REQUESTS:
            gevent.sleep(0)
        if not self._read:
            self._read = self._socket.recv(_RECEIVE_BYTES)
            if not self._read:
                return None
        end = self._read.find(b"\r\n\r\n")
        if end < 0:
            end = self._end_of_head()
        if end > MAX_REQUEST_HEAD_BYTES:
            raise no_request(f"its head has more than {MAX_REQUEST_HEAD_BYTES} bytes")
        head, self._read = self._read[:end], self._read[end + 4 :]
        return head

    def _end_of_head(self) -> int:
        """Read on to the end of the head; where it is."""
        self._connection.read(HEAD_SECONDS)
        read = self._read = bytearray(self._read)
        end = -1
        while end < 0:
            seen = len(read)
            if seen > MAX_REQUEST_HEAD_BYTES:
                raise no_request(f"its head has more than {MAX_REQUEST_HEAD_BYTES} bytes")
            read += self._more()
            end = read.find(b"\r\n\r\n", max(0, seen - 3))
        return end

    def _body(self, length: int) -> bytes | bytearray:
        if length > len(self._read):
            return self._long_body(length)
        body, self._read = self._read[:length], self._read[length:]
        return body

    def _long_body(self, length: int) -> bytearray:
        """A body that is not here as a whole yet: it takes the memory of what has come, not of what was promised."""
        self._connection.read(REQUEST_SECONDS)
        body, self._read = bytearray(self._read), b""
        self._connection.hold(len(body))
        while len(body) < length:
            data = self._more(length - len(body))
            self._connection.hold(len(data))
            body += data
        return body

    def _chunks(self) -> bytearray:
        self._connection.read(REQUEST_SECONDS)
        self._read = bytearray(self._read)  # its front is cut off without a copy of the rest
        self._framing = 0
        body = bytearray()
        for _ in range(MAX_REQUEST_CHUNKS):
            length = self._chunk_length()
            if not length:
                self._pass_trailers()
                return body
            if len(body) + length > MAX_REQUEST_BYTES:
                raise _too_large()
            self._chunk(body, length)
            if self._line():
                raise _cut("a chunk is longer than it says")
        raise _cut(f"it has more than {MAX_REQUEST_CHUNKS} chunks")

    def _chunk_length(self) -> int:
        line = self._line()
        length = _CHUNK_LENGTH.fullmatch(line)
        if not length:
            raise _cut(f"{line[:100]!r} is not the length of a chunk")
        return int(length[1], 16)

    def _chunk(self, body: bytearray, length: int) -> None:
        """Append the next `length` bytes to the body."""
        while length:
            self._read = self._read or bytearray(self._more())
            part = self._read[:length]
            self._connection.hold(len(part))
            body += part
            length -= len(part)
            del self._read[: len(part)]  # type: ignore[union-attr]  # a bytearray, as _chunks made it

    def _pass_trailers(self) -> None:
        for _ in range(MAX_HEAD_LINES):
            if not self._line():
                return
        raise _cut(f"it has more than {MAX_HEAD_LINES} trailers")

    def _line(self) -> bytes:
        start = 0
        while (end := self._read.find(b"\r\n", start)) < 0:
            start = max(0, len(self._read) - 1)
            if self._framing + start > MAX_FRAMING_BYTES:
                raise _framing_is_long()
            self._read += self._more()
        line = bytes(self._read[:end])
        del self._read[: end + 2]  # type: ignore[union-attr]  # a bytearray, as _chunks made it
        self._framing += end + 2
        if self._framing > MAX_FRAMING_BYTES:
            raise _framing_is_long()
        return line

    def _more(self, most: int = _RECEIVE_BYTES) -> bytes:
        """The next bytes of a request that has begun."""
        self._reads += 1
        if not self._reads % _READS:
            gevent.sleep(0)
        data: bytes = self._socket.recv(min(most, _RECEIVE_BYTES))
        if not data:
            raise _cut("the connection ended before it")
        self._connection.moved = monotonic()
        return data


def answer(status: int, headers: Mapping[str, str], body: bytes, second: int) -> bytes:
    """The bytes of an answer; `second` is now, in seconds since 1970."""
    lines = [_first_lines(status, second), *(f"{name}: {value}\r\n" for name, value in headers.items())]
    return f"{''.join(lines)}Content-Length: {len(body)}\r\n\r\n".encode() + body


@lru_cache(maxsize=16)
def _first_lines(status: int, second: int) -> str:
    return f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\nDate: {formatdate(second, usegmt=True)}\r\n"


def _parsed(head: bytes | bytearray) -> tuple[re.Match[str], dict[str, str]]:
    lines = head.decode("latin-1").split("\r\n")
    line = _REQUEST_LINE.fullmatch(lines[0])
    if not line:
        raise no_request(f"it begins with {lines[0][:100]!r}")
    if len(lines) > MAX_HEAD_LINES:
        raise no_request(f"its head has more than {MAX_HEAD_LINES} lines")
    if len(head.translate(None, _NO_CONTROL)) > 2 * (len(lines) - 1):  # more than the ends of the lines
        raise no_request("its head has a control character")
    headers = {}
    for field in lines[1:]:
        name, colon, value = field.partition(":")
        if not colon:
            raise no_request(f"{field[:100]!r} is not a header")
        headers[_lower(name)] = value.strip()
    if len(headers) < len(lines) - 1:
        _check_single(lines[1:])
    return line, headers


@lru_cache(maxsize=256)
def _lower(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise no_request(f"{name[:100]!r} is not the name of a header")
    return name.lower()


def _check_single(fields: list[str]) -> None:
    names = [field.partition(":")[0].lower() for field in fields]
    for name in _SINGLE:
        if names.count(name) > 1:
            raise no_request(f"it has more than one {name.title()}")


def _body_length(headers: Mapping[str, str], is_new: bool) -> int | None:
    """The length of the body, None if it is chunked."""
    encoding = headers.get("transfer-encoding")
    length = headers.get("content-length", "0")
    if encoding is not None:
        if encoding.lower() != "chunked" or not is_new:
            raise no_request(f"its Transfer-Encoding is {encoding[:100]!r}")
        if "content-length" in headers:
            raise no_request("it has a Content-Length and a Transfer-Encoding")
        return None
    if not _LENGTH.fullmatch(length):
        raise no_request(f"its Content-Length is {length[:100]!r}")
    if int(length) > MAX_REQUEST_BYTES:
        raise _too_large()
    return int(length)


def _too_large() -> Unreadable:
    return Unreadable("RequestEntityTooLarge", f"A request has {MAX_REQUEST_BYTES} bytes at most.")


def _framing_is_long() -> Unreadable:
    return _cut(f"the lengths, extensions and trailers of its chunks have more than {MAX_FRAMING_BYTES} bytes")


def _cut(reason: str) -> Unreadable:
    return Unreadable("SerializationException", f"The request's body cannot be read: {reason}.")
