"""@handler and @around: what a boot finds wrong with them, and what payloads are decoded into."""
# No `from __future__ import annotations`: classes made within a test could not be found by their names.

import dataclasses
import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any, TypedDict

import msgspec
import pytest

from millpond import Message, around, handler
from millpond.app.routing import DEFAULT_TIMEOUT_SECONDS, Route, name_of_route, routes
from millpond.errors import ConfigError

_numbers = itertools.count(1)


class Invoice(msgspec.Struct):
    number: str
    cents: int = 0


@dataclasses.dataclass
class Order:
    to: list[str]


class Parcel(TypedDict):
    weight: int


class SelfMade:
    """Decodes itself, as Pydantic's models do."""

    def __init__(self, text: bytes) -> None:
        self.text = text

    @classmethod
    def model_validate_json(cls, text: bytes) -> "SelfMade":
        if b"bad" in text:
            raise ValueError("bad is not allowed")
        return cls(text)


class Unknown:
    """A class that no JSON becomes."""


class Module:
    """A handlers module, made by a test."""

    def __init__(self) -> None:
        self.name = f"made{next(_numbers)}"

    def handler(self, function: Any, event_type: Any = "a", **options: Any) -> None:
        handler(event_type, **options)(self._mine(function))

    def around(self, function: Any) -> None:
        around(self._mine(function))

    def _mine(self, function: Any) -> Any:
        function.__module__, function.__qualname__ = self.name, function.__name__
        return function

    def routes(self) -> dict[str, Route]:
        return routes([self.name])

    def findings(self) -> list[str]:
        with pytest.raises(ConfigError) as caught:
            self.routes()
        return list(caught.value.findings)


@pytest.fixture
def module(monkeypatch) -> Module:
    monkeypatch.setattr("millpond.app.routing._handlers", [])
    monkeypatch.setattr("millpond.app.routing._arounds", [])
    return Module()


def good(payload: dict) -> None: ...


# --- signatures


async def coroutine(payload: dict) -> None: ...


async def coroutine_generator(payload: dict):
    yield


def generator(payload: dict):
    yield


def no_parameter(): ...


def three_parameters(payload: dict, message: Message, more: int): ...


def rest(*payload: dict): ...


def keywords(payload: dict, **more: Any): ...


def keyword_only(payload: dict, *, message: Message): ...


def not_annotated(payload): ...


def not_annotated_with_message(payload, message: Message): ...


def other_second(payload: dict, attempt: int): ...


def returns_bool(payload: dict) -> bool:
    return False


def returns_anything(payload: dict) -> Any: ...


def only_a_message(message: Message) -> None: ...


def message_first(message: Message, payload: dict) -> None: ...


def unreadable(payload: "NoSuchName"): ...  # noqa: F821


def no_json(payload: Callable[[], int]): ...


def no_such_union(payload: Invoice | Order): ...


def unknown_class(payload: Unknown): ...


def unknown_class_inside(payload: dict[str, list[Unknown]]): ...


NOTHING = "but a handler returns None (write -> None); raise Retry, Reject or Discard for anything but success"
ORDER = "the payload, the Message comes second: (payload: Invoice, message: Message)"
NOT_BOTH = "a handler takes the payload and, if it wants to, the message: (payload: Invoice, message: Message)"


@pytest.mark.parametrize(
    ("function", "finding"),
    [
        (coroutine, "async def cannot run here: write def, gevent makes its I/O cooperative"),
        (coroutine_generator, "async def cannot run here: write def, gevent makes its I/O cooperative"),
        (generator, "a generator would never run: a handler returns None"),
        (no_parameter, NOT_BOTH),
        (three_parameters, NOT_BOTH),
        (rest, NOT_BOTH),
        (keywords, NOT_BOTH),
        (keyword_only, NOT_BOTH),
        (not_annotated, "annotate 'payload' with the payload's type (dict takes any JSON object)"),
        (not_annotated_with_message, "annotate 'payload' with the payload's type (dict takes any JSON object)"),
        (other_second, "the second parameter, 'attempt', is the millpond.Message"),
        (returns_bool, f"the return type is bool, {NOTHING}"),
        (returns_anything, f"the return type is Any, {NOTHING}"),
        (only_a_message, f"the first parameter is {ORDER}"),
        (message_first, f"the first parameter is {ORDER}"),
        (unreadable, "the annotations cannot be read: NameError: name 'NoSuchName' is not defined"),
    ],
)
def test_a_bad_signature_is_one_finding_with_module_and_name(module, function, finding):
    module.handler(function)
    assert module.findings() == [f"{module.name}.{function.__name__}: {finding}"]


@pytest.mark.parametrize("function", [no_such_union, no_json, unknown_class, unknown_class_inside])
def test_a_payload_type_that_no_json_becomes_is_a_finding(module, function):
    module.handler(function)
    [finding] = module.findings()
    assert finding.startswith(f"{module.name}.{function.__name__}: no payload can be decoded into the first parameter")


@pytest.mark.parametrize("function", [unknown_class, unknown_class_inside])
def test_a_plain_class_as_a_payload_is_told_what_can_be_one(module, function):
    module.handler(function)
    [finding] = module.findings()
    assert finding.endswith("first parameter: Unknown: take a msgspec.Struct, a dataclass, a TypedDict or dict")


@pytest.mark.parametrize(
    ("options", "finding"),
    [
        ({"timeout": 0}, "timeout=0: "),
        ({"timeout": -1}, "timeout=-1: "),
        ({"timeout": float("nan")}, "timeout=nan: "),
        ({"max_attempts": 0}, "max_attempts=0: "),
        ({"backoff": (3, 1)}, "backoff=(3, 1): "),
        ({"backoff": (-1, 1)}, "backoff=(-1, 1): "),
        ({"backoff": 5}, "backoff=5: "),
        ({"backoff": (1, 2, 3)}, "backoff=(1, 2, 3): "),
        ({"event_type": ""}, "the message type is empty"),
        ({"event_type": " "}, "the message type is empty"),
        ({"timeout": "30"}, "timeout="),
        ({"timeout": None}, "timeout=None: "),
        ({"max_attempts": "3"}, "max_attempts="),
        ({"max_attempts": 2.5}, "max_attempts=2.5: "),
        ({"backoff": ("1", "2")}, "backoff=('1', '2'): "),
        ({"backoff": (float("inf"), float("inf"))}, "backoff=(inf, inf): "),
    ],
    ids=str,
)
def test_a_wrong_option_is_one_finding_with_module_and_name(module, options, finding):
    module.handler(good, **options)
    [found] = module.findings()
    assert found.startswith(f"{module.name}.good: {finding}")


@pytest.mark.parametrize(
    "options", [{"timeout": 0.001}, {"max_attempts": 1}, {"backoff": (0, 0)}, {"backoff": (5, 5)}], ids=str
)
def test_an_option_may_be_just_within_its_limits(module, options):
    module.handler(good, **options)
    assert set(module.routes()) == {"a"}


def test_a_callable_object_is_a_finding_too(module):
    class Callable:
        def __call__(self, payload: dict) -> None: ...

    callable_object = Callable()
    callable_object.__module__ = module.name
    handler("a")(callable_object)
    [finding] = module.findings()
    assert module.name in finding


def test_two_handlers_for_one_type_are_one_finding_that_names_both(module):
    def first(payload: dict): ...

    def second(payload: dict): ...

    module.handler(first)
    module.handler(second)
    assert module.findings() == [f"{module.name}.second: 'a' has a handler already: {module.name}.first"]


def test_two_handlers_for_one_type_in_two_modules_are_a_finding(module):
    def first(payload: dict): ...

    def second(payload: dict): ...

    other = Module()
    module.handler(first)
    other.handler(second)
    with pytest.raises(ConfigError, match="'a' has a handler already"):
        routes([module.name, other.name])


def test_all_that_is_wrong_is_told_at_once(module):
    def first(payload) -> bool: ...

    def second(): ...

    module.handler(first, timeout=0)
    module.handler(second, "b")
    assert len(module.findings()) == 4


def test_handler_without_a_type_is_an_error_at_its_line():
    with pytest.raises(ConfigError, match=r'@handler\("invoice.created"\)'):

        @handler
        def forgotten(payload: dict): ...


def test_handler_and_around_return_the_function_unchanged(module):
    def function(payload: dict): ...

    assert handler("a")(function) is function
    assert around(function) is function


def test_a_handler_of_a_module_that_is_not_listed_is_no_route(module):
    Module().handler(good)
    assert module.routes() == {}


# --- options and calls


def test_a_route_has_what_handler_was_given(module):
    module.handler(good, timeout=900, max_attempts=3, backoff=(1, 60))
    route = module.routes()["a"]
    assert (route.timeout_seconds, route.max_attempts, route.backoff) == (900.0, 3, (1, 60))
    assert (route.event_type, route.where, route.around) == ("a", f"{module.name}.good", None)


def test_without_options_the_time_limit_is_a_minute_and_retry_decides(module):
    module.handler(good)
    route = module.routes()["a"]
    assert (route.timeout_seconds, route.max_attempts, route.backoff) == (DEFAULT_TIMEOUT_SECONDS, None, None)


def test_the_message_is_handed_over_where_it_is_asked_for(module):
    calls = []

    def one(payload: dict):
        calls.append(payload)

    def two(payload: dict, message: Message):
        calls.append(message)

    def unannotated(payload: dict, message):
        calls.append(message)

    def optional(payload: dict, message: Message = None):
        calls.append(message)

    for event_type, function in {"1": one, "2": two, "3": unannotated, "4": optional}.items():
        module.handler(function, event_type)
    for event_type in "1234":
        route = module.routes()[event_type]
        route.call(*["payload", "message"][: 1 + route.takes_message])
    assert calls == ["payload", "message", "message", "message"]


def test_annotations_may_be_text(module):
    def late(invoice: "Invoice", message: "Message") -> "None": ...

    module.handler(late)
    assert module.routes()["a"].decode(b'{"number": "7"}') == Invoice("7")


# --- decoding


def decoded(module: Module, payload_type: Any, text: bytes) -> Any:
    def take(payload: payload_type): ...

    module.handler(take)
    return module.routes()["a"].decode(text)


@pytest.mark.parametrize(
    ("payload_type", "text", "payload"),
    [
        (Invoice, b'{"number": "7", "cents": 5, "unknown": 1}', Invoice("7", 5)),
        (Order, b'{"to": ["ann"]}', Order(["ann"])),
        (Parcel, b'{"weight": 3}', {"weight": 3}),
        (dict, b'{"a": [1, {"b": null}]}', {"a": [1, {"b": None}]}),
        (dict[str, int], b'{"a": 1}', {"a": 1}),
        (list[Invoice], b'[{"number": "7"}]', [Invoice("7")]),
        (Invoice | None, b"null", None),
        (Any, b"[1]", [1]),
        (msgspec.Raw, b'{"a": 1}', msgspec.Raw(b'{"a": 1}')),
        (str, b'{"a":  "\xc3\xa4"}', '{"a":  "ä"}'),
        (bytes, b'{"a":  1}', b'{"a":  1}'),
    ],
    ids=str,
)
def test_a_payload_is_decoded_into_the_annotation(module, payload_type, text, payload):
    assert decoded(module, payload_type, text) == payload


def test_a_class_with_model_validate_json_decodes_itself(module):
    made = decoded(module, SelfMade, b'{"a":  1}')
    assert isinstance(made, SelfMade)
    assert made.text == b'{"a":  1}'


@pytest.mark.parametrize(
    ("payload_type", "text", "says"),
    [
        (Invoice, b'{"number": 7}', r"Expected `str`, got `int` - at `\$.number`"),
        (Invoice, b"{}", "missing required field `number`"),
        (Order, b'{"to": ["a", 5]}', r"Expected `str`, got `int` - at `\$.to\[1\]`"),
        (Parcel, b'{"weight": "3"}', r"Expected `int`, got `str` - at `\$.weight`"),
        (Annotated[list[int], msgspec.Meta(max_length=2)], b"[1, 2, 3]", "Expected `array` of length <= 2"),
        (list[Annotated[int, msgspec.Meta(ge=0)]], b"[-1]", r"Expected `int` >= 0 - at `\$\[0\]`"),
        (dict, b"[1]", "Expected `object`, got `array`"),
        (dict, b"{", "truncated"),
        (str, b"\xff", "utf-8"),
        (SelfMade, b"bad", "bad is not allowed"),
    ],
    ids=str,
)
def test_what_does_not_fit_is_a_value_error(module, payload_type, text, says):
    with pytest.raises(ValueError, match=says):
        decoded(module, payload_type, text)


# --- @around


@contextmanager
def enclosing(message: Message) -> Iterator[None]:
    yield


def test_around_goes_to_the_routes_of_its_own_module_only(module):
    other = Module()
    module.handler(good)
    module.around(enclosing)
    assert module.routes()["a"].around is enclosing

    def elsewhere(payload: dict): ...

    other.handler(elsewhere)
    assert other.routes()["a"].around is None


def test_two_arounds_in_a_module_are_one_finding(module):
    for name in ("one", "two"):

        @contextmanager
        def made(message: Message) -> Iterator[None]:
            yield

        made.__name__ = name
        module.around(made)
    assert module.findings() == [f"{module.name}: 2 functions are marked @around, but only one may be"]


def test_an_around_that_is_no_context_manager_is_a_finding(module):
    def bare(message: Message) -> Iterator[None]:
        yield

    module.handler(good)
    module.around(bare)
    [finding] = module.findings()
    assert finding.startswith(f"{module.name}.bare: ")
    assert "@contextmanager" in finding


# --- prefixes


@pytest.mark.parametrize(
    ("event_type", "name"),
    [
        ("s3:ObjectCreated:Put", "s3:ObjectCreated:Put"),
        ("s3:ObjectCreated:Copy", "s3:ObjectCreated:*"),
        ("s3:ObjectCreated:", "s3:ObjectCreated:*"),
        ("s3:ObjectCreated", "s3:*"),
        ("s3:ObjectCreated:*", "s3:ObjectCreated:*"),
        ("s3", None),
        ("", None),
        ("invoice.created.again", None),
        ("s3:TestEvent", None),
    ],
)
def test_a_type_has_its_own_handler_or_that_of_its_longest_prefix(event_type, name):
    assert name_of_route(event_type, ["s3:*", "s3:ObjectCreated:*", "s3:ObjectCreated:Put", "invoice.created"]) == name


def test_a_star_alone_takes_every_type_but_the_test_of_s3():
    assert [name_of_route(one, ["*", "a"]) for one in ("a", "b", "", "s3:TestEvent")] == ["a", "*", "*", None]
    assert name_of_route("s3:TestEvent", ["*", "s3:TestEvent"]) == "s3:TestEvent"


@pytest.mark.parametrize("event_type", ["a*b", "**", "*a", "a.*.*"])
def test_a_star_stands_only_at_the_end_of_a_type(module, event_type):
    module.handler(good, event_type)
    assert module.findings() == [
        f"{module.name}.good: {event_type!r}: a * stands at the end of a type, for every ending"
    ]


@pytest.mark.parametrize("event_type", ["*", "a*", "s3:ObjectCreated:*"])
def test_a_type_may_end_in_a_star(module, event_type):
    module.handler(good, event_type)
    assert list(module.routes()) == [event_type]
