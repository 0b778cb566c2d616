"""A mail as bytes: headers folded and encoded, bodies in the cheapest transfer encoding, CRLF at every line's end.

The standard library can do all this, for any mail; at about 1,400 us for a text and an HTML part of 2.4 kB it
costs more than everything else that happens to the job. This does one kind of mail, at a twentieth.
"""

from __future__ import annotations

import re
from binascii import b2a_base64, b2a_qp
from collections.abc import Iterable, Sequence
from typing import NamedTuple
from urllib.parse import quote

from millpond import Reject

#: RFC 5322 2.1.1: characters of a line, without its CRLF: must, and should.
MAX_LINE = 998
GOOD_LINE = 78
#: RFC 2047 2: a line of a header with an encoded word.
ENCODED_LINE = 76
#: Bytes in one encoded word: 60 characters, so that the longest name in front of it (`Reply-To: `) leaves one line.
WORD_BYTES = 36
#: Characters of a base64 line (RFC 2045 6.8).
BASE64_LINE = 76
#: A text header up to this length is legal on one line whatever is in it; a longer one is encoded, to break anywhere.
MAX_PLAIN_HEADER = 900
#: RFC 2231 needs no continuations below this, and no file system takes a longer name.
MAX_FILE_NAME_BYTES = 255

# Line breaks (Unicode's too: some programs break there), control characters but the tab, and lone surrogates.
_UNSAFE = re.compile("[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
# The words of a header, each with the spaces before it. A line is never broken in a quoted string, which readers get
# wrong; in a subject quotation marks mean nothing.
_WORDS = re.compile(r'\s*(?:"[^"]*"|\S)+')
_SUBJECT_WORDS = re.compile(r"\s*\S+")
_HIGH_BYTES = bytes(range(0x80, 0x100))
_TOKEN = r"[A-Za-z0-9!#$%&'*+.^_`{|}~-]+"  # noqa: S105  a MIME token (RFC 2045 5.1)
_CONTENT_TYPE = re.compile(rf'{_TOKEN}/{_TOKEN}( ?; ?{_TOKEN}=({_TOKEN}|"[^"\\\x00-\x1f\x7f-\U0010ffff]*"))*')
# What RFC 2231 lets stand in a file name as it is (attribute-char).
_FILE_NAME_SAFE = "!#$&+.^_`{|}~-"


class File(NamedTuple):
    """An attachment."""

    name: str
    content_type: str
    content: bytes


def has_unsafe(text: str) -> bool:
    """Whether the text could end a header line, or is no text at all."""
    return _UNSAFE.search(text) is not None


def text_value(text: str) -> str:
    """A header's free text, encoded where it must be."""
    text = text.strip()
    if text.isascii() and "=?" not in text and len(text) <= MAX_PLAIN_HEADER:
        return text
    return encoded_words(text)


def encoded_words(text: str) -> str:
    """RFC 2047 words with spaces between, which a reader leaves out; no character is cut in two."""
    data, words, start = text.encode(), [], 0
    while start < len(data):
        end = start + WORD_BYTES
        while end < len(data) and data[end] & 0xC0 == 0x80:
            end -= 1
        words.append(f"=?utf-8?b?{b2a_base64(data[start:end], newline=False).decode()}?=")
        start = end
    return " ".join(words)


def folded(name: str, value: str) -> str:
    """One header without its last CRLF. `value` neither begins nor ends with a space, and is safe and encoded."""
    line = f"{name}: {value}"
    if len(line) <= ENCODED_LINE:
        return line
    first, *rest = (_SUBJECT_WORDS if name == "Subject" else _WORDS).findall(value)
    line, lines = f"{name}: {first}", []
    for word in rest:
        if len(line) + len(word) > ENCODED_LINE:
            lines.append(line)
            line = ""
        line += word
    lines.append(line)
    if max(map(len, lines)) > MAX_LINE:
        raise Reject(f"header {name} has more than {MAX_LINE} characters without a space")
    return "\r\n".join(lines)


def build(headers: Iterable[tuple[str, str]], text: str, html: str, files: Sequence[File], seed: str) -> bytes:
    """The whole mail, ending with CRLF. The boundaries are made of `seed`: the same input gives the same bytes.

    `seed`: 24 letters and digits (more would not fit on the line of its header). Raises Reject for what cannot be
    written down.
    """
    inner, outer = f"=_a{seed}", f"=_m{seed}"
    parts = [_text_part(kind, body, seed) for kind, body in (("plain", text), ("html", html)) if body]
    entity = parts[0] if len(parts) == 1 else _multipart("alternative", inner, parts)
    if files:
        entity = _multipart("mixed", outer, [entity, *(_file_part(file, i) for i, file in enumerate(files))])
    lines = [folded(name, value) for name, value in headers]
    lines.append("MIME-Version: 1.0\r\n")
    end = b"" if entity.endswith(b"\r\n") else b"\r\n"
    return b"".join(("\r\n".join(lines).encode(), entity, end))


def _text_part(subtype: str, text: str, seed: str) -> bytes:
    data = text.replace("\r\n", "\n").replace("\r", "\n").encode()
    if data.isascii() and b"\0" not in data and _longest_line(data) <= MAX_LINE and seed not in text:
        encoding, body = "7bit", data.replace(b"\n", b"\r\n")
    elif _is_mostly_ascii(data):
        encoding, body = "quoted-printable", b2a_qp(data).replace(b"\n", b"\r\n")
    else:
        encoding, body = "base64", _base64(data.replace(b"\n", b"\r\n"))
    return (
        f"Content-Type: text/{subtype}; charset=utf-8\r\nContent-Transfer-Encoding: {encoding}\r\n\r\n".encode() + body
    )


def _longest_line(data: bytes) -> int:
    return len(data) if len(data) <= MAX_LINE else max(map(len, data.split(b"\n")))


def _is_mostly_ascii(data: bytes) -> bool:
    # Quoted-printable adds two characters to such a byte, base64 a third to every one: even at a sixth.
    swollen = len(data) - len(data.translate(None, _HIGH_BYTES + b"="))
    return swollen * 6 < len(data)


def _base64(data: bytes) -> bytes:
    encoded = b2a_base64(data, newline=False)
    return b"\r\n".join([encoded[i : i + BASE64_LINE] for i in range(0, len(encoded), BASE64_LINE)])


def _multipart(subtype: str, boundary: str, parts: Iterable[bytes]) -> bytes:
    between = f"\r\n--{boundary}\r\n".encode()
    head = f'Content-Type: multipart/{subtype}; boundary="{boundary}"\r\n'.encode()
    return b"".join((head, between, between.join(parts), f"\r\n--{boundary}--\r\n".encode()))


def _file_part(file: File, index: int) -> bytes:
    where = f"attachments[{index}]"
    kind = file.content_type
    if len(kind) > MAX_PLAIN_HEADER or not _CONTENT_TYPE.fullmatch(kind):
        raise Reject(f"{where}.content_type is not a type like application/pdf")
    if kind.lower().startswith(("multipart/", "message/")):
        raise Reject(f"{where}.content_type: mails cannot be attached as mails, give application/octet-stream")
    lines = [folded("Content-Type", kind), "Content-Transfer-Encoding: base64", _disposition(file.name, where)]
    return "\r\n".join([*lines, "", ""]).encode() + _base64(file.content)


def _disposition(name: str, where: str) -> str:
    name = name.strip()
    if not name or has_unsafe(name) or "\t" in name or len(name.encode()) > MAX_FILE_NAME_BYTES:
        raise Reject(f"{where}.filename: 1 to {MAX_FILE_NAME_BYTES} bytes without line breaks or control characters")
    if name.isascii() and "=?" not in name:
        parameter = 'filename="' + name.replace("\\", "\\\\").replace('"', '\\"') + '"'
    else:
        parameter = "filename*=utf-8''" + quote(name, safe=_FILE_NAME_SAFE)
    line = f"Content-Disposition: attachment; {parameter}"
    return line if len(line) <= GOOD_LINE else f"Content-Disposition: attachment;\r\n {parameter}"
