"""Mails that need no job, and pools of connections to a scripted server; conftest.py closes these."""

from __future__ import annotations

import time
from datetime import UTC, datetime

import pytest

from millpond.mail.compose import Mail
from millpond.mail.domain_shares import DomainShares
from millpond.mail.mail_server import MailServer
from millpond.mail.smtp_pool import SmtpPool
from tests.smtp_server import CLOSE, EXTENSIONS, ScriptedServer

ONE_BY_ONE = [name for name in EXTENSIONS if name != "PIPELINING"]
MODES = pytest.mark.parametrize("extensions", [EXTENSIONS, ONE_BY_ONE], ids=["pipelined", "one by one"])
#: What is not a whole reply.
HALVES = [
    CLOSE,
    b"25",
    b"250 fine",
    b"250-fine\r\n",
    b"250-fine\r\n550 no\r\n",
    b"HTTP/1.1 400 Bad\r\n\r\n",
    b"\r\n" * 9,
]

_pools: list[SmtpPool] = []


def mail(*recipients: str, content: bytes = b"Subject: x\r\n\r\nhello\r\n", utf8: bool = False) -> Mail:
    sent = datetime(2026, 1, 1, tzinfo=UTC)
    return Mail("x", "me@a.org", recipients or ("you@b.org",), content, "<x@a.org>", sent, utf8)


def pool(
    server: ScriptedServer, connections: int = 2, mails: int = 100, clock=time.monotonic, **fields: object
) -> SmtpPool:
    """No domain has a share of its own here."""
    places = DomainShares(connections, connections)
    _pools.append(SmtpPool(MailServer("127.0.0.1", server.port, **fields), places, mails, clock))
    return _pools[-1]


def close_pools() -> None:
    while _pools:
        _pools.pop()._close_kept()
