"""Why a payload does not fit: in paths, types and its author's words where they have nothing of it; never in values."""

from __future__ import annotations

import json
from typing import Any, Literal

import msgspec
import pydantic
import pytest

from millpond.app.payload_errors import MAX_NAMED, payload_error


class Inner(msgspec.Struct):
    name: str

    def __post_init__(self) -> None:
        if self.name == "anonymous":
            raise ValueError("an inner one has a name of its own")
        if self.name.startswith("z"):
            raise ValueError(f"{self.name} begins with a letter that none has")


class Outer(msgspec.Struct, forbid_unknown_fields=True):
    kind: Literal["a", "b"]
    inner: list[Inner] = []


class Model(pydantic.BaseModel):
    cents: int
    by_name: dict[str, int] = {}
    many: list[int] = []


def why(payload: Any, decode: Any, path: str = "$.payload") -> str:
    raw = json.dumps(payload).encode()
    with pytest.raises(Exception) as caught:  # noqa: PT011
        decode(raw)
    return payload_error(caught.value, msgspec.Raw(raw), path)


def of(payload_type: Any) -> Any:
    return msgspec.json.Decoder(payload_type).decode


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        ({"kind": "HIDE"}, "Invalid enum value - at `$.payload.kind`"),
        ({"kind": 5}, "Expected `str`, got `int` - at `$.payload.kind`"),
        ({}, "Object missing required field `kind` - at `$.payload`"),
        ({"kind": "a", "kin": 1}, "Object contains unknown field `kin` - at `$.payload`"),
        ({"kind": "a", "HIDE@example.com": 1}, "Object contains unknown field - at `$.payload`"),
        ({"kind": "a", "x" * 41: 1}, "Object contains unknown field - at `$.payload`"),
        ({"kind": "a", "inner": [{"name": "n"}, {}]}, "Object missing required field `name` - at `$.payload.inner[1]`"),
        (
            {"kind": "a", "inner": [{"name": "anonymous"}]},
            "an inner one has a name of its own - at `$.payload.inner[0]`",
        ),
    ],
)
def test_of_msgspec_its_own_words_and_the_place(payload, reason):
    assert why(payload, of(Outer)) == reason


def test_words_of_an_author_that_quote_a_value_are_left_out_and_their_place_is_told():
    reason = why({"kind": "a", "inner": [{"name": "zebra"}]}, of(Outer))

    assert reason.startswith("ValueError (test_payload_errors.py:")
    assert reason.endswith(") - at `$.payload.inner[0]`")


def test_the_path_of_a_bare_payload_begins_with_it():
    assert why({"kind": 5}, of(Outer), "$") == "Expected `str`, got `int` - at `$.kind`"


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        ({"cents": "HIDE"}, "int_parsing - at `$.payload.cents`"),
        ({}, "missing - at `$.payload.cents`"),
        ({"cents": 1, "many": [1, "HIDE"]}, "int_parsing - at `$.payload.many[1]`"),
        ({"cents": 1, "by_name": {"HIDE ME": "x", "fine": "y"}}, "int_parsing - at `$.payload.by_name[...]`; "),
        ({"cents": 1, "many": ["HIDE"] * 9}, "; ".join(f"int_parsing - at `$.payload.many[{n}]`" for n in range(5))),
    ],
)
def test_of_pydantic_the_type_of_each_error_and_its_place(payload, reason):
    assert why(payload, Model.model_validate_json).startswith(reason)


def test_of_many_errors_the_first_are_named():
    assert why({"cents": 1, "many": ["x"] * MAX_NAMED}, Model.model_validate_json).endswith("many[4]`")
    assert why({"cents": 1, "many": ["x"] * (MAX_NAMED + 1)}, Model.model_validate_json).endswith("; and 1 more")


class Findings(Exception):
    def __init__(self, findings: Any) -> None:
        self.findings = findings

    def __str__(self) -> str:
        return "several"

    def errors(self, **options: bool) -> Any:
        assert options == {"include_url": False, "include_context": False, "include_input": False}
        return self.findings


@pytest.mark.parametrize(
    ("findings", "reason"),
    [
        ([{"type": "odd", "loc": ()}], "odd - at `$.payload`"),
        ([{"type": "HIDE ME", "loc": ("a", 0)}], "invalid - at `$.payload.a[0]`"),
        ([{"type": "odd"}], "the payload does not fit: Findings: several"),
        (5, "the payload does not fit: Findings: several"),
    ],
)
def test_errors_that_look_like_pydantics_are_read_like_them(findings, reason):
    assert payload_error(Findings(findings), msgspec.Raw(b"{}"), "$.payload") == reason


@pytest.mark.parametrize(
    ("payload", "words", "kept"),
    [
        ({"a": "4711"}, "4711 is odd", False),
        ({"a": "x4711x"}, "4711 is odd", False),
        ({"a": 4711}, "4711 is odd", False),
        ({"a": [{"b": "deep down"}]}, "what is down there?", False),
        ({"a": "no"}, "it says 'no'", False),
        ({"a": "no"}, 'it says "no"', False),
        ({"a": "no"}, "there is no b", True),
        ({"a": "nothing"}, "it says 'not'", True),
        ({"customer": 1}, "'customer' is missing", True),
        ({"ann@example.org": 1}, "example is odd", False),
        ({"a": True, "b": None}, "True is None", True),
        ({}, "an amount is positive", True),
    ],
)
def test_an_authors_words_are_kept_where_they_have_no_value_of_the_payload(payload, words, kept):
    def decode(raw: bytes) -> None:
        raise LookupError(words)

    reason = why(payload, decode)
    if kept:
        assert reason == f"the payload does not fit: LookupError: {words}"
    else:
        assert reason.startswith("the payload does not fit: LookupError (test_payload_errors.py:")
        assert words not in reason


@pytest.mark.parametrize("raw", [b"no JSON 4711", b"[" * 10_000 + b"4711", b"\xff 4711"])
def test_all_of_a_payload_that_is_no_json_is_a_value(raw):
    assert payload_error(ValueError("4711 here"), msgspec.Raw(raw), "$") == "the payload does not fit: ValueError"
