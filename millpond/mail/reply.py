"""A reply of an SMTP server (RFC 5321 4.2), read strictly: its code and its enhanced status."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple

_LINE = rb"([2-5]\d\d)(?:%b(?:([245]\.\d{1,3}+\.\d{1,3}+)\b)?+[^\n]*+|\r)?+"
_LAST_LINE = re.compile(_LINE % rb"[ -]")
#: A whole reply on one line, as nearly all are; its groups are what make_reply() takes.
ONE_LINE = re.compile(_LINE % rb" " + rb"\n")
#: Replies on one line each that all say yes, the last one to DATA.
ALL_YES = re.compile(rb"(?:2\d\d(?: [^\n]*+|\r)?+\n)*+354(?: [^\n]*+|\r)?+\n")


class BadReplyError(Exception):
    """What came is not a whole SMTP reply. The text names what it was."""


class Reply(NamedTuple):
    """The code and, where the server gave one, the enhanced status (RFC 3463). The text of a reply may quote
    addresses, and is not kept."""

    code: int
    status: str = ""

    def __str__(self) -> str:
        return f"{self.code} {self.status}".rstrip()

    @property
    def accepted(self) -> bool:
        """Whether it is 2yz: done. No reply has a lower code, so `code < 300` says the same where speed counts."""
        return self.code < 300


def parse_reply(lines: list[bytes]) -> Reply:
    """The reply that these lines are. Raises BadReplyError."""
    match = _LAST_LINE.fullmatch(lines[-1])
    if match is None:
        raise BadReplyError("no SMTP reply")
    return make_reply(*match.groups())


@lru_cache(maxsize=256)
def make_reply(code: bytes, status: bytes | None) -> Reply:
    """The reply of these parts of its last line; servers say the same few things all the time."""
    return Reply(int(code), status.decode() if status else "")
