"""The beginning of an SMTP session, before the first mail: banner, EHLO, STARTTLS (RFC 3207), AUTH (RFC 4954)."""

from __future__ import annotations

import re
import socket
from base64 import b64encode
from typing import NamedTuple

from millpond.mail import waits
from millpond.mail.lines import SmtpLines
from millpond.mail.mail_server import MailServer
from millpond.mail.refusal import verdict_of
from millpond.mail.reply import Reply, parse_reply

#: Digits of SIZE (RFC 1870 4: up to 20) that are a limit of any use: more is none.
MAX_SIZE_DIGITS = 18
#: Commands in one write where the server offers PIPELINING: few enough for the buffers of both sides.
PIPELINED_COMMANDS = 100


class Offer(NamedTuple):
    """What a server says to EHLO: its extensions and their parameters.

    `max_bytes`: the largest mail (SIZE, RFC 1870), 0 for no limit. `step`: commands that may go in one write.
    """

    extensions: dict[str, str]
    max_bytes: int
    step: int


def greet(server: MailServer, lines: SmtpLines) -> Offer:
    """Greet, encrypt, log in; what the server offers then. Raises Unavailable, TooFast, OSError or BadReplyError."""
    _expect(server, 220, "the banner", lines.reply("the banner", waits.BANNER_SECONDS))
    offer = _hello(server, lines)
    if server.tls and server.starttls:
        if "STARTTLS" not in offer.extensions:
            raise server.unavailable('it offers no STARTTLS, and security = "starttls" sends nothing in the clear')
        _ask(server, lines, 220, "STARTTLS", "STARTTLS")
        lines.encrypt(server.tls, waits.COMMAND_SECONDS)
        offer = _hello(server, lines)
    if server.user:
        _log_in(server, lines, offer.extensions.get("AUTH", "").split())
    return offer


def _hello(server: MailServer, lines: SmtpLines) -> Offer:
    lines.send("EHLO", f"EHLO {_own_name(server, lines)}\r\n".encode(), waits.COMMAND_SECONDS)
    answer = lines.reply_lines("EHLO", waits.COMMAND_SECONDS)
    _expect(server, 250, "EHLO", parse_reply(answer))
    # Some servers still say AUTH=PLAIN.
    offers = [line[4:].decode("ascii", "replace").upper().replace("=", " ").split() for line in answer[1:]]
    extensions = {offer[0]: " ".join(offer[1:]) for offer in offers if offer}
    size = extensions.get("SIZE", "")
    max_bytes = int(size) if size.isdecimal() and len(size) <= MAX_SIZE_DIGITS else 0
    return Offer(extensions, max_bytes, PIPELINED_COMMANDS if "PIPELINING" in extensions else 1)


def _log_in(server: MailServer, lines: SmtpLines, mechanisms: list[str]) -> None:
    if "PLAIN" in mechanisms:
        _ask(server, lines, 235, "AUTH", "AUTH PLAIN " + _base64(f"\0{server.user}\0{server.password}"))
    elif "LOGIN" in mechanisms:
        _ask(server, lines, 334, "AUTH", "AUTH LOGIN")
        _ask(server, lines, 334, "AUTH", _base64(server.user))
        _ask(server, lines, 235, "AUTH", _base64(server.password))
    else:
        raise server.unavailable("it offers neither AUTH PLAIN nor AUTH LOGIN on this connection")


def _ask(server: MailServer, lines: SmtpLines, code: int, phase: str, command: str) -> None:
    lines.send(phase, f"{command}\r\n".encode(), waits.COMMAND_SECONDS)
    _expect(server, code, phase, lines.reply(phase, waits.COMMAND_SECONDS))


def _expect(server: MailServer, code: int, phase: str, reply: Reply) -> None:
    if reply.code != code:
        raise verdict_of(phase, reply, f"SMTP server {server.host}:{server.port}:")


def _own_name(server: MailServer, lines: SmtpLines) -> str:
    """What EHLO says where no name is set: a full host name (RFC 5321 4.1.4), or the domain that the mails come from.

    An address literal is the last resort: some relays refuse it, as they do `localhost` and names without a dot. No
    name server is asked.
    """
    if server.hello_name:
        return server.hello_name
    name = socket.gethostname()
    full = "." in name and re.fullmatch(r"[A-Za-z0-9.-]+", name)
    return name if full else server.sender_domain or lines.own_address


def _base64(text: str) -> str:
    return b64encode(text.encode()).decode()
