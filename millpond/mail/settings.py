"""The settings of e-mail, and what can be wrong with them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Literal

import msgspec

from millpond import Reject
from millpond.mail.address import parse_address

#: The port where none is set: submission (RFC 6409), submission over TLS (RFC 8314), SMTP.
PORTS = {"starttls": 587, "tls": 465, "none": 25}
# What EHLO takes (RFC 5321 4.1.1.1): a domain, or an address literal.
_HELLO_NAME = re.compile(r"[A-Za-z0-9-]{1,63}(\.[A-Za-z0-9-]{1,63}){0,126}|\[[A-Za-z0-9:.]{1,60}\]")


#: The longest `from`: it goes into the follow-ups of jobs that name no sender (compose.FOLLOW_UP_BYTES).
MAX_FROM_BYTES = 1_000


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How mails go out. `transport` auto: smtp where `host` is set, else outbox; `port` 0: what `security` uses.

    `hello_name`: what EHLO says; where it is empty, the host's own name if it is a full one, else the domain of `from`.
    `max_per_domain`: connections for mails to one domain while they are slow; 0: a quarter of `max_connections`.
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
    max_per_domain: int = 0
    mails_per_connection: int = 100

    def __repr__(self) -> str:
        return f"<Settings of e-mail: {self.host or self.outbox}>"  # never the password

    @property
    def uses_smtp(self) -> bool:
        """Whether mails go to a server, and not to the outbox."""
        return self.transport == "smtp" or (self.transport == "auto" and bool(self.host))

    @property
    def smtp_port(self) -> int:
        """The port of the server."""
        return self.port or PORTS[self.security]

    @property
    def connections_per_domain(self) -> int:
        """The connections that the mails to one domain may use while they are slow."""
        return self.max_per_domain or max(1, self.max_connections // 4)


def findings(settings: Settings, local: bool) -> list[str]:
    """Everything that cannot work; `local`: every queue is local."""
    return [*_wrong_transport(settings, local), *_wrong_server(settings), *_wrong_sender(settings)]


def _wrong_transport(settings: Settings, local: bool) -> Iterator[str]:
    if settings.transport == "smtp" and not settings.host:
        yield 'host is empty: transport = "smtp" needs the name of a server'
    if settings.transport == "auto" and not settings.host and not local:
        yield (
            'transport = "auto" without a host writes mails to files, which a worker on a real queue does only where '
            'it is asked to: set host (SMTP_HOST), or transport = "outbox"; if your application has no e-mail, take '
            "it out of [worker] handlers (list a folder or modules of your own) and delete [handlers.email]"
        )
    for key in ("max_connections", "mails_per_connection"):
        if getattr(settings, key) < 1:
            yield f"{key} = {getattr(settings, key)}: it must be 1 or more"
    if settings.max_per_domain < 0:
        yield f"max_per_domain = {settings.max_per_domain}: it must be 1 or more, or 0 for a quarter of max_connections"


def _wrong_server(settings: Settings) -> Iterator[str]:
    if not _is_host(settings.host):
        yield "host must be the bare name or address of a server, without a scheme, a user or spaces"
    if not 0 <= settings.port <= 65_535:
        yield f"port = {settings.port}: it must be 1 to 65535, or 0 for the one that security uses"
    if settings.port == PORTS["tls"] and settings.security != "tls":  # it would wait for a banner that never comes
        yield (
            f'security = "{settings.security}" on port 465, where a server waits for TLS and says nothing before it: '
            'set security = "tls", or port = 587 for starttls'
        )
    if settings.hello_name and not _HELLO_NAME.fullmatch(settings.hello_name):
        yield "hello_name must be a domain such as mail.example.org, or an address in brackets"
    if bool(settings.user) != bool(settings.password):
        yield "user and password: set both, or neither"


def _wrong_sender(settings: Settings) -> Iterator[str]:
    if settings.uses_smtp and not settings.from_:
        yield "from is empty: set the sender of mails that name none (MAIL_FROM)"
    if len(settings.from_.encode("utf-8", "surrogatepass")) > MAX_FROM_BYTES:
        yield f"from is longer than {MAX_FROM_BYTES} bytes"
    elif settings.from_:
        try:
            parse_address(settings.from_, "from")
        except Reject as reject:
            yield reject.reason


def doubts(settings: Settings) -> list[str]:
    """What can work, but is hardly meant."""
    found = []
    if settings.user and settings.security == "none":
        found.append('security = "none": user and password travel in the clear')
    if settings.security == "tls" and settings.port in (25, 587):
        found.append(
            f'security = "tls" on port {settings.port}, where mail servers begin in the clear: set '
            'security = "starttls", or port = 465'
        )
    return found


def _is_host(host: str) -> bool:
    try:
        host.encode("idna")  # as the resolver does, which would raise at every mail
    except UnicodeError:
        return False
    return not any(character.isspace() or character in "/@" for character in host)
