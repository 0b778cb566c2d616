"""Objects of a user's that do what nobody expects: raised, returned, logged, left behind by handlers."""

from __future__ import annotations

import gc
import itertools
import json
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from random import Random
from typing import Any

import gevent

from millpond import Discard, Message, Reject, Retry, TooFast, Unavailable, Wait, handler
from millpond.app.routing import Route, routes
from millpond.errors import Interrupt, Stopped, TimeLimitExceeded
from millpond.foreign.secrets import conceal
from millpond.sqs.queue import Received
from tests.fuzz.kind import Kind, TryOne
from tests.fuzz.trial import STYLES, Trial, own_log

SECRET = "s3cret-of-the-process"
#: What one message may take of the hub, whatever its handler has raised: a busy machine's time is not counted.
MAX_SECONDS = 3.0

WICKED: tuple[type[BaseException], ...] = (
    *(SystemExit, KeyboardInterrupt, GeneratorExit, gevent.GreenletExit, gevent.Timeout, MemoryError),
    *(RecursionError, ValueError, StopIteration, Stopped, TimeLimitExceeded, Reject),
)
BASES: tuple[type[BaseException], ...] = (
    *(Exception, ValueError, KeyError, OSError, SyntaxError, UnicodeError, ImportError, AttributeError),
    *(SystemExit, KeyboardInterrupt, BaseException, gevent.GreenletExit, gevent.Timeout, Interrupt, Stopped),
)
VERDICTS: tuple[type[BaseException], ...] = (Retry, Reject, Discard, Unavailable, TooFast, Wait)
METHODS = (
    *("__str__", "__repr__", "__eq__", "__hash__", "__bool__", "__len__", "__iter__", "__getattribute__", "__reduce__"),
    *("__format__", "__del__", "__getattr__", "__instancecheck__", "__int__", "__float__", "__lt__", "__setattr__"),
)
PROPERTIES = (
    *("__class__", "__traceback__", "__cause__", "__context__", "__suppress_context__", "__notes__", "args", "errors"),
    *("after", "reason", "code", "exceptions", "message", "filename", "lineno", "text", "__dict__"),
    *("response", "status_code", "status", "headers", "errno"),
)


class Liar(str):
    """A text that lies about everything."""

    __slots__ = ()

    def isprintable(self) -> bool:
        raise SystemExit

    __len__ = __getitem__ = __iter__ = replace = splitlines = partition = encode = isprintable  # type: ignore[assignment]


def value(chance: Random, depth: int = 2) -> Any:
    """Anything at all."""
    kind = chance.randrange(16)
    if kind < 3 and depth:
        return odd(chance, depth - 1)
    if kind == 3 and depth:
        return [value(chance, depth - 1) for _ in range(chance.randrange(4))]
    if kind == 4 and depth:
        return {str(number): value(chance, depth - 1) for number in range(chance.randrange(4))}
    if kind == 5:
        return chance.choice(("x", [1], b"y", ("z",))) * chance.choice((1, 1_000, 1_000, 100_000))  # type: ignore[operator]
    plain = (
        None,
        0,
        -1,
        5,
        1e9,
        float("nan"),
        float("inf"),
        10**400,
        10**5_000,
        True,
        "text",
        Liar("lie"),
        "\x1b[2J\u2028",
    )
    return chance.choice((*plain, "\ud800", SECRET, f"ann@example.com {SECRET}", b"\xff", object(), type, print))


def member(chance: Random, depth: int) -> Callable[..., Any]:
    """A method or the getter of a property: it raises, or gives back anything."""
    if chance.random() < 0.6:
        error = chance.choice(WICKED)

        def wicked(*given: Any) -> Any:
            raise error(SECRET)

        return wicked
    given_back = value(chance, depth)
    return lambda *given: given_back


def _no_name(kind: type) -> str:
    raise SystemExit


FalseName = type("FalseName", (type,), {"__name__": property(_no_name), "__mro__": property(_no_name)})


def odd_class(chance: Random, base: type, depth: int) -> Any:
    members: dict[str, Any] = {name: member(chance, depth) for name in chance.sample(METHODS, chance.randrange(4))}
    for name in chance.sample(PROPERTIES, chance.randrange(4)):
        members[name] = property(member(chance, depth))
    members |= {"__init__": lambda self: None} if chance.random() < 0.8 else {}
    return (FalseName if chance.random() < 0.1 else type)("Odd", (base,), members)


def odd(chance: Random, depth: int = 2) -> Any:
    """An object of a class like that, or an error that is odd in another way."""
    try:
        base = chance.choice((*BASES, *VERDICTS, *VERDICTS, object, object))
        made = odd_class(chance, base, depth)()
    except BaseException:  # it cannot even be made
        return ValueError(SECRET)
    return made


def error(chance: Random) -> BaseException:
    kind = chance.randrange(12)
    if kind < 6:
        made = odd(chance)
        return made if issubclass(type(made), BaseException) else ValueError(made)
    if kind == 6:
        return chain(chance, chance.choice((1, 3, 50, 50, 50, 20_000 if chance.random() < 0.02 else 5)))
    if kind == 7:
        return group(chance, chance.choice((1, 3, 50, 10_000 if chance.random() < 0.02 else 5)))
    if kind == 8:
        made = SyntaxError("bad")
        for name in ("lineno", "offset", "text", "filename", "msg", "end_lineno", "end_offset", "print_file_and_line"):
            setattr(made, name, value(chance))
        return made
    if kind == 9:
        made = chance.choice((ValueError, KeyError, OSError))(*(value(chance) for _ in range(chance.randrange(4))))
        made.__notes__ = value(chance)  # type: ignore[attr-defined]
        return made
    if kind == 10:
        if chance.random() < 0.4:
            return chance.choice((Reject, Discard))(value(chance))
        return chance.choice((Retry, Unavailable))(value(chance), value(chance))
    return UnicodeDecodeError("utf-8", b"x" * chance.choice((1, 100_000)), 0, 1, SECRET)


def chain(chance: Random, length: int) -> BaseException:
    errors = [ValueError(SECRET) for _ in range(length)]
    for one, cause in itertools.pairwise(errors):
        if chance.random() < 0.5:
            one.__context__ = cause
        else:
            one.__cause__ = cause
    if chance.random() < 0.5:
        errors[-1].__cause__ = errors[0]
    return errors[0]


def group(chance: Random, depth: int) -> BaseException:
    made: Exception = ValueError(SECRET)
    for _ in range(depth):
        made = ExceptionGroup("group", [made] * chance.choice((1, 1, 1, 20)))
    return made


class Work:
    """What the handlers of one case do."""

    def __init__(self) -> None:
        self.decode: Callable[[], object] = lambda: None
        self.enter: Callable[[], object] = lambda: None
        self.exit: Callable[[], object] = lambda: None
        self.handle: Callable[[Message], object] = lambda message: None


class Manager:
    def __init__(self, work: Work) -> None:
        self._work = work

    def __enter__(self) -> None:
        self._work.enter()

    def __exit__(self, *given: object) -> Any:
        return self._work.exit()


@handler("job")
def job(payload: dict, message: Message) -> None:  # type: ignore[type-arg]
    """Its route is the only thing that is used of it."""


def raiser(chance: Random) -> Callable[[], object]:
    given = error(chance)

    def wicked() -> None:
        raise given

    return wicked


def handling(chance: Random) -> Callable[[Message], object]:
    how = chance.randrange(6)
    if how < 2:
        wicked = raiser(chance)
        return lambda message: wicked()
    if how == 2:
        given = value(chance) if chance.random() < 0.5 else error(chance)
        return lambda message: given
    if how == 3:
        one, two, three = value(chance), value(chance), value(chance)
        text = chance.choice(("%s", "%d", "%r and %s", one))
        arguments = [two] if chance.random() < 0.7 else []
        logger = logging.getLogger("fuzz")
        return lambda message: logger.info(text, *arguments, extra={"one": two, "two": [three], "traceback": three})
    if how == 4:
        reject = value(chance)
        return lambda message: message.follow_up(value(chance), reject=reject) and None
    failed = error(chance)
    return lambda message: logging.getLogger("fuzz").error("%s", message, exc_info=failed)


@contextmanager
def open_objects() -> Iterator[TryOne]:
    conceal(SECRET)
    work = Work()
    [declared] = routes([__name__]).values()
    route = Route(
        "job",
        declared.where,
        lambda payload: work.decode(),
        lambda payload, message: work.handle(message),
        around=lambda message: Manager(work),
    )
    body = json.dumps({"event_type": "job", "event_id": "e1", "payload": {}})
    with own_log():
        trial = Trial({"job": route}, SECRET)

        def try_one(chance: Random) -> None:
            work.decode = raiser(chance) if chance.random() < 0.1 else lambda: None
            work.enter = raiser(chance) if chance.random() < 0.05 else lambda: None
            leaving = value(chance)
            work.exit = raiser(chance) if chance.random() < 0.1 else lambda: leaving
            work.handle = handling(chance)
            began = time.process_time()
            trial.take(Received("m1", "r", body, chance.randrange(1, 5), 1), chance.choice(STYLES))
            seconds = time.process_time() - began
            assert seconds < MAX_SECONDS, f"{seconds:.1f} s"

        yield try_one
        vars(work).clear()  # the last one's objects end here too, where nobody minds what their `__del__` raises
        gc.collect()


KIND = Kind("objects", open_objects)
