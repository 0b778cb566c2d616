"""How a reply of an SMTP server is read."""

from __future__ import annotations

import socket

import pytest

from millpond.mail import reply as replies
from millpond.mail.reply import Reply
from tests.mail.senders import MODES, mail, pool
from tests.smtp_server import ScriptedServer


@pytest.mark.parametrize(
    ("line", "reply"),
    [
        (b"250 2.1.5 ok", Reply(250, "2.1.5")),
        (b"250", Reply(250)),
        (b"250 ", Reply(250)),
        (b"550 5.1.1", Reply(550, "5.1.1")),
        (b"550-5.1.1 x\xff", Reply(550, "5.1.1")),
        (b"550 5.1.1234 x", Reply(550)),
        (b"450 host 4.1.1", Reply(450)),
    ],
)
def test_a_reply_line_is_read(line, reply):
    assert replies.parse_reply([line]) == reply


@pytest.mark.parametrize("line", [b"", b"25", b"2500 x", b"150 x", b"650 x", b"+OK", b"ab0 x", b" 250 x"])
def test_what_is_no_reply_line_is_refused(line):
    with pytest.raises(replies.BadReplyError):
        replies.parse_reply([line])


@MODES
def test_a_reply_without_a_text_is_a_reply(extensions):
    """RFC 5321 4.2: Reply-code [ SP textstring ] CRLF."""
    bare = {"banner": ["220"], "MAIL": ["250"], "RCPT": ["250-\r\n250"], "DATA": ["354"], "end": ["250 "]}
    with ScriptedServer(bare, extensions=extensions) as server:
        senders = pool(server)
        assert senders.send(mail()) == {}
        senders.send(mail())
    assert (len(server.taken), server.sessions) == (2, 1)


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_replies_are_read_however_the_network_cuts_them(size, monkeypatch):
    """Pieces of `size` bytes: two replies in one, or one in many."""
    receive = socket.socket.recv
    monkeypatch.setattr(socket.socket, "recv", lambda sock, count: receive(sock, size if count == 4_096 else count))
    answers = {"b@b.org": "550-5.1.1 no\r\n550-5.1.1 really\r\n550 5.1.1 no", "c@b.org": "451 4.7.1 later"}
    with ScriptedServer(rcpt=answers.get) as server:
        senders = pool(server)
        for _ in range(2):
            refused = senders.send(mail("a@b.org", "b@b.org", "c@b.org"))
            assert refused == {"b@b.org": Reply(550, "5.1.1"), "c@b.org": Reply(451, "4.7.1")}
    assert (len(server.taken), server.sessions) == (2, 1)
