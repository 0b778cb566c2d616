"""Mailer: each recipient gets the mail, or is in a dead letter with the reason; nobody is mailed again on purpose."""

from __future__ import annotations

import logging
import random
import ssl
from collections import Counter
from collections.abc import Collection, Mapping

import msgspec

from millpond import Message, Reject, Retry
from millpond.errors import ConfigError
from millpond.mail.address import domain_of
from millpond.mail.compose import Mail, compose
from millpond.mail.domain_shares import DomainShares
from millpond.mail.job import Email, Mailing, Remainder
from millpond.mail.mail_server import MailServer
from millpond.mail.outbox import Outbox
from millpond.mail.preflight import greet_server
from millpond.mail.refusal import ContentTooFast, Meaning, meaning
from millpond.mail.reply import Reply
from millpond.mail.settings import Settings, doubts, findings
from millpond.mail.smtp_pool import SmtpPool

#: Seconds until the recipients that the server does not take yet are tried again, by a mail of their own, of which by
#: chance half to all are waited, so that those of many mails do not come back at once. From then on the back-off of the
#: message type decides, as it does for a mail that nobody has.
REFUSED_SECONDS = 30
#: What a server refuses for its pace only after it has all of a mail is that mail's own trouble where it comes this
#: often, one after another: else one such mail would slow down, or stop, all the others.
MAX_CONTENT_REFUSALS = 5
#: Mails of which such refusals are remembered.
MAX_REFUSED = 10_000
#: The sender of mails that are only written to the outbox, where none is set.
OUTBOX_SENDER = "Millpond <millpond@localhost>"

log = logging.getLogger(__name__)


class Mailer:
    """Sends mails for a handler, by SMTP or into the outbox.

    Nothing is connected before the first mail. `local`: every queue is local, where mails may stay files.
    `table`: the table of config.toml that the settings are from. Raises ConfigError with every finding.
    """

    def __init__(self, settings: Settings, *, local: bool = True, table: str = "handlers.email") -> None:
        try:
            self.transport = _transport(settings, local)
        except ConfigError as error:
            raise ConfigError(*(f"[{table}] {finding}" for finding in error.findings)) from error
        self._table = table
        self._refused: Counter[str] = Counter()  # by the mail's name: refused for its pace after its recipients
        self._default_from = settings.from_ if settings.uses_smtp else settings.from_ or OUTBOX_SENDER
        for doubt in doubts(settings) if settings.uses_smtp else ():
            log.warning("[%s] %s", table, doubt)

    def close(self) -> None:
        """Close the connections."""
        self.transport.close()

    def preflight(self) -> str:
        """Greet the mail server as for a mail, and send none; what was done, in words.

        Raises ConfigError where mails cannot go out until a person changes something, Unavailable where they wait.
        """
        if isinstance(self.transport, Outbox):
            return f"mails are written to {self.transport.folder}, and not sent"
        try:
            return greet_server(self.transport.server)
        except ConfigError as error:
            raise ConfigError(*(f"[{self._table}] {finding}" for finding in error.findings)) from error

    def send(self, email: Email, message: Message, mailing: Mailing | None = None) -> None:
        """Send one mail, the only one of its message. Recipients that are refused go on as follow-ups of the message.

        These carry the mail itself, or else `mailing`, the handler's own payload that the mail was made of. Raises
        Retry, Reject, Unavailable, TooFast or Wait where nobody has the mail.
        """
        if mailing is not None and mailing.remainder is not None:
            email = email.left(mailing.remainder)
        mail = compose(email, message, self._default_from)
        if refused := self._sent(mail):
            self._divide(refused, mail, email, message, mailing)

    def _sent(self, mail: Mail) -> Mapping[str, Reply]:
        """Send it; the recipients that were refused."""
        try:
            refused = self.transport.send(mail)
        except ContentTooFast as verdict:
            if len(self._refused) >= MAX_REFUSED:
                self._refused.clear()
            self._refused[mail.name] += 1
            if self._refused[mail.name] < MAX_CONTENT_REFUSALS:
                raise
            raise Retry(f"{verdict.reason}, {self._refused.pop(mail.name)} times") from None
        if self._refused:
            self._refused.pop(mail.name, None)
        return refused

    def _divide(
        self, refused: Mapping[str, Reply], mail: Mail, email: Email, message: Message, mailing: Mailing | None
    ) -> None:
        """Leave the refused recipients to follow-ups of their own; where all share one fate, it is the mail's."""
        meant = {recipient: meaning("RCPT", reply) for recipient, reply in refused.items()}
        never = {recipient: reply for recipient, reply in refused.items() if meant[recipient] is Meaning.NEVER}
        later = {recipient: reply for recipient, reply in refused.items() if recipient not in never}
        total = len(mail.recipients)
        if len(never) == total:
            raise Reject(_reason(never.values(), total))
        if len(later) == total:
            raise Retry(_reason(later.values(), total))
        sender = email.from_ or self._default_from

        def left(recipients: Collection[str]) -> Email | Mailing:
            remainder = Remainder(list(recipients), sender, mail.message_id, mail.date)
            return msgspec.structs.replace(mailing, remainder=remainder) if mailing else email.left(remainder)

        if later:
            message.follow_up(left(later), after=round(REFUSED_SECONDS * random.uniform(0.5, 1.0)))
        if never:
            message.follow_up(left(never), reject=_reason(never.values(), total))


def _reason(replies: Collection[Reply], total: int) -> str:
    counts = Counter(map(str, replies))
    codes = ", ".join(f"{code} x{count}" if len(counts) > 1 else code for code, count in counts.items())
    return f"SMTP {codes} at RCPT for {len(replies)} of {total} recipients"


def _transport(settings: Settings, local: bool) -> Outbox | SmtpPool:
    if wrong := findings(settings, local):
        raise ConfigError(*wrong)
    if not settings.uses_smtp:
        return Outbox(settings.outbox)
    # One context for all connections: it reads some 120 certificates, 13 ms in which nothing else runs.
    tls = None if settings.security == "none" else ssl.create_default_context()
    server = MailServer(
        settings.host,
        settings.smtp_port,
        tls,
        starttls=settings.security == "starttls",
        user=settings.user,
        password=settings.password,
        hello_name=settings.hello_name,
        sender_domain=domain_of(settings.from_),
    )
    shares = DomainShares(settings.max_connections, settings.connections_per_domain)
    return SmtpPool(server, shares, settings.mails_per_connection)
