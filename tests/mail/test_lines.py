"""The sockets to a mail server: addresses, TLS, and one limit for all that a step takes."""

from __future__ import annotations

import contextlib
import socket
import ssl
import time

import gevent
import pytest
from gevent.event import Event

from millpond import Retry, Unavailable
from millpond.mail import lines, waits
from millpond.mail.domain_shares import DomainShares
from millpond.mail.mail_server import MailServer
from millpond.mail.smtp_pool import SmtpPool
from tests.mail.senders import mail, pool
from tests.smtp_server import DRIP, SLOW, ScriptedServer


def test_a_host_that_refuses_or_does_not_resolve_is_unavailable():
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    with pytest.raises(Unavailable, match=f"SMTP server 127.0.0.1:{port}: connection refused"):
        SmtpPool(MailServer("127.0.0.1", port), DomainShares(1, 1), 1).send(mail())
    for name in ("no-such-host.invalid", f"{'x' * 64}.example", "a..example"):
        with pytest.raises(Unavailable, match="its name does not resolve"):
            SmtpPool(MailServer(name, 25), DomainShares(1, 1), 1).send(mail())


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


@pytest.mark.parametrize("limit", ["SEND_SECONDS", "piece"])
def test_a_content_that_is_taken_bit_by_bit_has_a_limit_in_all(limit, monkeypatch):
    """Each piece is taken in time. 16 MB at 4 KiB in 10 ms would take 40 s."""
    if limit == "SEND_SECONDS":
        monkeypatch.setattr(lines, "SEND_SECONDS", 0.3)
    else:  # no piece waits for longer than its own limit
        monkeypatch.setattr(waits, "BLOCK_SECONDS", 0.001)
    with ScriptedServer({"DATA": [SLOW]}) as server:
        senders = pool(server)
        with gevent.Timeout(20), pytest.raises(Retry, match="no answer in time at the content"):
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


@pytest.mark.clock
@pytest.mark.parametrize("encrypted", [False, True], ids=["plain", "tls"])
def test_an_address_that_swallows_packets_leaves_time_for_the_next(encrypted, certificate, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate.pem))
    monkeypatch.setattr(lines, "RELAY_CONNECT_SECONDS", 1.0)
    monkeypatch.setattr(lines, "SHARE_SECONDS", 0.05)
    tls = {"tls": certificate.server_context(), "implicit_tls": True} if encrypted else {}
    with ScriptedServer(**tls) as server, swallowing(encrypted) as nowhere:
        resolve_to(monkeypatch, nowhere, ("127.0.0.1", server.port))
        started = time.monotonic()
        pool(server, tls=ssl.create_default_context() if encrypted else None).send(mail())
        assert 0.4 < time.monotonic() - started < 0.9  # half of it for each of two
    assert len(server.taken) == 1


@pytest.mark.clock
@pytest.mark.parametrize("encrypted", [False, True], ids=["plain", "tls"])
def test_all_addresses_together_have_one_limit(encrypted, certificate, monkeypatch):
    monkeypatch.setattr(lines, "RELAY_CONNECT_SECONDS", 0.6)
    monkeypatch.setattr(lines, "SHARE_SECONDS", 0.01)
    with swallowing(encrypted) as nowhere:
        resolve_to(monkeypatch, *[nowhere] * 6)
        started = time.monotonic()
        tls = ssl.create_default_context() if encrypted else None
        with pytest.raises(Unavailable, match="no answer in time"):
            SmtpPool(MailServer("127.0.0.1", 1, tls), DomainShares(1, 1), 1).send(mail())
        assert time.monotonic() - started < 1.5


def test_a_name_that_is_never_looked_up_is_given_up_in_time(monkeypatch):
    monkeypatch.setattr(lines, "RELAY_CONNECT_SECONDS", 0.2)
    answered = Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: answered.wait())
    with gevent.Timeout(10), pytest.raises(Unavailable, match="no answer in time"):
        SmtpPool(MailServer("smtp.example", 25), DomainShares(1, 1), 1).send(mail())
    answered.set()


@pytest.mark.clock
def test_what_an_address_leaves_of_its_share_is_for_the_next(monkeypatch):
    monkeypatch.setattr(lines, "RELAY_CONNECT_SECONDS", 0.8)
    monkeypatch.setattr(lines, "SHARE_SECONDS", 0.01)
    with socket.socket() as closed, swallowing(encrypted=False) as nowhere:
        closed.bind(("127.0.0.1", 0))
        resolve_to(monkeypatch, closed.getsockname(), nowhere)
        started = time.monotonic()
        with pytest.raises(Unavailable, match="no answer in time"):
            SmtpPool(MailServer("127.0.0.1", 1), DomainShares(1, 1), 1).send(mail())
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


@pytest.mark.clock
def test_a_tls_handshake_that_is_dripped_has_one_limit(certificate, monkeypatch):
    monkeypatch.setattr(waits, "COMMAND_SECONDS", 0.1)
    script = {"STARTTLS": [DRIP]}
    with ScriptedServer(script, extensions=["STARTTLS"], tls=certificate.server_context()) as server:
        senders = pool(server, tls=ssl.create_default_context(), starttls=True)
        with gevent.Timeout(10), pytest.raises(Unavailable, match="no answer in time at STARTTLS"):
            senders.send(mail())
    with ScriptedServer({"STARTTLS": ["220 go"]}, extensions=["STARTTLS"]) as server:
        monkeypatch.setattr("tests.smtp_server._Session._wrap", drip_a_record)
        senders = pool(server, tls=ssl.create_default_context(), starttls=True)
        with gevent.Timeout(10), pytest.raises(Unavailable, match="no answer in time at TLS"):
            senders.send(mail())


def test_tls_spoken_to_a_server_that_begins_in_the_clear_is_told_as_such():
    with (
        ScriptedServer() as server,
        pytest.raises(Unavailable, match="it does not speak TLS there: check port and security"),
    ):
        pool(server, tls=ssl.create_default_context()).send(mail())
