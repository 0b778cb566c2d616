"""The headers that a job may set."""

from __future__ import annotations

import pytest

from millpond import Reject
from millpond.mail.compose import compose
from millpond.mail.headers import ALLOWED_HEADERS
from tests.mail.jobs import (
    content,
    job_from_me,
    message,
)


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
    with pytest.raises(Reject, match="List-ID is there twice"):
        content(headers={"List-Id": "a", "List-ID": "b"})
    for value in ("", "  ", "ü", "a\nb", "a\r\n b"):
        with pytest.raises(Reject, match="the value of List-Id must be ASCII, on one line, not empty"):
            content(headers={"List-Id": value})


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
        compose(job_from_me(headers={name: "evil@c.org"}), message(), "")


@pytest.mark.parametrize(
    "name", ["X-Mailgun-Recipient-Variables", "X-MC-Tags", "X-PM-Metadata-colour", "X-SES-MESSAGE-TAGS"]
)
def test_what_a_relay_is_told_about_a_mail_is_allowed(name):
    assert f"\r\n{name}: v\r\n".encode() in compose(job_from_me(headers={name: "v"}), message(), "").content
