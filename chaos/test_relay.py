"""The relay of the scenarios: down, silent, slow, and what its log says."""

from __future__ import annotations

import smtplib
from collections.abc import Iterator
from pathlib import Path

import pytest

from chaos.relay import address
from chaos.scenarios.mails import RelayProcess, doubled, relay

pytestmark = pytest.mark.slow


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RelayProcess]:
    with relay(tmp_path) as running:
        yield running


def send(server: RelayProcess, n: int) -> None:
    with smtplib.SMTP("127.0.0.1", server.port, local_hostname="chaos.example", timeout=5) as smtp:
        smtp.sendmail("a@chaos.example", address(n), "Subject: Mail\r\n\r\nHello\r\n")


def test_it_writes_down_what_it_takes(server: RelayProcess) -> None:
    send(server, 7)
    send(server, 7)
    send(server, 108)
    assert [one.n for one in server.taken()] == [7, 7, 108]
    assert doubled(server.taken()) == [7]


def test_it_is_down_and_comes_back_on_its_port(server: RelayProcess) -> None:
    server.order("closed")
    with pytest.raises(ConnectionRefusedError):
        send(server, 1)
    server.order("greets", code="421 4.3.2 closing")
    with pytest.raises(smtplib.SMTPException, match="421"):
        send(server, 1)
    server.order("hung")
    with pytest.raises(smtplib.SMTPServerDisconnected, match="timed out"):
        smtplib.SMTP("127.0.0.1", server.port, local_hostname="chaos.example", timeout=0.2)
    server.order("up")
    send(server, 1)
    assert server.number_taken() == 1


@pytest.mark.parametrize(("phase", "error"), [("MAIL", smtplib.SMTPSenderRefused), ("end", smtplib.SMTPDataError)])
def test_it_takes_its_rate_and_refuses_the_rest(server: RelayProcess, phase: str, error: type[Exception]) -> None:
    server.order("up", rate=2, phase=phase, code="454 4.7.0 too fast")
    send(server, 1)
    send(server, 2)
    with pytest.raises(error, match="too fast"):
        send(server, 3)
    assert [(one.n, one.what) for one in server.handed()] == [
        (1, "taken"),
        (2, "taken"),
        (-1 if phase == "MAIL" else 3, phase),
    ]
