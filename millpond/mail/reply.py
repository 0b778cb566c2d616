"""A reply of an SMTP server (RFC 5321 4.2), read strictly: its code and its enhanced status."""

from __future__ import annotations

import re
from collections.abc import Sequence
from enum import Enum
from functools import lru_cache
from typing import NamedTuple

_LINE = rb"([2-5]\d\d)(?:%b(?:([245]\.\d{1,3}+\.\d{1,3}+)\b)?+[^\n]*+|\r)?+"
_LAST_LINE = re.compile(_LINE % rb"[ -]")
#: A whole reply on one line, as nearly all are; its groups are what make_reply() takes.
ONE_LINE = re.compile(_LINE % rb" " + rb"\n")
#: Replies on one line each that all say yes, the last one to DATA.
ALL_YES = re.compile(rb"(?:2\d\d(?: [^\n]*+|\r)?+\n)*+354(?: [^\n]*+|\r)?+\n")
#: What servers say where they are asked too much, and where a day's mails are used up (SES, Gmail, Postfix, Exchange).
_PACE = re.compile(
    rb"(?i)throttl|\brate\b.{0,20}(limit|exceed)|too fast|too much mail|too many.{0,20}(mail|message|conn|sess)"
)
_QUOTA = re.compile(rb"(?i)\b(daily|per day|24.hours?)\b.{0,40}\b(quota|limit)")


class Topic(Enum):
    """What the text of a refusal is about, where its code does not say it."""

    NONE = "nothing that matters"
    PACE = "mails come too fast"
    QUOTA = "the mails of a day are used up"


class BadReplyError(Exception):
    """What came is not a whole SMTP reply. The text names what it was."""


class Reply(NamedTuple):
    """The code and, where the server gave one, the enhanced status (RFC 3463). The text of a reply may quote
    addresses, and is not kept; only what a refusal is about."""

    code: int
    status: str = ""
    topic: Topic = Topic.NONE

    def __str__(self) -> str:
        return f"{self.code} {self.status}".rstrip()

    @property
    def accepted(self) -> bool:
        """Whether it is 2yz: done. No reply has a lower code, so `code < 300` says the same where speed counts."""
        return self.code < 300

    def about(self, lines: Sequence[bytes]) -> Reply:
        """The same reply with the topic of its text."""
        text = b" ".join(lines)
        topic = Topic.QUOTA if _QUOTA.search(text) else Topic.PACE if _PACE.search(text) else Topic.NONE
        return self._replace(topic=topic)


def parse_reply(lines: list[bytes]) -> Reply:
    """The reply that these lines are. Raises BadReplyError."""
    match = _LAST_LINE.fullmatch(lines[-1])
    if match is None:
        raise BadReplyError("no SMTP reply")
    reply = make_reply(*match.groups())
    return reply if reply.code < 400 else reply.about(lines)


@lru_cache(maxsize=256)
def make_reply(code: bytes, status: bytes | None) -> Reply:
    """The reply of these parts of its last line; servers say the same few things all the time."""
    return Reply(int(code), status.decode() if status else "")
