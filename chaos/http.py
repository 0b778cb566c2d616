"""HTTP/1.1 as far as the proxy needs it: whole messages off a socket, cut at their length and not looked into."""

from __future__ import annotations

import re
import socket
import struct
from typing import NamedTuple

_LENGTH = re.compile(rb"(?i)\r\ncontent-length:[ \t]*([0-9]+)")
_TARGET = re.compile(rb"(?i)\r\nx-amz-target:[ \t]*(?:AmazonSQS|DynamoDB_20120810)\.(\w+)")
_RECV_BYTES = 262_144


class HttpMessage(NamedTuple):
    """A request or an answer, its head with the empty line."""

    head: bytes
    body: bytes

    @property
    def bytes(self) -> bytes:
        return self.head + self.body

    @property
    def operation(self) -> str:
        """Of a request."""
        match = _TARGET.search(self.head)
        return match[1].decode() if match else ""

    @property
    def worker(self) -> str:
        """Of a request: the first part of its path, which names the worker."""
        return self.head.split(b" ", 2)[1].decode().split("/")[1]

    @property
    def ok(self) -> bool:
        """Of an answer."""
        return self.head.startswith(b"HTTP/1.1 200")


class Wire:
    """One connection."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        self._read = b""

    def next(self) -> HttpMessage | None:
        """The next message; None where the other side has ended."""
        data = self._read
        while (end := data.find(b"\r\n\r\n")) < 0:
            more = self.socket.recv(_RECV_BYTES)
            if not more:
                return None
            data = data + more if data else more
        end += 4
        length = _LENGTH.search(data, 0, end)
        size = end + (int(length[1]) if length else 0)
        while len(data) < size:
            more = self.socket.recv(_RECV_BYTES)
            if not more:
                return None
            data += more
        self._read = data[size:]
        return HttpMessage(data[:end], data[end:size])

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def close(self) -> None:
        self.socket.close()

    def reset(self) -> None:
        """Close it so that the other side gets a reset."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()


def request(operation: str, body: bytes) -> bytes:
    """A call of the JSON protocol, not signed: the local queue looks at no signature."""
    head = f"POST / HTTP/1.1\r\nhost: sqs\r\nx-amz-target: AmazonSQS.{operation}\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body


def answer(body: bytes, status: str = "200 OK", kind: str = "application/x-amz-json-1.0", more: str = "") -> bytes:
    """An answer. `more`: further lines of its head."""
    head = f"HTTP/1.1 {status}\r\n{more}Content-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body
