"""A client by raw sockets, which can send what no SDK would send."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

from gevent import socket

from millpond.local import LocalSqs

JSON = "application/x-amz-json-1.0"


class RawClient:
    """A kept connection to the server."""

    def __init__(self, server: LocalSqs) -> None:
        self.host = server.url.removeprefix("http://")
        host, port = self.host.split(":")
        self.socket = socket.create_connection((host, int(port)), timeout=10)
        self.file = self.socket.makefile("rb")

    def close(self) -> None:
        self.file.close()
        self.socket.close()

    def send(self, raw: bytes) -> None:
        self.socket.sendall(raw)

    def answer(self) -> tuple[int, dict[str, str], bytes]:
        """Status, headers in lower case, body."""
        status = int(self.file.readline().split()[1])
        headers = {}
        while (line := self.file.readline()) != b"\r\n":
            key, _, value = line.decode().partition(":")
            headers[key.lower()] = value.strip()
        return status, headers, self.file.read(int(headers["content-length"]))

    def request(self, operation: str, body: bytes, *headers: str) -> bytes:
        head = [
            "POST / HTTP/1.1",
            f"Host: {self.host}",
            f"X-Amz-Target: AmazonSQS.{operation}",
            f"Content-Type: {JSON}",
            *(headers or [f"Content-Length: {len(body)}"]),
        ]
        return "\r\n".join([*head, "", ""]).encode() + body

    def chunked(self) -> bytes:
        """The head of a request whose body comes in chunks."""
        return self.request("SendMessage", b"", "Transfer-Encoding: chunked")

    def call(self, operation: str, **parameters: Any) -> tuple[int, dict[str, str], Any]:
        self.send(self.request(operation, json.dumps(parameters).encode()))
        status, headers, body = self.answer()
        return status, headers, json.loads(body)


def assert_closed(connection: RawClient) -> None:
    with suppress(ConnectionResetError):  # so it is where the server left bytes unread
        assert connection.file.read() == b""
