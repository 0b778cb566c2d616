"""The bytes of an SMTP connection: commands out, whole replies in."""

from __future__ import annotations

import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import lru_cache, partial
from typing import Any, NamedTuple

from millpond.mail.watch import Watch

#: Seconds to look a host up and open a connection, its TLS handshake included, over all its addresses: each has its
#: share. RFC 5321 names none; what has not answered by then is down.
CONNECT_SECONDS = 30.0
#: What an address is given at the least.
SHARE_SECONDS = 1.0
#: Seconds for all the pieces of one send. RFC 5321 4.5.3.2.5 has a limit for each alone, which a server that takes a
#: byte a minute never passes; a handler has 900 s for everything.
SEND_SECONDS = 600.0
#: Bytes of a line and lines of a reply, far above any real one: more is no SMTP server.
MAX_LINE_BYTES = 8_192
MAX_REPLY_LINES = 200

_LINE = rb"([2-5]\d\d)(?:%b(?:([245]\.\d{1,3}+\.\d{1,3}+)\b)?+[^\n]*+|\r)?+"
_REPLY_LINE = re.compile(_LINE % rb"[ -]")
_ONE_LINE = re.compile(_LINE % rb" " + rb"\n")
# As the lines above, and no more is looked at.
_ALL_YES = re.compile(rb"(?:2\d\d(?: [^\n]*+|\r)?+\n)*+354(?: [^\n]*+|\r)?+\n")

_watch = Watch()

#: What getaddrinfo() gives: family, kind, protocol, canonical name, address.
AddressInfo = tuple[Any, ...]


class Reply(NamedTuple):
    """A server's answer: its code and, where it gave one, the enhanced status (RFC 3463); its text may quote
    addresses and is not kept."""

    code: int
    status: str = ""

    def __str__(self) -> str:
        return f"{self.code} {self.status}".rstrip()

    @property
    def accepted(self) -> bool:
        """2yz: done. No reply has a lower code, so that `code < 300` says the same where it is asked often."""
        return self.code < 300


class BadReplyError(Exception):
    """What came is no whole SMTP reply. The text says what it was."""


class Wire:
    """A socket to an SMTP server. `phase` is the part of the conversation it is in, for errors.

    Every method but close() raises OSError (TimeoutError where it is not done within `seconds`, however many bytes
    have come) or BadReplyError.
    """

    def __init__(self, host: str, port: int, tls: ssl.SSLContext | None = None) -> None:
        """Connect to the first address of the host that answers; with `tls` it is encrypted from the start."""
        self.phase = "connect"
        self._host = host
        self._buffer = b""
        self._late: bool
        self._sock: socket.socket
        deadline = time.monotonic() + CONNECT_SECONDS
        self._connect(_addresses(host, port, CONNECT_SECONDS), tls, deadline)

    @property
    def is_quiet(self) -> bool:
        """Whether nothing has come in that was not read, and the connection was not given up."""
        return not self._buffer and not self._late

    @property
    def own_address(self) -> str:
        """Our end of the connection, as an address literal of RFC 5321 4.1.3."""
        address = str(self._sock.getsockname()[0]).partition("%")[0]  # without the zone of a link-local one
        return f"[IPv6:{address}]" if ":" in address else f"[{address}]"

    def encrypt(self, tls: ssl.SSLContext, seconds: float) -> None:
        """Go on under TLS, the server's name verified."""
        self.phase = "TLS"
        if self._buffer:  # said before the encryption began, by whoever sits in between
            raise BadReplyError("unencrypted data")
        encrypted = tls.wrap_socket(self._sock, server_hostname=self._host, do_handshake_on_connect=False)
        self._use(encrypted)
        _watch.begin(self, seconds)
        try:
            encrypted.do_handshake()  # apart from wrap_socket(): an interrupt leaves what to close
        except OSError as error:
            raise self._meant(error) from None

    def send(self, phase: str, data: bytes, seconds: float) -> None:
        """Send all of it: `seconds` for each piece that the network takes, SEND_SECONDS for all of them."""
        self.phase = phase
        _watch.begin(self, seconds)
        try:
            sent = self._sock.send(data)
            if sent < len(data):
                self._send_rest(memoryview(data)[sent:], seconds)
        except OSError as error:
            raise self._meant(error) from None

    def reply(self, phase: str, seconds: float) -> Reply:
        """The next reply. One limit for all of it, however many waits it has."""
        self.phase = phase
        match = _ONE_LINE.match(self._buffer)
        if match is None:
            _watch.begin(self, seconds)
            if not self._buffer:  # nearly always it then comes whole, on one line
                self._receive()
                match = _ONE_LINE.match(self._buffer)
            if match is None:
                return parse(self._lines())
        self._buffer = self._buffer[match.end() :]
        return _reply(*match.groups())

    def granted(self, count: int) -> bool:
        """Whether the next `count` replies have come, nothing else, and all say yes, the last one to DATA.

        If so they are read: one look at what came together, in place of one for each.
        """
        if not _ALL_YES.fullmatch(self._buffer) or self._buffer.count(b"\n") != count:
            return False
        self._buffer = b""
        self.phase = "DATA"
        return True

    def reply_lines(self, phase: str, seconds: float) -> list[bytes]:
        """The lines of the next reply, which has ended: half a line, or a line that announces another, is none."""
        self.phase = phase
        _watch.begin(self, seconds)
        return self._lines()

    def rest(self) -> None:
        """Nothing is waited for any more: the limit of the last wait is off."""
        _watch.end(self)

    def give_up(self) -> None:
        """End the wait that is on: it raises TimeoutError, and the connection is of no more use."""
        self._late = True
        with suppress(OSError):
            socket.socket.shutdown(self._sock, socket.SHUT_RDWR)  # an SSLSocket's own would end its TLS with it

    def close(self) -> None:
        """Close at once; never waits, may be called twice."""
        _watch.end(self)
        with suppress(OSError):
            self._sock.close()

    def _connect(self, addresses: Sequence[AddressInfo], tls: ssl.SSLContext | None, deadline: float) -> None:
        failure = OSError("no address")
        for index, address in enumerate(addresses):
            share = (deadline - time.monotonic()) / (len(addresses) - index)
            try:
                return self._reach(address, tls, max(SHARE_SECONDS, share))
            except OSError as error:
                if not isinstance(failure, ssl.SSLError):  # which tells more than that the next one is closed
                    failure = error
        raise failure

    def _reach(self, address: AddressInfo, tls: ssl.SSLContext | None, seconds: float) -> None:
        # Not socket.create_connection(), which leaves its socket open where an interrupt hits it.
        family, kind, protocol, _, place = address
        reached, deadline = False, time.monotonic() + seconds
        self._late = False
        self._use(socket.socket(family, kind, protocol))
        try:
            self._sock.settimeout(seconds)
            self._sock.connect(place)
            self._sock.settimeout(None)
            self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if tls:
                self.encrypt(tls, deadline - time.monotonic())
            reached = True
        finally:
            if not reached:
                self.close()

    def _use(self, sock: socket.socket) -> None:
        self._sock = sock
        self._wait: Callable[[], object] = bool
        if hub := getattr(sock, "hub", None):  # where gevent has patched: until there is something to read
            wait = partial(hub.wait, sock._read_event)  # type: ignore[attr-defined]
            # TLS may have read already what it has not yet given away.
            self._wait = (lambda: sock.pending() or wait()) if isinstance(sock, ssl.SSLSocket) else wait

    def _send_rest(self, rest: memoryview, seconds: float) -> None:
        deadline = time.monotonic() + SEND_SECONDS
        while rest:
            _watch.begin(self, min(seconds, deadline - time.monotonic()))
            rest = rest[self._sock.send(rest) :]

    def _lines(self) -> list[bytes]:
        lines = [self._line()]
        while lines[-1][3:4] == b"-":
            lines.append(self._line())
            if len(lines) > MAX_REPLY_LINES or lines[-1][:3] != lines[0][:3]:
                raise BadReplyError("no SMTP reply")
        return lines

    def _line(self) -> bytes:
        while b"\n" not in self._buffer:
            if len(self._buffer) > MAX_LINE_BYTES:
                raise BadReplyError("no SMTP reply")
            self._receive()
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line

    def _receive(self) -> None:
        try:
            self._wait()  # what was just asked for is not there yet: a try in vain costs 3 us
            data = self._sock.recv(4_096)
        except OSError as error:
            raise self._meant(error) from None
        if not data:
            raise TimeoutError if self._late else BadReplyError("connection closed")
        self._buffer += data

    def _meant(self, error: OSError) -> OSError:
        return TimeoutError() if self._late else error


def _addresses(host: str, port: int, seconds: float) -> Sequence[AddressInfo]:
    """Those of a host. Asked in a thread of its own (a greenlet, in a worker): getaddrinfo() has no limit."""
    found: list[Sequence[AddressInfo] | OSError] = []

    def ask() -> None:
        try:
            found.append(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        except OSError as error:
            found.append(error)
        except UnicodeError as error:  # no name server can have it: a label of 64 letters
            found.append(socket.gaierror(str(error)))

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(seconds)
    answer = found[0] if found else TimeoutError()
    if isinstance(answer, OSError):
        raise answer
    return answer


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
    if isinstance(error, ssl.SSLError) and error.reason in ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE"):
        return "it does not speak TLS there: see port and security in [handlers.email]"
    if isinstance(error, socket.gaierror):
        return "its name does not resolve"
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, OSError):
        return (error.strerror or type(error).__name__).lower()
    return str(error)
