"""What a refusal by the mail server means: something about the server, about its pace, or about this one mail."""

from __future__ import annotations

import re
from enum import Enum
from typing import NamedTuple

from millpond import Reject, Retry, Unavailable
from millpond.mail.reply import Reply


class Meaning(Enum):
    """What a refusal is about, and what follows."""

    SERVER = "no mail can go now: this one waits, and so do the others"
    PACE = "too much for now: this mail waits longer, by chance"
    LATER = "this mail or recipient, for now"
    NEVER = "this mail or recipient, for good"


class RefusalRule(NamedTuple):
    """Which replies mean what: by phase, by code, and by enhanced status (RFC 3463; a pattern)."""

    phases: frozenset[str]
    codes: frozenset[int]
    status: str
    meaning: Meaning


_ALWAYS = frozenset({"MAIL", "RCPT", "DATA", "end of data"})
_MAIL, _RCPT = frozenset({"MAIL"}), frozenset({"RCPT"})
#: RFC 4954 6, and 530 (RFC 3207 4): authentication or encryption is required, or wrong.
_CREDENTIALS = frozenset(range(530, 539))
_4YZ, _5YZ = frozenset(range(400, 500)), frozenset(range(500, 600))

#: The first rule that fits decides. At MAIL nothing of the mail is known but its sender, so the fault is the server's
#: or the settings'; later it counts as this mail's alone, or one bad mail would stop all the others.
RULES = (
    RefusalRule(_MAIL, frozenset({421}) | _CREDENTIALS, ".*", Meaning.SERVER),
    RefusalRule(_ALWAYS, frozenset({421}), ".*", Meaning.LATER),  # it may be this mail that makes the server give up
    # 4.1 and 4.2 are addresses and mailboxes, 4.5.3 is too many recipients, whatever code they stand behind.
    RefusalRule(_ALWAYS, _4YZ, r"4\.[12]\.\d+|4\.5\.3", Meaning.LATER),
    # No room in the system, it takes nothing now, it is congested, a flood of mail (RFC 3463 3.4, 3.5; IANA for 7.28).
    RefusalRule(_ALWAYS, _4YZ, r"4\.3\.[12]|4\.4\.5|4\.7\.28", Meaning.PACE),
    # "452 4.3.1 Insufficient system storage", "454 Throttling failure: Maximum sending rate exceeded" (SES).
    RefusalRule(_ALWAYS - _RCPT, frozenset({452, 454}), ".*", Meaning.PACE),
    # What old servers answer instead of 452, too many recipients (RFC 5321 4.5.3.1.10).
    RefusalRule(_RCPT, frozenset({552}), ".*", Meaning.LATER),
    RefusalRule(_ALWAYS, _5YZ, ".*", Meaning.NEVER),
)


class PacedRetry(Retry):
    """The server is asked too much, or is full: the mail waits longer, and each mail differently long."""


def meaning(phase: str, reply: Reply) -> Meaning:
    """What a refusal at `phase` (MAIL, RCPT, DATA, end of data) means; what no rule fits is tried again."""
    for rule in RULES:
        if phase in rule.phases and reply.code in rule.codes and re.fullmatch(rule.status, reply.status):
            return rule.meaning
    return Meaning.LATER


def verdict_of(phase: str, reply: Reply) -> Retry | Reject | Unavailable:
    """The verdict on a whole mail that was refused at `phase`."""
    text, meant = f"SMTP {reply} at {phase}", meaning(phase, reply)
    if meant is Meaning.SERVER:
        hint = ": check user, password and security in the settings of e-mail" if reply.code in _CREDENTIALS else ""
        return Unavailable(f"{text}{hint}")
    if meant is Meaning.NEVER:
        return Reject(text)
    return PacedRetry(text) if meant is Meaning.PACE else Retry(text)
