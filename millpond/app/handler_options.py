"""The options of @handler that hold messages back: rate=, breaker=; what is allowed there, in words."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Annotated, Any

import msgspec
from msgspec import Meta

#: The units of a rate, in seconds.
UNITS = {"s": 1, "m": 60, "h": 3_600}
#: A message waits in hand for its turn, 12 hours at most; and no worker of one core begins more.
LEAST_PER_HOUR, MOST_PER_SECOND = 1.0, 100_000.0
RATE_EXAMPLES = "a number and a unit, 14/s, 90/m or 5000/h"
_RATE = re.compile(r"\s*(\d{1,9}(?:\.\d{1,9})?)\s*/\s*([smh])\s*", re.ASCII)

#: Between two probes of a breaker, or until one has ended.
ProbeSeconds = Annotated[float, Meta(ge=0.1, le=3_600, description="0.1 to 3600 seconds")]


class RateLimit(msgspec.Struct, frozen=True):
    """How many messages of a type may begin in a time. `text` is as it was written, "90/m"."""

    per_second: float
    text: str

    def __str__(self) -> str:
        return self.text


class Breaker(msgspec.Struct, frozen=True):
    """When a type waits because what it needs is down, and how it tries whether that is back.

    `failures`: in a row, of any kind (0: no number of them). `outage_failures`: in a row, that look like the other
    side's: a connection refused, a time-out. `probe_seconds`: until the first probe; each wait is twice the one before,
    `max_probe_seconds` at most. `probe_limit_seconds`: a probe that has not ended by then is no longer waited for.
    """

    failures: Annotated[int, Meta(ge=0, description="a whole number, 0 or more")] = 25
    outage_failures: Annotated[int, Meta(ge=1, description="a whole number, 1 or more")] = 5
    probe_seconds: ProbeSeconds = 1.0
    max_probe_seconds: ProbeSeconds = 10.0
    probe_limit_seconds: ProbeSeconds = 30.0


#: Of a handler that names none.
DEFAULT_BREAKER = Breaker()


def rate_limit(text: Any) -> RateLimit:
    """A rate, "14/s", as a value. Raises ValueError that says what is allowed."""
    found = _RATE.fullmatch(text) if isinstance(text, str) else None
    if found is None:
        raise ValueError(f"write {RATE_EXAMPLES}")
    per_second = float(found[1]) / UNITS[found[2]]
    if not LEAST_PER_HOUR / UNITS["h"] <= per_second <= MOST_PER_SECOND:
        raise ValueError(f"from {LEAST_PER_HOUR:g}/h to {MOST_PER_SECOND:.0f}/s")
    return RateLimit(per_second, text.strip())


def wrong_with_breaker(breaker: Breaker) -> Iterator[tuple[str, str]]:
    """The names of its values that make no sense, each with what is allowed."""
    sound = set()
    for field in msgspec.structs.fields(Breaker):
        try:
            msgspec.convert(getattr(breaker, field.name), field.type)
            sound.add(field.name)
        except msgspec.ValidationError:
            yield field.name, next(meta.description for meta in field.type.__metadata__)
    if {"probe_seconds", "max_probe_seconds"} <= sound and breaker.probe_seconds > breaker.max_probe_seconds:
        yield "probe_seconds", f"not more than max_probe_seconds = {breaker.max_probe_seconds:g}"


def is_whole_number(value: Any, least: int) -> bool:
    """Whether it is an int, this one or more."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def is_number(value: Any) -> bool:
    """Whether it is a finite int or float; True and False are none."""
    try:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # an int of 400 digits is no number of seconds
        return False
