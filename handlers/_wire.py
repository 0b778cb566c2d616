"""The bytes of an SMTP connection: commands out, whole replies in."""

from __future__ import annotations

import re
import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from typing import NamedTuple, TypeVar

from ._watch import Watch

#: Seconds to open a TCP connection, for each address of the host. RFC 5321 names none; what has not answered by then
#: is down.
CONNECT_SECONDS = 30.0
#: Bytes of a line and lines of a reply, far above any real one: more is no SMTP server.
MAX_LINE_BYTES = 8_192
MAX_REPLY_LINES = 200

_LINE = rb"([2-5]\d\d)(?:%b(?:([245]\.\d{1,3}\.\d{1,3})\b)?[^\n]*|\r)?"
_REPLY_LINE = re.compile(_LINE % rb"[ -]")
_ONE_LINE = re.compile(_LINE % rb" " + rb"\n")

_watch = Watch()

Given = TypeVar("Given")
Answer = TypeVar("Answer")


class Reply(NamedTuple):
    """A server's answer: its code and, where it gave one, the enhanced status (RFC 3463); its text may quote
    addresses and is not kept."""

    code: int
    status: str = ""

    def __str__(self) -> str:
        return f"{self.code} {self.status}".rstrip()

    @property
    def accepted(self) -> bool:
        """2yz: done."""
        return self.code // 100 == 2


class BadReplyError(Exception):
    """What came is no whole SMTP reply. The text says what it was."""


class Wire:
    """A socket to an SMTP server. `phase` is the part of the conversation it is in, for errors.

    Every method but close() raises OSError (TimeoutError where `seconds` pass without a byte) or BadReplyError.
    """

    def __init__(self, host: str, port: int) -> None:
        self.phase = "connect"
        self._host = host
        self._buffer = b""
        self._late = False
        self._sock = _connect(host, port)

    @property
    def is_quiet(self) -> bool:
        """Whether nothing has come in that was not read, and the connection was not given up."""
        return not self._buffer and not self._late

    @property
    def own_address(self) -> str:
        """Our end of the connection, as an address literal of RFC 5321 4.1.3."""
        address = str(self._sock.getsockname()[0])
        return f"[IPv6:{address}]" if ":" in address else f"[{address}]"

    def encrypt(self, tls: ssl.SSLContext, seconds: float) -> None:
        """Go on under TLS, the server's name verified."""
        self.phase = "TLS"
        if self._buffer:  # said before the encryption began, by whoever sits in between
            raise BadReplyError("unencrypted data")
        self._sock.settimeout(seconds)
        self._sock = tls.wrap_socket(self._sock, server_hostname=self._host, do_handshake_on_connect=False)
        self._sock.do_handshake()  # apart from wrap_socket(), so that an interrupt leaves a socket to close
        self._sock.settimeout(None)

    def send(self, phase: str, data: bytes, seconds: float) -> None:
        """Send all of it, `seconds` for each piece that the network takes (sendall() counts the whole)."""
        self.phase = phase
        sent = self._send(data, seconds)
        if sent < len(data):
            rest = memoryview(data)[sent:]
            while rest:
                rest = rest[self._send(rest, seconds) :]

    def reply(self, phase: str, seconds: float) -> Reply:
        """The next reply."""
        self.phase = phase
        if not self._buffer:
            self._receive(seconds)
        if match := _ONE_LINE.match(self._buffer):  # as nearly all are
            self._buffer = self._buffer[match.end() :]
            return _reply(*match.groups())
        return parse(self.reply_lines(phase, seconds))

    def reply_lines(self, phase: str, seconds: float) -> list[bytes]:
        """The lines of the next reply, which has ended: half a line, or a line that announces another, is none."""
        self.phase = phase
        lines = [self._line(seconds)]
        while lines[-1][3:4] == b"-":
            lines.append(self._line(seconds))
            if len(lines) > MAX_REPLY_LINES or lines[-1][:3] != lines[0][:3]:
                raise BadReplyError("no SMTP reply")
        return lines

    def give_up(self) -> None:
        """End the wait that is on: it raises TimeoutError, and the connection is of no more use."""
        self._late = True
        with suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close at once; never waits, may be called twice."""
        with suppress(OSError):
            self._sock.close()

    def _line(self, seconds: float) -> bytes:
        while b"\n" not in self._buffer:
            if len(self._buffer) > MAX_LINE_BYTES:
                raise BadReplyError("no SMTP reply")
            self._receive(seconds)
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line

    def _receive(self, seconds: float) -> None:
        data = self._within(seconds, self._sock.recv, 4_096)
        if not data:
            raise TimeoutError if self._late else BadReplyError("connection closed")
        self._buffer += data

    def _send(self, data: bytes | memoryview, seconds: float) -> int:
        return self._within(seconds, self._sock.send, data)

    def _within(self, seconds: float, call: Callable[[Given], Answer], given: Given) -> Answer:
        try:
            _watch.begin(self, seconds)
            return call(given)
        except OSError:
            if self._late:
                raise TimeoutError from None
            raise
        finally:
            _watch.end(self)


def parse(lines: list[bytes]) -> Reply:
    """The reply that these lines are. Raises BadReplyError."""
    match = _REPLY_LINE.fullmatch(lines[-1])
    if match is None:
        raise BadReplyError("no SMTP reply")
    return _reply(*match.groups())


@lru_cache(maxsize=256)
def _reply(code: bytes, status: bytes | None) -> Reply:
    return Reply(int(code), status.decode() if status else "")


def describe(error: Exception) -> str:
    """What went wrong, in words without addresses."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate does not verify ({error.verify_message})"
    if isinstance(error, socket.gaierror):
        return "its name does not resolve"
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, OSError):
        return (error.strerror or type(error).__name__).lower()
    return str(error)


def _connect(host: str, port: int) -> socket.socket:
    # Not socket.create_connection(), which leaves its socket open where an interrupt hits it.
    failure = OSError("no address")
    for family, kind, protocol, _, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
        sock = socket.socket(family, kind, protocol)
        connected = False
        try:
            sock.settimeout(CONNECT_SECONDS)
            sock.connect(address)
            sock.settimeout(None)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connected = True
            return sock
        except OSError as error:
            failure = error
        finally:
            if not connected:
                sock.close()
    raise failure
