"""email.send: one e-mail, by SMTP or as a file.

A mail is sent at least once: where the worker dies between the server's 250 and the delete, or the connection after
the final dot, it is sent again, byte for byte with the same Message-ID and Date, so that a receiver can tell.
"""

from __future__ import annotations

import logging
import random
import ssl
from collections import Counter
from collections.abc import Collection, Mapping
from typing import NamedTuple

import msgspec

from millpond import Message, Reject, Retry, handler
from millpond.errors import ConfigError
from millpond.mail.address import domain_of
from millpond.mail.compose import compose
from millpond.mail.connections import Pool
from millpond.mail.conversation import Server
from millpond.mail.job import Email
from millpond.mail.lines import Reply
from millpond.mail.outbox import Outbox
from millpond.mail.refusal import Meaning, TooFast, meaning
from millpond.mail.settings import Settings, doubts, findings

#: Seconds that a mail waits which the server does not take yet, by attempt: the first retry is soon, and the default
#: of five attempts reaches over 18 minutes, past the five that greylisting commonly asks for.
WAIT_SECONDS = (5, 30, 180, 900)
#: The same where the server is asked too much, or is full: once to twice as long, by chance, so that the many mails
#: that meet it at once do not come back at once. Five attempts reach over an hour at the least, two at the most.
PACE_WAIT_SECONDS = (60, 300, 900, 2_400)
#: SQS delays a follow-up by so much at the most.
MAX_DELAY_SECONDS = 900
#: The sender of mails that are only written to the outbox, where none is set.
OUTBOX_SENDER = "Millpond <millpond@localhost>"

log = logging.getLogger(__name__)


class Office(NamedTuple):
    """What setup() has made of the settings."""

    transport: Outbox | Pool
    default_from: str


_office: Office | None = None


def setup(settings: Settings, local: bool = True) -> None:
    """Prepare the transport; nothing is connected yet. `local`: every queue is the embedded one.

    Raises ConfigError with every finding.
    """
    global _office
    if wrong := findings(settings, local):
        raise ConfigError(*(f"[handlers.email] {finding}" for finding in wrong))
    if settings.uses_smtp:
        _office = Office(_pool(settings), settings.from_)
    else:
        _office = Office(Outbox(settings.outbox), settings.from_ or OUTBOX_SENDER)


def teardown() -> None:
    """Close the connections."""
    global _office
    office, _office = _office, None
    if office is not None:
        office.transport.close()


@handler("email.send", timeout=900)  # RFC 5321 gives the server ten minutes for its answer to the final dot
def send_email(email: Email, message: Message) -> None:
    """Send one mail. Recipients that are refused go on as follow-ups; the others are not mailed again."""
    if _office is None:
        raise RuntimeError("email.send is not ready: setup(Settings()) comes before the first mail")
    mail = compose(email, message, _office.default_from)
    try:
        if refused := _office.transport.send(mail):
            sender = email.from_ or _office.default_from
            same = msgspec.structs.replace(email, from_=sender, message_id=mail.message_id, date=mail.date)
            _divide(refused, len(mail.recipients), same, message)
    except Retry as retry:
        retry.after = _wait_seconds(message, too_fast=isinstance(retry, TooFast))
        raise


def _divide(refused: Mapping[str, Reply], total: int, email: Email, message: Message) -> None:
    """Leave the refused recipients to follow-ups of their own; where all share one fate, it is the mail's."""
    meant = {recipient: meaning("RCPT", reply) for recipient, reply in refused.items()}
    never = {recipient: reply for recipient, reply in refused.items() if meant[recipient] is Meaning.NEVER}
    later = {recipient: reply for recipient, reply in refused.items() if recipient not in never}
    too_fast = Meaning.PACE in meant.values()
    if len(never) == total:
        raise Reject(_reason(never.values(), total))
    if len(later) == total:
        raise (TooFast if too_fast else Retry)(_reason(later.values(), total))
    if later:
        after = min(MAX_DELAY_SECONDS, _wait_seconds(message, too_fast))
        message.follow_up(msgspec.structs.replace(email, only=list(later)), after=after)
    if never:
        message.follow_up(msgspec.structs.replace(email, only=list(never)), reject=_reason(never.values(), total))


def _reason(replies: Collection[Reply], total: int) -> str:
    counts = Counter(map(str, replies))
    codes = ", ".join(f"{code} x{count}" if len(counts) > 1 else code for code, count in counts.items())
    return f"SMTP {codes} at RCPT for {len(replies)} of {total} recipients"


def _wait_seconds(message: Message, too_fast: bool) -> int:
    by_attempt = PACE_WAIT_SECONDS if too_fast else WAIT_SECONDS
    seconds = by_attempt[min(message.attempt, len(by_attempt)) - 1]
    return int(seconds * (1 + random.random())) if too_fast else seconds


def _pool(settings: Settings) -> Pool:
    for doubt in doubts(settings):
        log.warning(doubt)
    # One context for all connections: it reads some 120 certificates, 13 ms in which nothing else runs.
    tls = None if settings.security == "none" else ssl.create_default_context()
    server = Server(
        settings.host,
        settings.smtp_port,
        tls,
        starttls=settings.security == "starttls",
        user=settings.user,
        password=settings.password,
        hello_name=settings.hello_name,
        sender_domain=domain_of(settings.from_),
    )
    return Pool(server, settings.max_connections, settings.mails_per_connection)
