"""Mails by chance, read back by the standard library as they were meant."""

from __future__ import annotations

import contextlib
import email
import email.header
import email.policy
import email.utils
import random
import re
from email.header import decode_header, make_header

import gevent
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import tests.chance  # noqa: F401  no example has a deadline
from millpond import Reject
from millpond.mail.compose import Mail, compose
from millpond.mail.domain_shares import DomainShares
from millpond.mail.headers import ALLOWED_HEADERS
from millpond.mail.job import Attachment
from millpond.mail.mail_server import MailServer
from millpond.mail.smtp_pool import SmtpPool
from tests.mail.jobs import SENT, check_bytes, job_from_me, message, plain_lines, read
from tests.smtp_server import ScriptedServer

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


@pytest.mark.slow
@settings(max_examples=60, derandomize=True)
@given(jobs())
def test_the_standard_library_reads_back_what_was_built(generated):
    check_mail(*generated)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6))
def test_a_thousand_mails_are_read_back_and_arrive_as_they_were_built(seed):
    chance, transports = Chance(seed), []
    with contextlib.ExitStack() as stack, gevent.Timeout(60):
        for offers in ([], ["PIPELINING"], ["SMTPUTF8"], ["PIPELINING", "SMTPUTF8", "8BITMIME", "SIZE 10000000"]):
            server = stack.enter_context(ScriptedServer(extensions=offers))
            pool = SmtpPool(MailServer("127.0.0.1", server.port), DomainShares(1, 1), 10_000)
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
    built = compose(job_from_me(**fields), message(), "")
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


@pytest.mark.slow
@settings(max_examples=200, derandomize=True)
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
            data = compose(job_from_me(**field), message(), "").content
        names = {name.lower() for name in read(data)}
        assert names <= {name.lower() for name in (*ALLOWED_HEADERS, *STANDARD_HEADERS)}
        assert not re.search(rb"(?<!\r)\n|\r(?!\n)", data)
