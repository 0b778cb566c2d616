"""Raised: what came out of a handler, in values of our own."""

from __future__ import annotations

import logging
import math
from typing import Any, NamedTuple, cast

from millpond.app.routing import Route
from millpond.engine.handler_call import PayloadError
from millpond.errors import Discard, Interrupt, MillpondError, Reject, Retry, TooFast, Unavailable, Wait
from millpond.foreign.other_side import signs_of
from millpond.foreign.text import shown, type_name
from millpond.foreign.trace import describe, raised_at, traceback_of
from millpond.hub.threads import NoThread, NotStarted
from millpond.observe import log
from millpond.sqs.limits import MAX_HOLD_SECONDS

VERDICTS = (Retry, Reject, Discard, Unavailable, TooFast, Wait)
#: Those with which a handler says that the other side is at fault.
THEIRS = (Unavailable, TooFast)
#: Tracebacks are logged the first time only; this many different ones are remembered.
MAX_SEEN = 1_000


class Raised(NamedTuple):
    """What a handler raised, read once: nothing of the user's is asked again."""

    kind: type[MillpondError] | None = None  # a verdict, or why the handler was not called; None: any other error
    reason: str = ""
    after: float | None = None
    error: str = ""
    traceback: str = ""
    other_side: bool = False  # it failed by what the handler needs, as far as can be seen


#: What was raised can be read in no way at all, or an interrupt came while it was read.
UNREADABLE = Raised(error="its error cannot be read")


class RaisedReader:
    """Reads what handlers raise or return. It remembers what it has logged already."""

    def __init__(self) -> None:
        self._seen_tracebacks: set[tuple[str | int, ...]] = set()
        self._seen_values: set[str] = set()

    def read(self, error: BaseException) -> Raised:
        """What an error says. Never raises: its type is asked by issubclass, since a `__class__` can raise, or lie."""
        try:
            return self._read(error, type(error))
        except BaseException:
            return UNREADABLE

    def read_value(self, route: Route, value: object) -> Raised | None:
        """What a handler returned. `return Retry(...)`: surely a raise was meant; any other value is ignored."""
        if issubclass(type(value), BaseException):
            return self.read(cast("BaseException", value))
        if route.where not in self._seen_values:
            self._seen_values.add(route.where)
            name = type_name(value)
            article = "an" if name.startswith(tuple("aeiou")) else "a"
            text = f"{route.where} returned {article} {name}, which is ignored: a handler returns None"
            log.event(logging.WARNING, "handler.returned", f"{text}. False is not a failure here: raise.")
        return None

    def _read(self, error: Any, kind: type) -> Raised:
        if issubclass(kind, PayloadError):
            return Raised(PayloadError, error.reason)
        if kind is NoThread or kind is NotStarted:
            return Raised(kind, str(error))
        verdict = next((verdict for verdict in VERDICTS if issubclass(kind, verdict)), None)
        if verdict is not None:
            reason, after = shown(_attribute(error, "reason", "")), _seconds(_attribute(error, "after", None))
            theirs = verdict in THEIRS or (verdict is Retry and signs_of(error).other_side)
            return Raised(verdict, reason, after, other_side=theirs)
        signs = signs_of(error)
        if signs.too_fast:
            return Raised(TooFast, describe(error), _seconds(signs.after), other_side=True)
        return Raised(None, "", None, describe(error), self._first_traceback(error), signs.other_side)

    def _first_traceback(self, error: BaseException) -> str:
        place = raised_at(error)
        where = (type_name(error), *place) if place[0] else ()
        if where in self._seen_tracebacks or len(self._seen_tracebacks) >= MAX_SEEN:
            return ""
        self._seen_tracebacks.add(where)
        return traceback_of(error)


def _attribute(verdict: object, name: str, default: object) -> object:
    """An attribute of a verdict; the default where there is none, or where a property of the user's own raises."""
    try:
        return getattr(verdict, name, default)
    except Interrupt:
        raise
    except BaseException:
        return default


def _seconds(after: Any) -> float | None:
    """The seconds that a verdict asks for; None where it names none, or what it names is not a number."""
    if issubclass(type(after), int):
        after = int.__int__(after)  # as a number of Python's own: the methods of an Enum's or a user's may do anything
    elif not issubclass(type(after), float) or not math.isfinite(after := float.__float__(after)):
        return None
    return float(max(0, min(MAX_HOLD_SECONDS, after)))
