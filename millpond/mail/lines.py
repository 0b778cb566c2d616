"""The bytes of an SMTP connection: commands go out, whole replies come in."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from millpond.mail.reply import ALL_YES, ONE_LINE, BadReplyError, Reply, make_reply, parse_reply
from millpond.mail.timeouts import Timeouts

#: Seconds to look a host up and open a connection, its TLS handshake included, over all its addresses: each has its
#: share. RFC 5321 names none; what has not answered by then is down.
RELAY_CONNECT_SECONDS = 30.0
#: The least share of an address.
SHARE_SECONDS = 1.0
#: Seconds for all the pieces of one send. RFC 5321 4.5.3.2.5 has a limit for each alone, which a server that takes a
#: byte a minute never passes; a handler has 900 s for everything.
SEND_SECONDS = 600.0
#: Bytes of a line and lines of a reply, far above any real one: more is no SMTP server.
MAX_LINE_BYTES = 8_192
MAX_REPLY_LINES = 200

_timeouts = Timeouts()

#: What getaddrinfo() gives: family, kind, protocol, canonical name, address.
AddressInfo = tuple[Any, ...]


class SmtpLines:
    """A socket to an SMTP server. `phase`: the part of the conversation that it is in, for errors.

    Every method but close() raises OSError (TimeoutError where it is not done within `seconds`, however many bytes
    have come) or BadReplyError.
    """

    def __init__(self, host: str, port: int, tls: ssl.SSLContext | None = None) -> None:
        """Connect to the first address of the host that answers; with `tls`, encrypted from the start."""
        self.phase = "connect"
        self._host = host
        self._buffer = b""
        self._late: bool
        self._sock: socket.socket
        deadline = time.monotonic() + RELAY_CONNECT_SECONDS
        self._connect(_addresses(host, port, RELAY_CONNECT_SECONDS), tls, deadline)

    @property
    def is_quiet(self) -> bool:
        """Whether all that came in was read, and the connection was not given up."""
        return not self._buffer and not self._late

    @property
    def own_address(self) -> str:
        """Our end of the connection, as an address literal of RFC 5321 4.1.3."""
        address = str(self._sock.getsockname()[0]).partition("%")[0]  # without the zone of a link-local one
        return f"[IPv6:{address}]" if ":" in address else f"[{address}]"

    def encrypt(self, tls: ssl.SSLContext, seconds: float) -> None:
        """Go on under TLS, and verify the server's name."""
        self.phase = "TLS"
        if self._buffer:  # sent before the encryption began, by someone in between
            raise BadReplyError("unencrypted data")
        encrypted = tls.wrap_socket(self._sock, server_hostname=self._host, do_handshake_on_connect=False)
        self._use(encrypted)
        _timeouts.begin(self, seconds)
        try:
            encrypted.do_handshake()  # apart from wrap_socket(): an interrupt leaves what to close
        except OSError as error:
            raise self._meant(error) from None

    def send(self, phase: str, data: bytes, seconds: float) -> None:
        """Send all of `data`: `seconds` for each piece that the network takes, SEND_SECONDS for all of them."""
        self.phase = phase
        _timeouts.begin(self, seconds)
        try:
            sent = self._sock.send(data)
            if sent < len(data):
                self._send_rest(memoryview(data)[sent:], seconds)
        except OSError as error:
            raise self._meant(error) from None

    def reply(self, phase: str, seconds: float) -> Reply:
        """The next reply, within one limit for all the waits that it takes."""
        self.phase = phase
        match = ONE_LINE.match(self._buffer)
        if match is None:
            _timeouts.begin(self, seconds)
            if not self._buffer:  # nearly always the reply then comes whole, on one line
                self._receive()
                match = ONE_LINE.match(self._buffer)
            if match is None:
                return parse_reply(self._read_lines())
        self._buffer = self._buffer[match.end() :]
        reply = make_reply(*match.groups())
        return reply if reply.code < 400 else reply.about([match[0]])

    def granted(self, count: int) -> bool:
        """Whether exactly the next `count` replies have come, and all say yes, the last one to DATA.

        If so they are read: by one look at what came together, instead of one for each.
        """
        if not ALL_YES.fullmatch(self._buffer) or self._buffer.count(b"\n") != count:
            return False
        self._buffer = b""
        self.phase = "DATA"
        return True

    def reply_lines(self, phase: str, seconds: float) -> list[bytes]:
        """The lines of the next reply, up to its last one."""
        self.phase = phase
        _timeouts.begin(self, seconds)
        return self._read_lines()

    def rest(self) -> None:
        """Take the time-out of the last wait away: nothing is waited for any more."""
        _timeouts.end(self)

    def give_up(self) -> None:
        """End the present wait: it raises TimeoutError, and the connection is of no more use."""
        self._late = True
        with suppress(OSError):
            socket.socket.shutdown(self._sock, socket.SHUT_RDWR)  # an SSLSocket's own would end its TLS with it

    def close(self) -> None:
        """Close at once; never waits; may be called twice."""
        _timeouts.end(self)
        with suppress(OSError):
            self._sock.close()

    def _connect(self, addresses: Sequence[AddressInfo], tls: ssl.SSLContext | None, deadline: float) -> None:
        failure = OSError("no address")
        for index, address in enumerate(addresses):
            share = (deadline - time.monotonic()) / (len(addresses) - index)
            try:
                return self._reach(address, tls, max(SHARE_SECONDS, share))
            except OSError as error:
                if not isinstance(failure, ssl.SSLError):  # which explains more than that the next one is closed
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
            _timeouts.begin(self, min(seconds, deadline - time.monotonic()))
            rest = rest[self._sock.send(rest) :]

    def _read_lines(self) -> list[bytes]:
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
    """The addresses of a host, asked in a thread of its own (a greenlet, in a worker): getaddrinfo() has no limit."""
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


def what_failed(error: Exception) -> str:
    """What went wrong, in words that quote no address."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate does not verify ({error.verify_message})"
    if isinstance(error, ssl.SSLError) and error.reason in ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE"):
        return "it does not speak TLS there: check port and security in the settings of e-mail"
    if isinstance(error, socket.gaierror):
        return "its name does not resolve"
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, OSError):
        return (error.strerror or type(error).__name__).lower()
    return str(error)
