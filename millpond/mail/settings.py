"""[handlers.email], and what can be wrong with it."""

from __future__ import annotations

import re
from typing import Literal

import msgspec

from millpond import Reject
from millpond.mail.address import parse_address

#: The port where none is set: submission (RFC 6409), submission over TLS (RFC 8314), SMTP.
PORTS = {"starttls": 587, "tls": 465, "none": 25}
# What EHLO takes (RFC 5321 4.1.1.1): a domain, or an address literal.
_HELLO_NAME = re.compile(r"[A-Za-z0-9-]{1,63}(\.[A-Za-z0-9-]{1,63}){0,126}|\[[A-Za-z0-9:.]{1,60}\]")


#: Of `from`, which goes into the follow-ups of jobs that name none (_compose.FOLLOW_UP_BYTES).
MAX_FROM_BYTES = 1_000


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """[handlers.email]. `transport` auto: smtp where `host` is set, else outbox; `port` 0: what `security` uses.

    `hello_name`: what EHLO says; empty: the host's own name where it is a full one, else the domain of `from`.
    """

    transport: Literal["auto", "smtp", "outbox"] = "auto"
    outbox: str = "outbox"
    from_: str = msgspec.field(name="from", default="")
    host: str = ""
    port: int = 0
    security: Literal["starttls", "tls", "none"] = "starttls"
    user: str = ""
    password: str = ""
    hello_name: str = ""
    max_connections: int = 20
    mails_per_connection: int = 100

    def __repr__(self) -> str:
        return f"<Settings of e-mail: {self.host or self.outbox}>"  # never the password

    @property
    def uses_smtp(self) -> bool:
        """What `transport` comes to."""
        return self.transport == "smtp" or (self.transport == "auto" and bool(self.host))

    @property
    def smtp_port(self) -> int:
        """What `port` comes to."""
        return self.port or PORTS[self.security]


def findings(settings: Settings, local: bool) -> list[str]:
    """Everything that cannot work. `local`: every queue is the embedded one."""
    wrong = []
    if settings.transport == "smtp" and not settings.host:
        wrong.append('host is empty: transport = "smtp" needs the name of a server')
    if settings.transport == "auto" and not settings.host and not local:
        wrong.append(
            'transport = "auto" without a host keeps mails as files, which a real queue only does where it is asked '
            'to: set host (SMTP_HOST), or write transport = "outbox"; no e-mail in your application? Delete '
            "handlers/email.py, its _*.py files and [handlers.email]"
        )
    if settings.uses_smtp and not settings.from_:
        wrong.append("from is empty: set the sender of mails that name none (MAIL_FROM)")
    if not _is_host(settings.host):
        wrong.append("host is the bare name or address of a server, without a scheme, a user or spaces")
    if not 0 <= settings.port <= 65_535:
        wrong.append(f"port = {settings.port}: 1 to 65535, or 0 for the one that security uses")
    if settings.port == PORTS["tls"] and settings.security != "tls":  # it would wait for a banner that never comes
        wrong.append(
            f'security = "{settings.security}" on port 465, where a server waits for TLS and says nothing before it: '
            'set security = "tls", or port = 587 for starttls'
        )
    if settings.hello_name and not _HELLO_NAME.fullmatch(settings.hello_name):
        wrong.append("hello_name is a domain such as mail.example.org, or an address in brackets")
    if bool(settings.user) != bool(settings.password):
        wrong.append("user and password: give both, or neither")
    for key in ("max_connections", "mails_per_connection"):
        if getattr(settings, key) < 1:
            wrong.append(f"{key} = {getattr(settings, key)}: 1 or more")
    return wrong + _wrong_sender(settings.from_)


def doubts(settings: Settings) -> list[str]:
    """What can work, but hardly is meant."""
    found = []
    if settings.user and settings.security == "none":
        found.append('security = "none": user and password of [handlers.email] travel in the clear')
    if settings.security == "tls" and settings.port in (25, 587):
        found.append(
            f'security = "tls" on port {settings.port}, where servers of [handlers.email] begin in the clear: it is '
            'security = "starttls" there, or port = 465'
        )
    return found


def _is_host(host: str) -> bool:
    try:
        host.encode("idna")  # as the resolver does, which would raise at every mail
    except UnicodeError:
        return False
    return not any(character.isspace() or character in "/@" for character in host)


def _wrong_sender(sender: str) -> list[str]:
    if len(sender.encode("utf-8", "surrogatepass")) > MAX_FROM_BYTES:
        return [f"from is longer than {MAX_FROM_BYTES} bytes"]
    try:
        if sender:
            parse_address(sender, "from")
    except Reject as reject:
        return [reject.reason]
    return []
