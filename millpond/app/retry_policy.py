"""The retry policy of a handler, and how long all its attempts take together."""

from __future__ import annotations

from typing import NamedTuple

from millpond.app.config import RetrySettings
from millpond.app.routing import Route
from millpond.hub.backoff import retries_seconds

#: From here on a time is said in minutes, or in hours.
MINUTES_FROM_SECONDS, HOURS_FROM_SECONDS = 300, 10_800


def policy_of(route: Route, retry: RetrySettings) -> RetrySettings:
    """[retry], with what the handler's own `max_attempts` and `backoff` override."""
    base_seconds, max_seconds = route.backoff or (retry.base_seconds, retry.max_seconds)
    return RetrySettings(route.max_attempts or retry.max_attempts, base_seconds, max_seconds)


class Span(NamedTuple):
    """From the first failure to the last attempt of a message that always fails: waits only, at least and at most."""

    least_seconds: int
    most_seconds: int

    @classmethod
    def of(cls, policy: RetrySettings, attempts: int = 0) -> Span:
        """Of all attempts of a policy, or of fewer."""
        number = min(attempts or policy.max_attempts, policy.max_attempts)
        return cls(*retries_seconds(number, policy.base_seconds, policy.max_seconds))

    def __str__(self) -> str:
        unit, seconds = "seconds", 1
        if self.most_seconds >= HOURS_FROM_SECONDS:
            unit, seconds = "hours", 3_600
        elif self.most_seconds >= MINUTES_FROM_SECONDS:
            unit, seconds = "minutes", 60
        least, most = (_rounded(value / seconds) for value in self)
        if least == most:
            unit = unit.removesuffix("s") if most == "1" else unit
            return f"{most} {unit}"
        return f"{least} to {most} {unit}"


def _rounded(number: float) -> str:
    return f"{number:.1f}".removesuffix(".0") if number < 10 and round(number) != number else f"{number:.0f}"
