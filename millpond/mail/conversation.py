"""One SMTP connection, and one mail over it (RFC 5321; 2920 PIPELINING, 3207 STARTTLS, 4954 AUTH, 6531 SMTPUTF8).

smtplib is not used. Its sendmail() calls a mail sent that nobody got and the other way round (recipients named twice,
a 421 at a later RCPT), it takes half a reply for a whole one, and it has one time-out for everything.

What is said before MAIL is about the server, and is answered with Unavailable; from MAIL on, see _refusal.py.
"""

from __future__ import annotations

import re
import socket
import ssl
from base64 import b64encode
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from millpond import Reject, Retry, Unavailable
from millpond.mail.lines import BadReplyError, Reply, Wire, describe, parse
from millpond.mail.refusal import refusal

if TYPE_CHECKING:
    from millpond.mail.compose import Mail

#: Seconds to wait for each reply: RFC 5321 4.5.3.2, "minimum per-command timeouts". Less makes second copies: the
#: server may have taken the mail that we gave up on.
BANNER_SECONDS = 300.0  # .1
COMMAND_SECONDS = 300.0  # .2 MAIL, .3 RCPT; used for EHLO, STARTTLS and AUTH, which it does not name
DATA_SECONDS = 120.0  # .4
BLOCK_SECONDS = 180.0  # .5: while the content is sent, for each piece that the network takes
FINAL_SECONDS = 600.0  # .6: after the final dot
#: Seconds for the RSET that asks a kept connection whether it lives: a live server answers it out of hand.
PROBE_SECONDS = 10.0
#: Seconds to wait for the answer to QUIT, which nothing depends on.
QUIT_SECONDS = 2.0
#: Digits of SIZE (RFC 1870 4: up to 20) that are a limit of any use: more is none.
MAX_SIZE_DIGITS = 18
#: Commands in one write where the server offers PIPELINING: few enough for the buffers of both sides.
PIPELINED_COMMANDS = 100

_DATA = "DATA\r\n"
# What stands for the replies of a server that takes everything: nobody reads more of them.
_YES, _GO_ON = Reply(250), Reply(354)


class StaleError(Exception):
    """A kept connection turned out to be dead before it took anything of the mail: try again on a new one."""


@dataclass(frozen=True, slots=True)
class Server:
    """Where mails go. `tls` is None where nothing is encrypted; with `starttls` the encryption is asked for.

    `hello_name`: what EHLO says; where empty, our host name if it is a full one, else `sender_domain`.
    """

    host: str
    port: int
    tls: ssl.SSLContext | None = None
    starttls: bool = False
    user: str = ""
    password: str = field(default="", repr=False)
    hello_name: str = ""
    sender_domain: str = ""


class Connection:
    """One connection, used by one greenlet at a time.

    `usable`: the last thing that passed was a whole reply, so that the next command will get its own. It is False
    from the first byte of an exchange on, and whatever is thrown leaves it so. `clean`: no transaction stands open.
    """

    def __init__(self, server: Server, wire: Wire) -> None:
        self.usable = False
        self.clean = True
        self.mails = 0
        self.idle_since: float
        self._server = server
        self._wire = wire
        # What EHLO has told:
        self._extensions: dict[str, str]
        self._max_bytes: int  # as for SIZE (RFC 1870): 0 says nothing
        self._step: int  # commands that go in one write

    @classmethod
    def open(cls, server: Server) -> Connection:
        """Connect, encrypt, log in. Raises Unavailable."""
        try:
            connection = cls(server, Wire(server.host, server.port, None if server.starttls else server.tls))
        except OSError as error:
            raise unavailable(server, describe(error)) from error
        connection._greet()
        return connection

    def deliver(self, mail: Mail) -> Mapping[str, Reply]:
        """Send one mail. Returns the recipients that were refused; where these are not all, the others have it.

        Raises Retry, Reject or Unavailable where nobody has it (or, after a connection lost at the end of data,
        nobody knows: Retry), and StaleError.
        """
        self._check_extensions(mail)
        kept = self.mails > 0
        self.mails += 1
        self.usable = self.clean = False
        try:
            return self._transact(mail, kept)
        except (OSError, BadReplyError) as error:
            self.usable = False
            phase = self._wire.phase
            if kept and phase == "MAIL" and not isinstance(error, TimeoutError):
                raise StaleError from error
            unknown = ", it may or may not have been sent" if phase == "end of data" else ""
            raise Retry(f"SMTP: {describe(error)} at {phase}{unknown}") from error

    def probe(self) -> bool:
        """Whether the connection lives; a transaction that stands open ends. Closes it where not."""
        self.usable = False
        try:
            self._wire.send("RSET", b"RSET\r\n", PROBE_SECONDS)
            reply = self._wire.reply("RSET", PROBE_SECONDS)
            if reply.accepted:
                self._settle(reply)
        except (OSError, BadReplyError):
            pass
        finally:
            if not self.usable:
                self.close()
        self.clean = self.usable
        return self.usable

    def start_quit(self) -> None:
        """Say QUIT; does not wait for the answer."""
        self.usable = False
        with suppress(OSError):
            self._wire.send("QUIT", b"QUIT\r\n", QUIT_SECONDS)

    def end_quit(self, seconds: float) -> None:
        """Wait for the answer to QUIT, and close."""
        try:
            self._wire.reply("QUIT", seconds)
        except (OSError, BadReplyError):
            pass
        finally:
            self.close()

    def close(self) -> None:
        """Close at once; never waits, may be called twice."""
        self.usable = False
        self._wire.close()

    # The conversation before the first mail

    def _greet(self) -> None:
        try:
            self._introduce()
            self.usable = True
            self._wire.rest()
        except (OSError, BadReplyError) as error:
            raise unavailable(self._server, f"{describe(error)} at {self._wire.phase}") from error
        finally:
            if not self.usable:
                self.close()

    def _introduce(self) -> None:
        server, wire = self._server, self._wire
        self._expect(220, "the banner", wire.reply("the banner", BANNER_SECONDS))
        self._hello()
        if server.tls and server.starttls:
            if "STARTTLS" not in self._extensions:
                raise unavailable(server, 'it offers no STARTTLS, and security = "starttls" sends nothing in the clear')
            self._ask(220, "STARTTLS", "STARTTLS")
            wire.encrypt(server.tls, COMMAND_SECONDS)
            self._hello()
        if server.user:
            self._log_in()

    def _hello(self) -> None:
        self._wire.send("EHLO", f"EHLO {_own_name(self._server, self._wire)}\r\n".encode(), COMMAND_SECONDS)
        lines = self._wire.reply_lines("EHLO", COMMAND_SECONDS)
        self._expect(250, "EHLO", parse(lines))
        # Some servers still say AUTH=PLAIN.
        offers = [line[4:].decode("ascii", "replace").upper().replace("=", " ").split() for line in lines[1:]]
        self._extensions = {offer[0]: " ".join(offer[1:]) for offer in offers if offer}
        size = self._extensions.get("SIZE", "")
        self._max_bytes = int(size) if size.isdecimal() and len(size) <= MAX_SIZE_DIGITS else 0
        self._step = PIPELINED_COMMANDS if "PIPELINING" in self._extensions else 1

    def _log_in(self) -> None:
        mechanisms = self._extensions.get("AUTH", "").split()
        user, password = self._server.user, self._server.password
        if "PLAIN" in mechanisms:
            self._ask(235, "AUTH", "AUTH PLAIN " + _base64(f"\0{user}\0{password}"))
        elif "LOGIN" in mechanisms:
            self._ask(334, "AUTH", "AUTH LOGIN")
            self._ask(334, "AUTH", _base64(user))
            self._ask(235, "AUTH", _base64(password))
        else:
            raise unavailable(self._server, "it offers neither AUTH PLAIN nor AUTH LOGIN on this connection")

    def _ask(self, code: int, phase: str, command: str) -> None:
        self._wire.send(phase, f"{command}\r\n".encode(), COMMAND_SECONDS)
        self._expect(code, phase, self._wire.reply(phase, COMMAND_SECONDS))

    def _expect(self, code: int, phase: str, reply: Reply) -> None:
        if reply.code != code:
            wrong = phase == "AUTH" and reply.code // 100 == 5
            hint = ": check user and password in [handlers.email]" if wrong else ""
            raise unavailable(self._server, f"{reply} at {phase}{hint}")

    # One mail

    def _check_extensions(self, mail: Mail) -> None:
        if mail.utf8 and "SMTPUTF8" not in self._extensions:
            raise Reject("an address needs SMTPUTF8, which the server does not offer")
        if 0 < self._max_bytes < len(mail.content):
            raise Reject(f"a mail of {len(mail.content)} bytes, the server takes {self._max_bytes}")

    def _transact(self, mail: Mail, kept: bool) -> Mapping[str, Reply]:
        replies = self._envelope(mail)
        first, last = replies[0], replies[-1]
        if last.code == 421:  # nothing follows it
            if kept and last is first:  # so some servers end a session that was long enough
                raise StaleError
            raise refusal(_phase(len(replies) - 1, mail), last)
        if not first.accepted:
            verdict = refusal("MAIL", first)
            if not isinstance(verdict, Unavailable):  # where the login is not good any more, a new one begins anew
                self._settle(last)
            raise verdict
        refused = {name: reply for name, reply in zip(mail.recipients, replies[1:], strict=False) if reply.code >= 300}
        if len(refused) < len(mail.recipients):
            self._send_content(mail, last)
        else:
            self._settle(last)
        return refused

    def _envelope(self, mail: Mail) -> list[Reply]:
        """The replies to MAIL, each RCPT and DATA, in as few writes as the server allows; it may end early.

        It ends where going on is pointless: all is refused, or the server says good-bye.
        """
        parameters = " BODY=8BITMIME SMTPUTF8" if mail.utf8 else ""
        commands = [f"MAIL FROM:<{mail.sender}>{parameters}\r\n"]
        commands += [f"RCPT TO:<{recipient}>\r\n" for recipient in mail.recipients]
        commands.append(_DATA)
        replies: list[Reply] = []
        wire, step = self._wire, self._step
        for start in range(0, len(commands), step):
            group = commands[start : start + step]
            if start and _is_pointless(group, replies):
                break
            wire.send(group[0][:4], "".join(group).encode(), COMMAND_SECONDS)
            for command in group:
                reply = wire.reply(command[:4], DATA_SECONDS if command is _DATA else COMMAND_SECONDS)
                replies.append(reply)
                if reply.code == 421:  # nothing follows it
                    return replies
                if command is commands[0] and len(group) == len(commands) and wire.granted(len(group) - 1):
                    return [reply, *[_YES] * len(mail.recipients), _GO_ON]
        return replies

    def _send_content(self, mail: Mail, data: Reply) -> None:
        if data.code != 354 or not self._wire.is_quiet:  # what came already cannot be the answer to what was not sent
            self._settle(data)
            if data.code == 354 or data.accepted:
                raise BadReplyError("replies out of step")
            raise refusal("DATA", data)
        # RFC 5321 4.5.2. The first line is a header's, and the last one ends with CRLF.
        content = mail.content.replace(b"\r\n.", b"\r\n..") + b".\r\n"
        self._wire.send("the content", content, BLOCK_SECONDS)
        final = self._wire.reply("end of data", FINAL_SECONDS)
        self._settle(final)
        if not final.accepted:
            raise refusal("end of data", final)
        self.clean = True

    def _settle(self, last: Reply) -> None:
        # A 3yz stands for something that is still owed: where none follows, only closing takes it back.
        self.usable = last.code // 100 != 3 and last.code != 421 and self._wire.is_quiet
        self._wire.rest()


def unavailable(server: Server, text: str) -> Unavailable:
    """The answer to everything that goes wrong before a mail is spoken of."""
    return Unavailable(f"SMTP server {server.host}:{server.port}: {text}")


def _phase(index: int, mail: Mail) -> str:
    """The command that the reply number `index` answers."""
    return "MAIL" if index == 0 else "RCPT" if index <= len(mail.recipients) else "DATA"


def _is_pointless(group: list[str], replies: list[Reply]) -> bool:
    if replies[0].code >= 300:
        return True
    return group[0] is _DATA and min([reply.code for reply in replies[1:]]) >= 300


def _own_name(server: Server, wire: Wire) -> str:
    """What EHLO says where no name is set: a full host name (RFC 5321 4.1.4), or the domain that the mails come from.

    An address literal is the last resort: some relays refuse it, as they do `localhost` and names without a dot. No
    name server is asked.
    """
    if server.hello_name:
        return server.hello_name
    name = socket.gethostname()
    full = "." in name and re.fullmatch(r"[A-Za-z0-9.-]+", name)
    return name if full else server.sender_domain or wire.own_address


def _base64(text: str) -> str:
    return b64encode(text.encode()).decode()
