"""What goes over the wire for varied mails, byte for byte: `python -m tests.mail.test_email_bytes` writes it down.

A mail that is sent again, by the next version too, has to be the same mail: receivers tell a second copy by its
Message-ID, and a follow-up is its original for whoever was not reached yet.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import gevent
import pytest

import tests.patch  # noqa: F401  before what uses sockets, where this is run as a program
from handlers.email import Settings, send_email, setup, teardown
from millpond import Message
from millpond.mail.job import Attachment, Email
from tests.smtp_server import EXTENSIONS, ScriptedServer, _Session

MAILS = Path(__file__).parent / "mails.txt"
SHOP = "Shop <shop@a.org>"
OFFERS = (*EXTENSIONS, "SMTPUTF8", "8BITMIME")
ONE_BY_ONE = tuple(name for name in OFFERS if name != "PIPELINING")

LETTERS = {
    "a text": Email(to=["you@b.org"], subject="Hi", text="hello"),
    "a text and an HTML part": Email(
        to=["Ada Lovelace <ada1@example.org>"],
        from_="Shop <shop@example.com>",
        subject="Invoice 1",
        text="Dear customer,\nthank you.",
        html="<p>Dear customer,</p>\n<p>thank you.</p>\n",
    ),
    "HTML alone": Email(to=["you@b.org"], subject="  Hi  ", html="<p>hello</p>\n"),
    "no subject": Email(to=["you@b.org"], subject=" ", text="hello"),
    "many recipients": Email(
        to=["One <one@b.org>", "two@b.org", "TWO@B.org", "two@b.org"],
        cc=["three@b.org", "Four Four <four@b.org>"],
        bcc=["five@b.org", "one@b.org"],
        reply_to="Help Desk <help@a.org>",
        subject="To all",
        text="hello",
    ),
    "a list that is folded": Email(
        to=[f"Recipient Number {number} <recipient{number}@example.org>" for number in range(12)],
        subject="A subject that is long enough to be folded, at a space, somewhere before its line is too long",
        text="hello",
    ),
    "names that are quoted, encoded and decoded": Email(
        to=[
            '"Doe, John" <john@b.org>',
            "Jörg Müller <joerg@b.org>",
            "=?utf-8?q?J=C3=B6rg?= <j@b.org>",
            "A.B. <ab@b.org>",
        ],
        from_="Müller & Söhne <shop@a.org>",
        reply_to='"A \\"quoted\\" name" <q@a.org>',
        subject="Grüße aus Köln, wo das Wetter schön ist und die Sätze länger sind als eine Zeile =?x?=",
        text="hello",
    ),
    "domains and local parts beyond ASCII": Email(
        to=["jörg@b.org", "you@münchen.de", "用户@例え.テスト"], bcc=["ü@b.org"], subject="用户", text="hello"
    ),
    "only a blind copy beyond ASCII": Email(to=["you@b.org"], bcc=["ü@b.org"], subject="x", text="x"),
    "an ASCII text beside an encoded one": Email(
        to=["you@b.org"], subject="x", text="Grüße aus Köln, es bleibt fast alles lesbar \n.\n", html="<p>x</p>"
    ),
    "quoted-printable and base64": Email(
        to=["you@b.org"], subject="x", text="Grüße aus Köln, es bleibt fast alles lesbar\n" * 3, html="Совсем другое\n"
    ),
    "lines that begin with dots": Email(
        to=["you@b.org"], subject="x", text=".\n..\n.dot\nend.\n.", html=".\r\n..html\r.\n.\n\n."
    ),
    "lines that are long": Email(to=["you@b.org"], subject="x", text="x" * 998 + "\n" + "y" * 998, html="z" * 999),
    "what 7bit does not carry": Email(to=["you@b.org"], subject="x", text="a\0b = c\x7f", html="\x0c\x1b"),
    "headers of its own": Email(
        to=["you@b.org"],
        subject="x",
        text="x",
        headers={
            "List-Unsubscribe": "<https://a.org/unsubscribe?token=0123456789abcdef0123456789abcdef>, <mailto:u@a.org>",
            "X-Priority": " 1 ",
            "X-PM-Metadata-colour": "blue",
        },
    ),
    "attachments": Email(
        to=["you@b.org"],
        subject="x",
        text="x",
        html="<b>x</b>",
        attachments=[
            Attachment("plain.pdf", bytes(range(100)), "application/pdf"),
            Attachment('a "quoted" name that is long enough to go onto a line of its own.txt', b"", "text/plain; a=b"),
            Attachment("Grüße.bin", b"x" * 57),
        ],
    ),
    "a text with an attachment": Email(
        to=["you@b.org"], subject="x", text="x\n", attachments=[Attachment("a", b"x", None)]
    ),
    "a follow-up": Email(
        to=["one@b.org", "two@b.org"],
        from_=SHOP,
        subject="Hi",
        text="hello",
        html="x",
        only=["two@b.org"],
        message_id="<0123456789abcdef00000000deadbeef@a.org>",
        date=datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC),
    ),
    "an id and a date of somebody else's": Email(
        to=["one@b.org"],
        text="hello",
        html="x",
        message_id=f"<{'i' * 90}@{'d' * 90}.org>",
        date=datetime(2026, 12, 24, 23, 59, 59, 999_999, tzinfo=timezone(timedelta(hours=5, minutes=30))),
    ),
    "a sender with a long domain": Email(
        to=["you@b.org"], from_=f"me@{'x' * 60}.{'y' * 60}.{'z' * 60}.org", subject="x", text="x"
    ),
    "a text that knows its boundary": Email(
        to=["you@b.org"], subject="x", text="--=_a89926c4cba73b0ff is its boundary", html="y"
    ),
}


def said(name: str, monkeypatch: pytest.MonkeyPatch, offers: tuple[str, ...]) -> bytes:
    """All that the client sends for one mail, from MAIL to the final dot."""
    lines: list[bytes] = []
    read = _Session._bytes_line

    def listen(session: _Session) -> bytes:
        lines.append(read(session))
        return lines[-1]

    monkeypatch.setattr(_Session, "_bytes_line", listen)
    with ScriptedServer(extensions=offers) as server:
        setup(Settings(host="127.0.0.1", port=server.port, security="none", from_=SHOP, hello_name="a.org"))
        sent_ms = 1_773_500_966_535
        send_email(LETTERS[name], Message(name, f"e-{name}", "email.send", "q", "{}", 1, sent_ms))
        teardown()
    assert (lines.pop(0), lines.pop()) == (b"EHLO a.org\r\n", b"QUIT\r\n")
    return b"".join(lines)


def written() -> dict[str, bytes]:
    parts = re.split(r"^##### (.*)\n", MAILS.read_bytes().decode(), flags=re.MULTILINE)
    return {name: text.replace("\n", "\r\n").encode() for name, text in zip(parts[1::2], parts[2::2], strict=True)}


def test_each_mail_is_written_down():
    assert list(written()) == list(LETTERS)


@pytest.mark.parametrize("name", LETTERS)
@pytest.mark.parametrize("offers", [OFFERS, ONE_BY_ONE], ids=["pipelined", "one by one"])
def test_a_mail_is_the_same_bytes_in_every_version(name, offers, monkeypatch):
    with gevent.Timeout(20):
        assert said(name, monkeypatch, offers) == written()[name]


def main() -> None:
    with pytest.MonkeyPatch.context() as patch, MAILS.open("w", newline="") as file:
        for name in LETTERS:
            with patch.context() as inner:
                data = said(name, inner, OFFERS)
            assert data.count(b"\r\n") == data.count(b"\n") == data.count(b"\r")
            file.write(f"##### {name}\n{data.decode()}".replace("\r\n", "\n"))


if __name__ == "__main__":
    main()
