"""Jobs of the tests, their messages, and the mails that come out of them."""

from __future__ import annotations

import email
import email.header
import email.policy
import re
from datetime import UTC, datetime

import msgspec
import pytest

from handlers.email import Settings, setup
from millpond import Message
from millpond.app.routing import routes
from millpond.errors import ConfigError
from millpond.mail.compose import compose
from millpond.mail.job import Email
from millpond.message import FollowUp
from tests.smtp_server import ScriptedServer

SENT = datetime(2026, 3, 14, 15, 9, 26, 535000, tzinfo=UTC)
SENT_MS = int(SENT.timestamp() * 1000)


def message(event_id: str = "e-1", attempt: int = 1, body: str = "{}", sent_ms: int = SENT_MS) -> Message:
    names = {"id": "m-1", "event_id": event_id, "event_type": "email.send", "queue": "q"}
    return Message(**names, body=body, attempt=attempt, _sent_ms=sent_ms)


def job(**fields: object) -> Email:
    """It names no sender: the one of the settings is its."""
    return Email(**{"to": ["you@b.org"], "subject": "Hi", "text": "hello", **fields})


def job_from_me(**fields: object) -> Email:
    return job(**{"from_": "Me <me@a.org>", **fields})


def decode(payload: object) -> Email:
    """As the worker decodes it; a text is JSON already."""
    data = payload.encode() if isinstance(payload, str) else msgspec.json.encode(payload)
    return routes(["handlers.email"])["email.send"].decode(data)


def follow_up_payload(follow_up: FollowUp) -> Email:
    return decode(msgspec.json.decode(follow_up.body)["payload"])


def use(server: ScriptedServer, **fields: object) -> None:
    """Set the handler up for this server."""
    setup(Settings(host="127.0.0.1", port=server.port, security="none", **{"from_": "Shop <shop@a.org>", **fields}))


def content(**fields: object) -> bytes:
    return compose(job_from_me(**fields), message(), "").content


def read(data: bytes):
    """As the standard library reads a mail."""
    if data.isascii():
        return email.message_from_bytes(data, policy=email.policy.default)
    return email.message_from_string(data.decode(), policy=email.policy.default)  # a header of RFC 6532


def header(name: str, data: bytes) -> str:
    """As a reader shows it."""
    raw = email.message_from_bytes(data)[name]
    return str(email.header.make_header(email.header.decode_header(raw)))


def plain_lines(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")


def check_bytes(data: bytes, ascii_only: bool = True) -> None:
    """What every mail keeps to: CRLF, lines that are short enough, headers folded where they can be."""
    assert data.isascii() or not ascii_only
    assert data.partition(b"\r\n\r\n")[2].isascii()
    assert data.endswith(b"\r\n")
    assert not re.search(rb"(?<!\r)\n|\r(?!\n)|\0", data)
    lines = data.split(b"\r\n")
    assert max(map(len, lines)) <= 998
    head = lines[: lines.index(b"")]
    assert all(line.strip() for line in head)
    for line in head:  # what is longer than it should be had no space to be folded at
        length = len(line.decode())
        assert length <= 78 or b" " not in re.sub(rb'"[^"]*"', b"", line).partition(b": ")[2].strip(), line
        assert length <= 76 or b"=?utf-8?" not in line, line  # RFC 2047 2


def findings(settings: Settings, local: bool = True) -> str:
    """What is found wrong with these settings, a line each."""
    with pytest.raises(ConfigError) as raised:
        setup(settings, local)
    assert all(finding.startswith("[handlers.email] ") for finding in raised.value.findings)
    return "\n".join(raised.value.findings)
