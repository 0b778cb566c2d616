"""The kept SMTP connections: asked, renewed, limited, closed."""

from __future__ import annotations

import gevent
import pytest

from millpond import Unavailable
from millpond.mail import domain_shares, smtp_pool, waits
from millpond.mail.domain_shares import DomainShares
from tests.mail.senders import MODES, mail, pool
from tests.smtp_server import CLOSE, HANG, ScriptedServer


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


@pytest.fixture
def learned(monkeypatch):
    """The seconds that each mail has shown of how long mails take."""
    learned = []
    give_back = DomainShares.give_back

    def noted(shares, loads, seconds):
        learned.append(seconds)
        give_back(shares, loads, seconds)

    monkeypatch.setattr(DomainShares, "give_back", noted)
    return learned


def test_a_mail_that_met_no_server_says_nothing_of_how_long_mails_take(learned):
    with ScriptedServer({"banner": [CLOSE]}) as server:
        senders = pool(server)
        with pytest.raises(Unavailable, match="banner"):
            senders.send(mail())
        senders.send(mail())
    assert learned[0] is None
    assert learned[1] is not None


def test_a_mail_whose_kept_connection_was_dead_and_that_met_no_server_says_as_little(learned):
    with ScriptedServer({"banner": ["220 ready", CLOSE]}) as server:
        senders = pool(server)
        senders.send(mail())
        server.drop()
        with pytest.raises(Unavailable, match="banner"):
            senders.send(mail())
    assert learned[0] is not None
    assert learned[1:] == [None]


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
    monkeypatch.setattr(waits, "RESET_SECONDS", 0.05)
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


def test_no_more_connections_than_allowed_and_the_last_one_used_is_the_next(monkeypatch):
    monkeypatch.setattr(domain_shares, "UNKNOWN_SECONDS", 0.0)  # all of them wait for their turn here
    with ScriptedServer() as server:
        senders = pool(server, connections=3)
        gevent.joinall([gevent.spawn(senders.send, mail()) for _ in range(30)], raise_error=True)
        assert (len(server.taken), server.most_open, server.sessions) == (30, 3, 3)
        last = senders._idle[-1]
        senders.send(mail())
        assert senders._idle[-1] is last


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
