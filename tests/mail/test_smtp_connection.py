"""One mail after another over an SMTP connection: envelope, refusals, broken answers."""

from __future__ import annotations

import pytest

from millpond import Reject, Retry, TooFast, Unavailable
from millpond.mail import lines
from millpond.mail.reply import Reply
from tests.mail.senders import HALVES, MODES, ONE_BY_ONE, mail, pool
from tests.smtp_server import CLOSE, ScriptedServer


@MODES
def test_a_mail_arrives_with_its_envelope_and_its_bytes(extensions):
    content = b"Subject: x\r\n\r\n.one dot\r\n..two\r\n.\r\nend\r\n"
    with ScriptedServer(extensions=extensions) as server:
        assert pool(server).send(mail("a@b.org", "c@d.org", content=content)) == {}
    assert server.taken == [("me@a.org", ("a@b.org", "c@d.org"), content)]


def test_a_large_mail_arrives_whole():
    content = b"Subject: x\r\n\r\n" + b"." * 60 + b"\r\n" * 3 + b"0123456789abcdef\r\n" * 200_000
    with ScriptedServer() as server:
        pool(server).send(mail(content=content))
    assert server.taken[0].content == content


@MODES
def test_a_connection_carries_the_next_mail(extensions):
    with ScriptedServer(extensions=extensions) as server:
        kept = pool(server)
        for _ in range(5):
            kept.send(mail())
    assert (len(server.taken), server.sessions) == (5, 1)


def test_pipelined_commands_travel_in_one_write_and_a_hundred_at_most(monkeypatch):
    everyone, writes = [f"r{i}@b.org" for i in range(250)], []
    send = lines.SmtpLines.send

    def spy(self, phase, data, seconds):
        writes.append(data.count(b"\r\n"))
        send(self, phase, data, seconds)

    monkeypatch.setattr(lines.SmtpLines, "send", spy)
    with ScriptedServer() as server:
        senders = pool(server)
        senders.send(mail(*everyone))
        senders.send(mail())
    assert server.taken[0].recipients == tuple(everyone)
    content = 4  # its three lines and the final dot's
    assert writes == [1, 100, 100, 52, content, 3, content]  # the first is EHLO


@pytest.mark.parametrize(
    ("phase", "answer", "verdict", "reason"),
    [
        ("MAIL", "421 4.3.2 closing", Unavailable, "SMTP 421 4.3.2 at MAIL"),
        ("MAIL", "451 4.3.0 no", Unavailable, "SMTP 451 4.3.0 at MAIL"),
        ("MAIL", "452 4.3.1 no", TooFast, "SMTP 452 4.3.1 at MAIL"),
        ("MAIL", "450 4.1.8 whose domain?", Retry, "SMTP 450 4.1.8 at MAIL"),
        ("MAIL", "550 5.4.5 Daily user sending limit exceeded", Unavailable, "SMTP 550 5.4.5 at MAIL: its quota"),
        ("MAIL", "550 5.7.1 you@b.org?", Reject, "SMTP 550 5.7.1 at MAIL"),
        ("MAIL", "552 5.3.4 big", Reject, "SMTP 552 5.3.4 at MAIL"),
        ("MAIL", "530 5.7.0 log in", Unavailable, "SMTP 530 5.7.0 at MAIL: check user, password and security"),
        ("MAIL", "535 5.7.8 no", Unavailable, "SMTP 535 5.7.8 at MAIL"),
        ("RCPT", "421 4.3.2 closing", Retry, "SMTP 421 4.3.2 at RCPT"),
        ("DATA", "530 5.7.0 log in", Reject, "SMTP 530 5.7.0 at DATA"),
        ("end", "535 5.7.8 no", Reject, "SMTP 535 5.7.8 at end of data"),
        ("DATA", "421 closing", Retry, "SMTP 421 at DATA"),
        ("DATA", "451 4.3.0 no", Retry, "SMTP 451 4.3.0 at DATA"),
        ("DATA", "554 5.5.1 no", Reject, "SMTP 554 5.5.1 at DATA"),
        ("DATA", "250 what", Retry, "SMTP: replies out of step at DATA"),
        ("end", "421 4.3.2 closing", Retry, "SMTP 421 4.3.2 at end of data"),
        ("end", "451 4.7.1 later", Retry, "SMTP 451 4.7.1 at end of data"),
        ("end", "452 full", TooFast, "SMTP 452 at end of data"),
        ("end", "454 throttled", TooFast, "SMTP 454 at end of data"),
        ("end", "451 4.7.1 Rate limit exceeded", TooFast, "SMTP 451 4.7.1 at end of data"),
        (
            "end",
            "454 Throttling failure: Daily message quota exceeded.",
            Unavailable,
            "SMTP 454 at end of data: its quota",
        ),
        ("end", "550 5.7.1 spam", Reject, "SMTP 550 5.7.1 at end of data"),
        ("end", "552 5.3.4 big", Reject, "SMTP 552 5.3.4 at end of data"),
        ("end", "554 5.6.0 no", Reject, "SMTP 554 5.6.0 at end of data"),
        ("end", "354 what", Retry, "SMTP 354 at end of data"),
    ],
)
@MODES
def test_a_refusal_of_the_whole_mail_ends_where_it_should(phase, answer, verdict, reason, extensions):
    with ScriptedServer({phase: [answer]}, extensions=extensions) as server:
        senders = pool(server)
        with pytest.raises(verdict) as raised:
            senders.send(mail("you@b.org", "they@b.org"))
        assert raised.value.reason.startswith(reason)
        assert "@" not in raised.value.reason
        assert server.taken == []
        senders.send(mail())  # whatever became of the connection, the next mail is not hurt
    assert len(server.taken) == 1


@MODES
def test_a_connection_lives_through_a_refusal_but_not_through_a_421(extensions):
    with ScriptedServer({"MAIL": ["550 no", "250 yes"], "end": ["554 no"]}, extensions=extensions) as server:
        senders = pool(server)
        for _ in range(2):
            with pytest.raises(Reject):
                senders.send(mail())
        senders.send(mail())
        assert server.sessions == 1
        server.script["end"] = ["421 closing"]
        with pytest.raises(Retry):
            senders.send(mail())
        senders.send(mail())
        assert server.sessions == 2
    assert len(server.taken) == 2


@MODES
def test_some_refused_recipients_are_returned_and_the_others_have_the_mail(extensions):
    answers = {"b@b.org": "550 5.1.1 no", "c@b.org": "451 4.7.1 later", "d@b.org": "552 many"}
    with ScriptedServer(rcpt=answers.get, extensions=extensions) as server:
        refused = pool(server).send(mail("a@b.org", "b@b.org", "c@b.org", "d@b.org", "e@b.org"))
    assert refused == {"b@b.org": Reply(550, "5.1.1"), "c@b.org": Reply(451, "4.7.1"), "d@b.org": Reply(552)}
    assert [taken.recipients for taken in server.taken] == [("a@b.org", "e@b.org")]


@pytest.mark.parametrize("data", [[], ["354 oh, go on"]], ids=["DATA refused", "DATA allowed all the same"])
@MODES
def test_where_all_recipients_are_refused_no_content_is_sent(extensions, data):
    with ScriptedServer(rcpt=lambda recipient: "550 5.1.1 no", extensions=extensions) as server:
        server.script["DATA"] = data
        senders = pool(server)
        assert len(senders.send(mail("a@b.org", "b@b.org"))) == 2
        server.script["DATA"], server.rcpt = [], lambda recipient: None
        senders.send(mail("c@b.org"))
    assert [taken.recipients for taken in server.taken] == [("c@b.org",)]


@pytest.mark.parametrize("answer", ["421 closing", b"421 closing\r\n"], ids=["said", "said and done"])
@MODES
def test_a_421_at_a_later_recipient_means_that_nobody_has_the_mail(extensions, answer):
    with ScriptedServer(extensions=extensions) as server:
        senders = pool(server)
        for _ in ("a new connection", "a kept one"):
            server.script["RCPT"] = ["250 yes", answer]
            with pytest.raises(Retry, match="SMTP 421 at RCPT"):
                senders.send(mail("a@b.org", "b@b.org", "c@b.org"))
            assert server.taken == []
            server.script.clear()
            senders.send(mail())
            server.taken.clear()


@MODES
def test_a_421_at_the_last_recipient_is_told_as_one_at_rcpt(extensions):
    with (
        ScriptedServer({"RCPT": ["250 yes", "421 4.3.2 closing"]}, extensions=extensions) as server,
        pytest.raises(Retry, match=r"^SMTP 421 4\.3\.2 at RCPT$"),
    ):
        pool(server).send(mail("a@b.org", "b@b.org"))


@MODES
def test_replies_that_are_out_of_step_end_the_connection(extensions):
    with ScriptedServer({"DATA": ["250 what"]}, extensions=extensions) as server:
        senders = pool(server)
        with pytest.raises(Retry, match="replies out of step"):
            senders.send(mail())
        senders.send(mail())
    assert server.sessions == 2


@pytest.mark.parametrize("more", ["250 yes", "250 yes\r\n354 go"])
def test_answers_that_come_together_are_counted(more):
    """Those to MAIL, RCPT and DATA in one piece, with one too many: no content goes out."""
    with ScriptedServer({"MAIL": [f"250 yes\r\n{more}"]}) as server:
        senders = pool(server)
        with pytest.raises(Retry, match="replies out of step at DATA"):
            senders.send(mail())
        assert server.contents == []
        senders.send(mail())
    assert (server.sessions, len(server.taken)) == (2, 1)


def test_where_each_command_waits_for_its_reply_none_is_sent_in_vain():
    with ScriptedServer({"MAIL": ["550 no"], "RCPT": ["550 no", "450 no"]}, extensions=ONE_BY_ONE) as server:
        senders = pool(server)
        with pytest.raises(Reject):
            senders.send(mail())
        assert len(senders.send(mail("a@b.org", "b@b.org"))) == 2
    assert [command[:4] for command in server.commands] == ["EHLO", "MAIL", "RSET", "MAIL", "RCPT", "RCPT"]


@pytest.mark.parametrize("half", HALVES, ids=repr)
@pytest.mark.parametrize("phase", ["MAIL", "RCPT", "DATA", "end"])
@MODES
def test_half_a_reply_is_no_reply(phase, half, extensions):
    with ScriptedServer({phase: [half]}, extensions=extensions) as server:
        senders = pool(server)
        with pytest.raises(Retry) as raised:
            senders.send(mail())
        at = {"end": "end of data"}.get(phase, phase)
        assert f" at {at}" in raised.value.reason
        assert ("may or may not" in raised.value.reason) == (phase == "end")
        senders.send(mail())
    assert server.sessions == 2


@pytest.mark.parametrize("phase", ["RCPT", "DATA", "end"])
@MODES
def test_a_kept_connection_that_ends_later_than_at_mail_is_not_renewed(phase, extensions):
    """It was not its idle time that ended it, and after the final dot a second try might be a second mail."""
    for answer in (CLOSE, b"421 closing\r\n"):
        with ScriptedServer(extensions=extensions) as server:
            senders = pool(server)
            senders.send(mail("first@b.org"))
            server.script[phase] = [answer]
            with pytest.raises(Retry):
                senders.send(mail())
        assert (server.sessions, len(server.taken)) == (1, 1)


def test_an_address_beyond_ascii_needs_smtputf8():
    with ScriptedServer() as server:
        senders = pool(server)
        with pytest.raises(Reject, match="SMTPUTF8"):
            senders.send(mail("jörg@b.org", utf8=True))
        server.extensions.append("SMTPUTF8")
        pool(server).send(mail("jörg@b.org", utf8=True))
        senders.send(mail())
    assert "MAIL FROM:<me@a.org> BODY=8BITMIME SMTPUTF8" in server.commands
    assert server.taken[0].recipients == ("jörg@b.org",)
    assert server.sessions == 2


def test_a_mail_over_the_servers_size_is_rejected_unsent():
    with (
        ScriptedServer(extensions=["SIZE 20"]) as server,
        pytest.raises(Reject, match="the mail has 21 bytes; the mail server takes 20"),
    ):
        pool(server).send(mail(content=b"Subject: x\r\n\r\nhello\r\n"))
    assert not any(command.startswith("MAIL") for command in server.commands)
    with ScriptedServer(extensions=["SIZE 21"]) as server:
        pool(server).send(mail(content=b"Subject: x\r\n\r\nhello\r\n"))
    assert len(server.taken) == 1


def test_a_reply_that_nobody_asked_for_ends_the_connection():
    with ScriptedServer({"end": ["250 taken\r\n421 and now I close"]}) as server:
        senders = pool(server)
        assert senders.send(mail()) == {}
        assert senders.send(mail()) == {}
    assert server.sessions == 2


def test_an_answer_that_comes_before_the_content_is_sent_is_no_answer_to_it():
    with ScriptedServer({"DATA": ["354 go on\r\n250 taken"]}) as server:
        senders = pool(server)
        with pytest.raises(Retry, match="replies out of step at DATA"):
            senders.send(mail())
        assert server.contents == []
