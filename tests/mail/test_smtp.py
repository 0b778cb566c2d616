"""The SMTP conversation and the pool, against a server that answers by script."""

from __future__ import annotations

import contextlib
import socket
import ssl
import time
from datetime import UTC, datetime

import gevent
import pytest
from gevent.event import Event

from millpond import Reject, Retry, Unavailable
from millpond.mail import lines, smtp_pool, timeouts, waits
from millpond.mail import reply as replies
from millpond.mail.compose import Mail
from millpond.mail.mail_server import MailServer
from millpond.mail.reply import Reply
from millpond.mail.smtp_pool import SmtpPool
from tests.smtp_server import CLOSE, DEAF, DRIP, EXTENSIONS, HANG, SLOW, ScriptedServer, make_certificate

ONE_BY_ONE = [name for name in EXTENSIONS if name != "PIPELINING"]
MODES = pytest.mark.parametrize("extensions", [EXTENSIONS, ONE_BY_ONE], ids=["pipelined", "one by one"])


def mail(*recipients: str, content: bytes = b"Subject: x\r\n\r\nhello\r\n", utf8: bool = False) -> Mail:
    return Mail(
        "x", "me@a.org", recipients or ("you@b.org",), content, "<x@a.org>", datetime(2026, 1, 1, tzinfo=UTC), utf8
    )


_pools: list[SmtpPool] = []


def pool(
    server: ScriptedServer, connections: int = 2, mails: int = 100, clock=time.monotonic, **fields: object
) -> SmtpPool:
    _pools.append(SmtpPool(MailServer("127.0.0.1", server.port, **fields), connections, mails, clock))
    return _pools[-1]


@pytest.fixture(autouse=True)
def _bounded(monkeypatch):
    monkeypatch.setattr(timeouts, "LOOK_SECONDS", 0.02)
    with gevent.Timeout(20):
        yield
        while _pools:
            _pools.pop()._close_kept()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    return make_certificate(tmp_path_factory.mktemp("certificate"))


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
        ("MAIL", "451 4.3.0 no", Retry, "SMTP 451 4.3.0 at MAIL"),
        ("MAIL", "452 4.3.1 no", Retry, "SMTP 452 4.3.1 at MAIL"),
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
        ("end", "452 full", Retry, "SMTP 452 at end of data"),
        ("end", "454 throttled", Retry, "SMTP 454 at end of data"),
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


HALVES = [
    CLOSE,
    b"25",
    b"250 fine",
    b"250-fine\r\n",
    b"250-fine\r\n550 no\r\n",
    b"HTTP/1.1 400 Bad\r\n\r\n",
    b"\r\n" * 9,
]


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


@pytest.mark.parametrize("half", [*HALVES, "421 busy", "554 go away", "451 later"], ids=repr)
@pytest.mark.parametrize("phase", ["banner", "EHLO", "STARTTLS", "AUTH"])
def test_trouble_before_the_mail_is_the_servers_and_the_mail_waits(phase, half, certificate, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate.pem))
    client = ssl.create_default_context()
    extensions = [*EXTENSIONS, "STARTTLS", "AUTH PLAIN LOGIN"]
    with ScriptedServer({phase: [half]}, extensions=extensions, tls=certificate.server_context()) as server:
        senders = pool(server, tls=client, starttls=True, user="u", password="p")
        with pytest.raises(Unavailable) as raised:
            senders.send(mail())
        assert f"SMTP server 127.0.0.1:{server.port}: " in raised.value.reason
        assert phase in raised.value.reason
        senders.send(mail())
    assert len(server.taken) == 1


@pytest.mark.parametrize("phase", ["banner", "EHLO", "MAIL", "RCPT", "DATA", "end"])
@MODES
def test_a_server_that_hangs_is_given_up(phase, extensions, monkeypatch):
    for name in ("BANNER_SECONDS", "COMMAND_SECONDS", "DATA_SECONDS", "BLOCK_SECONDS", "FINAL_SECONDS"):
        monkeypatch.setattr(waits, name, 0.05)
    with ScriptedServer({phase: [HANG]}, extensions=extensions) as server:
        senders = pool(server)
        with pytest.raises(Unavailable if phase in ("banner", "EHLO") else Retry, match="no answer in time at"):
            senders.send(mail())
        assert server.all_closed.wait(5)
        senders.send(mail())


@MODES
def test_a_kept_connection_that_hangs_at_mail_is_not_renewed(extensions, monkeypatch):
    """It is no dead one: the server is slow, and a second wait in one attempt would be twice its limit."""
    monkeypatch.setattr(waits, "COMMAND_SECONDS", 0.05)
    with ScriptedServer(extensions=extensions) as server:
        senders = pool(server)
        senders.send(mail())
        server.script["MAIL"] = [HANG]
        with pytest.raises(Retry, match="no answer in time at MAIL"):
            senders.send(mail())
        assert server.sessions == 1


def test_a_server_that_never_ends_its_reply_is_given_up():
    with (
        ScriptedServer({"EHLO": [b"250-x\r\n" * 1000]}) as server,
        pytest.raises(Unavailable, match="no SMTP reply at EHLO"),
    ):
        pool(server).send(mail())
    with (
        ScriptedServer({"banner": [b"220" + b"x" * 100_000]}) as server,
        pytest.raises(Unavailable, match="no SMTP reply at the banner"),
    ):
        pool(server).send(mail())


def test_a_host_that_refuses_or_does_not_resolve_is_unavailable():
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    with pytest.raises(Unavailable, match=f"SMTP server 127.0.0.1:{port}: connection refused"):
        SmtpPool(MailServer("127.0.0.1", port), 1, 1).send(mail())
    for name in ("no-such-host.invalid", f"{'x' * 64}.example", "a..example"):
        with pytest.raises(Unavailable, match="its name does not resolve"):
            SmtpPool(MailServer(name, 25), 1, 1).send(mail())


def test_nothing_is_sent_in_the_clear_where_starttls_is_not_offered(certificate, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate.pem))
    with ScriptedServer() as server:
        senders = pool(server, tls=ssl.create_default_context(), starttls=True, user="u", password="p")
        with pytest.raises(
            Unavailable, match='offers no STARTTLS, and security = "starttls" sends nothing in the clear'
        ):
            senders.send(mail())
    assert [command[:4] for command in server.commands] == ["EHLO"]


@pytest.mark.parametrize("implicit", [True, False], ids=["tls", "starttls"])
def test_a_certificate_that_does_not_verify_is_unavailable_and_gets_no_password(implicit, certificate):
    options = {"tls": certificate.server_context(), "implicit_tls": implicit}
    with ScriptedServer(extensions=["STARTTLS", "AUTH PLAIN"], **options) as server:
        tls = ssl.create_default_context()
        senders = pool(server, tls=tls, starttls=not implicit, user="u", password="p")
        with pytest.raises(Unavailable, match="its certificate does not verify"):
            senders.send(mail())
    assert not any(command.startswith("AUTH") for command in server.commands)


def test_a_certificate_for_another_name_is_unavailable(tmp_path, monkeypatch):
    other = make_certificate(tmp_path, "localhost", "127.0.0.2")
    monkeypatch.setenv("SSL_CERT_FILE", str(other.pem))
    with (
        ScriptedServer(tls=other.server_context(), implicit_tls=True) as server,
        pytest.raises(Unavailable, match="its certificate does not verify"),
    ):
        pool(server, tls=ssl.create_default_context()).send(mail())


def test_what_is_said_before_the_encryption_begins_is_not_believed(certificate, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate.pem))
    script = {"STARTTLS": ["220 go\r\n250 injected"]}
    with (
        ScriptedServer(script, extensions=["STARTTLS"], tls=certificate.server_context()) as server,
        pytest.raises(Unavailable, match="unencrypted data at TLS"),
    ):
        pool(server, tls=ssl.create_default_context(), starttls=True).send(mail())


@pytest.mark.parametrize(
    ("offer", "answers", "said"),
    [
        ("AUTH LOGIN PLAIN", ["235 yes"], ["AUTH PLAIN AHXDtgBwOnc="]),
        ("AUTH=LOGIN", ["334 VXNlcg==", "334 UGFzcw==", "235 yes"], ["AUTH LOGIN", "dcO2", "cDp3"]),
    ],
)
def test_it_logs_in_by_plain_or_login(offer, answers, said):
    with ScriptedServer({"AUTH": answers}, extensions=[offer]) as server:
        pool(server, user="uö", password="p:w").send(mail())
    assert server.commands[1 : 1 + len(said)] == said


def test_bad_credentials_are_unavailable_and_not_told():
    with (
        ScriptedServer({"AUTH": ["535 5.7.8 no"]}, extensions=["AUTH PLAIN"]) as server,
        pytest.raises(Unavailable, match=r"535 5\.7\.8 at AUTH: check user and password") as raised,
    ):
        pool(server, user="millpond-user", password="hunter2").send(mail())
    assert "hunter2" not in f"{raised.value} {raised.value.__cause__} {MailServer('h', 1, password='hunter2')}"
    with (
        ScriptedServer(extensions=["AUTH XOAUTH2"]) as server,
        pytest.raises(Unavailable, match="offers neither AUTH PLAIN nor AUTH LOGIN"),
    ):
        pool(server, user="u", password="p").send(mail())


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


# The pool


@pytest.mark.parametrize("end", [["421 4.4.2 timeout"], [CLOSE]], ids=["421", "closed"])
@MODES
def test_a_kept_connection_that_ends_at_mail_is_renewed_without_a_word(end, extensions):
    with ScriptedServer({"MAIL": ["250 yes", *end]}, extensions=extensions) as server:
        senders = pool(server)
        senders.send(mail())
        senders.send(mail())
    assert (len(server.taken), server.sessions) == (2, 2)


def test_a_server_that_was_restarted_costs_one_try_for_all_kept_connections():
    with ScriptedServer() as server:
        senders = pool(server, connections=4)
        gevent.joinall([gevent.spawn(senders.send, mail()) for _ in range(4)], raise_error=True)
        server.drop()
        senders.send(mail())
        senders.send(mail())
    assert (len(server.taken), server.sessions) == (6, 5)


def test_a_server_that_has_gone_makes_the_mail_wait():
    with ScriptedServer() as server:
        senders = pool(server)
        senders.send(mail())
    with pytest.raises(Unavailable, match="refused"):
        senders.send(mail())


def test_a_connection_is_asked_whether_it_lives_after_lying_idle():
    now = [0.0]
    with ScriptedServer() as server:
        senders = pool(server, clock=lambda: now[0])
        senders.send(mail())
        now[0] += smtp_pool.PROBE_AFTER_SECONDS
        senders.send(mail())
        assert "RSET" not in server.commands
        now[0] += smtp_pool.PROBE_AFTER_SECONDS + 1
        senders.send(mail())
        assert server.commands.count("RSET") == 1
        for answer in (CLOSE, b"25", "421 closing", "354 what", "502 what"):
            server.script["RSET"] = [answer]
            sessions = server.sessions
            now[0] += 10
            senders.send(mail())
            assert server.sessions == sessions + 1
    assert len(server.taken) == 8


def test_one_dead_connection_is_enough_to_drop_the_older_ones(monkeypatch):
    monkeypatch.setattr(waits, "PROBE_SECONDS", 0.05)
    now = [0.0]
    with ScriptedServer() as server:
        senders = pool(server, connections=3, clock=lambda: now[0])
        gevent.joinall([gevent.spawn(senders.send, mail()) for _ in range(3)], raise_error=True)
        now[0] += 10
        server.script["RSET"] = [HANG, HANG, HANG]
        senders.send(mail())
    assert server.commands.count("RSET") == 1
    assert server.sessions == 4


def test_a_transaction_left_open_is_ended_before_the_next_mail():
    with ScriptedServer(rcpt=lambda recipient: "550 no" if recipient == "no@b.org" else None) as server:
        senders = pool(server)
        senders.send(mail("no@b.org"))
        senders.send(mail("yes@b.org"))
    assert [command.split(":")[0] for command in server.commands[4:6]] == ["RSET", "MAIL FROM"]
    assert server.sessions == 1


def test_a_connection_ends_politely_after_its_mails():
    with ScriptedServer() as server:
        senders = pool(server, mails=2)
        for _ in range(5):
            senders.send(mail())
    assert (server.sessions, server.commands.count("QUIT")) == (3, 2)


def test_no_more_connections_than_allowed_and_the_last_one_used_is_the_next():
    with ScriptedServer() as server:
        senders = pool(server, connections=3)
        gevent.joinall([gevent.spawn(senders.send, mail()) for _ in range(30)], raise_error=True)
        assert (len(server.taken), server.most_open, server.sessions) == (30, 3, 3)
        last = senders._idle[-1]
        senders.send(mail())
        assert senders._idle[-1] is last


def test_a_reply_that_nobody_asked_for_ends_the_connection():
    with ScriptedServer({"end": ["250 taken\r\n421 and now I close"]}) as server:
        senders = pool(server)
        assert senders.send(mail()) == {}
        assert senders.send(mail()) == {}
    assert server.sessions == 2


def test_closing_the_pool_says_quit_on_every_connection_and_waits_for_none_of_them_long(monkeypatch):
    monkeypatch.setattr(waits, "QUIT_SECONDS", 1.0)
    with ScriptedServer() as server:
        senders = pool(server, connections=4)
        gevent.joinall([gevent.spawn(senders.send, mail()) for _ in range(4)], raise_error=True)
        server.script["QUIT"] = [HANG, HANG, HANG, "221 bye"]
        with gevent.Timeout(2.5):  # a second for all, not for each
            senders.close()
        assert server.commands.count("QUIT") == 4
        assert server.all_closed.wait(5)


def test_a_connection_in_use_while_the_pool_closes_is_not_kept():
    with ScriptedServer() as server:
        senders = pool(server)
        closing = []
        server.rcpt = lambda recipient: closing.append(senders.close())
        senders.send(mail())
        assert closing
        assert server.all_closed.wait(5)
        assert server.all_closed.wait(5)
    assert len(server.taken) == 1


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


def test_an_ehlo_name_needs_no_name_server(monkeypatch):
    def no_dns(*_: object) -> str:
        raise AssertionError("asked a name server")

    monkeypatch.setattr(socket, "getfqdn", no_dns)
    for name, said in (
        ("host", "EHLO [127.0.0.1]"),
        ("a.b.org", "EHLO a.b.org"),
        ("bad_name.x\r\n", "EHLO [127.0.0.1]"),
    ):
        monkeypatch.setattr(socket, "gethostname", lambda name=name: name)
        with ScriptedServer() as server:
            pool(server).send(mail())
        assert server.commands[0] == said


def test_the_time_outs_are_those_of_rfc_5321():
    found = [waits.BANNER_SECONDS, waits.COMMAND_SECONDS, waits.DATA_SECONDS, waits.BLOCK_SECONDS, waits.FINAL_SECONDS]
    assert found == [300, 300, 120, 180, 600]


def test_each_phase_waits_for_its_own_time(monkeypatch):
    waits = []
    begin = timeouts.Timeouts.begin

    def spy(self, wire, seconds):
        waits.append((wire.phase, seconds))
        begin(self, wire, seconds)

    monkeypatch.setattr(timeouts.Timeouts, "begin", spy)
    with ScriptedServer(extensions=ONE_BY_ONE) as server, contextlib.suppress(Retry):
        pool(server).send(mail())
    assert set(waits) == {
        ("the banner", 300),
        ("EHLO", 300),
        ("MAIL", 300),
        ("RCPT", 300),
        ("DATA", 300),  # to send the word
        ("DATA", 120),
        ("the content", 180),
        ("end of data", 600),
    }


# The watch


class Napper:
    def __init__(self) -> None:
        self.given_up = Event()
        self.give_up = self.given_up.set


def test_only_a_wait_past_its_deadline_is_given_up():
    watch, patient, hasty, done = timeouts.Timeouts(), Napper(), Napper(), Napper()
    watch.begin(patient, 1000)
    watch.begin(hasty, 0)
    watch.begin(done, 0)
    watch.end(done)
    assert hasty.given_up.wait(5)
    assert not patient.given_up.is_set()
    assert not done.given_up.is_set()


def test_the_watch_ends_when_nothing_waits_and_begins_anew():
    watch = timeouts.Timeouts()
    for _ in range(2):
        napper = Napper()
        watch.begin(napper, 0)
        assert napper.given_up.wait(5)
        watch.end(napper)
        while watch._looking:
            gevent.sleep(0.01)


def test_a_kept_connection_is_not_ended_while_it_carries_nothing(monkeypatch):
    monkeypatch.setattr(waits, "FINAL_SECONDS", 0.05)
    with ScriptedServer() as server:
        senders = pool(server)
        senders.send(mail())
        assert lines._timeouts._deadlines == {}
        watch, other = lines._timeouts, Napper()
        watch.begin(other, 0.1)  # by the time that this is given up, a wait of the connection's would be
        assert other.given_up.wait(5)
        watch.end(other)
        senders.send(mail())
    assert (len(server.taken), server.sessions) == (2, 1)


@pytest.mark.parametrize("phase", ["EHLO", "RSET", "MAIL", "RCPT", "DATA", "end"])
@MODES
def test_whatever_a_connection_was_kept_after_no_limit_runs_on_for_it(phase, extensions, monkeypatch):
    for name in ("BANNER_SECONDS", "COMMAND_SECONDS", "DATA_SECONDS", "FINAL_SECONDS", "PROBE_SECONDS"):
        monkeypatch.setattr(waits, name, 0.05)
    now = [0.0]
    with ScriptedServer(extensions=[*extensions, "SIZE 50"]) as server:
        senders = pool(server, clock=lambda: now[0])
        if phase == "EHLO":
            refused = mail(content=b"Subject: x\r\n\r\n" + b"x" * 50 + b"\r\n")  # and so is never spoken of
        elif phase == "RSET":
            senders.send(mail())
            now[0], refused = 100.0, mail("jörg@b.org", utf8=True)
        else:
            server.script[phase], refused = ["550 no"], mail()
        with contextlib.suppress(Reject):
            assert len(senders.send(refused)) == 1
        other = Napper()
        lines._timeouts.begin(other, 0.1)  # by the time that this is given up, a wait of the connection's would be
        assert other.given_up.wait(5)
        lines._timeouts.end(other)
        senders.send(mail())
    assert server.sessions == 1


def test_a_server_that_hangs_under_tls_is_given_up(certificate, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate.pem))
    monkeypatch.setattr(waits, "FINAL_SECONDS", 0.05)
    with ScriptedServer({"end": [HANG]}, tls=certificate.server_context(), implicit_tls=True) as server:
        senders = pool(server, tls=ssl.create_default_context())
        with pytest.raises(Retry, match="no answer in time at end of data, it may or may not have been sent"):
            senders.send(mail())
        assert server.all_closed.wait(5)
        senders.send(mail())
    assert len(server.taken) == 1


@pytest.mark.parametrize("encrypted", [False, True], ids=["plain", "tls"])
def test_a_server_that_reads_no_further_is_given_up(encrypted, certificate, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate.pem))
    monkeypatch.setattr(waits, "BLOCK_SECONDS", 0.05)
    tls = {"tls": certificate.server_context(), "implicit_tls": True} if encrypted else {}
    with ScriptedServer({"DATA": [DEAF]}, **tls) as server:
        senders = pool(server, tls=ssl.create_default_context() if encrypted else None)
        with pytest.raises(Retry, match="no answer in time at the content"):
            senders.send(mail(content=b"Subject: x\r\n\r\n" + b"0123456789abcdef\r\n" * 1_000_000))
        assert server.taken == []
        senders.send(mail())
        assert server.sessions == 2


def test_a_connection_that_was_given_up_is_not_taken_for_one_that_the_server_closed():
    """As the end of the wait may be seen: as an error at once, or as the end of the stream."""
    with ScriptedServer() as server:
        wire = lines.SmtpLines("127.0.0.1", server.port)
        wire.reply("the banner", 5)
        wire.give_up()
        with pytest.raises(TimeoutError):
            wire.reply("MAIL", 5)
        wire.close()


def test_a_connection_that_was_given_up_while_its_last_reply_came_is_not_kept():
    with ScriptedServer() as server:
        senders = pool(server)
        reply = lines.SmtpLines.reply

        def just_late(wire, phase, seconds):
            answer = reply(wire, phase, seconds)
            if phase == "end of data":
                wire.give_up()
            return answer

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(lines.SmtpLines, "reply", just_late)
            assert senders.send(mail()) == {}
        senders.send(mail())
        assert server.sessions == 2
    assert len(server.taken) == 2


# One limit for all of it


@pytest.mark.parametrize("phase", ["banner", "EHLO", "MAIL", "RCPT", "DATA", "end"])
@MODES
def test_a_reply_has_one_limit_for_all_its_bytes(phase, extensions, monkeypatch):
    for name in ("BANNER_SECONDS", "COMMAND_SECONDS", "DATA_SECONDS", "FINAL_SECONDS"):
        monkeypatch.setattr(waits, name, 0.1)
    with ScriptedServer({phase: [DRIP]}, extensions=extensions) as server:
        senders = pool(server)
        with (
            gevent.Timeout(1),  # its 200 lines would take 14 s
            pytest.raises(Unavailable if phase in ("banner", "EHLO") else Retry, match="no answer in time at"),
        ):
            senders.send(mail())
        assert server.all_closed.wait(5)


def test_a_probe_and_a_farewell_have_one_limit_for_all_their_bytes(monkeypatch):
    monkeypatch.setattr(waits, "PROBE_SECONDS", 0.1)
    monkeypatch.setattr(waits, "QUIT_SECONDS", 0.1)
    now = [0.0]
    with ScriptedServer() as server:
        senders = pool(server, clock=lambda: now[0])
        senders.send(mail())
        server.script.update({"RSET": [DRIP], "QUIT": [DRIP]})
        now[0] = 100.0
        with gevent.Timeout(1):
            senders.send(mail())
            senders.close()
        assert (len(server.taken), server.sessions) == (2, 2)


@pytest.mark.parametrize("limit", ["SEND_SECONDS", "piece"])
def test_a_content_that_is_taken_bit_by_bit_has_a_limit_in_all(limit, monkeypatch):
    """Each piece is taken in time. 16 MB at 4 KiB in 10 ms would take 40 s."""
    if limit == "SEND_SECONDS":
        monkeypatch.setattr(lines, "SEND_SECONDS", 0.3)
    else:  # no piece waits for longer than its own limit
        monkeypatch.setattr(waits, "BLOCK_SECONDS", 0.001)
    with ScriptedServer({"DATA": [SLOW]}) as server:
        senders = pool(server)
        with gevent.Timeout(3), pytest.raises(Retry, match="no answer in time at the content"):
            senders.send(mail(content=b"Subject: x\r\n\r\n" + b"0123456789abcdef\r\n" * 1_000_000))
        assert server.taken == []


@contextlib.contextmanager
def swallowing(encrypted: bool):
    """An address that takes no connection: its backlog is full. Or one that takes it and then says nothing."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(0 if encrypted else 3):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        gevent.sleep(0.01)
        yield listener.getsockname()


def resolve_to(monkeypatch, *places: tuple[str, int]) -> None:
    addresses = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", place) for place in places]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: addresses)


@pytest.mark.parametrize("encrypted", [False, True], ids=["plain", "tls"])
def test_an_address_that_swallows_packets_leaves_time_for_the_next(encrypted, certificate, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate.pem))
    monkeypatch.setattr(lines, "CONNECT_SECONDS", 1.0)
    monkeypatch.setattr(lines, "SHARE_SECONDS", 0.05)
    tls = {"tls": certificate.server_context(), "implicit_tls": True} if encrypted else {}
    with ScriptedServer(**tls) as server, swallowing(encrypted) as nowhere:
        resolve_to(monkeypatch, nowhere, ("127.0.0.1", server.port))
        started = time.monotonic()
        pool(server, tls=ssl.create_default_context() if encrypted else None).send(mail())
        assert 0.4 < time.monotonic() - started < 0.9  # half of it for each of two
    assert len(server.taken) == 1


@pytest.mark.parametrize("encrypted", [False, True], ids=["plain", "tls"])
def test_all_addresses_together_have_one_limit(encrypted, certificate, monkeypatch):
    monkeypatch.setattr(lines, "CONNECT_SECONDS", 0.6)
    monkeypatch.setattr(lines, "SHARE_SECONDS", 0.01)
    with swallowing(encrypted) as nowhere:
        resolve_to(monkeypatch, *[nowhere] * 6)
        started = time.monotonic()
        tls = ssl.create_default_context() if encrypted else None
        with pytest.raises(Unavailable, match="no answer in time"):
            SmtpPool(MailServer("127.0.0.1", 1, tls), 1, 1).send(mail())
        assert time.monotonic() - started < 1.5


def test_a_name_that_is_never_looked_up_is_given_up_in_time(monkeypatch):
    monkeypatch.setattr(lines, "CONNECT_SECONDS", 0.2)
    answered = Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: answered.wait())
    with gevent.Timeout(10), pytest.raises(Unavailable, match="no answer in time"):
        SmtpPool(MailServer("smtp.example", 25), 1, 1).send(mail())
    answered.set()


def test_what_an_address_leaves_of_its_share_is_for_the_next(monkeypatch):
    monkeypatch.setattr(lines, "CONNECT_SECONDS", 0.8)
    monkeypatch.setattr(lines, "SHARE_SECONDS", 0.01)
    with socket.socket() as closed, swallowing(encrypted=False) as nowhere:
        closed.bind(("127.0.0.1", 0))
        resolve_to(monkeypatch, closed.getsockname(), nowhere)
        started = time.monotonic()
        with pytest.raises(Unavailable, match="no answer in time"):
            SmtpPool(MailServer("127.0.0.1", 1), 1, 1).send(mail())
        assert time.monotonic() - started > 0.7


def test_a_certificate_that_does_not_verify_is_told_though_the_next_address_is_closed(certificate, monkeypatch):
    with socket.socket() as closed, ScriptedServer(tls=certificate.server_context(), implicit_tls=True) as server:
        closed.bind(("127.0.0.1", 0))
        resolve_to(monkeypatch, ("127.0.0.1", server.port), closed.getsockname())
        with pytest.raises(Unavailable, match="its certificate does not verify"):
            pool(server, tls=ssl.create_default_context()).send(mail())


def drip_a_record(session) -> None:
    """The first record of a handshake, 16 KiB of it, a byte now and then."""
    session.sock.recv(1)  # of the hello
    session.sock.sendall(b"\x16\x03\x03\x40\x00\x02\x00\x3f\xfc")
    while True:
        session.sock.sendall(b"\x00")
        gevent.sleep(0.01)


def test_a_tls_handshake_that_is_dripped_has_one_limit(certificate, monkeypatch):
    monkeypatch.setattr(waits, "COMMAND_SECONDS", 0.1)
    script = {"STARTTLS": [DRIP]}
    with ScriptedServer(script, extensions=["STARTTLS"], tls=certificate.server_context()) as server:
        senders = pool(server, tls=ssl.create_default_context(), starttls=True)
        with gevent.Timeout(1), pytest.raises(Unavailable, match="no answer in time at STARTTLS"):
            senders.send(mail())
    with ScriptedServer({"STARTTLS": ["220 go"]}, extensions=["STARTTLS"]) as server:
        monkeypatch.setattr("tests.smtp_server._Session._wrap", drip_a_record)
        senders = pool(server, tls=ssl.create_default_context(), starttls=True)
        with gevent.Timeout(1), pytest.raises(Unavailable, match="no answer in time at TLS"):
            senders.send(mail())


def test_tls_spoken_to_a_server_that_begins_in_the_clear_is_told_as_such():
    with (
        ScriptedServer() as server,
        pytest.raises(Unavailable, match="it does not speak TLS there: check port and security"),
    ):
        pool(server, tls=ssl.create_default_context()).send(mail())


def test_an_answer_that_comes_before_the_content_is_sent_is_no_answer_to_it():
    with ScriptedServer({"DATA": ["354 go on\r\n250 taken"]}) as server:
        senders = pool(server)
        with pytest.raises(Retry, match="replies out of step at DATA"):
            senders.send(mail())
        assert server.contents == []
