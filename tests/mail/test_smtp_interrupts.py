"""An interrupt at every point where a mail on its way can wait: nothing leaks, nothing is reused half-used.

The interrupts are thrown as the engine throws them, by a callback of the hub. Every switch away from the greenlet
that sends is tried in turn, so no wait is forgotten: connecting, the TLS handshake, each reply, a probe, the place.
"""

from __future__ import annotations

import random
import ssl
from collections.abc import Callable
from datetime import UTC, datetime

import gevent
import greenlet
import pytest

from millpond.errors import Interrupt, Stopped, TimeLimitExceeded
from millpond.mail import domain_shares, lines
from millpond.mail import reply as replies
from millpond.mail.compose import Mail
from millpond.mail.domain_shares import DomainShares
from millpond.mail.mail_server import MailServer
from millpond.mail.smtp_pool import SmtpPool
from tests.smtp_server import EXTENSIONS, HANG, ScriptedServer

CONNECTIONS = 3
MAIL = Mail(
    "x", "me@a.org", ("you@b.org", "they@b.org"), b"Subject: x\r\n\r\nhello\r\n", "<x@a.org>", datetime.now(UTC)
)


class Victim:
    """Runs `work` in a greenlet and throws into it at its switch number `at` to the hub; counts its switches."""

    def __init__(self, work: Callable[[], object], at: int) -> None:
        self.switches = 0
        self.interrupted = False
        self.switches_after_last_word = 0
        self._at = at
        self._heard_last_word = False
        self._greenlet = gevent.Greenlet(self._run, work)

    def run(self) -> Victim:
        hub, reply = gevent.get_hub(), lines.SmtpLines.reply

        def trace(event: str, switch: tuple[object, object]) -> None:
            if switch[0] is self._greenlet and event == "switch" and switch[1] is hub:
                self.switches += 1
                self.switches_after_last_word += self._heard_last_word
                if self.switches == self._at:
                    hub.loop.run_callback(self._throw)

        def listen(wire: lines.SmtpLines, phase: str, seconds: float) -> replies.Reply:
            answer = reply(wire, phase, seconds)
            if phase == "end of data" and gevent.getcurrent() is self._greenlet:
                self._heard_last_word = True
            return answer

        before = greenlet.settrace(trace)
        lines.SmtpLines.reply = listen
        try:
            self._greenlet.start()
            self._greenlet.join()
        finally:
            greenlet.settrace(before)
            lines.SmtpLines.reply = reply
        assert not (self.interrupted and self._heard_last_word)
        return self

    def _run(self, work: Callable[[], object]) -> None:
        try:
            work()
        except Interrupt:
            self.interrupted = True
        self._heard_last_word = False

    def _throw(self) -> None:
        if not self._greenlet.ready():
            self._greenlet.throw(TimeLimitExceeded("900 s"))


def at_every_switch(prepare: Callable[[], tuple[SmtpPool, ScriptedServer]]) -> int:
    """Interrupt one send at its first switch, the next at its second, until one gets through; returns how many."""
    for at in range(1, 200):
        senders, server = prepare()
        try:
            victim = Victim(lambda senders=senders: senders.send(MAIL), at).run()
            assert victim.switches_after_last_word == 0
            still_works(senders, server)
            if not victim.interrupted:
                return at - 1
        finally:
            server.__exit__()
    raise AssertionError("it never gets through")


def still_works(senders: SmtpPool, server: ScriptedServer) -> None:
    """All places are free again, the full number can send at once, each whole, and every socket is accounted for."""
    assert (senders._shares._all.busy, senders._shares._waiting) == (0, [])
    assert all(connection.usable for connection in senders._idle)
    server.script.clear()
    later = MAIL._replace(recipients=("later@b.org",))
    gevent.joinall([gevent.spawn(senders.send, later) for _ in range(2 * CONNECTIONS)], raise_error=True)
    assert [taken.recipients for taken in server.taken].count(later.recipients) == 2 * CONNECTIONS
    assert {taken.recipients for taken in server.taken} <= {later.recipients, MAIL.recipients}
    assert len(senders._idle) <= CONNECTIONS
    senders._close_kept()
    assert server.all_closed.wait(5)
    assert lines._timeouts._deadlines == {}  # or its thread would look after a closed one for ever


def start(extensions=EXTENSIONS, script=None, connections=CONNECTIONS, mails=100, clock=lambda: 0.0, **fields):
    options = {name: fields.pop(name) for name in ("implicit_tls", "server_tls") if name in fields}
    server = ScriptedServer(
        script, extensions=extensions, tls=options.get("server_tls"), implicit_tls=options.get("implicit_tls", False)
    )
    server.__enter__()
    allowed = DomainShares(connections, connections)
    return SmtpPool(MailServer("127.0.0.1", server.port, **fields), allowed, mails, clock), server


@pytest.mark.parametrize("extensions", [EXTENSIONS, ()], ids=["pipelined", "one by one"])
def test_an_interrupt_at_any_point_of_a_first_mail_leaks_nothing(extensions):
    # connect, banner, EHLO, then MAIL to DATA in one go or in four, end of data
    assert at_every_switch(lambda: start(extensions)) >= (5 if extensions else 8)


@pytest.mark.parametrize("implicit", [True, False], ids=["tls", "starttls"])
@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN"])
def test_an_interrupt_at_any_point_of_tls_and_login_leaks_nothing(implicit, mechanism, certificate, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate.pem))
    tls = ssl.create_default_context()

    def prepare():
        return start(
            ["STARTTLS", f"AUTH {mechanism}"],
            server_tls=certificate.server_context(),
            implicit_tls=implicit,
            tls=tls,
            starttls=not implicit,
            user="u",
            password="p",
        )

    # As above one by one, and: the handshake, AUTH (and for starttls STARTTLS and a second EHLO)
    expected = 10 if implicit else 12
    assert at_every_switch(prepare) >= expected + (2 if mechanism == "LOGIN" else 0)


def test_an_interrupt_at_any_point_of_a_probe_or_a_renewal_leaks_nothing():
    def prepare(script):
        now = [0.0]
        senders, server = start(clock=lambda: now[0])
        senders.send(MAIL)
        now[0] = 100.0
        server.script.update(script)
        return senders, server

    assert at_every_switch(lambda: prepare({})) == 3  # RSET, the envelope, the end of data
    assert at_every_switch(lambda: prepare({"RSET": [b"25"]})) >= 6
    assert at_every_switch(lambda: prepare({"MAIL": ["421 enough"]})) >= 7


def test_an_interrupt_at_any_point_of_a_polite_end_leaks_nothing():
    def prepare():
        senders, server = start(mails=1)
        senders.send(MAIL)
        return senders, server

    assert at_every_switch(prepare) >= 6


def test_an_interrupt_while_waiting_for_a_place_leaks_nothing():
    with ScriptedServer({"end": [HANG] * CONNECTIONS}) as server:
        senders = SmtpPool(MailServer("127.0.0.1", server.port), DomainShares(CONNECTIONS, CONNECTIONS), 100)
        busy = [gevent.spawn(senders.send, MAIL) for _ in range(CONNECTIONS)]
        assert all(server.hung.acquire(timeout=30) for _ in busy)
        assert Victim(lambda: senders.send(MAIL), at=1).run().interrupted
        gevent.get_hub().loop.run_callback(server.drop)  # the busy ones end: connection closed
        gevent.joinall(busy)
        still_works(senders, server)


def test_a_storm_of_interrupts_leaks_no_place_and_loses_no_wake_up(monkeypatch):
    """Three connections, forty senders, each interrupted at a random one of its switches, or not at all."""
    monkeypatch.setattr(domain_shares, "UNKNOWN_SECONDS", 0.0)  # all of them wait in their slots
    chance = random.Random(4711)
    with ScriptedServer() as server:
        senders = SmtpPool(MailServer("127.0.0.1", server.port), DomainShares(CONNECTIONS, CONNECTIONS), 7)
        hub, doomed, counts = gevent.get_hub(), {}, dict.fromkeys(("sent", "interrupted"), 0)

        def one_sender() -> None:
            for _ in range(10):
                doomed[gevent.getcurrent()] = chance.choice([1, 1, 2, 3, 4, 1000])
                try:
                    senders.send(MAIL)
                    counts["sent"] += 1
                except Interrupt:
                    counts["interrupted"] += 1
                finally:
                    doomed.pop(gevent.getcurrent(), None)

        def trace(event, switch) -> None:
            if switch[0] in doomed and switch[1] is hub:
                doomed[switch[0]] -= 1
                if doomed[switch[0]] == 0:
                    hub.loop.run_callback(throw, switch[0])

        def throw(victim) -> None:
            if victim in doomed:
                victim.throw(Stopped("SIGTERM"))

        before = greenlet.settrace(trace)
        try:
            gevent.joinall([gevent.spawn(one_sender) for _ in range(40)], raise_error=True)
        finally:
            greenlet.settrace(before)
        assert min(counts.values()) > 50
        assert len(server.taken) >= counts["sent"]
        still_works(senders, server)
        assert server.most_open <= CONNECTIONS + counts["interrupted"]


@pytest.mark.parametrize(
    ("phase", "kept"),
    [(phase, kept) for phase in ("MAIL", "RCPT", "DATA", "end") for kept in (False, True)]
    + [("banner", False), ("EHLO", False), ("RSET", True)],
)
@pytest.mark.parametrize("extensions", [EXTENSIONS, ()], ids=["pipelined", "one by one"])
def test_an_interrupt_while_a_reply_is_awaited_closes_the_connection(phase, kept, extensions):
    now = [0.0]
    with ScriptedServer(extensions=extensions) as server:
        senders = SmtpPool(
            MailServer("127.0.0.1", server.port), DomainShares(CONNECTIONS, CONNECTIONS), 100, lambda: now[0]
        )
        if kept:
            senders.send(MAIL)
            now[0] = 100.0
        server.script[phase] = [HANG]
        sender = gevent.spawn(senders.send, MAIL)
        assert server.hung.acquire(timeout=30)
        gevent.get_hub().loop.run_callback(sender.throw, TimeLimitExceeded("900 s"))
        with pytest.raises(TimeLimitExceeded):
            sender.get()
        assert senders._idle == []
        assert server.all_closed.wait(5)
        still_works(senders, server)


def test_the_pool_waits_for_places_in_a_queue_that_gevent_made_cooperative():
    assert domain_shares.SimpleQueue.__module__.startswith("gevent")
