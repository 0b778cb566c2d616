"""The payload of email.send: what is taken, and what is refused with its path."""

from __future__ import annotations

import base64

import msgspec
import pytest

from millpond.mail.compose import compose
from millpond.mail.job import Attachment, Email
from tests.mail.jobs import (
    decode,
    message,
)


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
