"""email.send: one e-mail, by SMTP or as a file.

A mail is sent at least once: where the worker dies between the server's 250 and the delete, or the connection after
the final dot, it is sent again, byte for byte with the same Message-ID and Date, so that a receiver can tell.
"""

from __future__ import annotations

import logging
import ssl
from collections import Counter
from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Annotated, Literal, NamedTuple

import msgspec

from millpond import Message, Reject, Retry, handler
from millpond.errors import ConfigError

from . import _address
from ._compose import compose
from ._outbox import Outbox
from ._pool import Pool
from ._smtp import Server
from ._wire import Reply

#: Seconds that a mail waits which the server does not take yet, by attempt: the first retry is soon, and the default
#: of five attempts reaches over 18 minutes, past the five that greylisting commonly asks for.
WAIT_SECONDS = (5, 30, 180, 900)
#: The port where none is set: submission (RFC 6409), submission over TLS (RFC 8314), SMTP.
PORTS = {"starttls": 587, "tls": 465, "none": 25}
#: The sender of mails that are only written to the outbox, where none is set.
OUTBOX_SENDER = "Millpond <millpond@localhost>"

log = logging.getLogger(__name__)


class Attachment(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """A file; its content is base64 in the JSON."""

    filename: str
    content: bytes
    content_type: str = "application/octet-stream"


class Email(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """The payload. Addresses are `a@b.org` or `Name <a@b.org>`; it needs text or html; headers: see ALLOWED_HEADERS.

    A name that is not here is refused: a mail sent without its mistyped `bbc` would look sent.
    """

    to: Annotated[list[str], msgspec.Meta(min_length=1)]
    cc: list[str] = []
    bcc: list[str] = []
    from_: str = msgspec.field(name="from", default="")
    reply_to: str = ""
    subject: str = ""
    text: str = ""
    html: str = ""
    headers: dict[str, str] = {}
    attachments: list[Attachment] = []
    # Written by the handler itself into its follow-ups: who has not had the mail yet, and what makes it the same mail.
    only: list[str] = []
    message_id: str = ""
    date: Annotated[datetime, msgspec.Meta(tz=True)] | None = None


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """[handlers.email]. `transport` auto: smtp where `host` is set, else outbox; `port` 0: what `security` uses."""

    transport: Literal["auto", "smtp", "outbox"] = "auto"
    outbox: str = "outbox"
    from_: str = msgspec.field(name="from", default="")
    host: str = ""
    port: int = 0
    security: Literal["starttls", "tls", "none"] = "starttls"
    user: str = ""
    password: str = ""
    max_connections: int = 20
    mails_per_connection: int = 100

    @property
    def uses_smtp(self) -> bool:
        """What `transport` comes to."""
        return self.transport == "smtp" or (self.transport == "auto" and bool(self.host))


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
    if findings := _wrong_with(settings, local):
        raise ConfigError(*(f"[handlers.email] {finding}" for finding in findings))
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
        retry.after = _wait_seconds(message)
        raise


def _divide(refused: Mapping[str, Reply], total: int, email: Email, message: Message) -> None:
    """Leave the refused recipients to follow-ups of their own; where all share one fate, it is the mail's."""
    never = {recipient: reply for recipient, reply in refused.items() if _is_permanent(reply)}
    later = {recipient: reply for recipient, reply in refused.items() if recipient not in never}
    if len(never) == total:
        raise Reject(_reason(never.values(), total))
    if len(later) == total:
        raise Retry(_reason(later.values(), total))
    if later:
        message.follow_up(msgspec.structs.replace(email, only=list(later)), after=_wait_seconds(message))
    if never:
        message.follow_up(msgspec.structs.replace(email, only=list(never)), reject=_reason(never.values(), total))


def _is_permanent(reply: Reply) -> bool:
    # 552 at RCPT is what old servers say for 452, too many recipients (RFC 5321 4.5.3.1.10).
    return reply.code // 100 == 5 and reply.code != 552


def _reason(replies: Collection[Reply], total: int) -> str:
    counts = Counter(map(str, replies))
    codes = ", ".join(f"{code} x{count}" if len(counts) > 1 else code for code, count in counts.items())
    return f"SMTP {codes} at RCPT for {len(replies)} of {total} recipients"


def _wait_seconds(message: Message) -> int:
    return WAIT_SECONDS[min(message.attempt, len(WAIT_SECONDS)) - 1]


def _pool(settings: Settings) -> Pool:
    if settings.user and settings.security == "none":
        log.warning('security = "none": user and password of [handlers.email] travel in the clear')
    # One context for all connections: it reads some 120 certificates, 13 ms in which nothing else runs.
    tls = None if settings.security == "none" else ssl.create_default_context()
    port = settings.port or PORTS[settings.security]
    starttls = settings.security == "starttls"
    server = Server(settings.host, port, tls, starttls, settings.user, settings.password)
    return Pool(server, settings.max_connections, settings.mails_per_connection)


def _wrong_with(settings: Settings, local: bool) -> list[str]:
    wrong = []
    if settings.transport == "smtp" and not settings.host:
        wrong.append('host is empty: transport = "smtp" needs the name of a server')
    if settings.transport == "auto" and not settings.host and not local:
        wrong.append(
            'transport = "auto" without a host keeps mails as files, which a real queue only does where it is asked '
            'to: set host (SMTP_HOST), or write transport = "outbox"'
        )
    if settings.uses_smtp and not settings.from_:
        wrong.append("from is empty: set the sender of mails that name none (MAIL_FROM)")
    if not _is_host(settings.host):
        wrong.append("host is the bare name or address of a server, without a scheme, a user or spaces")
    if not 0 <= settings.port <= 65_535:
        wrong.append(f"port = {settings.port}: 1 to 65535, or 0 for the one that security uses")
    if bool(settings.user) != bool(settings.password):
        wrong.append("user and password: give both, or neither")
    for key in ("max_connections", "mails_per_connection"):
        if getattr(settings, key) < 1:
            wrong.append(f"{key} = {getattr(settings, key)}: 1 or more")
    return wrong + _wrong_sender(settings.from_)


def _is_host(host: str) -> bool:
    try:
        host.encode("idna")  # as the resolver does, which would raise at every mail
    except UnicodeError:
        return False
    return not any(character.isspace() or character in "/@" for character in host)


def _wrong_sender(sender: str) -> list[str]:
    try:
        if sender:
            _address.parse(sender, "from")
    except Reject as reject:
        return [reject.reason]
    return []
