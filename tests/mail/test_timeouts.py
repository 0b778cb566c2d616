"""The time-outs of all connections: what is given up, and what is not."""

from __future__ import annotations

import contextlib

import gevent
import pytest
from gevent.event import Event

from millpond import Reject
from millpond.mail import lines, timeouts, waits
from tests.mail.senders import MODES, mail, pool
from tests.smtp_server import ScriptedServer


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


def test_the_look_ends_when_nothing_waits_and_begins_anew():
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
    for name in ("BANNER_SECONDS", "COMMAND_SECONDS", "DATA_SECONDS", "FINAL_SECONDS", "RESET_SECONDS"):
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
