"""The settings of e-mail, and what is found wrong with them at boot."""

from __future__ import annotations

import pytest

import handlers.email
from handlers.email import Settings, setup
from millpond.errors import ConfigError
from tests.mail.jobs import findings


def test_on_a_real_queue_the_outbox_is_only_used_where_it_is_written_out(tmp_path):
    text = findings(Settings(outbox=str(tmp_path)), local=False)
    assert 'transport = "auto" without a host' in text
    assert "take it out of [worker] handlers" in text
    setup(Settings(transport="outbox", outbox=str(tmp_path)), local=False)
    setup(Settings(host="mail.example.org", from_="me@a.org"), local=False)


@pytest.mark.parametrize(
    ("settings", "finding"),
    [
        (Settings(transport="smtp"), "host is empty"),
        (Settings(host="smtp://mail.example.org"), "host must be the bare name"),
        (Settings(host="mail.example.org "), "host must be the bare name"),
        (Settings(host="mail..example.org"), "host must be the bare name"),
        (Settings(host="h" * 64), "host must be the bare name"),
        (Settings(host="h"), "from is empty: set the sender of mails that name none (MAIL_FROM)"),
        (Settings(host="h", port=65_536), "port = 65536: it must be 1 to 65535"),
        (Settings(host="h", port=-1), "port = -1: it must be 1 to 65535"),
        (Settings(host="h", user="u"), "user and password: set both"),
        (Settings(host="h", password="hunter2"), "user and password: set both"),
        (Settings(host="h", max_connections=0), "max_connections = 0: it must be 1 or more"),
        (Settings(host="h", mails_per_connection=0), "mails_per_connection = 0: it must be 1 or more"),
        (Settings(from_="Shop"), "from is not one e-mail address"),
    ],
)
def test_wrong_settings_are_found_at_boot(settings, finding, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = findings(settings)
    assert finding in text
    assert "hunter2" not in text


def test_all_findings_come_at_once():
    assert findings(Settings(transport="smtp", port=-1, user="u", max_connections=0)).count("\n") == 4


def test_the_port_follows_from_security_where_it_is_not_set():
    for security, port in (("starttls", 587), ("tls", 465), ("none", 25)):
        setup(Settings(host="h", from_="me@a.org", security=security))
        server = handlers.email._mailer.transport.server
        assert (server.port, server.starttls, server.tls is None) == (port, security == "starttls", security == "none")
    setup(Settings(host="h", from_="me@a.org", port=2525))
    assert handlers.email._mailer.transport.server.port == 2525


def test_credentials_in_the_clear_are_warned_of(caplog):
    setup(Settings(host="h", from_="me@a.org", security="none", user="u", password="hunter2"))
    assert "in the clear" in caplog.text
    assert "hunter2" not in caplog.text


@pytest.mark.parametrize("name", ["a b", "a\r\nMAIL FROM:<x@y>", ".", "a..b", "ü.de", "[", "[x y]", "a" * 64])
def test_a_hello_name_that_is_none_is_found_at_boot(name):
    with pytest.raises(ConfigError, match="hello_name must be a domain"):
        setup(Settings(host="h", from_="me@a.org", hello_name=name))


def test_a_sender_without_end_is_found_at_boot():
    with pytest.raises(ConfigError, match="from is longer than 1000 bytes"):
        setup(Settings(host="h", from_=f"{'ß' * 495} <shop@a.org>"))


@pytest.mark.parametrize("security", ["starttls", "none"])
def test_port_465_without_tls_is_told_at_boot(security):
    with pytest.raises(ConfigError, match=f'security = "{security}" on port 465.*set security = "tls", or port = 587'):
        setup(Settings(host="h", from_="me@a.org", port=465, security=security))
    setup(Settings(host="h", from_="me@a.org", port=465, security="tls"))


@pytest.mark.parametrize("port", [25, 587])
def test_tls_on_a_port_that_begins_in_the_clear_is_warned_of(port, caplog):
    setup(Settings(host="h", from_="me@a.org", port=port, security="tls"))
    assert f'security = "tls" on port {port}' in caplog.text
    assert caplog.records[0].levelname == "WARNING"
