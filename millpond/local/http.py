"""HTTP/1.1 as far as SQS needs it: requests off a connection, one after the other, and an answer's bytes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus
from typing import NamedTuple

from gevent.socket import socket as Socket  # noqa: N812  a class

from millpond.local.errors import SqsError

#: A request's bytes: 1 MiB of message, each byte six in JSON at the most (\u0001), and room for the rest.
MAX_REQUEST_BYTES = 7 * 1_048_576
#: Bytes and lines of a request's head.
MAX_HEAD_BYTES = 65_536
MAX_HEAD_LINES = 200

_RECEIVE_BYTES = 65_536
_REQUEST_LINE = re.compile(r"([A-Z]+) ([!-~]+) HTTP/1\.([01])")
_LENGTH = re.compile(r"[0-9]{1,15}")
_CHUNK_LENGTH = re.compile(rb"([0-9A-Fa-f]{1,7})[ \t]*(;.*)?")


class Unreadable(SqsError):
    """A request that is none, or was not read to its end: nothing more can be read from its connection."""


class Request(NamedTuple):
    """`headers` by their names in lower case; `stays`: the client goes on to use the connection."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes
    stays: bool


class Requests:
    """The requests that come over one connection."""

    def __init__(self, socket: Socket) -> None:
        self._socket = socket
        self._read = b""  # and not yet used

    def next(self) -> Request | None:
        """None where the client has ended. Raises Unreadable, and OSError where the connection broke."""
        head = self._head()
        if head is None:
            return None
        line, headers = _parsed(head)
        if headers.get("expect", "").lower() == "100-continue":
            self._socket.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        stays = line[3] == "1" and headers.get("connection", "").lower() != "close"
        return Request(line[1], line[2], headers, self._body(headers), stays)

    def _head(self) -> bytes | None:
        while (end := self._read.find(b"\r\n\r\n")) < 0:
            if len(self._read) > MAX_HEAD_BYTES:
                raise _no_request(f"its head has more than {MAX_HEAD_BYTES} bytes")
            data = self._socket.recv(_RECEIVE_BYTES)
            if not data:
                return None
            self._read += data
        if end > MAX_HEAD_BYTES:
            raise _no_request(f"its head has more than {MAX_HEAD_BYTES} bytes")
        head, self._read = self._read[:end], self._read[end + 4 :]
        return head

    def _body(self, headers: Mapping[str, str]) -> bytes:
        encoding = headers.get("transfer-encoding")
        if encoding is None:
            length = headers.get("content-length", "0")
            if not _LENGTH.fullmatch(length):
                raise _no_request(f"its Content-Length is {length[:100]!r}")
            return self._take(int(length))
        if encoding.lower() != "chunked":
            raise _no_request(f"its Transfer-Encoding is {encoding[:100]!r}")
        return self._chunks()

    def _chunks(self) -> bytes:
        chunks: list[bytes] = []
        size = 0
        while length := self._chunk_length():
            chunks.append(self._take(length, size))
            size += length
            if self._line():
                raise _cut("a chunk is longer than it says")
        while self._line():
            pass  # trailers
        return b"".join(chunks)

    def _chunk_length(self) -> int:
        line = self._line()
        length = _CHUNK_LENGTH.fullmatch(line)
        if not length:
            raise _cut(f"{line[:100]!r} is no length of a chunk")
        return int(length[1], 16)

    def _line(self) -> bytes:
        while (end := self._read.find(b"\r\n")) < 0:
            if len(self._read) > MAX_HEAD_BYTES:
                raise _cut(f"a line has more than {MAX_HEAD_BYTES} bytes")
            self._read += self._more()
        line, self._read = self._read[:end], self._read[end + 2 :]
        return line

    def _take(self, length: int, before: int = 0) -> bytes:
        """The next `length` bytes; `before` came already."""
        if before + length > MAX_REQUEST_BYTES:
            raise Unreadable("RequestEntityTooLarge", f"A request has {MAX_REQUEST_BYTES} bytes at most.")
        if length > len(self._read):
            self._fill(length)
        taken, self._read = self._read[:length], self._read[length:]
        return taken

    def _fill(self, length: int) -> None:
        parts, size = [self._read], len(self._read)
        while size < length:
            parts.append(self._more())
            size += len(parts[-1])
        self._read = b"".join(parts)

    def _more(self) -> bytes:
        data: bytes = self._socket.recv(_RECEIVE_BYTES)
        if not data:
            raise _cut("the connection ended before it")
        return data


def answer(status: int, headers: Mapping[str, str], body: bytes, second: int) -> bytes:
    """Its bytes; `second` is now, in seconds since 1970."""
    lines = [_first_lines(status, second), *(f"{name}: {value}\r\n" for name, value in headers.items())]
    return f"{''.join(lines)}Content-Length: {len(body)}\r\n\r\n".encode() + body


@lru_cache(maxsize=16)
def _first_lines(status: int, second: int) -> str:
    return f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\nDate: {formatdate(second, usegmt=True)}\r\n"


def _parsed(head: bytes) -> tuple[re.Match[str], dict[str, str]]:
    lines = head.decode("latin-1").split("\r\n")
    line = _REQUEST_LINE.fullmatch(lines[0])
    if not line:
        raise _no_request(f"it begins with {lines[0][:100]!r}")
    if len(lines) > MAX_HEAD_LINES:
        raise _no_request(f"its head has more than {MAX_HEAD_LINES} lines")
    headers = {}
    for text in lines[1:]:
        name, colon, value = text.partition(":")
        if not colon:
            raise _no_request(f"{text[:100]!r} is no header")
        headers[name.lower()] = value.strip()
    return line, headers


def _no_request(reason: str) -> Unreadable:
    return Unreadable("SerializationException", f"This is no HTTP/1.1 request: {reason}.")


def _cut(reason: str) -> Unreadable:
    return Unreadable("SerializationException", f"The request's body cannot be read: {reason}.")
