"""The connections to the SMTP server, kept between mails."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from millpond.mail import waits
from millpond.mail.compose import Mail
from millpond.mail.domain_shares import DomainShares
from millpond.mail.mail_server import MailServer
from millpond.mail.reply import Reply
from millpond.mail.smtp_connection import SmtpConnection, StaleError

#: A connection that was idle for longer is asked whether it is alive before it carries a mail. Servers close an idle
#: session after minutes (RFC 5321 4.5.3.2.7: five), and may go away at any time.
PROBE_AFTER_SECONDS = 5.0


class SmtpPool:
    """Sends each mail over one of at most `max_connections` connections; the one used last is used next.

    1. A mail has its place before it has a connection (DomainShares). The place becomes free whatever is thrown.
    2. A connection is kept only if its last exchange ended with a whole reply (SmtpConnection.usable).
    3. Nothing switches greenlets after the server's last word: no interrupt can come between it and the handler's end.
    """

    def __init__(
        self,
        server: MailServer,
        shares: DomainShares,
        mails_per_connection: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.server = server
        self._shares = shares
        self._mails_per_connection = mails_per_connection
        self._clock = clock
        self._idle: list[SmtpConnection] = []
        self._closed = False

    def send(self, mail: Mail) -> Mapping[str, Reply]:
        """Send one mail. Returns what SmtpConnection.deliver() does; raises what its open() and deliver() do, but for
        StaleError, and Wait."""
        place = self._shares.take(mail.recipients)
        started = self._clock()
        connection: SmtpConnection | None = None
        try:
            connection = self._kept() or SmtpConnection.open(self.server)
            try:
                return connection.deliver(mail)
            except StaleError:
                connection.close()
                connection = None  # until there is a new one
                self._close_kept()
                connection = SmtpConnection.open(self.server)
                return connection.deliver(mail)
        finally:
            # A mail that has met no server says nothing of how long mails take: those in hand would wait on after it.
            self._shares.give_back(place, self._clock() - started if connection is not None else None)
            if connection is not None:
                self._keep(connection)

    def close(self) -> None:
        """Say QUIT on every kept connection, for QUIT_SECONDS at most; one in use is closed after its mail."""
        self._closed = True
        kept, self._idle = self._idle, []
        for connection in kept:
            connection.start_quit()
        deadline = self._clock() + waits.QUIT_SECONDS
        for connection in kept:
            connection.end_quit(deadline - self._clock())

    def _kept(self) -> SmtpConnection | None:
        while self._idle:
            connection = self._idle.pop()
            if connection.mails >= self._mails_per_connection:
                connection.start_quit()
                connection.end_quit(waits.QUIT_SECONDS)
            elif self._is_fresh(connection) or connection.probe():
                return connection
            else:
                self._close_kept()
        return None

    def _is_fresh(self, connection: SmtpConnection) -> bool:
        return connection.between_mails and self._clock() - connection.idle_since <= PROBE_AFTER_SECONDS

    def _close_kept(self) -> None:
        # If the one used last is dead, the older ones are too: a probe of each might wait for its time-out.
        kept, self._idle = self._idle, []
        for connection in kept:
            connection.close()

    def _keep(self, connection: SmtpConnection) -> None:
        if connection.usable and not self._closed:
            connection.idle_since = self._clock()
            self._idle.append(connection)
        else:
            connection.close()
