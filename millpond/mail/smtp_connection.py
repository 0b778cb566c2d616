"""One SMTP connection, and one mail after another over it (RFC 5321; 2920 PIPELINING, 6531 SMTPUTF8).

smtplib is not used. Its sendmail() calls a mail sent that nobody got and the other way round (recipients named twice,
a 421 at a later RCPT), it takes half a reply for a whole one, and it has one time-out for everything.

What the server says before MAIL is about itself, and means Unavailable; from MAIL on, refusal.py says what it means.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress

from millpond import Reject, Retry, Unavailable
from millpond.mail import waits
from millpond.mail.compose import Mail
from millpond.mail.greeting import Offer, greet
from millpond.mail.lines import SmtpLines, what_failed
from millpond.mail.mail_server import MailServer
from millpond.mail.refusal import verdict_of
from millpond.mail.reply import BadReplyError, Reply

_DATA = "DATA\r\n"
# What stands for the replies of a server that takes everything: nobody reads more of them.
_YES, _GO_ON = Reply(250), Reply(354)


class StaleError(Exception):
    """A kept connection was dead before it took anything of the mail: try again on a new one."""


class SmtpConnection:
    """One connection, used by one greenlet at a time.

    `usable`: the last thing that came was a whole reply, so the next command will get its own. It is False from the
    first byte of an exchange on, and stays so whatever is thrown. `between_mails`: no transaction is open.
    """

    def __init__(self, server: MailServer, lines: SmtpLines) -> None:
        self.usable = False
        self.between_mails = True
        self.mails = 0
        self.idle_since: float
        self._server = server
        self._lines = lines
        self._offer: Offer

    @classmethod
    def open(cls, server: MailServer) -> SmtpConnection:
        """Connect, encrypt, log in. Raises Unavailable."""
        try:
            connection = cls(server, SmtpLines(server.host, server.port, None if server.starttls else server.tls))
        except OSError as error:
            raise server.unavailable(what_failed(error)) from error
        connection._greet()
        return connection

    def deliver(self, mail: Mail) -> Mapping[str, Reply]:
        """Send one mail. Returns the recipients that were refused; if these are not all, the others have it.

        Raises Retry, Reject or Unavailable where nobody has it, Retry also where the connection was lost at the end of
        data, so that nobody knows; and StaleError.
        """
        self._check_extensions(mail)
        kept = self.mails > 0
        self.mails += 1
        self.usable = self.between_mails = False
        try:
            return self._transact(mail, kept)
        except (OSError, BadReplyError) as error:
            self.usable = False
            phase = self._lines.phase
            if kept and phase == "MAIL" and not isinstance(error, TimeoutError):
                raise StaleError from error
            unknown = ", it may or may not have been sent" if phase == "end of data" else ""
            text = f"SMTP: {what_failed(error)} at {phase}{unknown}"
        # Not in the `except`, where the error would be linked to it and show a server that is down. It may be this mail
        # that breaks the connection: it counts its attempts, or it would be tried without end and stop the others.
        raise Retry(text)

    def probe(self) -> bool:
        """Whether the connection is alive; ends an open transaction. Closes a dead connection."""
        self.usable = False
        try:
            self._lines.send("RSET", b"RSET\r\n", waits.RESET_SECONDS)
            reply = self._lines.reply("RSET", waits.RESET_SECONDS)
            if reply.accepted:
                self._end_exchange(reply)
        except (OSError, BadReplyError):
            pass
        finally:
            if not self.usable:
                self.close()
        self.between_mails = self.usable
        return self.usable

    def start_quit(self) -> None:
        """Send QUIT, and do not wait for the answer."""
        self.usable = False
        with suppress(OSError):
            self._lines.send("QUIT", b"QUIT\r\n", waits.QUIT_SECONDS)

    def end_quit(self, seconds: float) -> None:
        """Wait for the answer to QUIT, and close."""
        try:
            self._lines.reply("QUIT", seconds)
        except (OSError, BadReplyError):
            pass
        finally:
            self.close()

    def close(self) -> None:
        """Close at once; never waits; may be called twice."""
        self.usable = False
        self._lines.close()

    def _greet(self) -> None:
        try:
            self._offer = greet(self._server, self._lines)
            self.usable = True
            self._lines.rest()
        except (OSError, BadReplyError) as error:
            raise self._server.unavailable(f"{what_failed(error)} at {self._lines.phase}") from error
        finally:
            if not self.usable:
                self.close()

    def _check_extensions(self, mail: Mail) -> None:
        if mail.utf8 and "SMTPUTF8" not in self._offer.extensions:
            raise Reject("an address needs SMTPUTF8, which the mail server does not offer")
        if 0 < self._offer.max_bytes < len(mail.content):
            raise Reject(f"the mail has {len(mail.content)} bytes; the mail server takes {self._offer.max_bytes}")

    def _transact(self, mail: Mail, kept: bool) -> Mapping[str, Reply]:
        replies = self._envelope(mail)
        first, last = replies[0], replies[-1]
        if last.code == 421:  # nothing follows it
            if kept and last is first:  # so some servers end a session that was long enough
                raise StaleError
            raise verdict_of(_phase(len(replies) - 1, mail), last)
        if not first.accepted:
            verdict = verdict_of("MAIL", first)
            if not isinstance(verdict, Unavailable):  # where the login is no longer good, a new session logs in anew
                self._end_exchange(last)
            raise verdict
        refused = {name: reply for name, reply in zip(mail.recipients, replies[1:], strict=False) if reply.code >= 300}
        if len(refused) < len(mail.recipients):
            self._send_content(mail, last)
        else:
            self._end_exchange(last)
        return refused

    def _envelope(self, mail: Mail) -> list[Reply]:
        """The replies to MAIL, each RCPT and DATA, asked for in as few writes as the server allows.

        There are fewer replies where to go on is pointless: all is refused, or the server says good-bye.
        """
        parameters = " BODY=8BITMIME SMTPUTF8" if mail.utf8 else ""
        commands = [f"MAIL FROM:<{mail.sender}>{parameters}\r\n"]
        commands += [f"RCPT TO:<{recipient}>\r\n" for recipient in mail.recipients]
        commands.append(_DATA)
        replies: list[Reply] = []
        lines, step = self._lines, self._offer.step
        for start in range(0, len(commands), step):
            group = commands[start : start + step]
            if start and _is_pointless(group, replies):
                break
            lines.send(group[0][:4], "".join(group).encode(), waits.COMMAND_SECONDS)
            for command in group:
                reply = lines.reply(command[:4], waits.DATA_SECONDS if command is _DATA else waits.COMMAND_SECONDS)
                replies.append(reply)
                if reply.code == 421:  # nothing follows it
                    return replies
                if command is commands[0] and len(group) == len(commands) and lines.granted(len(group) - 1):
                    return [reply, *[_YES] * len(mail.recipients), _GO_ON]
        return replies

    def _send_content(self, mail: Mail, data: Reply) -> None:
        if data.code != 354 or not self._lines.is_quiet:  # what came already cannot be the answer to what was not sent
            self._end_exchange(data)
            if data.code == 354 or data.accepted:
                raise BadReplyError("replies out of step")
            raise verdict_of("DATA", data)
        # RFC 5321 4.5.2. The first line is a header's, and the last one ends with CRLF.
        content = mail.content.replace(b"\r\n.", b"\r\n..") + b".\r\n"
        self._lines.send("the content", content, waits.BLOCK_SECONDS)
        final = self._lines.reply("end of data", waits.FINAL_SECONDS)
        self._end_exchange(final)
        if not final.accepted:
            raise verdict_of("end of data", final)
        self.between_mails = True

    def _end_exchange(self, last: Reply) -> None:
        # After a 3yz the server waits for more: where nothing more comes, only closing takes it back.
        self.usable = last.code // 100 != 3 and last.code != 421 and self._lines.is_quiet
        self._lines.rest()


def _phase(index: int, mail: Mail) -> str:
    """The command that the reply number `index` answers."""
    return "MAIL" if index == 0 else "RCPT" if index <= len(mail.recipients) else "DATA"


def _is_pointless(group: list[str], replies: list[Reply]) -> bool:
    if replies[0].code >= 300:
        return True
    return group[0] is _DATA and min([reply.code for reply in replies[1:]]) >= 300
