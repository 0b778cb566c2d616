"""The options of @handler that hold messages back: rate=, breaker=; what is allowed there, in words."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Any

import msgspec

#: The units of a rate, in seconds.
UNITS = {"s": 1, "m": 60, "h": 3_600}
#: A message waits in hand for its turn, 12 hours at most; and no worker of one core begins more.
LEAST_PER_HOUR, MOST_PER_SECOND = 1.0, 100_000.0
#: The longest that a breaker may wait between two probes, or for one.
MAX_PROBE_SECONDS = 3_600.0
RATE_ALLOWED = "write a number and a unit, 14/s, 90/m or 5000/h"
_RATE = re.compile(r"\s*(\d{1,9}(?:\.\d{1,9})?)\s*/\s*([smh])\s*", re.ASCII)


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

    failures: int = 25
    outage_failures: int = 5
    probe_seconds: float = 1.0
    max_probe_seconds: float = 10.0
    probe_limit_seconds: float = 30.0


#: Of a handler that names none.
DEFAULT_BREAKER = Breaker()


def rate_limit(text: Any) -> RateLimit:
    """A rate, "14/s", as a value. Raises ValueError that says what is allowed."""
    found = _RATE.fullmatch(text) if isinstance(text, str) else None
    if found is None:
        raise ValueError(RATE_ALLOWED)
    per_second = float(found[1]) / UNITS[found[2]]
    if not LEAST_PER_HOUR / UNITS["h"] <= per_second <= MOST_PER_SECOND:
        raise ValueError(f"from {LEAST_PER_HOUR:g}/h to {MOST_PER_SECOND:.0f}/s")
    return RateLimit(per_second, text.strip())


def wrong_with_breaker(breaker: Breaker) -> Iterator[tuple[str, str]]:
    """The names of its values that make no sense, each with what is allowed."""
    for name, least in (("failures", 0), ("outage_failures", 1)):
        if not is_whole_number(getattr(breaker, name), least):
            yield name, f"a whole number, {least} or more"
    sound = {}
    for name in ("probe_seconds", "max_probe_seconds", "probe_limit_seconds"):
        sound[name] = is_number(value := getattr(breaker, name)) and 0.1 <= value <= MAX_PROBE_SECONDS
        if not sound[name]:
            yield name, f"0.1 to {MAX_PROBE_SECONDS:g} seconds"
    if sound["probe_seconds"] and sound["max_probe_seconds"] and breaker.probe_seconds > breaker.max_probe_seconds:
        yield "probe_seconds", f"not more than max_probe_seconds = {breaker.max_probe_seconds:g}"


def is_whole_number(value: Any, least: int) -> bool:
    """Whether it is an int, this one or more."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def is_number(value: Any) -> bool:
    """Whether it is a finite int or float; True and False are none."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
