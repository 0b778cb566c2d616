"""Admission: how many connections there may be, how long each may take, and how many bytes all of them hold.

A limit of time costs a waiting connection nothing: a timer looks twice a second whose time is over. Where there is no
room for one more, or for its bytes, the one that has been still for the longest time gives way.
"""

from __future__ import annotations

import resource
from math import inf
from time import monotonic

import gevent
from gevent import get_hub

from millpond.local.sqs_error import Unreadable

#: Connections at a time; fewer if the process may not have twice as many descriptors, which others need too.
MAX_CONNECTIONS = 10_000
#: Seconds until the first request, and between two: AWS's gateways forget a connection after 350 s.
FIRST_SECONDS = 30.0
KEEP_ALIVE_SECONDS = 600.0
#: Seconds for a TLS handshake, for a request's head, for all of a request, and for an answer to be taken.
HANDSHAKE_SECONDS = 10.0
HEAD_SECONDS = 10.0
REQUEST_SECONDS = 30.0
ANSWER_SECONDS = 30.0
#: Bytes of long requests and answers, over all connections: nine of the longest requests.
MAX_HELD_BYTES = 64 * 1_048_576
#: Seconds without a byte, after which a connection gives way to another one's bytes.
STALLED_SECONDS = 1.0

_LOOK_SECONDS = 0.5


class ServerConnection:
    """One connection. `until`: when the present step must be done; `moved`: when bytes last came or went (monotonic).

    Nothing limits the work on its request, however long a poll waits.
    """

    __slots__ = ("_admission", "greenlet", "has_asked", "held", "is_reading", "moved", "until")

    def __init__(self, admission: Admission) -> None:
        self._admission = admission
        self.greenlet: gevent.Greenlet | None = None
        self.has_asked = False
        self.is_reading = False
        self.held = 0
        self.moved = monotonic()
        self.until = self.moved + FIRST_SECONDS

    def rest(self) -> None:
        """Wait for a request from now on."""
        self.release()
        self.moved = now = monotonic()
        self.until = now + (KEEP_ALIVE_SECONDS if self.has_asked else FIRST_SECONDS)

    def read(self, seconds: float) -> None:
        """Read the rest of a request, in this time."""
        self.is_reading = True
        self.until = monotonic() + seconds

    def work(self) -> None:
        """Work on a whole request from now on."""
        self.is_reading = False
        self.has_asked = True
        self.until = inf

    def send(self) -> None:
        """Send an answer from now on."""
        self.is_reading = False
        self.moved = now = monotonic()
        self.until = now + ANSWER_SECONDS

    def hold(self, size: int) -> None:
        """Hold `size` bytes more, until it rests. Raises Unreadable for a request that there is no room for."""
        self._admission.hold(self, size)

    def release(self) -> None:
        """Hold nothing any more."""
        if self.held:
            self._admission.hold(self, -self.held)

    def end(self, error: Unreadable) -> None:
        """End it, since what it waits for does not come. Called by the hub."""
        if self.greenlet is not None:
            # A client that has sent a part of a request gets an answer; TimeoutError is an OSError, as if it had gone.
            self.greenlet.throw(error if self.is_reading else TimeoutError())


class Admission:
    """The connections of one server."""

    def __init__(self) -> None:
        self._all: set[ServerConnection] = set()
        self._held = 0
        descriptors = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        limited = descriptors != resource.RLIM_INFINITY
        self.most = min(MAX_CONNECTIONS, descriptors // 2) if limited else MAX_CONNECTIONS
        # How many give way at once where there are too many: not every newcomer can look through all of them.
        self.part = self.most // 32 + 1
        self._timer = get_hub().loop.timer(_LOOK_SECONDS, _LOOK_SECONDS, ref=False)
        self._timer.start(self._look)

    def close(self) -> None:
        """Stop the timer: no limit of time holds from now on."""
        self._timer.stop()
        self._timer.close()

    def admit(self) -> ServerConnection | None:
        """A place for a new connection, None if as many as there may be are at work. Called by the hub."""
        if len(self._all) >= self.most:
            self.make_room()
        if len(self._all) >= self.most:
            return None
        connection = ServerConnection(self)
        self._all.add(connection)
        return connection

    def make_room(self) -> None:
        """End those that have been still for the longest time, those that never asked first. Called by the hub."""
        waiting = [each for each in self._all if each.until < inf and each.greenlet is not None]
        waiting.sort(key=lambda each: (each.has_asked, each.moved))
        for each in waiting[: self.part]:
            each.end(_busy("There are too many connections."))

    def drop(self, connection: ServerConnection) -> None:
        """Forget a connection that has ended."""
        connection.release()
        self._all.discard(connection)

    def hold(self, connection: ServerConnection, size: int) -> None:
        """Count `size` bytes more for this connection, fewer if it is negative."""
        connection.held += size
        self._held += size
        if size > 0 and self._held > MAX_HELD_BYTES:
            self._make_way(connection)

    def _make_way(self, connection: ServerConnection) -> None:
        holders = [each for each in self._all if each.held and each is not connection]
        for each in sorted(holders, key=lambda each: each.moved):
            get_hub().loop.run_callback(self._end_if_stalled, each)
        gevent.sleep(0)  # they run before this goes on
        if connection.is_reading and self._held > MAX_HELD_BYTES:
            raise _busy("Other requests and answers hold all the memory that there is for them.")

    def _end_if_stalled(self, connection: ServerConnection) -> None:
        is_stalled = connection.until < inf and monotonic() - connection.moved > STALLED_SECONDS
        if self._held > MAX_HELD_BYTES and is_stalled and connection in self._all:
            connection.end(_late())

    def _look(self) -> None:
        now = monotonic()
        for each in [each for each in self._all if each.until <= now]:
            each.end(_late())


def _late() -> Unreadable:
    return Unreadable("RequestTimeout", "The request took too long to come: send it again, without a pause in it.")


def _busy(text: str) -> Unreadable:
    return Unreadable("ServiceUnavailable", f"{text} Try again.")
