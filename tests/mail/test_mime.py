"""The bytes of a mail: encodings, folding, attachments."""

from __future__ import annotations

import base64
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tests.chance  # noqa: F401  no example has a deadline
from millpond import Reject
from millpond.mail import mime as _mime
from millpond.mail.job import Attachment
from tests.mail.jobs import check_bytes, content, plain_lines, read


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


@pytest.mark.parametrize(
    ("attachment", "reason"),
    [
        (Attachment("", b""), r"attachments\[0\].filename"),
        (Attachment("a\tb", b""), r"attachments\[0\].filename"),
        (Attachment("ü" * 128, b""), r"attachments\[0\].filename must have 1 to 255 bytes"),
        (Attachment("a", b"", ""), r"attachments\[0\].content_type"),
        (Attachment("a", b"", "pdf"), r"attachments\[0\].content_type"),
        (Attachment("a", b"", "a/b; c"), r"attachments\[0\].content_type"),
        (Attachment("a", b"", "text/plain\r\nX: y"), r"attachments\[0\].content_type"),
        (Attachment("a", b"", "message/rfc822"), "a mail cannot be attached as a mail"),
        (Attachment("a", b"", "Multipart/mixed"), "a mail cannot be attached as a mail"),
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


@settings(max_examples=200, derandomize=True)
@given(st.lists(st.sampled_from([0, 1, 2, 500, 997, 998, 999, 1000, 1997, 1998, 1999]), max_size=5))
def test_a_line_is_long_from_999_characters_on(lengths):
    text = "\n".join("x" * length for length in lengths)
    assert _mime._has_long_line(text) == any(length > 998 for length in lengths)
