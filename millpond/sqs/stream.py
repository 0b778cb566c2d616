"""Bytes to and from one TCP connection, with or without TLS, within a time limit.

TLS is done in memory, over the plain socket: an ssl.SSLSocket reads each record in two pieces and raises an exception
before each wait, which together is a quarter of what an answer costs.
"""

from __future__ import annotations

import socket
import ssl
import sys
from contextlib import suppress
from time import monotonic
from typing import Any

RECV_BYTES = 65_536
#: The longest TLS record (RFC 8446).
RECORD_BYTES = 16_384
#: Type, version, and the length of what follows in the last two.
RECORD_HEAD_BYTES = 5


class Stream:
    """Plain bytes. All calls raise OSError; TimeoutError where the limit is over. Not for two callers at once."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._seconds = -1.0
        # Where gevent has patched: its hub, what it waits with, and the system's own socket, which never blocks.
        self._hub: Any = getattr(sock, "hub", None)
        self._readable: Any = getattr(sock, "_read_event", None)
        self._raw: socket.socket = getattr(sock, "_sock", sock)

    def close(self) -> None:
        """Never raises: who closes has an error of its own to tell, or an answer."""
        with suppress(OSError):
            self._socket.close()

    def limit(self, seconds: float) -> None:
        """From now on, each wait takes so long at most. Raises TimeoutError where that is no time at all."""
        if seconds <= 0:
            raise TimeoutError("timed out")
        self._seconds = seconds
        if self._hub is None:
            self._socket.settimeout(seconds)

    def send(self, data: bytes) -> None:
        """All of it."""
        try:
            sent = self._raw.send(data)  # nearly always all, at once: gevent's socket is for when it must wait
        except BlockingIOError:
            sent = 0
        if sent < len(data):
            self._patient().sendall(memoryview(data)[sent:])

    def _patient(self) -> socket.socket:
        """The socket that waits, within the limit."""
        self._socket.settimeout(self._seconds)
        return self._socket

    def wait(self) -> None:
        """Until there is something to read. For when that is known to take a while: it spares `recv` a try in vain.

        Under gevent only, where that and its own Timeout cost a third of a call: 4 us and 5.
        """
        if self._hub is None:
            return
        timer = self._hub.loop.timer(self._seconds)
        # From the timer itself: hub.cancel_wait would throw a turn later, into whoever waits on this socket then.
        timer.start(sys.modules["gevent"].getcurrent().throw, TimeoutError("timed out"), update=True)
        try:
            self._hub.wait(self._readable)
        finally:
            timer.close()

    def recv(self) -> bytes:
        """What is there, or what comes next; b"" at the end."""
        return self._received()

    def recv_into(self, room: memoryview) -> int:
        """The same, to its place, as much as fits: how much it was; 0 at the end."""
        try:
            return self._raw.recv_into(room)
        except BlockingIOError:
            return self._patient().recv_into(room)

    def _received(self) -> bytes:
        try:
            return self._raw.recv(RECV_BYTES)
        except BlockingIOError:
            return self._patient().recv(RECV_BYTES)

    def silent(self) -> bool:
        """Whether there is nothing to read now, not even the end; an OSError says no too."""
        self._hurry()
        try:
            self._raw.recv(1)
        except BlockingIOError:
            return True
        return False

    def _hurry(self) -> None:
        """No wait at all, until the next limit."""
        if self._hub is None:
            self._socket.settimeout(0)


class TlsStream(Stream):
    """The same over TLS, the server's certificate checked. The end is only one that the server has signed."""

    def __init__(self, sock: socket.socket, context: ssl.SSLContext, host: str) -> None:
        super().__init__(sock)
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=host)

    def handshake(self, end: float) -> None:
        """Until the time `end` (monotonic). Raises ssl.SSLError for a certificate that is not to be trusted."""
        try:
            while not self._shake():
                self._feed(end)
        finally:
            self._flush()  # with an error: the alert that tells the server

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
        end = monotonic() + self._seconds
        if not self._incoming.pending:
            self._feed(end)
        while True:
            try:
                return self._tls.read(*places)
            except ssl.SSLWantReadError:  # the rest of a record is to come, or this one carried nothing
                self._flush()
                self._feed(end)

    def silent(self) -> bool:
        # OpenSSL reads record by record: what it has not asked for begins with the head of one.
        behind = self._incoming.read() if self._incoming.pending else b""
        self._hurry()
        try:
            while data := self._raw.recv(RECV_BYTES):
                behind += data
                if len(behind) > RECV_BYTES:
                    break
        except BlockingIOError:
            return not self._tls.pending() and (not behind or self._carries_nothing(behind))
        return False

    def _carries_nothing(self, records: bytes) -> bool:
        """TLS 1.3 sends session tickets of its own accord: they are not for us.

        A record whose end is still to come can be anything, so it is not waited for.
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

    def _feed(self, end: float) -> None:
        self.limit(end - monotonic())
        data = self._received()
        if data:
            self._incoming.write(data)
        else:
            self._incoming.write_eof()

    def _flush(self) -> None:
        if self._outgoing.pending:
            super().send(self._outgoing.read())
