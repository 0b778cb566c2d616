"""From a job to a mail: its recipients, its headers, its identity, and what is refused."""

from __future__ import annotations

import contextlib
import email
import email.header
import email.policy
import email.utils
import re
import time
import tracemalloc
from datetime import UTC, datetime, timedelta, timezone

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import tests.chance  # noqa: F401  no example has a deadline
from handlers.email import Settings, send_email, setup, teardown
from millpond import Reject
from millpond.mail import compose as _compose
from millpond.mail.compose import compose
from millpond.mail.job import Attachment
from tests.mail.jobs import check_bytes, content, decode, job, job_from_me, message, read, use
from tests.smtp_server import ScriptedServer


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"to": []}, "the mail has no recipient"),
        ({"to": ["nobody"]}, r"to\[0\] is not one e-mail address"),
        ({"bcc": ["a@b.org", "x\r\ny@b.org"]}, r"bcc\[1\] has a line break or a control character"),
        ({"reply_to": "a@b.org\n"}, "reply_to has a line break"),
        ({"from_": "me"}, "from is not one e-mail address"),
        ({"subject": "a\r\nBcc: evil@c.org"}, "subject has a line break or a control character"),
        ({"text": ""}, "the mail has neither text nor html"),
        ({"headers": {"Bcc": "evil@c.org"}}, r"headers\[0\] is not one of the headers"),
        ({"only": ["other@b.org"]}, "only names a recipient that is not in to, cc or bcc"),
        ({"message_id": "<a@b> <c@d>"}, "message_id is not one Message-ID"),
    ],
)
def test_a_mail_that_can_never_be_sent_is_rejected(fields, reason, tmp_path):
    setup(Settings(outbox=str(tmp_path), from_="me@a.org"))
    with pytest.raises(Reject, match=reason) as raised:
        send_email(job(**fields), message())
    assert "@" not in raised.value.reason
    assert list(tmp_path.iterdir()) == []


def test_a_mail_for_several_that_leaves_no_room_for_a_follow_up_is_rejected_before_it_is_sent(tmp_path):
    setup(Settings(outbox=str(tmp_path), from_="me@a.org"))
    size = 1_048_576 - 4_096 - 2 * len("you@b.org") - 6
    for body in ("x" * (size + 1), "é" * (size // 2 + 1)):
        with pytest.raises(Reject, match="too large to be divided if some of its 2 recipients have to wait"):
            send_email(job(cc=["yow@b.org"]), message(body=body))
    send_email(job(cc=["yow@b.org"]), message(body="x" * size))
    send_email(job(), message(body="x" * 1_048_576))


def test_a_recipient_named_twice_gets_one_mail():
    with ScriptedServer() as server:
        use(server)
        send_email(job(to=["You <you@B.org>", "you@b.org"], cc=["You@b.org"], bcc=["you@b.ORG"]), message())
        teardown()
    assert server.taken[0].recipients == ("you@b.org", "You@b.org")
    assert b"To: You <you@b.org>, you@b.org\r\n" in server.taken[0].content


def test_the_same_job_is_the_same_mail_and_another_is_not():
    fields = {"html": "<p>ü</p>", "attachments": [Attachment("a.txt", b"x")], "subject": "Grüße"}
    one, again, other = (compose(job_from_me(**fields), message(event), "") for event in ("1", "1", "2"))
    assert one == again
    assert one.message_id != other.message_id
    assert read(one.content).get_boundary() != read(other.content).get_boundary()
    assert one.name != other.name
    assert re.fullmatch("[0-9a-f]{32}", one.name)


def test_the_mail_of_a_job_is_this_one():
    data = content(
        to=["Ada Lovelace <ada@b.org>", '"Doe, John" <john@B.ORG>'],
        cc=["Jürgen <j@münchen.de>"],
        bcc=["secret@c.org"],
        reply_to="help@a.org",
        subject="Ihre Rechnung über 4 €",
        text="Hello\n.\n",
        headers={"List-Unsubscribe": "<https://a.org/u?id=1>, <mailto:u@a.org>"},
        attachments=[Attachment("Rechnung 1.pdf", b"%PDF", "application/pdf")],
    )
    message_id, outer = re.search(rb"Message-ID: (<.*>)", data)[1], re.search(rb'boundary="(.*)"', data)[1]
    expected = (
        "Date: Sat, 14 Mar 2026 15:09:26 +0000\r\n"
        "From: Me <me@a.org>\r\n"
        'To: Ada Lovelace <ada@b.org>, "Doe, John" <john@b.org>\r\n'
        "Cc: =?utf-8?b?SsO8cmdlbg==?= <j@xn--mnchen-3ya.de>\r\n"
        "Reply-To: help@a.org\r\n"
        "Subject: =?utf-8?b?SWhyZSBSZWNobnVuZyDDvGJlciA0IOKCrA==?=\r\n"
        f"Message-ID: {message_id.decode()}\r\n"
        "List-Unsubscribe: <https://a.org/u?id=1>, <mailto:u@a.org>\r\n"
        "MIME-Version: 1.0\r\n"
        f'Content-Type: multipart/mixed; boundary="{outer.decode()}"\r\n'
        "\r\n"
        f"--{outer.decode()}\r\n"
        "Content-Type: text/plain; charset=utf-8\r\n"
        "Content-Transfer-Encoding: 7bit\r\n"
        "\r\n"
        "Hello\r\n.\r\n\r\n"
        f"--{outer.decode()}\r\n"
        "Content-Type: application/pdf\r\n"
        "Content-Transfer-Encoding: base64\r\n"
        'Content-Disposition: attachment; filename="Rechnung 1.pdf"\r\n'
        "\r\n"
        "JVBERg==\r\n"
        f"--{outer.decode()}--\r\n"
    )
    assert data.decode() == expected


def test_a_long_list_of_recipients_is_folded():
    data = content(to=[f"Person Number {i} <person.number.{i}@example.org>" for i in range(200)])
    check_bytes(data)
    assert len(read(data)["To"].addresses) == 200


@settings(max_examples=100, derandomize=True)
@given(st.datetimes(timezones=st.sampled_from([UTC, timezone(timedelta(hours=5, minutes=30)), timezone(timedelta(0))])))
@example(datetime(1, 1, 1, tzinfo=UTC))
@example(datetime(2026, 3, 4, 5, 6, 7, 999_999, UTC))
def test_a_date_is_written_as_the_standard_library_writes_it(date):
    assert _compose._date(date) == email.utils.format_datetime(date)


def test_a_sender_is_remembered_but_not_one_that_was_refused():
    for _ in range(2):
        with pytest.raises(Reject, match=r"^from is not one e-mail address"):
            content(from_="nobody")
        assert "From: Me <me@a.org>" in content(from_="Me <me@a.org>").decode()
        assert "From: You <me@a.org>" in content(from_="You <me@a.org>").decode()


def test_an_address_beyond_ascii_makes_a_utf8_mail():
    mail = compose(job_from_me(to=["Jörg <jörg@b.org>"]), message(), "")
    assert mail.utf8
    assert "To: =?utf-8?b?SsO2cmc=?= <jörg@b.org>\r\n".encode() in mail.content
    assert not compose(job_from_me(to=["Jörg <joerg@münchen.de>"]), message(), "").utf8
    for field in ("from_", "reply_to"):
        assert compose(job_from_me(**{field: "jörg@b.org"}), message(), "").utf8
    for field in ("cc", "bcc"):
        assert compose(job_from_me(**{field: ["jörg@b.org"]}), message(), "").utf8


MIB = 1_048_576


def test_two_mails_of_one_event_id_are_two_mails():
    differences = [
        {},
        {"subject": "Ho"},
        {"text": "hullo"},
        {"html": "<p>hello</p>"},
        {"to": ["they@b.org"]},
        {"bcc": ["they@b.org"]},
        {"from_": "you@a.org"},
        {"headers": {"X-Priority": "1"}},
        {"attachments": [Attachment("a", b"1")]},
        {"attachments": [Attachment("a", b"2")]},
    ]
    mails = [compose(job_from_me(**fields), message(), "") for fields in differences]
    assert len({mail.message_id for mail in mails}) == len(mails)
    assert len({mail.name for mail in mails}) == len(mails)


def test_a_job_that_is_delivered_again_is_the_same_mail_to_the_byte():
    payload = {
        "to": ["a@b.org", "c@b.org"],
        "text": "x",
        "html": "y",
        "attachments": [{"filename": "f", "content": "eA=="}],
    }
    first, again = (compose(decode(payload), message(attempt=attempt), "me@a.org") for attempt in (1, 2))
    assert first == again
    rest = msgspec.structs.replace(
        decode(payload), from_="me@a.org", message_id=first.message_id, date=first.date, only=["c@b.org"]
    )
    follow_up = compose(decode(msgspec.to_builtins(rest)), message("e-1/1", sent_ms=1_773_500_999_000), "other@a.org")
    assert (follow_up.content, follow_up.recipients) == (first.content, ("c@b.org",))


def test_long_names_of_senders_are_not_kept():
    """10 MiB for each of the 256 that were remembered."""
    compose(job_from_me(), message(), "")
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for number in range(300):
            with contextlib.suppress(Reject):
                compose(job_from_me(from_=f"{number} {'é' * 50_000} <me@a.org>"), message(), "")
            with contextlib.suppress(Reject):
                compose(job_from_me(from_=f'"{number} {"é" * 1_900}" <me@a.org>'), message(), "")
            compose(job_from_me(from_=f"{number} {'é' * 200} <me@a.org>"), message(), "")
        assert tracemalloc.get_traced_memory()[0] - before < 2_000_000
    finally:
        tracemalloc.stop()


WIDE = "".join(chr(0x4E00 + 37 * i) for i in range(500))


LARGE = {
    "domains": {"to": [f"a@{'ü' * 20}{i}.de" for i in range(MIB // 40)]},
    "different domains": {"to": [f"a@{WIDE[i : i + 12]}.{WIDE[-i - 15 : -i - 1]}.de" for i in range(400)]},
    "long labels": {"to": [f"a@{WIDE[:200]}{i}.de" for i in range(400)]},
    "labels that grow": {"to": [f"a@{chr(0xFDFA) * 60}{i}.de" for i in range(400)]},
    "addresses": {"bcc": [f"u{i}@b.org" for i in range(MIB // 16)]},
    "three lists": {field: [f"u{i}@b.org" for i in range(400)] for field in ("to", "cc", "bcc")},
    "only": {"only": ["you@b.org"] * 50_000},
    "attachments": {"attachments": [Attachment("a", b"")] * 30_000},
    "headers": {"headers": {f"X-PM-Metadata-{i}": "v" for i in range(30_000)}},
}


@pytest.mark.parametrize("name", LARGE)
def test_a_mebibyte_of_anything_does_not_hold_up_the_others(name):
    started = time.process_time()
    with pytest.raises(Reject) as raised:
        compose(job_from_me(**LARGE[name]), message(), "")
    assert time.process_time() - started < 0.1
    assert "@" not in raised.value.reason


def test_a_thousand_recipients_a_hundred_attachments_and_headers_are_taken():
    mail = compose(
        job_from_me(
            to=[f"u{i}@b.org" for i in range(500)],
            cc=[f"v{i}@münchen.de" for i in range(400)],
            bcc=[f"w{i}@b.org" for i in range(100)],
            attachments=[Attachment("a", b"")] * 100,
            headers={f"X-PM-Metadata-{i}": "v" for i in range(100)},
        ),
        message(),
        "",
    )
    assert len(mail.recipients) == 1_000


def test_a_reason_names_no_part_of_the_job():
    secret = "s3cret"
    for headers in ({f"X-PM-Metadata-{secret}": "ü"}, {f"X-PM-Metadata-{secret}": "x" * 1_000}, {secret: "x"},
                    {f"X-PM-Metadata-{secret}": "x", f"x-pm-metadata-{secret}": "y"}):  # fmt: skip
        with pytest.raises(Reject) as raised:
            compose(job_from_me(headers=headers), message(), "")
        assert secret not in raised.value.reason
    job, file = job_from_me(text=secret, to=[f"{secret}@b.org"]), Attachment("x", secret.encode())
    shown = repr([job, file, Settings(password=secret), compose(job_from_me(text=secret), message(), "")])
    assert secret not in shown


def test_a_follow_up_needs_room_for_no_more_than_its_own_follow_ups():
    rest = job_from_me(to=["a@b.org", "c@b.org"], only=["a@b.org", "c@b.org"], message_id="<x@a.org>")
    compose(rest, message(body="x" * (MIB - 128)), "")
    with pytest.raises(Reject, match="too large to be divided"):
        compose(rest, message(body="x" * (MIB - 127)), "")
