"""The beginning of an SMTP session: EHLO, STARTTLS, login."""

from __future__ import annotations

import socket
import ssl

import pytest

from handlers.email import Settings, send_email, setup, teardown
from millpond import Unavailable
from millpond.mail.mail_server import MailServer
from tests.mail.jobs import (
    job_from_me,
    message,
    use,
)
from tests.mail.senders import HALVES, mail, pool
from tests.smtp_server import EXTENSIONS, ScriptedServer, make_certificate


@pytest.mark.parametrize("size", ["9" * 5_000, "", "x", "-1", "1e9", "٣", "9" * 19, "0"])
def test_a_size_that_is_no_number_is_no_limit(size):
    with ScriptedServer(
        extensions=[*(name for name in EXTENSIONS if not name.startswith("SIZE")), f"SIZE {size}"]
    ) as server:
        use(server)
        send_email(job_from_me(), message())
        teardown()
    assert len(server.taken) == 1


def test_ehlo_says_the_name_that_is_set_the_hosts_or_the_senders_domain(monkeypatch):
    for hello_name, host, said in (
        ("mail.a.org", "host.b.org", "mail.a.org"),
        ("[10.0.0.1]", "host.b.org", "[10.0.0.1]"),
        ("", "host.b.org", "host.b.org"),
        ("", "3f2a9c", "a.org"),
        ("", "bad_name.x", "a.org"),
    ):
        monkeypatch.setattr("socket.gethostname", lambda host=host: host)
        with ScriptedServer() as server:
            use(server, hello_name=hello_name)
            send_email(job_from_me(), message())
            teardown()
        assert server.commands[0] == f"EHLO {said}"


def test_a_sender_without_a_full_domain_gives_ehlo_none(monkeypatch):
    monkeypatch.setattr("socket.gethostname", lambda: "3f2a9c")
    with ScriptedServer() as server:
        setup(Settings(host="127.0.0.1", port=server.port, security="none", from_="shop@localhost"))
        send_email(job_from_me(), message())
        teardown()
    assert server.commands[0] == "EHLO [127.0.0.1]"


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
