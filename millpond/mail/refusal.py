"""What a refusal by the mail server means: something about the server, about its pace, or about this one mail."""

from __future__ import annotations

import re
from enum import Enum
from typing import NamedTuple

from millpond import Reject, Retry, TooFast, Unavailable
from millpond.errors import Verdict
from millpond.mail.reply import Reply, Topic

#: Seconds until a wrong login is tried again. The breaker's own probes come every ten: a server that locks an account,
#: or an address, after some wrong passwords would never let us in again.
LOGIN_SECONDS = 60
#: Seconds until a used-up daily quota is tried again. It is of the last 24 hours (SES), so that it frees all the time.
QUOTA_SECONDS = 900


class Meaning(Enum):
    """What a refusal is about, and what follows. The first three are no failure of the mail.

    | meaning | verdict     | what it does                                                       |
    |---------|-------------|--------------------------------------------------------------------|
    | SERVER  | Unavailable | no mail can go now: all of them wait, by the breaker's schedule    |
    | LOGIN   | Unavailable | the same, until somebody mends the settings: one try in a minute   |
    | QUOTA   | Unavailable | the same, one try in a quarter of an hour                          |
    | PACE    | TooFast     | fewer mails at a time: the rate is halved, this mail goes by it    |
    | LATER   | Retry       | this mail, or recipient, alone: tried again by its own schedule    |
    | NEVER   | Reject      | this mail, or recipient, for good                                  |
    """

    SERVER = "no mail can go now"
    LOGIN = "the login is missing or wrong"
    QUOTA = "no more mails today"
    PACE = "too many mails at a time"
    LATER = "not now"
    NEVER = "never"


class RefusalRule(NamedTuple):
    """Which replies mean what: by phase, by code, by enhanced status (RFC 3463; a pattern), and by what the text is
    about (None: whatever it is)."""

    phases: frozenset[str]
    codes: frozenset[int]
    status: str
    topic: Topic | None
    meaning: Meaning

    def fits(self, phase: str, reply: Reply) -> bool:
        """Whether it is the rule of this reply at this phase."""
        is_of = phase in self.phases and reply.code in self.codes and self.topic in (None, reply.topic)
        return is_of and re.fullmatch(self.status, reply.status) is not None


class ContentTooFast(TooFast):
    """Refused for its pace after its recipients were taken: where it comes again and again, it is this mail's fault."""


_MAIL, _RCPT, _AUTH = frozenset({"MAIL"}), frozenset({"RCPT"}), frozenset({"AUTH"})
_CONTENT = frozenset({"DATA", "end of data"})
_OPENING = frozenset({"the banner", "EHLO"})
_GREETING = _OPENING | _AUTH | {"STARTTLS"}
_FROM_RCPT = _RCPT | _CONTENT
_LOGIN = frozenset(range(530, 539))
_4YZ, _5YZ, _ANY = frozenset(range(400, 500)), frozenset(range(500, 600)), frozenset(range(600))

#: The first rule that fits decides; where none does, the mail is tried again (LATER). Up to MAIL nothing of the mail is
#: known but its sender, so that the fault is the server's or the settings'. From RCPT on a refusal counts as this
#: mail's, or one bad mail would stop all the others; but not where it says that it is about pace.
RULES = (
    # RFC 4954 6 at AUTH; at MAIL with RFC 3207 4: authentication or encryption is required, too weak or wrong.
    RefusalRule(_AUTH, _5YZ, ".*", None, Meaning.LOGIN),
    RefusalRule(_MAIL, _LOGIN, ".*", None, Meaning.LOGIN),
    # SES: "454 Throttling failure: Daily message quota exceeded"; Gmail: "550 5.4.5 Daily user sending limit exceeded".
    # (X.2 is a mailbox, whose quota is another matter.)
    RefusalRule(_GREETING | _MAIL | _CONTENT, _4YZ | _5YZ, r"|[45]\.[^12]\.\d+", Topic.QUOTA, Meaning.QUOTA),
    # SES: "421 Too many concurrent SMTP connections"; Postfix: "421 4.7.0 Error: too many connections from".
    RefusalRule(_GREETING, _4YZ, ".*", Topic.PACE, Meaning.PACE),
    RefusalRule(_OPENING, _4YZ, r"4\.7\.\d+", None, Meaning.PACE),
    # RFC 5321 3.1, 3.8: "421 Service not available", "554 No SMTP service here"; RFC 4954 4.7.0: the server's own
    # trouble with logins ("454 Temporary authentication failure").
    RefusalRule(_GREETING, _ANY, ".*", None, Meaning.SERVER),
    # RFC 3463 3.2, 3.3: X.1 and X.2 are addresses and mailboxes ("450 4.1.8 Sender address rejected: Domain not
    # found"), whatever code they stand behind; X.5.3 is too many recipients.
    RefusalRule(_MAIL | _FROM_RCPT, _4YZ - {421}, r"4\.[12]\.\d+|4\.5\.3", None, Meaning.LATER),
    # Security and policy (Postfix: "450 4.7.1 Error: too much mail from"; Exchange: "451 4.7.500 Server busy").
    RefusalRule(_MAIL, _4YZ, r"4\.7\.\d+", None, Meaning.PACE),
    RefusalRule(_MAIL, _4YZ, ".*", Topic.PACE, Meaning.PACE),
    # The system is full, takes nothing for now, is congested (RFC 3463 3.4, 3.5); X.3.0 and X.3.5 say nothing of pace,
    # and a 421 with X.3.2 is a server that shuts down.
    RefusalRule(_MAIL, _4YZ - {421}, r"4\.3\.[12]|4\.4\.5", None, Meaning.PACE),
    # RFC 5321 4.2.3 "452 Insufficient system storage"; "454 Throttling failure" (SES).
    RefusalRule(_MAIL, frozenset({452, 454}), ".*", None, Meaning.PACE),
    # RFC 5321 4.2.3: not available, busy, a local error in processing.
    RefusalRule(_MAIL, frozenset({421, 450, 451}), ".*", None, Meaning.SERVER),
    # RFC 5321 3.8: a server may say it at any command; here it may be this mail that makes it give up.
    RefusalRule(_FROM_RCPT, frozenset({421}), ".*", None, Meaning.LATER),
    # SES: "454 Throttling failure: Maximum sending rate exceeded", at the end of data.
    RefusalRule(_CONTENT, _4YZ, ".*", Topic.PACE, Meaning.PACE),
    # As at MAIL; but of X.7 only the flood of mail (IANA: 4.7.28), for "451 4.7.1" is also a filter that greylists.
    RefusalRule(_CONTENT, _4YZ, r"4\.7\.28|4\.3\.[12]|4\.4\.5", None, Meaning.PACE),
    RefusalRule(_CONTENT, frozenset({452, 454}), ".*", None, Meaning.PACE),
    # What old servers answer instead of 452, too many recipients (RFC 5321 4.5.3.1.10).
    RefusalRule(_RCPT, frozenset({552}), ".*", None, Meaning.LATER),
    # RFC 5321 4.2.1: permanent.
    RefusalRule(_MAIL | _FROM_RCPT, _5YZ, ".*", None, Meaning.NEVER),
)


def meaning(phase: str, reply: Reply) -> Meaning:
    """What a refusal at `phase` (the banner, EHLO, STARTTLS, AUTH, MAIL, RCPT, DATA, end of data) means."""
    return next((rule.meaning for rule in RULES if rule.fits(phase, reply)), Meaning.LATER)


def verdict_of(phase: str, reply: Reply, where: str = "SMTP") -> Verdict:
    """The verdict on a whole mail that was refused at `phase`, before which `where` stands in the reason."""
    text, meant = f"{where} {reply} at {phase}", meaning(phase, reply)
    match meant:
        case Meaning.SERVER:
            return Unavailable(text)
        case Meaning.LOGIN:
            keys = "user and password" if phase == "AUTH" else "user, password and security"
            return Unavailable(f"{text}: check {keys} in the settings of e-mail", after=LOGIN_SECONDS)
        case Meaning.QUOTA:
            return Unavailable(f"{text}: its quota of mails is used up", after=QUOTA_SECONDS)
        case Meaning.PACE:
            return (ContentTooFast if phase in _CONTENT else TooFast)(text)
        case Meaning.NEVER:
            return Reject(text)
    return Retry(text)
