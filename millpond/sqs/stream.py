"""Bytes to and from one TCP connection, with or without TLS, within a time limit.

TLS is done in memory, over the plain socket: an ssl.SSLSocket reads each record in two pieces and raises an exception
before each wait, which together is a quarter of what an answer costs.
"""

from __future__ import annotations

import socket
import ssl
import sys
from collections.abc import Callable
from contextlib import suppress
from time import monotonic
from typing import Any

RECV_BYTES = 65_536
#: The longest TLS record (RFC 8446).
RECORD_BYTES = 16_384
#: Type, version, and the length of what follows in the last two.
RECORD_HEAD_BYTES = 5


class Stream:
    """Plain bytes, for one caller at a time. Every call raises OSError; TimeoutError once its limit is over."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._deadline = 0.0
        sock.settimeout(0)  # it waits in `_patiently` alone
        # Where gevent has patched: its hub, what it waits with, and the system's own socket.
        self._hub: Any = getattr(sock, "hub", None)
        self._readable: Any = getattr(sock, "_read_event", None)
        self._raw: socket.socket = getattr(sock, "_sock", sock)

    def close(self) -> None:
        """Close it, without an error: the caller has one of its own to raise, or an answer."""
        with suppress(OSError):
            self._socket.close()

    def limit(self, seconds: float) -> None:
        """Set the time for all calls from now on together. Raises TimeoutError where there is none."""
        self._deadline = monotonic() + seconds
        if seconds <= 0:
            raise TimeoutError("timed out")

    def seconds_left(self) -> float:
        """The time until the limit is over. Raises TimeoutError where none is left."""
        seconds = self._deadline - monotonic()
        if seconds <= 0:
            raise TimeoutError("timed out")
        return seconds

    def send(self, data: bytes) -> None:
        """Send all of it."""
        try:
            sent = self._raw.send(data)  # nearly always all, at once: gevent's socket is for when it must wait
        except BlockingIOError:
            sent = 0
        if sent < len(data):
            self._patiently(self._socket.sendall, memoryview(data)[sent:])

    def _patiently(self, call: Callable[[Any], Any], argument: object) -> Any:
        """What this call of the socket gives, which may wait for the time that is left."""
        self._socket.settimeout(self.seconds_left())
        try:
            return call(argument)
        finally:
            self._socket.settimeout(0)

    def wait(self) -> None:
        """Wait until there is something to read, which spares `recv` a try in vain.

        It does so under gevent alone, where that try and gevent's own Timeout cost a third of a call: 4 us and 5.
        """
        if self._hub is None:
            return
        timer = self._hub.loop.timer(self.seconds_left())
        # Thrown by the timer itself: hub.cancel_wait would throw a turn later, at the next caller of this socket.
        timer.start(sys.modules["gevent"].getcurrent().throw, TimeoutError("timed out"), update=True)
        try:
            self._hub.wait(self._readable)
        finally:
            timer.close()

    def recv(self) -> bytes:
        """What is there, or what comes next; b"" at the end."""
        try:
            return self._raw.recv(RECV_BYTES)
        except BlockingIOError:
            data: bytes = self._patiently(self._socket.recv, RECV_BYTES)
            return data

    def recv_into(self, room: memoryview) -> int:
        """Read into this place, as much as fits; gives the number of bytes, 0 at the end."""
        try:
            return self._raw.recv_into(room)
        except BlockingIOError:
            number: int = self._patiently(self._socket.recv_into, room)
            return number

    def silent(self) -> bool:
        """Whether there is nothing to read now, not even the end. An OSError means no as well."""
        try:
            self._raw.recv(1)
        except BlockingIOError:
            return True
        return False


class TlsStream(Stream):
    """Bytes over TLS, with the server's certificate checked. An end counts only where the server has signed it."""

    def __init__(self, sock: socket.socket, context: ssl.SSLContext, host: str) -> None:
        super().__init__(sock)
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=host)

    def handshake(self, end: float) -> None:
        """Shake hands until the time `end` (monotonic). Raises ssl.SSLError for a certificate that is not trusted."""
        try:
            self.limit(end - monotonic())
            while not self._shake():
                self._feed()
        finally:
            self._flush()  # after an error this is the alert for the server

    def send(self, data: bytes) -> None:
        self._tls.write(data)
        super().send(self._outgoing.read())

    def recv(self) -> bytes:
        data: bytes = self._decrypted(RECORD_BYTES)
        return data

    def recv_into(self, room: memoryview) -> int:
        number: int = self._decrypted(len(room), room)
        return number

    def _decrypted(self, *places: Any) -> Any:
        if not self._incoming.pending:
            self._feed()
        while True:
            try:
                return self._tls.read(*places)
            except ssl.SSLWantReadError:  # the rest of a record is to come, or this one carried nothing
                self._flush()
                self.seconds_left()  # records that carry nothing may come so fast that no read waits
                self._feed()

    def silent(self) -> bool:
        # OpenSSL reads record by record: what it has not asked for begins with the head of one.
        behind = self._incoming.read() if self._incoming.pending else b""
        try:
            while data := self._raw.recv(RECV_BYTES):
                behind += data
                if len(behind) > RECV_BYTES:
                    break
        except BlockingIOError:
            return not self._tls.pending() and (not behind or self._carries_nothing(behind))
        return False

    def _carries_nothing(self, records: bytes) -> bool:
        """Whether these records are TLS 1.3's session tickets, which a server sends unasked.

        A record whose end is still to come can be anything, so nobody waits for it.
        """
        end = 0
        while end < len(records):
            end += RECORD_HEAD_BYTES + int.from_bytes(records[end + 3 : end + RECORD_HEAD_BYTES], "big")
        if end != len(records):
            return False
        try:
            self._incoming.write(records)
            self._tls.read(1)
        except ssl.SSLWantReadError:
            return True
        return False

    def _shake(self) -> bool:
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            self._flush()
            return False
        return True

    def _feed(self) -> None:
        data = super().recv()
        if data:
            self._incoming.write(data)
        else:
            self._incoming.write_eof()

    def _flush(self) -> None:
        if self._outgoing.pending:
            super().send(self._outgoing.read())
