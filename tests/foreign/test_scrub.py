"""No text shows a secret, however it is written, and no other word is hidden."""

from __future__ import annotations

import json
import time
from base64 import b64encode
from urllib.parse import quote

import pytest

from millpond.foreign import secrets
from millpond.foreign.scrub import HIDDEN
from millpond.foreign.secrets import conceal
from millpond.foreign.text import shown


@pytest.mark.parametrize("make", [str, lambda secret: json.dumps(secret)[1:-1], lambda secret: quote(secret, safe="")])
def test_a_known_secret_is_not_shown_in_any_form(make):
    secret = 'p"ss/wörd+1='
    conceal(secret)

    assert shown(f"before {make(secret)} behind") == "before *** behind"


@pytest.mark.parametrize("room", range(480, 505))
def test_no_half_of_a_secret_is_left_where_a_text_is_cut(room):
    conceal("SECRET-0123456789")

    assert "SECRET" not in shown("x" * room + "SECRET-0123456789" + "y" * 20_000)


@pytest.mark.parametrize(
    "text",
    [
        "Authorization: HIDEME",
        "x-amz-security-token=HIDEME&b",
        '{"SecretAccessKey": "HIDEME"}',
        "DefaultEndpointsProtocol=https;AccountName=a;AccountKey=HIDEME==;EndpointSuffix=b",
        "https://ann:HIDEME@host/queue",
        "AWS4-HMAC-SHA256 Credential=A/b, Signature=0123456789abcdef0123",
    ],
)
def test_what_looks_like_credentials_is_not_shown(text):
    assert "HIDEME" not in shown(text)
    assert "0123456789abcdef" not in shown(text)


@pytest.mark.parametrize("before", ["", "u", "us", "user", "\0user\0", "grüße "])
def test_a_secret_within_base64_is_not_shown(before):
    conceal("base64-of-a-secret")
    whole = b64encode(f"{before}base64-of-a-secret and more".encode()).decode()

    begin = len(before.encode())
    end = begin + len("base64-of-a-secret")
    # Six bits a character: those that have a bit of what stands beside it tell nothing, all the others are hidden.
    assert shown(whole) == whole[: -(-begin * 8 // 6)] + HIDDEN + whole[end * 8 // 6 :]


def test_a_secret_is_hidden_before_one_that_is_its_beginning():
    conceal("begin-of")
    conceal("begin-of-it-all")

    assert shown("x begin-of-it-all y begin-of z") == "x *** y *** z"


def test_a_secret_with_spaces_in_it_is_hidden():
    conceal("correct horse battery")

    assert shown("it is correct horse battery here, correct%20horse%20battery there") == "it is *** here, *** there"


def test_a_text_is_hardly_dearer_where_secrets_are_known_and_a_new_one_is_learnt_in_a_moment(monkeypatch):
    """They were one pattern: 38 times as dear with 200 of them, and 0.3 s in the hub to make at each renewal."""
    text = "ValueError: some words of a handler " * 10
    monkeypatch.setattr(secrets, "_secrets", {})
    monkeypatch.setattr(secrets, "_keys", {})
    none = _cpu_seconds(lambda: [shown(text) for _ in range(100)])
    for number in range(200):
        conceal(f"{number:03}-" + "Ab+/" * 9)

    assert _cpu_seconds(lambda: [shown(text) for _ in range(100)]) < 5 * none
    assert _cpu_seconds(lambda: (conceal(f"{time.monotonic_ns():020}" * 45), shown(text))) < 0.05


def _cpu_seconds(do):
    """The least of several times: what else the machine does is in the others."""

    def once():
        began = time.thread_time()
        do()
        return time.thread_time() - began

    return min(once() for _ in range(7))


@pytest.mark.parametrize(
    ("text", "scrubbed"),
    [
        ("Authorization: Basic aGlkZTptZQ==", "Authorization: ***"),
        ('{"authorization": "Bearer HIDE.ME"}', '{"authorization": "***"}'),
        ('{\\"SecretAccessKey\\": \\"HIDEME\\"}', '{\\"SecretAccessKey\\": \\"***\\"}'),
        ("password=HIDEME&b=1", "password=***&b=1"),
        ("https://host/q?a=1&api_token=HIDEME&b=1", "https://host/q?a=1&api_token=***&b=1"),
        ("https://host/?X-Amz-Credential=HIDEME", "https://host/?X-Amz-Credential=***"),
        ("[handlers.email] password: is missing", "[handlers.email] password: is missing"),
        ("Signature expired: 20260101 is now", "Signature expired: 20260101 is now"),
        ("550 <ann@example.com>: unknown", "550 <***>: unknown"),
        ("'Ann' <jürgen+x@exämple.de>, b@[10.0.0.1]", "'Ann' <***>, ***"),
        ('"ann b"@example.com', "***"),
        ("@around and a @ b", "@around and a @ b"),
        ("KeyError: 'token'", "KeyError: 'token'"),
    ],
)
def test_credentials_and_addresses_are_known_by_their_looks_and_nothing_else_is_hidden(text, scrubbed):
    assert shown(text) == scrubbed


@pytest.mark.parametrize(
    "text", ["a", "a@", "://", "authorization:", "password=", "?token", "&a=", '"', "\\u0000", "a:="]
)
def test_a_text_of_any_kind_is_shown_in_a_moment(text):
    began = time.process_time()
    shown(text * 2_000_000)

    assert time.process_time() - began < 1


def test_many_secrets_in_a_row_leave_no_half_of_one_at_the_end():
    secret = "S" + "0123456789" * 10
    conceal(secret)

    assert shown(secret * 500).strip("*.") == ""
