"""What a hostile or clumsy sender, and a strange server, can do to email.send: each as it was found in use."""

from __future__ import annotations

import base64
import contextlib
import email.header
import email.utils
import json
import time
import tracemalloc

import gevent
import msgspec
import pytest

from handlers.email import Settings, send_email, setup, teardown
from millpond import Message, Reject, Retry, Unavailable
from millpond.app.routing import routes
from millpond.errors import ConfigError
from millpond.mail import refusal
from millpond.mail.compose import compose
from millpond.mail.headers import ALLOWED_HEADERS
from millpond.mail.job import Attachment, Email
from millpond.mail.mailer import WAIT_SECONDS
from millpond.mail.refusal import Meaning, meaning
from millpond.mail.reply import Reply
from tests.smtp_server import EXTENSIONS, ScriptedServer

MIB = 1_048_576


@pytest.fixture(autouse=True)
def _bounded():
    with gevent.Timeout(30):
        yield
        teardown()


def message(event_id: str = "e-1", attempt: int = 1, body: str = "{}", sent_ms: int = 1_773_500_966_000) -> Message:
    names = {"id": "m-1", "event_id": event_id, "event_type": "email.send", "queue": "q"}
    return Message(**names, body=body, attempt=attempt, _sent_ms=sent_ms)


def job(**fields: object) -> Email:
    return Email(**{"to": ["you@b.org"], "from_": "Me <me@a.org>", "subject": "Hi", "text": "hello", **fields})


def use(server: ScriptedServer, **fields: object) -> None:
    setup(Settings(host="127.0.0.1", port=server.port, security="none", from_="Shop <shop@a.org>", **fields))


def decode(payload: object) -> Email:
    return routes(["handlers.email"])["email.send"].decode(msgspec.json.encode(payload))


def header(name: str, content: bytes) -> str:
    """As a reader shows it."""
    raw = email.message_from_bytes(content)[name]
    return str(email.header.make_header(email.header.decode_header(raw)))


# One mail is not the server


@pytest.mark.parametrize("code", [421, *range(530, 539)])
@pytest.mark.parametrize("phase", ["RCPT", "DATA", "end"])
def test_what_one_mail_brings_about_stops_no_other(phase, code):
    with ScriptedServer({phase: [f"{code} 5.7.1 no"]}) as server:
        use(server)
        with pytest.raises(Retry if code == 421 else Reject):
            send_email(job(), message())
        send_email(job(), message("e-2"))
        teardown()
    assert len(server.taken) == 1


@pytest.mark.parametrize("code", [421, 530, 534, 535, 538])
def test_at_mail_a_login_that_is_missing_or_wrong_is_the_servers(code):
    with ScriptedServer({"MAIL": [f"{code} 5.7.0 no"]}) as server:
        use(server)
        with pytest.raises(Unavailable):
            send_email(job(), message())
        teardown()


def test_a_recipient_refused_for_a_login_is_that_recipients():
    with ScriptedServer(rcpt={"b@b.org": "530 5.7.1 no"}.get) as server:
        use(server)
        mine = message()
        send_email(job(to=["a@b.org", "b@b.org"]), mine)
        teardown()
    assert [taken.recipients for taken in server.taken] == [("a@b.org",)]
    assert [follow_up.reject for follow_up in mine.follow_ups] == ["SMTP 530 5.7.1 at RCPT for 1 of 2 recipients"]


PACE = ["454 Throttling failure: Maximum sending rate exceeded", "452 4.3.1 Insufficient system storage", "452 later"]


@pytest.mark.parametrize("answer", [*PACE, "451 4.3.2 not now", "450 4.7.28 too much mail", "432 4.3.2 throttled"])
@pytest.mark.parametrize("phase", ["MAIL", "DATA", "end"])
def test_a_server_that_is_asked_too_much_makes_no_dead_letter_within_the_hour(phase, answer):
    with ScriptedServer({phase: [answer] * 40}) as server:
        use(server)
        waits = {attempt: [] for attempt in (1, 2, 3, 4)}
        for attempt in waits:
            for _ in range(5):
                with pytest.raises(Retry) as raised:
                    send_email(job(), message(attempt=attempt))
                waits[attempt].append(raised.value.after)
        teardown()
    assert sum(min(seconds) for seconds in waits.values()) >= 3_600  # the fifth attempt is the last
    assert all(len(set(seconds)) > 1 for seconds in waits.values())  # not all of them at once
    assert max(waits[4]) <= 2 * 2_400


def test_recipients_for_whom_the_server_has_no_room_wait_long_too():
    answers = {"b@b.org": "452 4.3.1 full", "c@b.org": "550 5.1.1 no"}
    with ScriptedServer(rcpt=answers.get) as server:
        use(server)
        first, last = message(), message(attempt=4)
        for mine in (first, last):
            send_email(job(to=["a@b.org", "b@b.org", "c@b.org"]), mine)
        with pytest.raises(Retry) as raised:
            send_email(job(to=["b@b.org"]), message(attempt=4))
        teardown()
    assert 60 <= first.follow_ups[0].after_seconds <= 120
    assert last.follow_ups[0].after_seconds == 900  # SQS delays no longer
    assert raised.value.after >= 2_400


@pytest.mark.parametrize(
    ("phase", "code", "status", "meant"),
    [
        ("MAIL", 421, "4.7.0", Meaning.SERVER),
        ("MAIL", 530, "5.7.0", Meaning.SERVER),
        ("MAIL", 538, "", Meaning.SERVER),
        ("MAIL", 529, "", Meaning.NEVER),
        ("MAIL", 539, "", Meaning.NEVER),
        ("MAIL", 550, "5.7.1", Meaning.NEVER),
        ("MAIL", 451, "4.3.0", Meaning.LATER),
        ("MAIL", 452, "", Meaning.PACE),
        ("MAIL", 454, "4.7.0", Meaning.PACE),
        ("RCPT", 421, "4.3.2", Meaning.LATER),
        ("RCPT", 530, "5.7.1", Meaning.NEVER),
        ("RCPT", 450, "4.2.1", Meaning.LATER),
        ("RCPT", 452, "4.5.3", Meaning.LATER),
        ("RCPT", 452, "4.2.2", Meaning.LATER),
        ("RCPT", 452, "", Meaning.LATER),
        ("RCPT", 454, "4.7.1", Meaning.LATER),
        ("RCPT", 452, "4.3.1", Meaning.PACE),
        ("RCPT", 451, "4.4.5", Meaning.PACE),
        ("RCPT", 552, "5.2.2", Meaning.LATER),
        ("RCPT", 354, "", Meaning.LATER),
        ("DATA", 454, "", Meaning.PACE),
        ("DATA", 451, "", Meaning.LATER),
        ("DATA", 552, "", Meaning.NEVER),
        ("end of data", 421, "4.3.2", Meaning.LATER),
        ("end of data", 452, "4.2.2", Meaning.LATER),
        ("end of data", 452, "4.3.1", Meaning.PACE),
        ("end of data", 535, "", Meaning.NEVER),
        ("end of data", 554, "5.4.5", Meaning.NEVER),
        ("end of data", 599, "", Meaning.NEVER),
        ("end of data", 354, "", Meaning.LATER),
    ],
)
def test_the_table_of_refusals(phase, code, status, meant):
    assert meaning(phase, Reply(code, status)) is meant


# One event id, two mails


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
    mails = [compose(job(**fields), message(), "") for fields in differences]
    assert len({mail.message_id for mail in mails}) == len(mails)
    assert len({mail.name for mail in mails}) == len(mails)


def test_two_mails_of_one_event_id_are_two_files_in_the_outbox(tmp_path):
    setup(Settings(outbox=str(tmp_path)))
    for text in ("one", "two", "two"):
        send_email(job(text=text), message())
    assert len(list(tmp_path.iterdir())) == 2


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


# Limits


def test_long_names_of_senders_are_not_kept():
    """10 MiB for each of the 256 that were remembered."""
    compose(job(), message(), "")
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for number in range(300):
            with contextlib.suppress(Reject):
                compose(job(from_=f"{number} {'é' * 50_000} <me@a.org>"), message(), "")
            with contextlib.suppress(Reject):
                compose(job(from_=f'"{number} {"é" * 1_900}" <me@a.org>'), message(), "")
            compose(job(from_=f"{number} {'é' * 200} <me@a.org>"), message(), "")
        assert tracemalloc.get_traced_memory()[0] - before < 2_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("field", ["from_", "reply_to"])
def test_an_absurdly_long_address_is_refused_unread(field):
    for text in ("é" * MIB + " <a@b.org>", "a@" + "b." * (MIB // 2) + "org", "=?utf-8?q?" * (MIB // 10) + "@b.org"):
        with pytest.raises(Reject, match=f"^{field.strip('_')} is longer than 2000 characters"):
            compose(job(**{field: text}), message(), "")
    compose(job(**{field: f"{'é ' * 990}<a@b.org>"}), message(), "")


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
        compose(job(**LARGE[name]), message(), "")
    assert time.process_time() - started < 0.1
    assert "@" not in raised.value.reason


def test_a_label_that_cannot_fit_is_not_encoded():
    """Each of these characters becomes eighteen: 10 to 30 ms for such a domain."""
    started = time.process_time()
    for number in range(100):
        with pytest.raises(Reject, match=r"^to\[0\] has a domain that IDNA does not allow"):
            compose(job(to=[f"a@{chr(0xFDFA) * 240}{number}.de"]), message(), "")
    assert time.process_time() - started < 0.2


def test_a_thousand_recipients_a_hundred_attachments_and_headers_are_taken():
    mail = compose(
        job(
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


def test_a_label_of_63_letters_beside_one_beyond_ascii_is_a_domain():
    assert compose(job(to=[f"a@{'b' * 63}.ü.de"]), message(), "").recipients == (f"a@{'b' * 63}.xn--tda.de",)


@pytest.mark.parametrize("size", ["9" * 5_000, "", "x", "-1", "1e9", "٣", "9" * 19, "0"])
def test_a_size_that_is_no_number_is_no_limit(size):
    with ScriptedServer(
        extensions=[*(name for name in EXTENSIONS if not name.startswith("SIZE")), f"SIZE {size}"]
    ) as server:
        use(server)
        send_email(job(), message())
        teardown()
    assert len(server.taken) == 1


# Names and addresses


NAMES = [
    "Jörg",
    "Jörg Müller",
    "Müller, Jörg",
    'The "Ö" <o@o.org>',
    "日本語の名前",
    "Ann",
    "Doe, Ann",
    "😀 x",
    "é" * 200,
]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("charset", ["utf-8", "iso-8859-1", "iso-2022-jp", "koi8-r"])
def test_a_name_that_the_standard_library_has_encoded_is_encoded_once(name, charset):
    try:
        written = email.utils.formataddr((name, "a@b.org"), charset)
    except UnicodeEncodeError:
        pytest.skip("not of this charset")
    plain = f'"{name}"'.replace('"The "Ö" <', '"The \\"Ö\\" <').replace('org>"', 'org>"')
    mail = compose(job(to=[written]), message(), "")
    assert header("To", mail.content).replace("\\", "").replace('"', "") == f"{name} <a@b.org>".replace('"', "")
    if '"' not in name:
        assert compose(job(to=[f"{plain} <a@b.org>"]), message(), "").content == mail.content.replace(
            mail.message_id.encode(), compose(job(to=[f"{plain} <a@b.org>"]), message(), "").message_id.encode()
        )


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("=?utf-8?q?J=C3=B6rg?= Doe", "Jörg Doe"),
        ("=?utf-8?q?J=C3=B6rg?= =?utf-8?q?_Doe?=", "Jörg Doe"),
        ("=?utf-8?q?J=C3=B6rg?=  =?UTF-8?B?IERvZQ==?=", "Jörg Doe"),
        ("Dr. =?iso-8859-1*de?Q?J=F6rg?=", "Dr. Jörg"),
        ("=?utf-8?q?=3D=3Futf-8=3Fq=3Fx=3F=3D?=", "=?utf-8?q?x?="),  # decoded once, and no more
        ('"=?utf-8?q?x?="', "=?utf-8?q?x?="),  # in quotes it means itself (RFC 2047 5)
        ("Jörg =?utf-8?q?x?=", "Jörg =?utf-8?q?x?="),
        ("=?utf-8?b?no_base64?=", "=?utf-8?b?no_base64?="),
        ("=?utf-8?q?=FF?=", "=?utf-8?q?=FF?="),
        ("=?utf-8?x?y?=", "=?utf-8?x?y?="),
        ("=?utf-16?q?x?=", "=?utf-16?q?x?="),
        ("=?zip?b?eA==?=", "=?zip?b?eA==?="),
        ("=?utf-8?q?a?=b", "=?utf-8?q?a?=b"),
        ("=? a ?=", "=? a ?="),
    ],
)
def test_encoded_words_in_a_name_are_read_and_what_is_none_means_itself(written, name):
    content = compose(job(to=[f"{written} <a@b.org>"]), message(), "").content
    assert header("To", content).replace('"', "") == f"{name} <a@b.org>"


@pytest.mark.parametrize("hidden", ["\r\nBcc: x@c.org", "\n", "\x00", "\x85", "\u2028", "\t", "\x1b[2J"])
@pytest.mark.parametrize("encoding", "bq")
def test_an_encoded_word_that_hides_a_control_character_is_refused(hidden, encoding):
    data = f"a{hidden}b".encode()
    text = base64.b64encode(data).decode() if encoding == "b" else "".join(f"={byte:02X}" for byte in data)
    with pytest.raises(Reject, match=r"^to\[0\] has a line break or a control character$"):
        compose(job(to=[f"=?utf-8?{encoding}?{text}?= <a@b.org>"]), message(), "")


@pytest.mark.parametrize(
    "local",
    [
        "=?utf-8?q?evil=40c.org=3E?=",
        "=?utf-8?B?eA==?=",
        "=?x?q?",
        "a=?utf-8?q?x?=",
        "x.=?iso-8859-1?b?eA==?=",
        "=??q??=",
    ],
)
@pytest.mark.parametrize("around", ["{}@b.org", "Ann <{}@b.org>", "<{}@münchen.de>"])
def test_an_encoded_word_before_the_at_is_refused(local, around):
    for field in ("to", "cc", "bcc"):
        with pytest.raises(Reject, match=rf"^{field}\[0\] has an encoded word"):
            compose(job(**{field: [around.format(local)]}), message(), "")
    for field in ("from_", "reply_to"):
        with pytest.raises(Reject, match="has an encoded word"):
            compose(job(**{field: around.format(local)}), message(), "")


def test_a_local_part_with_question_marks_is_none():
    assert compose(job(to=["a=?b@b.org"]), message(), "").recipients == ("a=?b@b.org",)


# The payload


@pytest.mark.parametrize("line_break", ["\n", "\r\n", "\r", " ", "\n\t"])
def test_base64_with_line_breaks_is_taken(line_break):
    data = bytes(range(256)) * 3
    text = line_break.join(base64.encodebytes(data).decode().split("\n"))
    payload = decode({"to": ["a@b.org"], "text": "t", "attachments": [{"filename": "x", "content": text}]})
    assert payload.attachments[0].content == data
    assert decode(payload) == payload


@pytest.mark.parametrize(
    "content", ["secret!", "c2VjcmV0Cg", "c2VjcmV0Cg=", "====", "c2Vj=cmV0", "-_-_", "ü", "eA==eA=="]
)
def test_what_is_no_base64_is_refused_by_its_path_and_not_quoted(content):
    with pytest.raises(msgspec.ValidationError, match=r"Invalid base64.*`content`.*at `\$.attachments\[1\]`") as raised:
        decode({"to": ["a@b.org"], "attachments": [{"filename": "x", "content": c} for c in ("", content)]})
    assert content not in str(raised.value).replace("====", "")


def test_null_is_as_good_as_absent():
    optional = [field.encode_name for field in msgspec.structs.fields(Email) if not field.required]
    payload = {"to": ["a@b.org"], **dict.fromkeys(optional), "text": "t"}
    found = compose(decode(payload), message(), "me@a.org")
    plain = compose(decode({"to": ["a@b.org"], "text": "t"}), message(), "me@a.org")
    assert (found.recipients, found.sender) == (plain.recipients, plain.sender)
    assert found.content.replace(found.message_id.encode(), plain.message_id.encode()) == plain.content
    file = {"filename": "x", "content": "", "content_type": None}
    mail = compose(decode({"to": ["a@b.org"], "html": "t", "text": None, "attachments": [file]}), message(), "me@a.org")
    assert b"Content-Type: application/octet-stream\r\n" in mail.content
    for needed in ("to", "content", "filename"):
        with pytest.raises(msgspec.ValidationError, match="null"):
            decode(
                {"to": ["a@b.org"], "attachments": [{**file, needed: None}], **({"to": None} if needed == "to" else {})}
            )


@pytest.mark.parametrize(
    "name",
    [
        "X-SMTPAPI",
        "X-MC-BccAddress",
        "x-mc-bccaddress",
        "X-MSYS-API",
        "X-MC-Anything",
        "X-Mailgun-Archive-To",
        "X-SES-X",
    ],
)
def test_no_header_names_a_recipient_beside_to_cc_and_bcc(name):
    assert name not in ALLOWED_HEADERS
    with pytest.raises(Reject, match=r"^headers\[0\] is not one of the headers"):
        compose(job(headers={name: "evil@c.org"}), message(), "")


@pytest.mark.parametrize(
    "name", ["X-Mailgun-Recipient-Variables", "X-MC-Tags", "X-PM-Metadata-colour", "X-SES-MESSAGE-TAGS"]
)
def test_what_a_relay_is_told_about_a_mail_is_allowed(name):
    assert f"\r\n{name}: v\r\n".encode() in compose(job(headers={name: "v"}), message(), "").content


def test_a_reason_names_no_part_of_the_job():
    secret = "s3cret"
    for headers in ({f"X-PM-Metadata-{secret}": "ü"}, {f"X-PM-Metadata-{secret}": "x" * 1_000}, {secret: "x"},
                    {f"X-PM-Metadata-{secret}": "x", f"x-pm-metadata-{secret}": "y"}):  # fmt: skip
        with pytest.raises(Reject) as raised:
            compose(job(headers=headers), message(), "")
        assert secret not in raised.value.reason
    shown = repr([job(text=secret, to=[f"{secret}@b.org"]), Attachment("x", secret.encode()), Settings(password=secret),
                  compose(job(text=secret), message(), "")])  # fmt: skip
    assert secret not in shown


# Settings


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
            send_email(job(), message())
            teardown()
        assert server.commands[0] == f"EHLO {said}"


def test_a_sender_without_a_full_domain_gives_ehlo_none(monkeypatch):
    monkeypatch.setattr("socket.gethostname", lambda: "3f2a9c")
    with ScriptedServer() as server:
        setup(Settings(host="127.0.0.1", port=server.port, security="none", from_="shop@localhost"))
        send_email(job(), message())
        teardown()
    assert server.commands[0] == "EHLO [127.0.0.1]"


@pytest.mark.parametrize("name", ["a b", "a\r\nMAIL FROM:<x@y>", ".", "a..b", "ü.de", "[", "[x y]", "a" * 64])
def test_a_hello_name_that_is_none_is_found_at_boot(name):
    with pytest.raises(ConfigError, match="hello_name is a domain"):
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


def test_the_waits_and_the_table_are_where_the_documents_say():
    assert WAIT_SECONDS == (5, 30, 180, 900)
    assert {rule.meaning for rule in refusal.RULES} == set(Meaning)


# Nobody who was accepted is mailed again: what is left fits into the queue


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
        with pytest.raises(Reject, match="too large to be divided should some of its 50 recipients have to wait"):
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


def test_a_follow_up_needs_room_for_no_more_than_its_own_follow_ups():
    rest = job(to=["a@b.org", "c@b.org"], only=["a@b.org", "c@b.org"], message_id="<x@a.org>")
    compose(rest, message(body="x" * (MIB - 128)), "")
    with pytest.raises(Reject, match="too large to be divided"):
        compose(rest, message(body="x" * (MIB - 127)), "")


def test_a_job_for_one_may_be_as_large_as_its_queue_takes():
    with ScriptedServer() as server:
        use(server)
        body = "x" * 262_144
        mine = Message(id="m", event_id="e", event_type="email.send", queue="q", body=body, max_bytes=262_144)
        send_email(job(), mine)
        teardown()
    assert len(server.taken) == 1
