"""How long a mail server may take for each step."""

from __future__ import annotations

import contextlib
import ssl

import gevent
import pytest

from millpond import Retry, Unavailable
from millpond.mail import timeouts, waits
from tests.mail.senders import MODES, ONE_BY_ONE, mail, pool
from tests.smtp_server import DEAF, DRIP, HANG, ScriptedServer


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


@pytest.mark.clock
@pytest.mark.parametrize("phase", ["banner", "EHLO", "MAIL", "RCPT", "DATA", "end"])
@MODES
def test_a_reply_has_one_limit_for_all_its_bytes(phase, extensions, monkeypatch):
    for name in ("BANNER_SECONDS", "COMMAND_SECONDS", "DATA_SECONDS", "FINAL_SECONDS"):
        monkeypatch.setattr(waits, name, 0.1)
    with ScriptedServer({phase: [DRIP]}, extensions=extensions) as server:
        senders = pool(server)
        with (
            gevent.Timeout(10),  # its 200 lines would take 14 s
            pytest.raises(Unavailable if phase in ("banner", "EHLO") else Retry, match="no answer in time at"),
        ):
            senders.send(mail())
        assert server.all_closed.wait(5)


@pytest.mark.clock
def test_a_probe_and_a_farewell_have_one_limit_for_all_their_bytes(monkeypatch):
    monkeypatch.setattr(waits, "RESET_SECONDS", 0.1)
    monkeypatch.setattr(waits, "QUIT_SECONDS", 0.1)
    now = [0.0]
    with ScriptedServer() as server:
        senders = pool(server, clock=lambda: now[0])
        senders.send(mail())
        server.script.update({"RSET": [DRIP], "QUIT": [DRIP]})
        now[0] = 100.0
        with gevent.Timeout(10):
            senders.send(mail())
            senders.close()
        assert (len(server.taken), server.sessions) == (2, 2)
