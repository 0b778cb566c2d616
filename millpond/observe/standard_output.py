"""Standard output, which nobody may be reading: it never makes a writer wait for long."""

from __future__ import annotations

import io
import os
import time
from contextlib import suppress
from select import PIPE_BUF, POLLOUT
from typing import Any, TextIO

from gevent.monkey import get_original

_poll: Any = get_original("select", "poll")
_NativeRLock: Any = get_original("_thread", "RLock")

#: A slow reader is waited for this long at once, and 1 % of the time, since that blocks the hub.
PATIENCE_SECONDS, PATIENCE_SHARE = 0.5, 0.01


class StandardOutput(io.RawIOBase):
    """The writing end of a file descriptor. A piece goes out whole, or is dropped whole and counted.

    1. A pipe, a socket or a terminal that is full takes nothing until it is read. One that polls as writable takes
       PIPE_BUF bytes at once: so much is written at a time.
    2. A reader that has gone for good (EPIPE) leads nowhere from then on, whoever writes there.
    3. After any other error (a full disk) the piece is dropped, and the next one is tried.

    The descriptor stays a blocking one: O_NONBLOCK would be its other owners' too, the shell among them.
    """

    def __init__(self, number: int) -> None:
        self.dropped = 0  # lines; whoever logs them takes them off
        self._number = number
        self._rest = b""  # of a piece whose beginning is out
        self._patience = PATIENCE_SECONDS
        self._waited = time.monotonic()
        self._lock = _NativeRLock()  # for threads; no greenlet switches while it holds it
        self._room = _poll()
        self._room.register(number, POLLOUT)

    def fileno(self) -> int:
        return self._number

    def isatty(self) -> bool:
        return os.isatty(self._number)

    def writable(self) -> bool:
        return True

    def write(self, piece: Any, /) -> int:
        """Write to it as to any stream; what is dropped counts as written."""
        data = bytes(piece)
        if not self.offer(data):
            self.drop(data)
        return len(data)

    def drop(self, data: bytes) -> None:
        """Count the lines of what is not written."""
        self.dropped += max(1, data.count(b"\n"))

    def offer(self, data: bytes) -> bool:
        """Write it. False: there is no room, and none of it is written."""
        with self._lock:
            self._rest = self._rest[self._put(self._rest) :]
            if self._rest:
                return False
            sent = self._put(data)
            self._rest = data[sent:] if sent else b""
            return sent > 0 or not data

    def write_at_once(self, data: bytes) -> None:
        """Write it without the lock, which a blocked thread may hold. At most PIPE_BUF bytes.

        By a poll of its own: one that two threads are in at once is an error, and their lines were lost.
        """
        room = _poll()
        room.register(self._number, POLLOUT)
        try:
            if room.poll(0):
                os.write(self._number, data)
                return
        except OSError:
            pass
        self.drop(data)

    def forget_lock(self) -> None:
        """In a forked child, where the thread that held the lock is gone."""
        self._lock = _NativeRLock()

    def _put(self, data: bytes) -> int:
        """Write, and return how many of these bytes are out."""
        sent = 0
        try:
            while sent < len(data) and self._has_room():
                sent += os.write(self._number, data[sent : sent + PIPE_BUF])
        except BrokenPipeError:
            self._lead_nowhere()
            return len(data)
        except OSError:  # a full disk; whatever it is, the log must not stop a worker
            pass
        return sent

    def _has_room(self) -> bool:
        return bool(self._room.poll(0) or self._wait())

    def _wait(self) -> bool:
        """Wait for a slow reader while there is patience; a share of the time since the last wait is new patience."""
        now = time.monotonic()
        self._patience = min(PATIENCE_SECONDS, self._patience + (now - self._waited) * PATIENCE_SHARE)
        self._waited = now
        if self._patience < 0.001:  # poll() counts in whole milliseconds
            return False
        found = self._room.poll(self._patience * 1000)
        self._waited = time.monotonic()
        self._patience = max(0.0, self._patience - (self._waited - now))
        return bool(found)

    def _lead_nowhere(self) -> None:
        """Write to nowhere from now on: what is left in a buffer would otherwise turn the exit code into 120."""
        with suppress(OSError), open(os.devnull, "wb") as nowhere:  # EMFILE: the next piece tries it again
            os.dup2(nowhere.fileno(), self._number)


def standard_output(stream: TextIO | None) -> StandardOutput | None:
    """The StandardOutput of a text stream; None where it writes to no file descriptor, or there is no stream."""
    buffer = getattr(stream, "buffer", None)
    if isinstance(buffer, StandardOutput):
        return buffer
    try:
        return StandardOutput(stream.fileno()) if stream is not None else None
    except (OSError, ValueError):
        return None


def unblocked(stream: TextIO | None) -> TextIO | None:
    """The same stream for print() and every other writer: where it is full, lines are dropped, and nobody waits."""
    out = standard_output(stream)
    if stream is None or out is None:
        return stream
    stream.flush()
    buffer: Any = out  # a raw stream will do where each write takes all of it
    return io.TextIOWrapper(buffer, stream.encoding, "backslashreplace", line_buffering=True)
