"""The Mailer: where each mail and each recipient ends, and when they are tried again."""

from __future__ import annotations

import json
import random
import ssl
from collections import Counter
from typing import NamedTuple

import msgspec
import pytest

import handlers.email
from handlers.email import Settings, send_email, setup, teardown
from millpond import Message, Reject, Retry, TooFast, Unavailable
from millpond.app.config import RetrySettings
from millpond.app.routing import routes
from millpond.engine.raised import RaisedReader
from millpond.errors import Verdict
from millpond.hub.backoff import retries_seconds
from millpond.mail import mailer
from millpond.mail.job import Email
from millpond.mail.mailer import MAX_CONTENT_REFUSALS, REFUSED_SECONDS
from millpond.mail.outbox import Outbox
from millpond.mail.smtp_pool import SmtpPool
from tests.mail.jobs import SENT_MS, decode, follow_up_payload, job, job_from_me, message, use
from tests.smtp_server import CLOSE, EXTENSIONS, ScriptedServer, aiosmtpd


def test_auto_is_smtp_where_a_host_is_set_else_the_outbox(tmp_path):
    setup(Settings(outbox=str(tmp_path)))
    assert isinstance(handlers.email._mailer.transport, Outbox)
    setup(Settings(host="mail.example.org", from_="me@a.org", outbox=str(tmp_path / "unused")))
    assert isinstance(handlers.email._mailer.transport, SmtpPool)
    assert not (tmp_path / "unused").exists()
    setup(Settings(host="mail.example.org", transport="outbox", outbox=str(tmp_path)))
    assert isinstance(handlers.email._mailer.transport, Outbox)


def test_one_tls_context_serves_all_connections(certificate, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate.pem))
    with ScriptedServer(tls=certificate.server_context(), implicit_tls=True) as server:
        setup(Settings(host="localhost", port=server.port, security="tls", from_="me@a.org", mails_per_connection=1))
        monkeypatch.setattr(ssl, "create_default_context", None)
        for i in range(3):
            send_email(job(), message(f"e-{i}"))
        assert (len(server.taken), server.sessions) == (3, 3)
        teardown()


def test_the_outbox_needs_no_sender_but_a_server_does(tmp_path):
    setup(Settings(outbox=str(tmp_path)))
    send_email(job(), message())
    (file,) = tmp_path.iterdir()
    assert b"From: Millpond <millpond@localhost>\r\n" in file.read_bytes()


def test_accepted_recipients_are_not_mailed_again_and_the_rest_goes_on():
    answers = {"late@b.org": "451 4.7.1 greylisted late@b.org", "gone@b.org": "550 5.1.1 gone@b.org is unknown"}
    with ScriptedServer(rcpt=answers.get) as server:
        use(server)
        first = message()
        send_email(job(to=["you@b.org", "late@b.org"], bcc=["gone@b.org"], html="<p>x</p>"), first)
        later, never = first.follow_ups
        assert later.reject is None
        assert REFUSED_SECONDS / 2 <= later.after_seconds <= REFUSED_SECONDS
        assert never.reject == "SMTP 550 5.1.1 at RCPT for 1 of 3 recipients"
        assert follow_up_payload(never).only == ["gone@b.org"]
        server.rcpt = lambda recipient: None
        teardown()
        setup(Settings(host="127.0.0.1", port=server.port, security="none", from_="other@a.org"))
        send_email(follow_up_payload(later), message(later.event_id, sent_ms=SENT_MS + 60_000))
        teardown()
    assert [taken.recipients for taken in server.taken] == [("you@b.org",), ("late@b.org",)]
    assert server.taken[0].content == server.taken[1].content  # the same Message-ID, Date, To and boundaries
    assert b"gone@b.org" not in server.taken[0].content


@pytest.mark.parametrize(
    ("answers", "verdict", "reason"),
    [
        (["550 5.1.1 a", "550 5.1.1 b"], Reject, "SMTP 550 5.1.1 at RCPT for 2 of 2 recipients"),
        (["550 5.1.1 a", "553 b"], Reject, "SMTP 550 5.1.1 x1, 553 x1 at RCPT for 2 of 2 recipients"),
        (["451 4.7.1 a", "450 b"], Retry, "SMTP 451 4.7.1 x1, 450 x1 at RCPT for 2 of 2 recipients"),
        (["552 a", "552 b"], Retry, "SMTP 552 at RCPT for 2 of 2 recipients"),
    ],
)
def test_where_all_recipients_share_a_fate_it_is_the_mails(answers, verdict, reason):
    with ScriptedServer({"RCPT": answers}) as server:
        use(server)
        mine = message()
        with pytest.raises(verdict) as raised:
            send_email(job(cc=["c@b.org"]), mine)
        assert raised.value.reason == reason
        assert mine.follow_ups == ()
        teardown()


def test_where_nobody_has_it_and_the_fates_differ_each_goes_its_own_way():
    with ScriptedServer({"RCPT": ["550 5.1.1 a", "451 b"]}) as server:
        use(server)
        mine = message()
        send_email(job(cc=["c@b.org"]), mine)
        assert [(follow_up_payload(f).only, f.reject) for f in mine.follow_ups] == [
            (["c@b.org"], None),
            (["you@b.org"], "SMTP 550 5.1.1 at RCPT for 1 of 2 recipients"),
        ]
        teardown()
    assert server.taken == []


def test_a_greylisted_mail_waits_by_the_back_off_of_its_type_and_its_recipients_differently_long():
    with ScriptedServer(rcpt={"late@b.org": "451 4.7.1 greylisted"}.get) as server:
        use(server)
        with pytest.raises(Retry, match="at RCPT for 1 of 1") as raised:
            send_email(job(to=["late@b.org"]), message())
        assert raised.value.after is None
        waits = set()
        for number in range(20):
            mine = message(f"e-{number}", attempt=6)
            send_email(job(to=["late@b.org", "you@b.org"]), mine)
            waits.add(mine.follow_ups[0].after_seconds)
        teardown()
    assert REFUSED_SECONDS / 2 <= min(waits) < max(waits) <= REFUSED_SECONDS
    assert len(waits) > 3  # not all of them at once


def test_the_default_attempts_of_a_mail_reach_over_one_hour_to_two():
    base, longest = routes(["handlers.email"])["email.send"].backoff
    least, most = retries_seconds(RetrySettings().max_attempts, base, longest)
    assert (least, most) == (3_615, 7_230)
    assert retries_seconds(5, base, longest)[0] >= 600  # greylisting asks for five minutes


def test_no_error_quotes_an_address_or_the_server():
    answers = ["421 you@b.org", "451 you@b.org", "550 you@b.org", "535 you@b.org", b"5", b"you@b.org\r\n", CLOSE]
    cases = [(phase, answer) for phase in ("banner", "EHLO", "MAIL", "RCPT", "DATA", "end") for answer in answers]
    with ScriptedServer() as server:
        for phase, answer in cases:
            use(server)
            server.script[phase] = [answer]
            mine = message()
            with pytest.raises(Verdict) as raised:
                send_email(job(), mine)
            assert "@" not in raised.value.reason
            assert "you" not in raised.value.reason
            assert "@" not in str(raised.value.__cause__)
            assert mine.follow_ups == ()
            teardown()


@pytest.mark.parametrize("code", [421, *range(530, 539)])
@pytest.mark.parametrize("phase", ["RCPT", "DATA", "end"])
def test_what_one_mail_brings_about_stops_no_other(phase, code):
    with ScriptedServer({phase: [f"{code} 5.7.1 no"]}) as server:
        use(server)
        with pytest.raises(Retry if code == 421 else Reject):
            send_email(job_from_me(), message())
        send_email(job_from_me(), message("e-2"))
        teardown()
    assert len(server.taken) == 1


@pytest.mark.parametrize("code", [421, 530, 534, 535, 538])
def test_at_mail_a_login_that_is_missing_or_wrong_is_the_servers(code):
    with ScriptedServer({"MAIL": [f"{code} 5.7.0 no"]}) as server:
        use(server)
        with pytest.raises(Unavailable):
            send_email(job_from_me(), message())
        teardown()


def test_a_recipient_refused_for_a_login_is_that_recipients():
    with ScriptedServer(rcpt={"b@b.org": "530 5.7.1 no"}.get) as server:
        use(server)
        mine = message()
        send_email(job_from_me(to=["a@b.org", "b@b.org"]), mine)
        teardown()
    assert [taken.recipients for taken in server.taken] == [("a@b.org",)]
    assert [follow_up.reject for follow_up in mine.follow_ups] == ["SMTP 530 5.7.1 at RCPT for 1 of 2 recipients"]


@pytest.mark.parametrize("phase", ["DATA", "end"])
def test_a_mail_that_is_too_fast_again_and_again_after_its_recipients_is_its_own_trouble(phase):
    """Each time alone it is the server's pace; but one such mail must neither halve the rate for ever nor stop all."""
    with ScriptedServer({phase: ["454 Throttling failure"] * 12}) as server:
        use(server)
        for times in range(1, 11):
            counts = times % MAX_CONTENT_REFUSALS == 0
            with pytest.raises(Retry if counts else TooFast) as raised:
                send_email(job(), message(attempt=2))
            assert raised.value.reason.endswith(", 5 times") == counts
        server.script[phase] = []
        send_email(job(), message())
        assert not handlers.email._mailer._refused
        teardown()
    assert len(server.taken) == 1


def test_other_mails_and_what_the_server_says_at_mail_do_not_count_as_that_mails_trouble():
    with ScriptedServer({"MAIL": ["454 Throttling failure"] * 20}) as server:
        use(server)
        for _ in range(20):
            with pytest.raises(TooFast, match="at MAIL"):
                send_email(job(), message("e-1"))
        server.script["end"] = ["454 Throttling failure"] * 20
        for number in range(20):
            with pytest.raises(TooFast, match="at end of data"):
                send_email(job(), message(f"e-{number}"))
        teardown()


def test_mails_refused_for_their_pace_are_not_remembered_without_end(monkeypatch):
    monkeypatch.setattr(mailer, "MAX_REFUSED", 3)
    with ScriptedServer({"end": ["454"] * 8}) as server:
        use(server)
        for number in range(8):
            with pytest.raises(TooFast):
                send_email(job(), message(f"e-{number}"))
            assert len(handlers.email._mailer._refused) <= 3
        teardown()


@pytest.mark.parametrize("max_bytes", [262_144, 1_048_576])
@pytest.mark.parametrize("group_id", ["", "customer-7"], ids=["standard", "fifo"])
@pytest.mark.parametrize("as_ascii", [False, True], ids=["utf-8", "escaped"])
def test_what_could_not_be_divided_is_refused_before_it_is_sent(max_bytes, group_id, as_ascii):
    """The largest job that is sent at all leaves follow-ups, and these leave theirs, that its queue takes."""
    people = [f"jörg{number}@example{number}.org" for number in range(50)]
    sender = f"{'ß' * 490} <shop@a.org>"
    later = {f"jörg{number}@example{number}.org": "450 4.2.1 later" for number in range(10, 50)}
    named = {"event_id": "e" * 300, "event_type": "email.send", "id": "m", "queue": "q.fifo", "group_id": group_id}

    def deliver(payload: dict, body: str, event_id: str = "e" * 300) -> list[Email]:
        mine = Message(**{**named, "event_id": event_id}, body=body, max_bytes=max_bytes)
        send_email(decode(payload), mine)
        assert all(len(follow_up.body.encode()) <= max_bytes for follow_up in mine.follow_ups)
        return [(follow_up.event_id, follow_up.body) for follow_up in mine.follow_ups]

    def body_of(length: int) -> tuple[dict, str]:
        payload = {"to": people, "subject": "Ü", "text": "é" * 1_000 + "x" * length}
        return payload, json.dumps({**named, "payload": payload}, ensure_ascii=as_ascii)

    largest = max_bytes - 4_096 - len(body_of(0)[1].encode()) - sum(len(name.encode()) + 3 for name in people)
    with ScriptedServer(rcpt=later.get, extensions=[*EXTENSIONS, "SMTPUTF8"]) as server:
        setup(Settings(host="127.0.0.1", port=server.port, security="none", from_=sender))
        with pytest.raises(Reject, match="too large to be divided if some of its 50 recipients have to wait"):
            deliver(*body_of(largest + 1))
        assert server.taken == []
        ((event_id, body),) = deliver(*body_of(largest))
        for number in range(10, 40):
            later.pop(f"jörg{number}@example{number}.org", None)
        ((event_id, body),) = deliver(msgspec.json.decode(body)["payload"], body, event_id)
        later.clear()
        assert deliver(msgspec.json.decode(body)["payload"], body, event_id) == []
        teardown()
    assert sorted(name for taken in server.taken for name in taken.recipients) == sorted(people)
    assert len({taken.content for taken in server.taken}) == 1


def test_a_job_for_one_may_be_as_large_as_its_queue_takes():
    with ScriptedServer() as server:
        use(server)
        body = "x" * 262_144
        mine = Message(id="m", event_id="e", event_type="email.send", queue="q", body=body, max_bytes=262_144)
        send_email(job_from_me(), mine)
        teardown()
    assert len(server.taken) == 1


class Ends(NamedTuple):
    """Where each recipient of a simulated mail ended, by the queue's side of it."""

    dead: Counter[str]
    jobs: int


def run_to_the_end(payload: Email, max_attempts: int = 30) -> Ends:
    """What the engine does with a job, its retries and its follow-ups, without waiting."""
    ready = [("e-1", 1, msgspec.json.encode(payload).decode())]
    dead: Counter[str] = Counter()
    jobs = 0
    while ready:
        event_id, attempt, text = ready.pop(0)
        mine, jobs, given = message(event_id, attempt, text), jobs + 1, decode(text)
        try:
            send_email(given, mine)
        except (Retry, TooFast, Unavailable):
            assert attempt < max_attempts
            ready.append((event_id, attempt + 1, text))
            continue
        except Reject:
            dead.update(given.only or {*given.to, *given.cc, *given.bcc})
            continue
        for follow_up in mine.follow_ups:
            rest = follow_up_payload(follow_up)
            if follow_up.reject is None:
                ready.append((follow_up.event_id, 1, msgspec.json.encode(rest).decode()))
            else:
                dead.update(rest.only)
    return Ends(dead, jobs)


@pytest.mark.slow
@pytest.mark.parametrize("extensions", [EXTENSIONS, ()], ids=["pipelined", "one by one"])
def test_over_any_script_each_recipient_gets_the_mail_once_or_is_a_dead_letter(extensions):
    chance = random.Random(20261121)
    people = [f"r{i}@b.org" for i in range(9)]
    bad = ["451 4.3.0 no", "421 4.3.2 bye", CLOSE, b"45", "452 4.3.1 no"]
    moods = {
        "banner": ["421 busy", "220 hello", "220 hello"],
        "MAIL": [*bad, *["250 yes"] * 4],
        "DATA": [*bad, *["354 go"] * 5],
        "end": ["451 4.3.0 no", "421 bye", "554 5.6.0 no", "250 ok", "250 ok", "250 ok"],
    }
    with ScriptedServer(extensions=extensions) as server:
        for _ in range(120):
            server.rcpt = lambda _: chance.choice([None, None, None, "450 4.2.1 no", "552 no", "550 5.1.1 no"])
            server.script.update(
                {phase: [chance.choice(answers) for _ in range(4)] for phase, answers in moods.items()}
            )
            server.taken.clear()
            use(server)
            count = chance.randint(1, 9)
            ends = run_to_the_end(job(to=people[:count], cc=people[:2]))
            teardown()
            got = Counter(recipient for taken in server.taken for recipient in taken.recipients)
            assert got | ends.dead == Counter(people[: max(count, 2)])
            assert not got & ends.dead
            assert len({taken.content for taken in server.taken}) <= 1
            assert ends.jobs < 60


def test_a_connection_lost_after_the_final_dot_is_the_one_way_to_a_second_mail_and_it_is_the_same():
    with ScriptedServer({"end": [b"250"]}) as server:  # taken, but its reply never ended
        use(server)
        with pytest.raises(Retry, match="at end of data, it may or may not have been sent"):
            send_email(job(), message())
        first = b"".join(server.contents)
        send_email(job(), message(attempt=2))
        teardown()
    assert server.taken[0].content == first


@pytest.mark.parametrize("phase", ["MAIL", "RCPT", "DATA", "end"])
def test_a_connection_lost_in_a_mail_is_that_mails_failure_and_no_sign_of_an_outage(phase):
    with ScriptedServer({phase: [CLOSE]}) as server:
        use(server)
        with pytest.raises(Retry) as raised:
            send_email(job(), message())
        teardown()
    read = RaisedReader().read(raised.value)
    assert (read.kind, read.other_side) == (Retry, False)
    assert ("may or may not have been sent" in read.reason) == (phase == "end")


@pytest.mark.parametrize("how", ["refuses", "421"])
def test_a_server_that_is_down_is_an_outage_and_no_failure(how):
    with ScriptedServer() as server:
        use(server)
        server.go_down(how)
        with pytest.raises(Unavailable) as raised:
            send_email(job(), message())
        read = RaisedReader().read(raised.value)
        assert (read.kind, read.other_side, read.after) == (Unavailable, True, None)
        server.come_back()
        send_email(job(), message())
        teardown()
    assert len(server.taken) == 1


def test_aiosmtpd_takes_mails_over_starttls_with_a_login(certificate, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate.pem))
    with aiosmtpd(certificate) as server:
        fields = {"host": "localhost", "port": server.port, "from_": "Shop <shop@a.org>"}
        setup(Settings(user="millpond", password="wrong", **fields))
        with pytest.raises(Unavailable, match=r"535 5\.7\.8 at AUTH: check user and password"):
            send_email(job(), message())
        setup(Settings(**fields))
        with pytest.raises(Unavailable, match=r"SMTP 530 5\.7\.0 at MAIL"):
            send_email(job(), message())
        setup(Settings(user="millpond", password="secret", **fields))
        everything = {"cc": ["Jörg <jörg@c.org>"], "html": "<p>Grüße</p>", "text": ".\n..\nend\n."}
        for i in range(3):
            send_email(job(bcc=["secret@d.org"], **everything), message(f"e-{i}"))
        mails = [server.mail() for _ in range(3)]
        teardown()
    for mail in mails:
        assert mail["sender"] == "shop@a.org"
        assert mail["recipients"] == ["you@b.org", "jörg@c.org", "secret@d.org"]
        assert mail["login"] == "millpond"
        assert "secret@d.org" not in mail["content"]
        assert "SMTPUTF8" in mail["options"]
        assert "\r\n.\r\n..\r\nend\r\n.\r\n" in mail["content"]
