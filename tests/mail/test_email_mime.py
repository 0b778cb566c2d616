"""What the mail builder writes, read back by the standard library."""

from __future__ import annotations

import base64
import contextlib
import email
import email.policy
import email.utils
import random
import re
from datetime import UTC, datetime, timedelta, timezone
from email.header import decode_header, make_header

import gevent
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from millpond import Message, Reject
from millpond.mail import address as _address
from millpond.mail import compose as _compose
from millpond.mail import mime as _mime
from millpond.mail.compose import Mail, compose
from millpond.mail.headers import ALLOWED_HEADERS
from millpond.mail.job import Attachment, Email
from millpond.mail.mail_server import MailServer
from millpond.mail.smtp_pool import SmtpPool
from tests.smtp_server import ScriptedServer

SENT = datetime(2026, 3, 14, 15, 9, 26, 535000, tzinfo=UTC)


def message(event_id: str = "e-1", body: str = "{}") -> Message:
    sent_ms = int(SENT.timestamp() * 1000)
    return Message(id="m", event_id=event_id, event_type="email.send", queue="q", body=body, _sent_ms=sent_ms)


def job(**fields: object) -> Email:
    return Email(**{"to": ["you@b.org"], "from_": "Me <me@a.org>", "text": "hello", **fields})


def content(**fields: object) -> bytes:
    return compose(job(**fields), message(), "").content


def read(data: bytes):
    if data.isascii():
        return email.message_from_bytes(data, policy=email.policy.default)
    return email.message_from_string(data.decode(), policy=email.policy.default)  # a header of RFC 6532


def plain_lines(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")


STANDARD_HEADERS = (
    "Date",
    "From",
    "To",
    "Cc",
    "Reply-To",
    "Subject",
    "Message-ID",
    "MIME-Version",
    "Content-Type",
    "Content-Transfer-Encoding",
)

# Letters of one, two, three and four bytes, spaces, and everything that means something in a mail.
ALPHABET = "aB z09ß£фא字😀\u00a0\u200d\t" + "\"\\<>()[],.;:@=?_-'%&+*#!/"
FREE = st.text(ALPHABET, max_size=40) | st.text(
    st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="\u2028\u2029"), max_size=300
)
NAMES = st.text(ALPHABET.replace("\t", ""), max_size=30)
ATOM = st.text("abzAZ09!#$%&'*+-/=?^_`{|}~", min_size=1, max_size=12)
LOCALS = st.lists(ATOM, min_size=1, max_size=3).map(".".join)
LABEL = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,10}[a-z0-9])?", fullmatch=True)
DOMAINS = st.lists(LABEL, min_size=1, max_size=3).map(".".join)
BODY = st.lists(
    st.text(ALPHABET + "\x00\x0c\x1b\x7f", max_size=120)
    | st.text("abc .=", max_size=1200)
    | st.sampled_from(
        ["", ".", "..", "a\rb\r", "a\r\nb", "From me", "--", "x" * 998, "x" * 999, "字" * 400, "trailing  ", "\t"]
    ),
    max_size=12,
).map("\n".join) | st.text(st.characters(exclude_categories=["Cs"]), max_size=400)
FILE_NAMES = st.text(ALPHABET.replace("\t", ""), max_size=60).map(lambda name: name + "x")
TYPES = st.sampled_from(["application/pdf", "text/plain", "image/svg+xml", "text/calendar; method=REQUEST", "a/b.c-d"])
HEADERS = st.dictionaries(
    st.sampled_from([name for name in ALLOWED_HEADERS if not name.endswith("-")]),
    st.lists(st.text("abc<>@:/;,.=-09", min_size=1, max_size=90), min_size=1, max_size=12).map(" ".join),
    max_size=3,
)


@st.composite
def addresses(draw) -> tuple[str, str, str]:
    """As given, and the name and the bare address that it means."""
    name, local, domain = draw(NAMES).strip(), draw(LOCALS), draw(DOMAINS)
    if not name:
        return f"{local}@{domain}", "", f"{local}@{domain}"
    quoted = name.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{quoted}" <{local}@{domain}>', name, f"{local}@{domain}"


@st.composite
def jobs(draw):
    lists = {
        field: draw(st.lists(addresses(), min_size=int(field == "to"), max_size=5)) for field in ("to", "cc", "bcc")
    }
    sender = draw(addresses())
    bodies = draw(st.tuples(BODY, BODY).filter(any))
    files = draw(st.lists(st.tuples(FILE_NAMES, TYPES, st.binary(max_size=300)), max_size=3))
    fields = {
        **{field: [address[0] for address in entries] for field, entries in lists.items()},
        "from_": sender[0],
        "subject": draw(FREE),
        "text": bodies[0],
        "html": bodies[1],
        "headers": draw(HEADERS),
        "attachments": [Attachment(name, data, kind) for name, kind, data in files],
    }
    return fields, {**lists, "from": [sender]}


class Chance(random.Random):
    """Jobs like those of the strategies above, wider and a hundred times as fast; always the same ones."""

    WORDS = (
        "Hello", "invoice", "x", "4711", "Grüße", "straße", "Ünïcödé", "привет", "Ελλάδα", "字", "日本語の長い文章",
        "\u05e9\u05dc\u05d5\u05dd", "\u0645\u0631\u062d\u0628\u0627", "\u202eRTL\u202c", "👩\u200d👧\u200d👦",
        "e\u0301", "\u00a0", "\ufeff", "\ufffd", "\U0010ffff", "=?utf-8?q?no?=", "=?", "?=", "=", "=0A", "--",
        "%0d%0a", "\\r\\n", "a@b.org", "<b>", '"q"', "\\", "(c)", ",", ";", ":", "Bcc:",
    )  # fmt: skip
    LINES = (
        "", ".", "..", ".dot", "From me", "--", " ", "\t", "trailing \t", "=3D", "\x00", "\x0c", "<p>&amp;</p>",
        "~" * 998, "x" * 999, "y " * 600, "ü" * 500, "字" * 400,
    )  # fmt: skip

    def words(self, most: int, joint: str = " ") -> str:
        longest = "w" * self.choice((1, 60, 77, 200))
        return joint.join(self.choice((*self.WORDS, longest)) for _ in range(self.randint(0, most)))

    def body(self) -> str:
        lines = [self.choice((self.words(12), self.choice(self.LINES))) for _ in range(self.randint(1, 30))]
        return self.choice(("\n", "\r\n", "\n", "\r")).join(lines)

    def address(self) -> tuple[str, str, str]:
        """As strategy addresses()."""
        atoms = ("a", "ada.lovelace", "o'hara+x=1", "!#$%&'*+-/=?^_`{|}~", "z" * 60, "jörg", "用户")
        local = self.choices(atoms, (9, 9, 3, 1, 1, 0.3, 0.3))[0]
        domain = self.choice(
            ("b.org", "mail.example.co.uk", "xn--mnchen-3ya.de", "münchen.de", "例え.テスト", "a.b-c.d1")
        )
        name = self.words(4).strip()
        bare = f"{local}@{domain.encode('idna').decode()}"
        if not name:
            return f"{local}@{domain}", "", bare
        quoted = name.replace("\\", "\\\\").replace('"', '\\"')
        plain = not re.search(r'[<>@,;:"\\]', name)
        meant = str(make_header(decode_header(name))) if plain and name.isascii() else name
        return (f"{name} <{local}@{domain}>" if plain else f'"{quoted}" <{local}@{domain}>'), meant, bare

    def job(self) -> tuple[dict[str, object], dict[str, list[tuple[str, str, str]]]]:
        """As strategy jobs()."""
        most = {"to": self.choice((1, 1, 3, 60)), "cc": self.choice((0, 3)), "bcc": self.choice((0, 3))}
        meant = {field: [self.address() for _ in range(self.randint(field == "to", n))] for field, n in most.items()}
        meant["from"] = [self.address()]
        text, html = self.choice(((1, 1), (1, 0), (0, 1)))
        names = [name for name in ALLOWED_HEADERS if not name.endswith("-")]
        fields = {
            **{field: [address[0] for address in meant[field]] for field in ("to", "cc", "bcc")},
            "from_": meant["from"][0][0],
            "subject": self.words(self.choice((3, 40)), self.choice((" ", " ", "", "  "))),
            "text": text * (self.body() or "x"),
            "html": html * (self.body() or "x"),
            "headers": {name: "<https://a.org/?u=1>, " * self.randint(0, 9) + "x" for name in self.sample(names, 2)},
            "attachments": [
                Attachment("f" + self.words(5, self.choice((" ", "/", ""))), self.randbytes(self.choice((0, 57, 400))))
                for _ in range(self.choice((0, 0, 2)))
            ],
        }
        return fields, meant


@settings(max_examples=60, deadline=None, derandomize=True)
@given(jobs())
def test_the_standard_library_reads_back_what_was_built(generated):
    check_mail(*generated)


@pytest.mark.parametrize("seed", range(6))
def test_a_thousand_mails_are_read_back_and_arrive_as_they_were_built(seed):
    chance, transports = Chance(seed), []
    with contextlib.ExitStack() as stack, gevent.Timeout(60):
        for offers in ([], ["PIPELINING"], ["SMTPUTF8"], ["PIPELINING", "SMTPUTF8", "8BITMIME", "SIZE 10000000"]):
            server = stack.enter_context(ScriptedServer(extensions=offers))
            pool = SmtpPool(MailServer("127.0.0.1", server.port), 1, 10_000)
            stack.callback(pool.close)
            transports.append((server, pool))
        for number in range(175):
            fields, meant = chance.job()
            mail = check_mail(fields, meant)
            server, pool = transports[number % len(transports)]
            if mail.utf8 and "SMTPUTF8" not in server.extensions:
                with pytest.raises(Reject, match="SMTPUTF8"):
                    pool.send(mail)
                continue
            assert pool.send(mail) == {}
            taken = server.taken.pop()
            assert taken == (mail.sender, mail.recipients, mail.content)
            everyone = [bare for field in ("to", "cc", "bcc") for _, _, bare in meant[field]]
            assert taken.recipients == tuple(dict.fromkeys(everyone))


def check_mail(fields, meant) -> Mail:
    built = compose(job(**fields), message(), "")
    data = built.content
    mail = read(data)
    check_bytes(data, ascii_only=not built.utf8)
    assert built.utf8 == any(not bare.isascii() for entries in meant.values() for _, _, bare in entries)
    assert mail["Subject"] == (fields["subject"].strip() or None)
    for field in ("from", "to", "cc"):
        assert read_addresses(data, field) == [(one_space(name), at) for _, name, at in meant[field]]
    assert mail["Bcc"] is None
    assert mail["Date"].datetime == SENT.replace(microsecond=0)
    assert re.fullmatch(
        rf"<[0-9a-f]{{32}}@{re.escape(meant['from'][0][2].partition('@')[2])}>", mail["Message-ID"].strip()
    )
    for name, value in fields["headers"].items():
        assert re.sub(r"\r\n ", " ", raw_header(data, name)) == value.strip()
    check_bodies(mail, fields)
    allowed = {name.lower() for name in (*fields["headers"], *STANDARD_HEADERS)}
    assert len(mail.keys()) == len(set(mail.keys()))
    assert {name.lower() for name in mail} <= allowed
    for part in mail.walk():
        assert part.defects == []
        if part["Content-Transfer-Encoding"] in ("base64", "quoted-printable"):
            assert max(map(len, re.split("\r?\n", part.get_payload()))) <= 76
    return built


def read_addresses(data: bytes, field: str) -> list[tuple[str, str]]:
    """Name and address of each. By the older reader: the newer one (3.13.0) puts spaces between two encoded words."""
    header = email.message_from_string(data.decode())[field]
    pairs = email.utils.getaddresses([header]) if header else []
    return [(one_space(str(make_header(decode_header(name)))), at) for name, at in pairs]


def one_space(text: str) -> str:
    """The reader makes one space of several in a display name, and of every other kind of space."""
    return " ".join(text.split())


def check_bytes(data: bytes, ascii_only: bool = True) -> None:
    assert data.isascii() or not ascii_only
    assert data.partition(b"\r\n\r\n")[2].isascii()
    assert data.endswith(b"\r\n")
    assert not re.search(rb"(?<!\r)\n|\r(?!\n)|\0", data)
    lines = data.split(b"\r\n")
    assert max(map(len, lines)) <= 998
    head = lines[: lines.index(b"")]
    assert all(line.strip() for line in head)
    for line in head:  # what is longer than it should be had no space to be folded at
        length = len(line.decode())
        assert length <= 78 or b" " not in re.sub(rb'"[^"]*"', b"", line).partition(b": ")[2].strip(), line
        assert length <= 76 or b"=?utf-8?" not in line, line  # RFC 2047 2


def raw_header(data: bytes, name: str) -> str:
    head = data.partition(b"\r\n\r\n")[0].decode() + "\r\n"
    return re.search(rf"(?m)^{name}: ((?:.*\r\n)(?: .*\r\n)*)", head)[1].removesuffix("\r\n")


def check_bodies(mail, fields) -> None:
    for kind, text in (("plain", fields["text"]), ("html", fields["html"])):
        part = mail.get_body((kind,))
        if not text:
            assert part is None
            continue
        found = plain_lines(part.get_content())
        assert found == plain_lines(text) or found == plain_lines(text) + "\n"
    parts = list(mail.iter_attachments())
    assert len(parts) == len(fields["attachments"])
    for part, file in zip(parts, fields["attachments"], strict=True):
        assert part.get_filename() == file.filename.strip()
        assert part.get_content_type() == file.content_type.partition(";")[0]
        assert part.get_payload(decode=True) == file.content
        assert part.get_content_disposition() == "attachment"


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.text(st.characters(), max_size=60))
@example("a\r\nBcc: evil@c.org")
@example("a\nb")
@example("a\rb")
@example("a\x00b")
@example("a\u2028b")
@example("a\x85b")
@example("\ud800")
def test_no_text_can_end_its_header_line(text):
    fields = [
        {"subject": text},
        {"from_": f"{text} <me@a.org>"},
        {"to": [text]},
        {"cc": [f'"{text}" <you@b.org>']},
        {"reply_to": f"<{text}@b.org>"},
        {"headers": {"List-Id": text}},
        {"headers": {text: "x"}},
        {"message_id": f"<{text}@a.org>"},
        {"attachments": [Attachment(text, b"x")]},
        {"attachments": [Attachment("x", b"x", f"text/{text}")]},
    ]
    for field in fields:
        data = b""
        with contextlib.suppress(Reject):
            data = compose(job(**field), message(), "").content
        names = {name.lower() for name in read(data)}
        assert names <= {name.lower() for name in (*ALLOWED_HEADERS, *STANDARD_HEADERS)}
        assert not re.search(rb"(?<!\r)\n|\r(?!\n)", data)


def test_a_lone_surrogate_in_a_body_is_rejected():
    with pytest.raises(Reject, match="half a character"):
        content(text="\ud800")


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("plain\nlines", "7bit"),
        ("x" * 998, "7bit"),
        ("x" * 999, "quoted-printable"),
        ("a\0b", "quoted-printable"),
        ("Grüße aus Köln, es bleibt fast alles lesbar", "quoted-printable"),
        ("Совсем другое дело", "base64"),
        ("😀" * 300, "base64"),
    ],
)
def test_a_body_travels_in_the_cheapest_encoding(text, encoding):
    assert f"Content-Transfer-Encoding: {encoding}\r\n".encode() in content(text=text)


@pytest.mark.parametrize("space", " \t")
@pytest.mark.parametrize("end", ["", "\n", "\nnext"])
def test_a_quoted_printable_line_has_76_characters_even_where_it_ends_in_a_space(space, end):
    for length in range(70, 160):
        text = f"ü{'x' * length}{space}{end}"
        data = content(text=text)
        assert b"quoted-printable" in data
        assert max(map(len, data.split(b"\r\n"))) <= 76
        assert plain_lines(read(data).get_content()).rstrip("\n") == text.rstrip("\n")


def test_the_estimate_takes_the_shorter_encoding():
    for share in range(0, 100, 5):
        text = "".join("ü" if i % 100 < share else "e" for i in range(2000))
        data = text.encode()
        chosen = len(content(text=text))
        both = sorted((len(_mime.b2a_qp(data)), len(_mime._base64(data))))
        assert chosen < both[0] * 1.15 + 500


def test_a_body_that_knows_the_boundary_cannot_end_its_part():
    first = content(text="x", html="y")
    boundary = read(first).get_boundary()
    text = f"before\n--{boundary}\nafter\n--{boundary}--\nend"
    mail = read(content(text=text, html="<p>y</p>"))
    assert mail.get_boundary() == boundary
    assert plain_lines(mail.get_body(("plain",)).get_content()) == text


def test_the_same_job_is_the_same_mail_and_another_is_not():
    fields = {"html": "<p>ü</p>", "attachments": [Attachment("a.txt", b"x")], "subject": "Grüße"}
    one, again, other = (compose(job(**fields), message(event), "") for event in ("1", "1", "2"))
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


@pytest.mark.parametrize("subject", ["x" * 5000, "x " * 5000, "=?utf-8?q?no?=", "a" * 300 + "  b" * 300, "字" * 3000])
def test_a_subject_of_any_length_comes_back(subject):
    data = content(subject=subject)
    check_bytes(data)
    assert read(data)["Subject"] == subject.strip()


@pytest.mark.parametrize("character", ["é", "字", "😀", "aé", "字x"])
def test_no_encoded_word_ends_inside_a_character(character):
    """RFC 2047 5: each is decoded by itself."""
    for length in range(1, 80):
        words = re.findall(r"=\?utf-8\?b\?(.*?)\?=", _mime.encoded_words("a" + character * length))
        assert "".join(base64.b64decode(word).decode() for word in words) == "a" + character * length
        assert "" not in words


@pytest.mark.parametrize("number", [2, 3])
def test_a_text_that_fills_its_encoded_words_to_the_last_byte_has_no_empty_one_behind_them(number):
    words = re.findall(r"=\?utf-8\?b\?(.*?)\?=", _mime.encoded_words("x" * _mime.WORD_BYTES * number))
    assert [len(base64.b64decode(word)) for word in words] == [_mime.WORD_BYTES] * number


def test_a_line_with_an_encoded_word_has_76_characters_at_most():
    for name in range(1, 13):
        for local in range(1, 40):
            check_bytes(content(to=[f"{'é' * name} <{'x' * local}@b.org>", f"é <{'y' * local}@b.org>"]))


@pytest.mark.parametrize("behind", ["", " c", " c d"])
def test_a_line_of_a_header_is_filled_to_its_76th_character(behind):
    for length, lines in ((76, 1), (77, 2)):
        words = "a" * 30 + " " + "b" * (length - len("List-Id: ") - 31)
        head = content(headers={"List-Id": words + behind}).decode().partition("List-Id: ")[2]
        folded = head.partition("\r\nMIME-Version")[0].split("\r\n")
        assert len(folded) == lines + bool(behind and lines == 1)
        assert folded[0] == (words if lines == 1 else "a" * 30)


def test_no_line_ends_inside_a_quoted_name():
    for length in range(1, 60):
        data = content(to=[f'"{"w " * length}, x" <a@b.org>', f'"{"y" * length}, z" <c@d.org>'])
        lines = data.partition(b"\r\n\r\n")[0].split(b"\r\n")
        assert all(line.count(b'"') % 2 == 0 for line in lines)


def test_the_name_of_a_file_goes_to_a_line_of_its_own_where_it_is_long():
    for length in range(1, 60):
        data = content(attachments=[Attachment("x" * length, b"", "a/b")])
        assert max(map(len, data.split(b"\r\n"))) <= 78


def test_the_longest_line_of_a_header_has_998_characters():
    room = 998 - len("List-Id: ")
    check_bytes(content(headers={"List-Id": "x" * room}))
    with pytest.raises(Reject, match="List-Id has more than 998 characters without a space"):
        content(headers={"List-Id": "x" * (room + 1)})


def test_a_header_that_cannot_be_folded_is_rejected():
    check_bytes(content(headers={"List-Unsubscribe": f"<https://a.org/{'x' * 900}>"}))
    with pytest.raises(Reject, match="List-Unsubscribe has more than 998 characters without a space"):
        content(headers={"List-Unsubscribe": f"<https://a.org/{'x' * 1000}>"})


def test_only_listed_headers_can_be_set_once_each():
    for name in ("Feedback-ID", "list-id", "X-SES-CONFIGURATION-SET", "X-Mailgun-Tag", "x-pm-tag"):
        assert f"\r\n{name}: v\r\n".encode() in content(headers={name: "v"})
    refused = (
        "Bcc",
        "To",
        "Sender",
        "Date",
        "Received",
        "Return-Path",
        "Content-Type",
        "X-Mailgun",
        "X-Ses",
        "List-Id:",
        "",
    )
    for name in (*refused, "X-SES-\r\nBcc", "X-SES-a b", "X-SES-" + "a" * 70):
        with pytest.raises(
            Reject, match=r"^headers\[0\] is not one of the headers that a job may set: Auto-Submitted, "
        ):
            content(headers={name: "v"})
    with pytest.raises(Reject, match="List-ID is given twice"):
        content(headers={"List-Id": "a", "List-ID": "b"})
    for value in ("", "  ", "ü", "a\nb", "a\r\n b"):
        with pytest.raises(Reject, match="the value of List-Id is ASCII, on one line, not empty"):
            content(headers={"List-Id": value})


@pytest.mark.parametrize(
    ("attachment", "reason"),
    [
        (Attachment("", b""), r"attachments\[0\].filename"),
        (Attachment("a\tb", b""), r"attachments\[0\].filename"),
        (Attachment("ü" * 128, b""), r"attachments\[0\].filename: 1 to 255 bytes"),
        (Attachment("a", b"", ""), r"attachments\[0\].content_type"),
        (Attachment("a", b"", "pdf"), r"attachments\[0\].content_type"),
        (Attachment("a", b"", "a/b; c"), r"attachments\[0\].content_type"),
        (Attachment("a", b"", "text/plain\r\nX: y"), r"attachments\[0\].content_type"),
        (Attachment("a", b"", "message/rfc822"), "mails cannot be attached as mails"),
        (Attachment("a", b"", "Multipart/mixed"), "mails cannot be attached as mails"),
    ],
)
def test_an_attachment_that_cannot_be_written_is_rejected(attachment, reason):
    with pytest.raises(Reject, match=reason):
        content(attachments=[attachment])


def test_the_longest_file_names_come_back():
    for name in ("x" * 255, "ü" * 127, 'a "b" \\c ' * 25 + "x", "a=?b"):
        data = content(attachments=[Attachment(name, b"")])
        assert next(read(data).iter_attachments()).get_filename() == name
        assert max(map(len, data.split(b"\r\n"))) <= 998


@pytest.mark.parametrize(
    ("text", "name", "spec"),
    [
        ("a@b.org", "", "a@b.org"),
        ("  a@B.Org ", "", "a@b.org"),
        ("<a@b.org>", "", "a@b.org"),
        ("Ada <a@b.org>", "Ada", "a@b.org"),
        ("Ada<a@b.org>", "Ada", "a@b.org"),
        ("Dr. Ada (Sales) <a@b.org>", "Dr. Ada (Sales)", "a@b.org"),
        ('"Doe, J. \\"x\\" <y>" <a@b.org>', 'Doe, J. "x" <y>', "a@b.org"),
        ("O'Hara <o'hara+x=1@b.org>", "O'Hara", "o'hara+x=1@b.org"),
        ("a@localhost", "", "a@localhost"),
        ("a@münchen.de", "", "a@xn--mnchen-3ya.de"),
        ("a@例え.テスト", "", "a@xn--r8jz45g.xn--zckzah"),
        ("jörg@b.org", "", "jörg@b.org"),
        ("Case@b.org", "", "Case@b.org"),
        ("👩‍👧 family <a@b.org>", "👩‍👧 family", "a@b.org"),
    ],
)
def test_an_address_is_read(text, name, spec):
    address = _address.parse_address(text, "to[0]")
    assert (address.name, address.spec) == (name, spec)


@pytest.mark.parametrize(
    "text",
    [
        "", " ", "a", "@", "a@", "@b.org", "a@b@c.org", "a b@c.org", "a@b c.org", "a@b.org, c@d.org", "a@b.org,",
        "a@b.org c", "a@b.org>", "<a@b.org", "<<a@b.org>>", "a@b.org <c@d.org>", "A, B <a@b.org>", '"A <a@b.org>',
        'A" <a@b.org>', '"a b"@c.org', "a@[127.0.0.1]", "a@-b.org", "a@b-.org", "a@b..org", "a@.org", "a@b.org.",
        ".a@b.org", "a.@b.org", "a..b@c.org", "a@b_c.org", "a(x)@b.org", "a@b.org(x)", "group: a@b.org;", "a\n@b.org",
        "a@b.org\r\n", "A\tB <a@b.org>", "a\x00@b.org", "a\u200b@b.org", "a\u00a0b@c.org", "a@straße.de",
        "a@b\u3002\u3002org", "a@\u2100.org", "a@xn--\u00fc.de", "a" * 65 + "@b.org", "a@" + "b" * 64 + ".org",
        "a@" + "b." * 130 + "org", "a@" + "ü" * 100_000, "\ud800@b.org",
    ],
)  # fmt: skip
def test_what_is_not_plainly_one_address_is_rejected_without_being_quoted(text):
    with pytest.raises(Reject, match=r"^to\[0\]") as raised:
        _address.parse_address(text, "to[0]")
    assert "org" not in raised.value.reason
    assert raised.value.__cause__ is None


def test_the_short_way_for_common_addresses_and_the_long_way_agree(monkeypatch):
    chance, short = random.Random(1), 0
    pieces = ["Ada", " ", "<", ">", "a", "b.c", "@", "b.org", "x-y.de", "-", ".", "=?", '"', ",", "Ü", "\n", "_", "9"]
    texts = ["".join(chance.choices(pieces, k=chance.randint(1, 9))) for _ in range(20_000)]
    texts += [
        "Ada <a@b.org>",
        "a@b.org",
        f"{'a' * 64}@b",
        f"{'a' * 62}@b",
        f"{'a' * 59}@b.co",
        "a@b.org\n",
        "A <a@b.org",
    ]
    for text in texts:
        ways = []
        for limit in (_address.MAX_COMMON, -1):
            monkeypatch.setattr(_address, "MAX_COMMON", limit)
            try:
                ways.append(_address.parse_address(text, "to[0]"))
            except Reject as reject:
                ways.append(reject.reason)
            monkeypatch.undo()
        assert ways[0] == ways[1], text
        short += isinstance(ways[0], _address.MailAddress)
    assert short > 100


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.datetimes(timezones=st.sampled_from([UTC, timezone(timedelta(hours=5, minutes=30)), timezone(timedelta(0))])))
@example(datetime(1, 1, 1, tzinfo=UTC))
@example(datetime(2026, 3, 4, 5, 6, 7, 999_999, UTC))
def test_a_date_is_written_as_the_standard_library_writes_it(date):
    assert _compose._date(date) == email.utils.format_datetime(date)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.lists(st.sampled_from([0, 1, 2, 500, 997, 998, 999, 1000, 1997, 1998, 1999]), max_size=5))
def test_a_line_is_long_from_999_characters_on(lengths):
    text = "\n".join("x" * length for length in lengths)
    assert _mime._has_long_line(text) == any(length > 998 for length in lengths)


def test_a_sender_is_remembered_but_not_one_that_was_refused():
    for _ in range(2):
        with pytest.raises(Reject, match=r"^from is not one e-mail address"):
            content(from_="nobody")
        assert "From: Me <me@a.org>" in content(from_="Me <me@a.org>").decode()
        assert "From: You <me@a.org>" in content(from_="You <me@a.org>").decode()


def test_an_address_beyond_ascii_makes_a_utf8_mail():
    mail = compose(job(to=["Jörg <jörg@b.org>"]), message(), "")
    assert mail.utf8
    assert "To: =?utf-8?b?SsO2cmc=?= <jörg@b.org>\r\n".encode() in mail.content
    assert not compose(job(to=["Jörg <joerg@münchen.de>"]), message(), "").utf8
    for field in ("from_", "reply_to"):
        assert compose(job(**{field: "jörg@b.org"}), message(), "").utf8
    for field in ("cc", "bcc"):
        assert compose(job(**{field: ["jörg@b.org"]}), message(), "").utf8
