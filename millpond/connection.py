"""One HTTP/1.1 connection: a request goes out, its answer comes in, whole or not at all."""

from __future__ import annotations

import os
import re
import socket
import ssl
from collections.abc import Iterator
from contextlib import suppress
from time import monotonic

#: Of one answer, chunk sizes and all. The longest has ten messages of 1 MiB together; JSON can make that six times.
MAX_ANSWER_BYTES = 16 * 1024 * 1024
MAX_HEAD_BYTES = 65_536
RECV_BYTES = 65_536

#: RFC 9112, without folded fields. What is not exactly this is no answer.
HEAD = re.compile(
    rb"HTTP/1\.([01]) ([1-5][0-9]{2})(?: [^\0\r\n]*)?\r\n((?:[!#$%&'*+.^_`|~0-9A-Za-z-]+:[^\0\r\n]*\r\n)*)\r\n"
)
CHUNK = re.compile(rb"([0-9A-Fa-f]{1,8})[ \t]*(?:;[^\0\r\n]*)?\r\n")
LENGTH = re.compile(r"[0-9]{1,9}")


class Connection:
    """One connection, in the hands of one call at a time, and what was read from it and not yet used."""

    __slots__ = ("_buffer", "_bytes_left", "_deadline", "_pid", "_socket", "clean")

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._pid = os.getpid()
        self._buffer = bytearray()
        self._bytes_left = 0
        self._deadline = 0.0
        #: Whether the last answer was whole, with nothing behind it, and the server keeps the connection too.
        self.clean = False

    def close(self) -> None:
        self._socket.close()

    def usable(self) -> bool:
        """Whether nothing came since the last answer, not even the end, and this process is the one that opened it.

        A forked child has its parent's: if both used one, each would read the other's answers.
        """
        if self._pid != os.getpid():
            return False
        self._socket.settimeout(0)
        try:
            self._socket.recv(1)  # no peek: only a read passes over TLS records that carry nothing
        except (BlockingIOError, ssl.SSLWantReadError):
            return True
        except OSError:
            pass
        return False

    def exchange(self, wire: bytes, seconds: float) -> tuple[int, dict[str, str], bytes]:
        """Status, headers (names in lower case) and body of the answer, all of it within these seconds.

        Raises TimeoutError, EOFError, OSError and, for what is no HTTP answer, ValueError.
        """
        self.clean = False
        self._bytes_left = MAX_ANSWER_BYTES
        self._deadline = monotonic() + seconds
        self._socket.settimeout(seconds)
        self._socket.sendall(wire)
        status = 100
        while status < 200:  # 100 Continue and its like: the answer comes after them
            minor, status, headers = self._head()
        closing = "close" in headers.get("connection", "").lower()
        body = self._body(status, headers, closing)
        self.clean = minor == b"1" and not closing and not self._buffer
        return status, headers, body

    def _head(self) -> tuple[bytes, int, dict[str, str]]:
        match = HEAD.fullmatch(self._through(b"\r\n\r\n"))
        if match is None:
            raise ValueError("the answer is not HTTP/1.1")
        minor, status, fields = match.groups()
        headers: dict[str, str] = {}
        for field in fields.decode("latin-1").split("\r\n")[:-1]:
            name, _, value = field.partition(":")
            name, value = name.lower(), value.strip(" \t")
            headers[name] = f"{headers[name]}, {value}" if name in headers else value
        return minor, int(status), headers

    def _body(self, status: int, headers: dict[str, str], closing: bool) -> bytes:
        length, coding = headers.get("content-length"), headers.get("transfer-encoding")
        if status in (204, 304):
            return b""
        if coding is None and length is not None and LENGTH.fullmatch(length):
            return self._exactly(int(length))
        if length is None and coding is not None and coding.lower() == "chunked":
            return b"".join(self._chunks())
        if length is None and coding is None and closing:
            return self._rest()
        raise ValueError(f"no telling where the answer ends: length {length}, coding {coding}")

    def _chunks(self) -> Iterator[bytes]:
        while size := self._chunk_size():
            yield self._exactly(size)
            if self._exactly(2) != b"\r\n":
                raise ValueError("a chunk of the answer does not end where it says")
        while self._through(b"\r\n") != b"\r\n":  # trailers have nothing for SQS
            pass

    def _chunk_size(self) -> int:
        match = CHUNK.fullmatch(self._through(b"\r\n"))
        if match is None:
            raise ValueError("a chunk of the answer has no size")
        return int(match[1], 16)

    def _through(self, mark: bytes) -> bytes:
        start = 0
        while (end := self._buffer.find(mark, start, MAX_HEAD_BYTES)) < 0:
            if len(self._buffer) >= MAX_HEAD_BYTES:
                raise ValueError(f"the head of the answer is longer than {MAX_HEAD_BYTES:,} bytes")
            start = max(0, len(self._buffer) - len(mark) + 1)
            self._more()
        return self._cut(end + len(mark))

    def _exactly(self, size: int) -> bytes:
        if size > len(self._buffer) + self._bytes_left:
            raise _too_long()
        while len(self._buffer) < size:
            self._more()
        return self._cut(size)

    def _rest(self) -> bytes:
        with suppress(EOFError):
            while True:
                self._more()
        return self._cut(len(self._buffer))

    def _cut(self, size: int) -> bytes:
        taken = bytes(self._buffer[:size])
        del self._buffer[:size]
        return taken

    def _more(self) -> None:
        seconds = self._deadline - monotonic()
        if seconds <= 0:
            raise TimeoutError
        self._socket.settimeout(seconds)
        data = self._socket.recv(RECV_BYTES)
        if not data:
            raise EOFError
        self._bytes_left -= len(data)
        if self._bytes_left < 0:
            raise _too_long()
        self._buffer += data


def _too_long() -> ValueError:
    return ValueError(f"the answer is longer than {MAX_ANSWER_BYTES:,} bytes")
