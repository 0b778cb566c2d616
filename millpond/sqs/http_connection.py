"""One HTTP/1.1 connection: a request goes out, its answer comes in, whole or not at all."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from typing import NamedTuple

from millpond.errors import Unreachable
from millpond.sqs.stream import Stream

#: The longest answer, chunk sizes included. The longest that SQS can send has ten messages of 1 MiB, each byte six in
#: JSON: 60 MiB, and 4 for what stands around them. It is in memory once, beside the texts that are read from it.
MAX_ANSWER_BYTES = 64 * 1024 * 1024
#: The code of the QueueError for a longer answer: with fewer messages it might fit.
TOO_LARGE = "AnswerTooLarge"
#: The place for a body grows by this much at a time, as the body comes.
STEP_BYTES = 1024 * 1024
#: All heads of one answer together, interim ones included; and its trailers.
MAX_HEAD_BYTES = 65_536
#: Chunks of one answer: even the longest fits in chunks of 1 KiB, which no server sends.
MAX_CHUNKS = 65_536

_NAME, _VALUE = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]++", rb"[^\0\r\n]*+"
#: The head of an answer by RFC 9112, without folded fields. Anything else is no answer.
HEAD = re.compile(rb"HTTP/1\.([01]) ([1-5][0-9]{2})(?: %b)?\r\n(?:%b:%b\r\n)*+\r\n" % (_VALUE, _NAME, _VALUE))
#: The fields that say where the body ends and whether the connection goes on. The others are not read.
FRAMING = re.compile(rb"(?i)\n(content-length|transfer-encoding|connection):[ \t]*([^\r]*)")
_OTHERS = rb"(?:(?!(?i:content-length|transfer-encoding|connection):)%b:%b\r\n|(?i:connection: keep-alive)\r\n)*+"
_OTHERS %= (_NAME, _VALUE)
#: A head as SQS sends it: by the same rules, with one length, and a connection that is kept.
USUAL = re.compile(
    rb"HTTP/1\.1 ([2-5][0-9]{2})(?: %b)?\r\n%b(?i:content-length):[ \t]*([0-9]{1,9})[ \t]*\r\n%b\r\n"
    % (_VALUE, _OTHERS, _OTHERS)
)
CHUNK = re.compile(rb"([0-9A-Fa-f]{1,8})[ \t]*(?:;[^\0\r\n]*)?\r\n")
LENGTH = re.compile(rb"[0-9]{1,9}")
#: Statuses whose answers have no body, whatever their head says.
EMPTY = frozenset({204, 304})


class HttpAnswer(NamedTuple):
    """One answer. `head`: as it came, with its status line."""

    status: int
    head: bytes
    body: bytes | bytearray

    def __repr__(self) -> str:
        return f"<HttpAnswer {self.status}>"

    def header(self, name: str) -> str:
        """The value of this field (name in lower case): "" for none; several are joined by ", "."""
        fields = (line.partition(":") for line in self.head.decode("latin-1").split("\r\n"))
        return ", ".join(value.strip(" \t") for one, _, value in fields if one.lower() == name)


class HttpConnection:
    """One connection, used by one call at a time, and what was read from it and is not yet used."""

    __slots__ = ("_buffer", "_bytes_left", "_pid", "_stream", "reusable")

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._pid = os.getpid()
        self._buffer = bytearray()
        self._bytes_left: int
        #: Whether the last answer was whole and the server keeps the connection; `usable` sees what came behind it.
        self.reusable: bool

    def close(self) -> None:
        self._stream.close()

    def usable(self) -> bool:
        """Whether nothing came since the last answer, not even the end, and this process has opened it.

        A forked child has its parent's connections: if both used one, each would read the other's answers.
        """
        try:
            return self._pid == os.getpid() and self._stream.silent()
        except OSError:  # reset, or over TLS an alert, an end, plain text
            return False

    def exchange(self, wire: bytes, seconds: float) -> HttpAnswer:
        """Send a request and read its answer, all of it within these seconds.

        Raises TimeoutError, EOFError, OSError and, for what is not an HTTP answer, ValueError; for one that is longer
        than MAX_ANSWER_BYTES Unreachable, with the code TOO_LARGE.
        """
        self._bytes_left = MAX_ANSWER_BYTES
        self._stream.limit(seconds)
        self._stream.send(wire)
        self._stream.wait()
        data = self._recv()
        return self._at_once(data) or self._in_pieces(data)

    def _at_once(self, data: bytes) -> HttpAnswer | None:
        """The answer, where one read brought it whole, of the usual kind, and nothing else: no byte is copied twice."""
        match = USUAL.match(data)
        if match is None or match.end() + int(match[2]) != len(data):
            return None
        status = int(match[1])
        if status in EMPTY:
            return None
        self.reusable = True
        return HttpAnswer(status, match[0], data[match.end() :])

    def _in_pieces(self, data: bytes) -> HttpAnswer:
        self._buffer += data
        minor, status, head = self._head()
        heads = len(head)
        while status < 200:  # 100 Continue and its like: the answer comes after them
            minor, status, head = self._head()
            heads += len(head)
            _check_head(heads)
        length, coding, closing = _framing(head, len(head))
        body = b"" if status in EMPTY else self._body(length, coding, closing)
        self.reusable = minor == b"1" and not closing and not self._buffer
        return HttpAnswer(status, head, body)

    def _head(self) -> tuple[bytes, int, bytes]:
        head = self._through(b"\r\n\r\n")
        match = HEAD.fullmatch(head)
        if match is None:
            raise ValueError("the answer is not HTTP/1.1")
        return match[1], int(match[2]), head

    def _body(self, length: bytes | None, coding: bytes | None, closing: bool) -> bytes | bytearray:
        if coding is None and length is not None and LENGTH.fullmatch(length):
            return self._exactly(int(length))
        if length is None and coding == b"chunked":
            return self._chunks()
        if length is None and coding is None and closing:
            return self._rest()
        raise ValueError(f"the answer does not say where it ends: length {length!r}, coding {coding!r}")

    def _chunks(self) -> bytearray:
        body = bytearray()
        for _ in range(MAX_CHUNKS):
            size = self._chunk_size()
            if not size:
                self._skip_trailers()
                return body
            self._await(size)
            body += memoryview(self._buffer)[:size]
            del self._buffer[:size]
            self._await(2)
            if self._cut(2) != b"\r\n":
                raise ValueError("a chunk of the answer does not end where it says")
        raise ValueError(f"the answer comes in more than {MAX_CHUNKS:,} chunks")

    def _skip_trailers(self) -> None:
        """Read past the trailers, which mean nothing for SQS."""
        size = 0
        while (line := self._through(b"\r\n")) != b"\r\n":
            size += len(line)
            _check_head(size)

    def _chunk_size(self) -> int:
        match = CHUNK.fullmatch(self._through(b"\r\n"))
        if match is None:
            raise ValueError("a chunk of the answer has no size")
        return int(match[1], 16)

    def _through(self, mark: bytes) -> bytes:
        start = 0
        while (end := self._buffer.find(mark, start, MAX_HEAD_BYTES)) < 0:
            _check_head(len(self._buffer) + 1)
            start = max(0, len(self._buffer) - len(mark) + 1)
            self._more()
        return self._cut(end + len(mark))

    def _exactly(self, size: int) -> bytearray:
        """This many bytes. What is still to come is read into its place, and not copied again."""
        self._check_length(size)
        body = bytearray(min(size, STEP_BYTES))
        have = min(size, len(self._buffer))
        body[:have] = memoryview(self._buffer)[:have]
        del self._buffer[:have]
        self._fill(memoryview(body)[have:])
        while have := min(STEP_BYTES, size - len(body)):  # a length that is only claimed takes no memory
            body += bytes(have)
            self._fill(memoryview(body)[-have:])
        return body

    def _fill(self, room: memoryview) -> None:
        while room:
            self._stream.seconds_left()  # a drip may come so fast that no read waits
            number = self._stream.recv_into(room)
            if not number:
                raise EOFError
            room = room[number:]

    def _await(self, size: int) -> None:
        """Wait until this many bytes are there. Raises at once where the answer would be too long."""
        self._check_length(size)
        while len(self._buffer) < size:
            self._more()

    def _check_length(self, size: int) -> None:
        if size > len(self._buffer) + self._bytes_left:
            raise _too_long()

    def _rest(self) -> bytearray:
        with suppress(EOFError):
            while True:
                self._more()
        taken, self._buffer = self._buffer, bytearray()
        return taken

    def _cut(self, size: int) -> bytes:
        taken = bytes(self._buffer[:size])
        del self._buffer[:size]
        return taken

    def _more(self) -> None:
        self._stream.seconds_left()  # as in `_fill`
        self._buffer += self._recv()

    def _recv(self) -> bytes:
        data = self._stream.recv()
        if not data:
            raise EOFError
        self._bytes_left -= len(data)
        if self._bytes_left < 0:
            raise _too_long()
        return data


def _framing(head: bytes, end: int) -> tuple[bytes | None, bytes | None, bool]:
    """Content-Length, Transfer-Encoding (None: absent; several are joined by commas), and whether the server closes."""
    length = coding = connection = None
    for name, value in FRAMING.findall(head, 0, end):
        match len(name):
            case 14:
                length = _joined(length, value)
            case 17:
                coding = _joined(coding, value.lower())
            case _:
                connection = _joined(connection, value.lower())
    return length, coding, connection is not None and b"close" in connection


def _joined(before: bytes | None, value: bytes) -> bytes:
    value = value.rstrip(b" \t")
    return value if before is None else b"%b,%b" % (before, value)


def _check_head(size: int) -> None:
    if size > MAX_HEAD_BYTES:
        raise ValueError(f"the head of the answer is longer than {MAX_HEAD_BYTES:,} bytes")


def _too_long() -> Unreachable:
    return Unreachable(f"the answer is longer than {MAX_ANSWER_BYTES:,} bytes", TOO_LARGE)
