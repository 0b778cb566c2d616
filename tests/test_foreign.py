"""What others have written: cut, escaped, without secrets; whatever it is, nothing here raises."""

from __future__ import annotations

import json
from urllib.parse import quote

import pytest

from millpond import foreign
from millpond.errors import Stopped


class Nasty(Exception):
    """Everything that can be asked of it raises."""

    def __getattribute__(self, name: str) -> object:
        raise SystemExit(f"no {name}")

    def __str__(self) -> str:
        raise SystemExit("no text")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("two\nlines\r", "two\\nlines\\r"),
        ("\x1b[31mred", "\\x1b[31mred"),
        ("a\x9bb\u2028c\x85d\u202ee", "a\\x9bb\\u2028c\\x85d\\u202ee"),
        ("half \ud800", "half \\ud800"),
        ("grüße 🙂", "grüße 🙂"),
    ],
)
def test_what_could_move_a_terminal_or_end_a_line_is_escaped(text, shown):
    assert foreign.shown(text) == shown


def test_a_text_of_fifteen_megabytes_is_cut():
    assert foreign.shown("x" * 15_000_000) == "x" * 497 + "..."


@pytest.mark.parametrize("make", [str, lambda secret: json.dumps(secret)[1:-1], lambda secret: quote(secret, safe="")])
def test_a_known_secret_is_not_shown_in_any_form(make):
    secret = 'p"ss/wörd+1='
    foreign.conceal(secret)

    assert foreign.shown(f"before {make(secret)} behind") == "before *** behind"


@pytest.mark.parametrize("room", range(480, 505))
def test_no_half_of_a_secret_is_left_where_a_text_is_cut(room):
    foreign.conceal("SECRET-0123456789")

    assert "SECRET" not in foreign.shown("x" * room + "SECRET-0123456789" + "y" * 20_000)


@pytest.mark.parametrize(
    "text",
    [
        "Authorization: HIDEME",
        "x-amz-security-token=HIDEME&b",
        '{"SecretAccessKey": "HIDEME"}',
        "https://ann:HIDEME@host/queue",
        "AWS4-HMAC-SHA256 Credential=A/b, Signature=0123456789abcdef0123",
    ],
)
def test_what_looks_like_credentials_is_not_shown(text):
    shown = foreign.shown(text)

    assert "HIDEME" not in shown
    assert "0123456789abcdef" not in shown


def test_an_error_that_raises_whatever_it_is_asked_has_its_name():
    assert foreign.describe(Nasty()) == "Nasty"
    assert foreign.trace(Nasty()).endswith("Nasty: <Nasty>")


def test_a_syntax_error_with_fields_of_wrong_types_has_a_traceback():
    error = SyntaxError("bad")
    error.lineno, error.text, error.offset = "seven", 5, object()  # type: ignore[assignment]
    with pytest.raises(SyntaxError) as raised:
        raise error

    assert "SyntaxError" in foreign.trace(raised.value)


def test_an_interrupt_of_the_engine_goes_on():
    class Slow:
        def __str__(self) -> str:
            raise Stopped

    with pytest.raises(Stopped):
        foreign.shown(Slow())


@pytest.mark.parametrize(
    ("value", "number"),
    [
        ("5", 5),
        (7, 7),
        (" 8 ", 8),
        ("9" * 400, 1),
        (10**400, 1),
        ("-3", 1),
        (-3, 1),
        (None, 1),
        ("x", 1),
        (2.5, 1),
        ("", 1),
    ],
)
def test_a_number_is_read_within_its_bounds(value, number):
    assert foreign.number(value, 0, 1_000, 1) == number
