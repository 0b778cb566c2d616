"""Routing: @handler and @around, and the Route that each handler becomes. They are checked once, at boot."""

from __future__ import annotations

import inspect
import re
import typing
from collections.abc import Callable, Collection, Iterable
from contextlib import AbstractContextManager
from typing import Any, Literal, TypeVar, get_args

import msgspec

from millpond.app.envelope import S3_TEST_EVENT
from millpond.app.handler_options import (
    DEFAULT_BREAKER,
    Breaker,
    RateLimit,
    is_number,
    is_whole_number,
    rate_limit,
    wrong_with_breaker,
)
from millpond.errors import ConfigError
from millpond.foreign.trace import describe
from millpond.message import Message

Function = TypeVar("Function", bound=Callable[..., Any])
OnLeaseLost = Literal["interrupt", "finish"]
Around = Callable[[Message], AbstractContextManager[Any]]

#: Seconds that a handler may take where it names no limit of its own.
DEFAULT_TIMEOUT_SECONDS = 60.0


class Route(msgspec.Struct, frozen=True):
    """One handler, ready to be called: `call(decode(payload), message)`, or without the message.

    `decode` takes the payload's bytes and raises msgspec.MsgspecError, or what the type's own code raises, for what
    does not fit.
    `max_attempts` and `backoff` (base and longest delay in seconds) are None where [retry] decides. `rate`,
    `concurrency` and `breaker` are None where there is none.
    @handler makes it with its own arguments, unchecked; `routes` checks them, and adds what the signature says.
    """

    event_type: str
    where: str
    decode: Callable[[bytes | msgspec.Raw], Any]
    call: Callable[..., object]
    timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS
    max_attempts: int | None = None
    backoff: tuple[float, float] | None = None
    around: Around | None = None
    on_lease_lost: OnLeaseLost = "interrupt"
    thread: bool = False
    takes_message: bool = True
    rate: RateLimit | None = None
    concurrency: int | None = None
    breaker: Breaker | None = DEFAULT_BREAKER
    idempotent: bool = False

    @property
    def finishes(self) -> bool:
        """Whether it may end where its lease is lost."""
        return self.on_lease_lost == "finish"


_handlers: list[Route] = []
_arounds: list[Callable[..., Any]] = []


def handler(
    event_type: str,
    *,
    timeout: float = DEFAULT_TIMEOUT_SECONDS,
    max_attempts: int | None = None,
    backoff: tuple[float, float] | None = None,
    on_lease_lost: OnLeaseLost = "interrupt",
    thread: bool = False,
    rate: str | None = None,
    concurrency: int | None = None,
    breaker: Breaker | bool = True,
    idempotent: bool = False,
) -> Callable[[Function], Function]:
    """Mark a function as the handler of one message type; the function itself is returned unchanged.

    A type that ends in `*`, "s3:ObjectCreated:*", is a prefix: it takes every type that begins so and has no handler of
    its own; the longest one counts.
    Its first parameter's annotation is what the payload is decoded into; `str` and `bytes` are the payload's text as it
    came, the quotes of a JSON string included.
    `timeout`: seconds. `max_attempts` and `backoff` (base and longest delay, seconds) override [retry].
    `on_lease_lost`: where SQS may have given the message to another worker, "interrupt" stops the handler, "finish"
    lets it end. `thread`: for code that blocks or computes; it runs in one of [worker] threads, where no interrupt
    can reach it: at its time limit, or at the end of the drain, the message is given back and the code runs on. Share
    no lock, queue or pool with handlers that have no thread: under gevent a wake-up between the two can be lost.
    `rate`: at most this many begin, "14/s", "90/m" or "5000/h"; fewer while the other side asks for fewer.
    `concurrency`: at most this many run at once. `breaker`: when the type waits because what it needs is down; a
    Breaker with numbers of its own, or False for none. `idempotent`: what was done once is not done again, by the
    table of [idempotency]. All four can be set in config.toml too, in [types."<event_type>"].
    What is wrong with a handler is found at boot, all findings at once.
    """
    if not isinstance(event_type, str):
        raise ConfigError('@handler needs the message type: @handler("invoice.created")')

    def declare(function: Function) -> Function:
        route = Route(
            event_type,
            _where(function),
            bytes,
            function,
            timeout_seconds=timeout,
            max_attempts=max_attempts,
            backoff=backoff,
            on_lease_lost=on_lease_lost,
            thread=thread,
            rate=rate,  # type: ignore[arg-type]
            concurrency=concurrency,
            breaker=breaker,  # type: ignore[arg-type]
            idempotent=idempotent,
        )
        _handlers.append(route)
        return function

    return declare


def around(function: Function) -> Function:
    """Mark one function of a handlers module: a context manager, given the Message, entered around every handler."""
    _arounds.append(function)
    return function


def routes(modules: Iterable[str]) -> dict[str, Route]:
    """The routes that these modules declare, by message type. Raises ConfigError with every finding."""
    names = set(modules)
    findings: list[str] = []
    found: dict[str, Route] = {}
    enclosing = {module: _around_of(module, findings) for module in sorted(names)}
    for route in _handlers:
        module = route.call.__module__
        if module not in names:
            continue
        wrong = _wrong_with(route)
        if route.event_type in found:
            wrong.append(f"{route.event_type!r} has a handler already: {found[route.event_type].where}")
        try:
            complete = None if wrong else _completed(route, enclosing[module])
        except TypeError as error:
            wrong.append(f"no payload can be decoded into the first parameter: {_why_no_payload(error)}")
        findings += [f"{route.where}: {text}" for text in wrong]
        if not wrong and complete is not None:
            found[route.event_type] = complete
    if findings:
        raise ConfigError(*findings)
    return found


def name_of_route(event_type: str, names: Collection[str]) -> str | None:
    """The name by which a type is routed: its own, or else the longest prefix of it, as in "s3:ObjectCreated:*"."""
    if event_type in names:
        return event_type
    if event_type == S3_TEST_EVENT:  # what is meant for all events of S3 is not meant for its test
        return None
    fitting = (name for name in names if name.endswith("*") and event_type.startswith(name[:-1]))
    return max(fitting, key=len, default=None)


def _around_of(module: str, findings: list[str]) -> Around | None:
    mine = [function for function in _arounds if function.__module__ == module]
    if len(mine) > 1:
        findings.append(f"{module}: {len(mine)} functions are marked @around, but only one may be")
    findings += [
        f"{_where(function)}: @around marks a context manager: put @contextmanager below it"
        for function in mine
        if inspect.isgeneratorfunction(function)
    ]
    return next(iter(mine), None)


def _where(function: Callable[..., Any]) -> str:
    return f"{function.__module__}.{getattr(function, '__qualname__', type(function).__name__)}"


def _wrong_with(route: Any) -> list[str]:
    function, wrong = route.call, []
    if not inspect.isroutine(function):
        return [f"a handler is a function, not a {type(function).__name__}"]
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        wrong.append("async def cannot run here: write def, gevent makes its I/O cooperative")
    elif inspect.isgeneratorfunction(function):
        wrong.append("a generator would never run: a handler returns None")
    if not route.event_type.strip():
        wrong.append("the message type is empty")
    if "*" in route.event_type[:-1]:
        wrong.append(f"{route.event_type!r}: a * stands at the end of a type, for every ending")
    if not (is_number(route.timeout_seconds) and route.timeout_seconds > 0):
        wrong.append(f"timeout={route.timeout_seconds!r}: it must be more than 0 seconds")
    attempts = route.max_attempts
    if attempts is not None and not (isinstance(attempts, int) and attempts >= 1):
        wrong.append(f"max_attempts={attempts!r}: it must be a whole number, 1 or more")
    if route.backoff is not None and not _is_backoff(route.backoff):
        wrong.append(f"backoff={route.backoff!r}: it must be (base_seconds, max_seconds), 0 <= base <= max")
    if route.on_lease_lost not in get_args(OnLeaseLost):
        wrong.append(f"on_lease_lost={route.on_lease_lost!r}: it must be {' or '.join(get_args(OnLeaseLost))}")
    wrong += [
        f"{name}={value!r}: it must be True or False"
        for name in ("thread", "idempotent")
        if not isinstance(value := getattr(route, name), bool)
    ]
    return wrong + _wrong_limits(route) + _wrong_signature(function)


def _wrong_limits(route: Any) -> list[str]:
    rate, concurrency, breaker = route.rate, route.concurrency, route.breaker
    wrong = []
    if rate is not None:
        try:
            rate_limit(rate)
        except ValueError as error:
            wrong.append(f"rate={rate!r}: {error}")
    if concurrency is not None and not is_whole_number(concurrency, 1):
        wrong.append(f"concurrency={concurrency!r}: it must be a whole number, 1 or more")
    if isinstance(breaker, Breaker):
        wrong += [f"breaker: {name}={getattr(breaker, name)!r}: {text}" for name, text in wrong_with_breaker(breaker)]
    elif not isinstance(breaker, bool):
        wrong.append(f"breaker={breaker!r}: it must be a millpond.Breaker, or False for none")
    return wrong


def _is_backoff(backoff: Any) -> bool:
    pair = isinstance(backoff, tuple) and len(backoff) == 2 and all(map(is_number, backoff))
    return pair and 0 <= backoff[0] <= backoff[1]


def _wrong_signature(function: Callable[..., Any]) -> list[str]:
    parameters = list(inspect.signature(function).parameters.values())
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    if len(positional) != len(parameters) or not 1 <= len(positional) <= 2:
        return ["a handler takes the payload and, if it wants to, the message: (payload: Invoice, message: Message)"]
    try:
        hints = typing.get_type_hints(function, include_extras=True)
    except Exception as error:  # get_type_hints evaluates the user's annotations: anything can come out
        return [f"the annotations cannot be read: {describe(error)}"]
    if hints.get(positional[0].name) is Message:
        text = "the first parameter is the payload, the Message comes second"
        return [f"{text}: (payload: Invoice, message: Message)"]
    wrong = []
    if positional[0].name not in hints:
        wrong.append(f"annotate {positional[0].name!r} with the payload's type (dict takes any JSON object)")
    if len(positional) == 2 and hints.get(positional[1].name, Message) is not Message:
        wrong.append(f"the second parameter, {positional[1].name!r}, is the millpond.Message")
    if (returned := hints.get("return", type(None))) is not type(None):
        text = f"the return type is {inspect.formatannotation(returned)}, but a handler returns None (write -> None)"
        wrong.append(f"{text}; raise Retry, Reject or Discard for anything but success")
    return wrong


def _why_no_payload(error: TypeError) -> str:
    """Why no payload becomes this class: msgspec's own text names hooks, which no handler has."""
    found = re.search(r"custom types requires .*type (.+) is not supported", str(error), re.DOTALL)
    if found is None:
        return str(error)
    name = found[1].removesuffix("'>").rpartition(".")[2].removeprefix("<class '")
    return f"{name}: take a msgspec.Struct, a dataclass, a TypedDict or dict"


def _completed(route: Route, enclosing: Around | None) -> Route:
    """With what the function's signature says. Raises TypeError where no payload can be decoded."""
    parameters = list(inspect.signature(route.call).parameters)
    payload_type = typing.get_type_hints(route.call, include_extras=True)[parameters[0]]
    return msgspec.structs.replace(
        route,
        decode=_decoder(payload_type),
        timeout_seconds=float(route.timeout_seconds),
        around=enclosing,
        takes_message=len(parameters) == 2,
        rate=None if route.rate is None else rate_limit(route.rate),
        breaker=_breaker(route.breaker),
    )


def _breaker(given: Any) -> Breaker | None:
    return DEFAULT_BREAKER if given is True else given or None


def _decoder(payload_type: Any) -> Callable[[bytes | msgspec.Raw], Any]:
    if payload_type is str:
        return lambda payload: bytes(payload).decode()
    if payload_type is bytes:
        return bytes
    if hasattr(payload_type, "model_validate_json"):
        return lambda payload: payload_type.model_validate_json(bytes(payload))
    msgspec.json.schema(payload_type)  # raises TypeError where no JSON becomes this type
    return msgspec.json.Decoder(payload_type).decode
