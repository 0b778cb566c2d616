"""Any value as a text: whatever it is, nothing raises, and no terminal moves."""

from __future__ import annotations

from typing import Any

import pytest

from millpond.errors import Stopped
from millpond.foreign.secrets import conceal
from millpond.foreign.text import MAX_LINE, MAX_LINES, clean, lines, shown, text_of, type_name


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ("two\nlines\r", "two\\nlines\\r"),
        ("\x1b[31mred", "\\x1b[31mred"),
        ("a\x9bb\u2028c\x85d\u202ee", "a\\x9bb\\u2028c\\x85d\\u202ee"),
        ("half \ud800", "half \\ud800"),
        ("grüße 🙂", "grüße 🙂"),
    ],
)
def test_what_could_move_a_terminal_or_end_a_line_is_escaped(text, safe):
    assert shown(text) == safe


def test_a_text_of_fifteen_megabytes_is_cut():
    assert shown("x" * 15_000_000) == "x" * 497 + "..."


def test_an_interrupt_of_the_engine_goes_on():
    class Slow:
        def __str__(self) -> str:
            raise Stopped

    with pytest.raises(Stopped):
        shown(Slow())


class Liar(str):
    __slots__ = ()

    def isprintable(self) -> bool:
        raise SystemExit

    __len__ = __getitem__ = isprintable  # type: ignore[assignment]


@pytest.mark.parametrize("show", [shown, clean])
def test_a_text_that_lies_is_the_text_that_it_is(show):
    assert type(show(Liar("text"))) is str
    assert show(Liar("text")) == show(ValueError(Liar("text"))) == "text"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ([1, "a", b"b", (1,), (), {"c": None}, {2}], "[1, 'a', b'b', (1,), (), {'c': None}, {2}]"),
        (ValueError("a", 5), "('a', 5)"),
        (ValueError(), ""),
        (ValueError(["a"]), "['a']"),
        (KeyError("a"), "'a'"),
        (frozenset({1}), "frozenset({1})"),
        (ValueError([1] * 30), f"[{'1, ' * 20}...]"),
        (list(range(30)), f"[{', '.join(map(str, range(20)))}, ...]"),
        (list(range(20)), f"[{', '.join(map(str, range(20)))}]"),
        ([[[["deep"]]]], "[[[...]]]"),
        (None, "None"),
    ],
)
def test_a_container_is_shown_as_repr_shows_it_the_beginning_of_it(value, text):
    assert shown(value) == text


def test_what_is_cleaned_keeps_its_line_breaks():
    assert clean("a\nb\x1b") == "a\nb\x1b"
    assert clean("x" * 501) == "x" * 497 + "..."
    assert clean("x" * 500) == "x" * 500


@pytest.mark.parametrize("text", ["a\n" * 20_000 + "TAIL-OF-A-SECRET\nb", "x" * 30_000 + "TAIL-OF-A-SECRET"])
def test_of_many_lines_the_end_is_kept_and_no_half_of_a_secret(text):
    conceal("TAIL-OF-A-SECRET")
    kept = lines(text)

    assert len(kept) <= MAX_LINES
    assert "SECRET" not in kept
    assert max(map(len, kept.split("\n"))) <= MAX_LINE


@pytest.mark.parametrize("length", [MAX_LINES, 2 * MAX_LINES])
def test_lines_that_are_short_enough_once_each_is_cut_are_all_kept(length):
    text = "first\n" + "x" * (length - len("first\n"))

    assert lines(text).startswith("first\nxxx")


def test_a_text_made_by_an_object_is_a_text_of_pythons_own():
    class Making:
        def __str__(self) -> str:
            return Liar("made")

    assert type(text_of(Making())) is str
    assert text_of([Making()]).startswith("[<")


def test_a_type_that_has_no_name_to_tell_has_its_own():
    class FalseName(type):
        @property
        def __name__(cls) -> str:  # type: ignore[override]
            raise SystemExit

    assert type_name(FalseName("Odd", (), {})()) == "Odd"


def test_lines_that_are_cut_begin_with_a_whole_one():
    conceal("A-SECRET-IN-EACH-LINE")

    assert set(lines("A-SECRET-IN-EACH-LINE\n" * 3_000).split("\n")) == {"***"}


def test_what_is_nested_is_shown_to_a_depth_keys_as_values():
    key: Any = ()
    value: Any = []
    for _ in range(20):
        key, value = (key,), [value]
    shown_key, shown_value = shown({key: 1}), shown([value])
    assert shown_key.count("(") == shown_value.count("[") - 1
    assert "..." in shown_key
    assert "..." in shown_value
