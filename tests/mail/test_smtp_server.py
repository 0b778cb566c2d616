"""The troubles of the tests' own SMTP server: down in three ways, at a pace, slow for a domain."""

from __future__ import annotations

import time

import gevent
import pytest

from millpond.errors import MillpondError
from millpond.mail import waits
from tests.mail.senders import mail, pool
from tests.smtp_server import Down, Pace, ScriptedServer


@pytest.mark.clock
@pytest.mark.parametrize("how", ["refuses", "421", "hangs"])
def test_it_goes_down_and_comes_back_at_the_same_port(how: Down, monkeypatch) -> None:
    monkeypatch.setattr(waits, "BANNER_SECONDS", 0.1)
    expected = {"refuses": "connection refused", "421": "421 4.3.2 at the banner", "hangs": "no answer in time"}
    with ScriptedServer() as server:
        port, senders = server.port, pool(server)
        for _ in range(2):
            senders.send(mail())
            server.go_down(how)
            with pytest.raises(MillpondError, match=expected[how]):
                senders.send(mail())
            assert server.port == port
            server.come_back()
        senders.send(mail())
    assert len(server.taken) == 3


@pytest.mark.clock
@pytest.mark.parametrize("phase", ["MAIL", "end"])
def test_it_takes_no_more_mails_in_a_second_than_its_pace(phase) -> None:
    refused = []

    def send_for(seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            try:
                senders.send(mail())
            except MillpondError as error:
                refused.append(str(error))
                gevent.sleep(0.005)

    with ScriptedServer(pace=Pace(5, phase)) as server:
        senders = pool(server, connections=4)
        gevent.joinall([gevent.spawn(send_for, 1.4) for _ in range(4)], raise_error=True)
    assert len(refused) == server.refusals[phase] > 0
    assert all("454" in text for text in refused)
    taken_at = server.taken_at
    assert len(taken_at) == 10
    assert all(later - earlier > 0.95 for earlier, later in zip(taken_at, taken_at[5:], strict=False))


@pytest.mark.clock
def test_it_is_slow_for_one_domain_and_not_for_another() -> None:
    with ScriptedServer(slow={"slow.org": 0.3}) as server:
        senders = pool(server)
        slow = gevent.spawn(senders.send, mail("a@slow.org"))
        senders.send(mail("a@fast.org"))
        slow.get()
    first, second = server.taken
    assert (first.recipients, second.recipients) == (("a@fast.org",), ("a@slow.org",))
    assert server.taken_at[1] - server.taken_at[0] > 0.2
