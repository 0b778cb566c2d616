"""The connections to the SMTP server, kept between mails."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from queue import SimpleQueue
from typing import TYPE_CHECKING

from millpond.mail.conversation import QUIT_SECONDS, Connection, Server, StaleError

if TYPE_CHECKING:
    from millpond.mail.compose import Mail
    from millpond.mail.lines import Reply

#: A connection that lay idle longer than this is asked whether it lives before it carries a mail. Servers close an
#: idle session after minutes (RFC 5321 4.5.3.2.7: five), and may go away at any time.
PROBE_AFTER_SECONDS = 5.0


class Pool:
    """At most `max_connections` at a time; the one used last is used next, so that the others may rest.

    1. A mail waits for a permit, as long as its handler may. A permit comes back whatever is thrown.
    2. A connection is kept only where its last exchange ended with a whole reply (Connection.usable).
    3. Nothing switches greenlets after the server's last word: no interrupt can come between it and the handler's end.
    """

    def __init__(
        self,
        server: Server,
        max_connections: int,
        mails_per_connection: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._server = server
        self._mails_per_connection = mails_per_connection
        self._clock = clock
        self._idle: list[Connection] = []
        self._closed = False
        # A queue and not a semaphore: threading's loses a wake-up where an interrupt hits the greenlet that it woke.
        self._permits: SimpleQueue[None] = SimpleQueue()
        for _ in range(max_connections):
            self._permits.put(None)

    def send(self, mail: Mail) -> Mapping[str, Reply]:
        """Send one mail: see Connection.deliver, and Connection.open for what else is raised."""
        self._permits.get()
        connection: Connection | None = None
        try:
            connection = self._kept() or Connection.open(self._server)
            try:
                return connection.deliver(mail)
            except StaleError:
                connection.close()
                self._close_kept()
                connection = Connection.open(self._server)
                return connection.deliver(mail)
        finally:
            self._permits.put(None)
            if connection is not None:
                self._keep(connection)

    def close(self) -> None:
        """Take leave of the server, for QUIT_SECONDS at most; a connection still in use is closed after its mail."""
        self._closed = True
        kept, self._idle = self._idle, []
        for connection in kept:
            connection.start_quit()
        deadline = self._clock() + QUIT_SECONDS
        for connection in kept:
            connection.end_quit(deadline - self._clock())

    def _kept(self) -> Connection | None:
        while self._idle:
            connection = self._idle.pop()
            if connection.mails >= self._mails_per_connection:
                connection.start_quit()
                connection.end_quit(QUIT_SECONDS)
            elif self._is_fresh(connection) or connection.probe():
                return connection
            else:
                self._close_kept()
        return None

    def _is_fresh(self, connection: Connection) -> bool:
        return connection.clean and self._clock() - connection.idle_since <= PROBE_AFTER_SECONDS

    def _close_kept(self) -> None:
        # Where the one used last is dead, the older ones are too: a probe of each might wait for its time-out.
        kept, self._idle = self._idle, []
        for connection in kept:
            connection.close()

    def _keep(self, connection: Connection) -> None:
        if connection.usable and not self._closed:
            connection.idle_since = self._clock()
            self._idle.append(connection)
        else:
            connection.close()
