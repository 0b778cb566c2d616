"""email.send: its settings, its payload, the outbox, and where each mail and each recipient ends."""

from __future__ import annotations

import os
import random
import ssl
from collections import Counter
from typing import NamedTuple

import gevent
import msgspec
import pytest

from handlers import email
from handlers.email import Settings, send_email, setup, teardown
from millpond import Message, Reject, Retry, Unavailable
from millpond.app.routing import routes
from millpond.errors import ConfigError, Interrupt, TimeLimitExceeded
from millpond.mail.job import Attachment, Email
from millpond.mail.mailer import WAIT_SECONDS
from millpond.mail.outbox import Outbox
from millpond.mail.smtp_pool import SmtpPool
from millpond.message import FollowUp
from tests.smtp_server import CLOSE, EXTENSIONS, HANG, ScriptedServer, aiosmtpd, make_certificate

SENT_MS = 1_773_500_966_000


@pytest.fixture(autouse=True)
def _bounded():
    with gevent.Timeout(30):
        yield
        teardown()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    return make_certificate(tmp_path_factory.mktemp("certificate"))


def message(event_id: str = "e-1", attempt: int = 1, body: str = "{}", sent_ms: int = SENT_MS) -> Message:
    names = {"id": "m-1", "event_id": event_id, "event_type": "email.send", "queue": "q"}
    return Message(**names, body=body, attempt=attempt, _sent_ms=sent_ms)


def job(**fields: object) -> Email:
    return Email(**{"to": ["you@b.org"], "subject": "Hi", "text": "hello", **fields})


def use(server: ScriptedServer, **fields: object) -> None:
    setup(Settings(host="127.0.0.1", port=server.port, security="none", from_="Shop <shop@a.org>", **fields))


def decode(payload: str) -> Email:
    return routes(["handlers.email"])["email.send"].decode(payload.encode())


# Settings


def findings(settings: Settings, local: bool = True) -> str:
    with pytest.raises(ConfigError) as raised:
        setup(settings, local)
    assert all(finding.startswith("[handlers.email] ") for finding in raised.value.findings)
    return "\n".join(raised.value.findings)


def test_auto_is_smtp_where_a_host_is_set_else_the_outbox(tmp_path):
    setup(Settings(outbox=str(tmp_path)))
    assert isinstance(email._mailer.transport, Outbox)
    setup(Settings(host="mail.example.org", from_="me@a.org", outbox=str(tmp_path / "unused")))
    assert isinstance(email._mailer.transport, SmtpPool)
    assert not (tmp_path / "unused").exists()
    setup(Settings(host="mail.example.org", transport="outbox", outbox=str(tmp_path)))
    assert isinstance(email._mailer.transport, Outbox)


def test_on_a_real_queue_the_outbox_is_only_used_where_it_is_written_out(tmp_path):
    assert 'transport = "auto" without a host' in findings(Settings(outbox=str(tmp_path)), local=False)
    setup(Settings(transport="outbox", outbox=str(tmp_path)), local=False)
    setup(Settings(host="mail.example.org", from_="me@a.org"), local=False)


@pytest.mark.parametrize(
    ("settings", "finding"),
    [
        (Settings(transport="smtp"), "host is empty"),
        (Settings(host="smtp://mail.example.org"), "host is the bare name"),
        (Settings(host="mail.example.org "), "host is the bare name"),
        (Settings(host="mail..example.org"), "host is the bare name"),
        (Settings(host="h" * 64), "host is the bare name"),
        (Settings(host="h"), "from is empty: set the sender of mails that name none (MAIL_FROM)"),
        (Settings(host="h", port=65_536), "port = 65536: it is 1 to 65535"),
        (Settings(host="h", port=-1), "port = -1: it is 1 to 65535"),
        (Settings(host="h", user="u"), "user and password: set both"),
        (Settings(host="h", password="hunter2"), "user and password: set both"),
        (Settings(host="h", max_connections=0), "max_connections = 0: it is 1 or more"),
        (Settings(host="h", mails_per_connection=0), "mails_per_connection = 0: it is 1 or more"),
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
        server = email._mailer.transport._server
        assert (server.port, server.starttls, server.tls is None) == (port, security == "starttls", security == "none")
    setup(Settings(host="h", from_="me@a.org", port=2525))
    assert email._mailer.transport._server.port == 2525


def test_credentials_in_the_clear_are_warned_of(caplog):
    setup(Settings(host="h", from_="me@a.org", security="none", user="u", password="hunter2"))
    assert "in the clear" in caplog.text
    assert "hunter2" not in caplog.text


def test_one_tls_context_serves_all_connections(certificate, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate.pem))
    with ScriptedServer(tls=certificate.server_context(), implicit_tls=True) as server:
        setup(Settings(host="localhost", port=server.port, security="tls", from_="me@a.org", mails_per_connection=1))
        monkeypatch.setattr(ssl, "create_default_context", None)
        for i in range(3):
            send_email(job(), message(f"e-{i}"))
        assert (len(server.taken), server.sessions) == (3, 3)
        teardown()


# The payload


def test_the_handler_is_declared_for_its_type_with_the_time_that_smtp_takes():
    route = routes(["handlers.email"])["email.send"]
    assert (route.timeout_seconds, route.max_attempts, route.where) == (900, None, "handlers.email.send_email")


def test_a_payload_is_decoded():
    text = """{"to": ["a@b.org"], "cc": ["c@b.org"], "bcc": ["d@b.org"], "from": "Me <me@a.org>", "reply_to": "r@a.org",
      "subject": "s", "text": "t", "html": "h", "headers": {"List-Id": "x"},
      "attachments": [{"filename": "a.txt", "content_type": "text/plain", "content": "aGVsbG8="}]}"""
    assert decode(text) == Email(
        to=["a@b.org"],
        cc=["c@b.org"],
        bcc=["d@b.org"],
        from_="Me <me@a.org>",
        reply_to="r@a.org",
        subject="s",
        text="t",
        html="h",
        headers={"List-Id": "x"},
        attachments=[Attachment("a.txt", b"hello", "text/plain")],
    )


@pytest.mark.parametrize(
    ("payload", "finding"),
    [
        ('{"text": "t"}', "missing required field `to`"),
        ('{"to": [], "text": "t"}', r"length >= 1 - at `\$.to`"),
        ('{"to": "a@b.org", "text": "t"}', r"Expected `array`, got `str` - at `\$.to`"),
        ('{"to": [1], "text": "t"}', r"at `\$.to\[0\]`"),
        ('{"to": ["a@b.org"], "text": "t", "bbc": ["x@b.org"]}', "unknown field `bbc`"),
        ('{"to": ["a@b.org"], "text": "t", "attachments": [{"filename": "x"}]}', "missing required field `content`"),
        ('{"to": ["a@b.org"], "attachments": [{"filename": "x", "content": "?"}]}', "Invalid base64"),
        ('{"to": ["a@b.org"], "text": "\\ud800 "}', "."),
        ('{"to": ["a@b.org"], "date": "2026-01-01T00:00:00"}', "timezone"),
    ],
)
def test_a_payload_that_does_not_fit_is_refused_with_its_path(payload, finding):
    with pytest.raises(msgspec.DecodeError, match=finding):
        decode(payload)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"to": []}, "no recipient"),
        ({"to": ["nobody"]}, r"to\[0\] is not one e-mail address"),
        ({"bcc": ["a@b.org", "x\r\ny@b.org"]}, r"bcc\[1\] has a line break or a control character"),
        ({"reply_to": "a@b.org\n"}, "reply_to has a line break"),
        ({"from_": "me"}, "from is not one e-mail address"),
        ({"subject": "a\r\nBcc: evil@c.org"}, "subject has a line break or a control character"),
        ({"text": ""}, "a mail needs text or html"),
        ({"headers": {"Bcc": "evil@c.org"}}, r"headers\[0\] is not one of the headers"),
        ({"only": ["other@b.org"]}, "only has a recipient that is not in to, cc or bcc"),
        ({"message_id": "<a@b> <c@d>"}, "message_id is not one Message-ID"),
    ],
)
def test_a_mail_that_can_never_be_sent_is_rejected(fields, reason, tmp_path):
    setup(Settings(outbox=str(tmp_path), from_="me@a.org"))
    with pytest.raises(Reject, match=reason) as raised:
        send_email(job(**fields), message())
    assert "@" not in raised.value.reason
    assert list(tmp_path.iterdir()) == []


def test_the_outbox_needs_no_sender_but_a_server_does(tmp_path):
    setup(Settings(outbox=str(tmp_path)))
    send_email(job(), message())
    (file,) = tmp_path.iterdir()
    assert b"From: Millpond <millpond@localhost>\r\n" in file.read_bytes()


def test_a_mail_for_several_that_leaves_no_room_for_a_follow_up_is_rejected_before_it_is_sent(tmp_path):
    setup(Settings(outbox=str(tmp_path), from_="me@a.org"))
    size = 1_048_576 - 4_096 - 2 * len("you@b.org") - 6
    for body in ("x" * (size + 1), "é" * (size // 2 + 1)):
        with pytest.raises(Reject, match="too large to be divided should some of its 2 recipients have to wait"):
            send_email(job(cc=["yow@b.org"]), message(body=body))
    send_email(job(cc=["yow@b.org"]), message(body="x" * size))
    send_email(job(), message(body="x" * 1_048_576))


def test_a_handler_that_was_not_set_up_says_so():
    with pytest.raises(RuntimeError, match="setup"):
        send_email(job(), message())


# The outbox


def test_the_outbox_gets_a_file_per_job_and_the_same_one_again(tmp_path):
    setup(Settings(outbox=str(tmp_path / "deep" / "outbox"), from_="me@a.org"))
    for event_id in ("../../1", "2", "2"):
        send_email(job(bcc=["secret@c.org"]), message(event_id))
    files = sorted((tmp_path / "deep" / "outbox").iterdir())
    assert len(files) == 2
    assert all(len(file.stem) == 32 and file.suffix == ".eml" for file in files)
    assert all(b"Subject: Hi\r\n" in file.read_bytes() and b"secret" not in file.read_bytes() for file in files)


def test_a_relative_outbox_stays_where_it_was_at_the_start(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    setup(Settings(from_="me@a.org"))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    send_email(job(), message())
    assert len(list((tmp_path / "outbox").glob("*.eml"))) == 1


@pytest.mark.parametrize("folder", ["file", "file/below", "\0"])
def test_an_outbox_that_cannot_be_is_found_at_boot(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    assert "outbox = " in findings(Settings(outbox=folder))


def test_a_mail_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    sizes = []
    monkeypatch.setattr(os, "fsync", lambda handle: sizes.append(os.fstat(handle).st_size))
    setup(Settings(outbox=str(tmp_path), from_="me@a.org"))
    send_email(job(), message())
    (file,) = tmp_path.iterdir()
    assert sizes == [len(file.read_bytes())]


@pytest.mark.parametrize("step", ["fsync", "replace"])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), TimeLimitExceeded("900 s")])
def test_a_mail_is_in_the_outbox_whole_or_not_at_all(step, error, tmp_path, monkeypatch):
    def fail(*_: object) -> None:
        raise error

    setup(Settings(outbox=str(tmp_path), from_="me@a.org"))
    monkeypatch.setattr(os, step, fail)
    with pytest.raises(type(error)):
        send_email(job(), message())
    assert list(tmp_path.iterdir()) == []


# Where each recipient ends


def test_accepted_recipients_are_not_mailed_again_and_the_rest_goes_on():
    answers = {"late@b.org": "451 4.7.1 greylisted late@b.org", "gone@b.org": "550 5.1.1 gone@b.org is unknown"}
    with ScriptedServer(rcpt=answers.get) as server:
        use(server)
        first = message()
        send_email(job(to=["you@b.org", "late@b.org"], bcc=["gone@b.org"], html="<p>x</p>"), first)
        later, never = first.follow_ups
        assert (later.after_seconds, later.reject) == (WAIT_SECONDS[0], None)
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


def follow_up_payload(follow_up: FollowUp) -> Email:
    return decode(msgspec.json.encode(msgspec.json.decode(follow_up.body)["payload"]).decode())


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


def test_a_recipient_named_twice_gets_one_mail():
    with ScriptedServer() as server:
        use(server)
        send_email(job(to=["You <you@B.org>", "you@b.org"], cc=["You@b.org"], bcc=["you@b.ORG"]), message())
        teardown()
    assert server.taken[0].recipients == ("you@b.org", "You@b.org")
    assert b"To: You <you@b.org>, you@b.org\r\n" in server.taken[0].content


def test_each_attempt_waits_longer():
    with ScriptedServer({"MAIL": ["451 later"] * 9, "RCPT": ["451 later"]}) as server:
        use(server)
        for attempt, seconds in ((1, 5), (2, 30), (3, 180), (4, 900), (9, 900)):
            with pytest.raises(Retry) as raised:
                send_email(job(), message(attempt=attempt))
            assert raised.value.after == seconds
        server.script["MAIL"] = []
        with pytest.raises(Retry, match="at RCPT for 1 of 1") as raised:
            send_email(job(), message(attempt=2))
        assert raised.value.after == 30
        teardown()


def test_no_error_quotes_an_address_or_the_server():
    answers = ["421 you@b.org", "451 you@b.org", "550 you@b.org", "535 you@b.org", b"5", b"you@b.org\r\n", CLOSE]
    cases = [(phase, answer) for phase in ("banner", "EHLO", "MAIL", "RCPT", "DATA", "end") for answer in answers]
    with ScriptedServer() as server:
        for phase, answer in cases:
            use(server)
            server.script[phase] = [answer]
            mine = message()
            with pytest.raises((Retry, Reject, Unavailable)) as raised:
                send_email(job(), mine)
            assert "@" not in raised.value.reason
            assert "you" not in raised.value.reason
            assert "@" not in str(raised.value.__cause__)
            assert mine.follow_ups == ()
            teardown()


def test_an_interrupt_leaves_the_handler_as_it_came():
    with ScriptedServer({"end": [HANG]}) as server:
        use(server)
        mine = message()
        sender = gevent.spawn(send_email, job(), mine)
        assert server.hung.acquire(timeout=30)
        gevent.get_hub().loop.run_callback(sender.throw, TimeLimitExceeded("900 s"))
        with pytest.raises(Interrupt):
            sender.get()
        assert mine.follow_ups == ()
        send_email(job(), message())
        teardown()
    assert len(server.taken) == 1


def test_teardown_says_quit_and_may_be_called_twice():
    with ScriptedServer() as server:
        use(server)
        send_email(job(), message())
        teardown()
        teardown()
    assert server.commands[-1] == "QUIT"


# Many mails, many answers


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
        except (Retry, Unavailable):
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
