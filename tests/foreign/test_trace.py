"""Exceptions as text: whatever they are, nothing raises, and nothing is without an end."""

from __future__ import annotations

import json
import traceback

import pytest

from millpond.foreign.secrets import conceal
from millpond.foreign.text import MAX_LINES, shown, type_name
from millpond.foreign.trace import CAUSE, MAX_DEPTH, MAX_LINKS, MAX_TRACE_FRAMES, describe, raised_at, traceback_of


class Nasty(Exception):
    """Everything that can be asked of it raises."""

    def __getattribute__(self, name: str) -> object:
        raise SystemExit(f"no {name}")

    def __str__(self) -> str:
        raise SystemExit("no text")


def test_an_error_that_raises_whatever_it_is_asked_has_its_name():
    assert describe(Nasty()) == "Nasty"
    assert traceback_of(Nasty()).endswith("Nasty: <Nasty>")


@pytest.mark.parametrize("error", [KeyboardInterrupt(), MemoryError(), ValueError("")], ids=repr)
def test_an_error_that_says_nothing_is_its_name_alone(error):
    assert describe(error) == type(error).__name__


class Liar(str):
    __slots__ = ()

    def __str__(self) -> str:
        raise SystemExit


@pytest.mark.parametrize(
    "name", ["\x1b[2Ja\n\u2028\u202eb", "x" * 1_000_000, "the " + "n4me-of-a-secret", Liar("name")]
)
def test_the_name_of_a_type_is_a_short_line_too(name):
    conceal("n4me-of-a-secret")
    kind = type("Odd", (Exception,), {})
    kind.__name__ = name
    for told in (
        describe(kind("why")),
        traceback_of(kind("why")),
        shown(kind(kind)),
        type_name(kind()),
    ):
        assert told.isprintable()
        assert len(told) < 700
        assert "secret" not in told
    assert describe(kind("why")).endswith(": why")


def test_a_syntax_error_with_fields_of_wrong_types_has_a_traceback():
    error = SyntaxError("bad")
    error.lineno, error.text, error.offset = "seven", 5, object()  # type: ignore[assignment]
    with pytest.raises(SyntaxError) as raised:
        raise error

    assert "SyntaxError" in traceback_of(raised.value)


def raised(error: BaseException, cause: BaseException | None = None) -> BaseException:
    try:
        if cause is not None:
            raise error from cause
        raise error
    except BaseException as caught:
        return caught


def test_a_traceback_is_the_one_that_python_writes():
    error = raised(ValueError("second\nline"), raised(KeyError("first")))
    error.add_note("a note")

    written = "".join(traceback.format_exception(error)).strip()
    assert traceback_of(error) == written


def within(error: BaseException, other: BaseException) -> BaseException:
    try:
        raise raised(error)
    except BaseException:
        return raised(other)


def test_a_traceback_of_an_error_while_another_is_handled_has_both():
    error = within(KeyError("first"), ValueError("second"))

    assert traceback_of(error) == "".join(traceback.format_exception(error)).strip()


def test_a_context_that_is_suppressed_is_left_out():
    error = within(KeyError("first"), ValueError("second"))
    error.__suppress_context__ = True

    assert "first" not in traceback_of(error)
    assert "second" in traceback_of(error)


def test_the_errors_of_a_group_are_named_the_first_of_them():
    text = traceback_of(ExceptionGroup("many", [ValueError(number) for number in range(9)]))

    assert text.startswith("ExceptionGroup: many (9 sub-exceptions)\n  +---------------- 1 ----------------\n")
    assert "  | ValueError: 4" in text
    assert "ValueError: 5" not in text
    assert text.endswith("  | and 4 more")
    text = traceback_of(ExceptionGroup("few", [ValueError(number) for number in range(5)]))
    assert "  | ValueError: 4" in text
    assert "more" not in text


def test_of_a_recursion_the_innermost_frames_are_told():
    def deep(number: int) -> None:
        if number:
            deep(number - 1)
        raise ValueError("innermost")

    with pytest.raises(ValueError, match="innermost") as caught:
        deep(500)
    text = traceback_of(caught.value)
    assert len(text) <= MAX_LINES
    assert text.startswith("Traceback (most recent call last):\n  File ")
    assert text.endswith("ValueError: innermost")


def test_a_place_is_where_an_error_was_raised():
    error = raised(ValueError())

    assert raised_at(error) == (__file__, error.__traceback__.tb_lineno)
    assert raised_at(ValueError()) == ("", 0)


def test_of_a_chain_of_errors_the_last_ones_are_told():
    error: BaseException = ValueError("first")
    for number in range(100):
        error = raised(ValueError(number), error)

    text = traceback_of(error)
    assert text.count(CAUSE) == MAX_LINKS - 1
    assert text.endswith("ValueError: 99")


def test_errors_that_are_each_others_cause_are_told_once():
    first, second = ValueError("first"), ValueError("second")
    first.__cause__, second.__cause__ = second, first

    assert traceback_of(first) == f"ValueError: second\n\n{CAUSE}\n\nValueError: first"


def test_groups_within_groups_are_told_to_a_depth():
    error: Exception = ValueError("innermost")
    for _ in range(MAX_DEPTH):
        error = ExceptionGroup("group", [error])
    assert "innermost" in traceback_of(error)

    deeper = traceback_of(ExceptionGroup("group", [error]))
    assert "innermost" not in deeper
    assert deeper.endswith("| ...")


def test_of_many_notes_the_first_are_told():
    error = ValueError("x")
    error.__notes__ = [f"note {number}" for number in range(9)]

    assert traceback_of(error).split("\n") == ["ValueError: x", *(f"note {number}" for number in range(5))]


def test_an_error_of_a_module_is_told_with_it():
    assert traceback_of(json.JSONDecodeError("no", "", 0)).startswith("json.decoder.JSONDecodeError: no")
    assert traceback_of(type("Odd", (Exception,), {"__module__": 5})()) == "Odd"


def test_of_many_frames_the_innermost_are_told():
    def even(number: int) -> None:
        odd(number - 1) if number else raised_here()

    def odd(number: int) -> None:
        even(number - 1)

    def raised_here() -> None:
        raise ValueError("innermost")

    with pytest.raises(ValueError, match="innermost") as caught:
        even(100)
    assert traceback_of(caught.value).count("  File ") <= MAX_TRACE_FRAMES
