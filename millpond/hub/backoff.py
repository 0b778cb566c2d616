"""Back-off: how long to wait after failures, as pure functions."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

from millpond.errors import AccessDenied, QueueError, QueueMissing, Throttled

#: The longest wait between two calls that fail, 7.5 s on average: work goes on within ten seconds of a queue's return.
#: An hour of it is 480 calls of a queue, 0.02 cents where SQS bills them at all.
MAX_CALL_DELAY_SECONDS = 10.0


def retry_seconds(
    attempt: int, base_seconds: float, max_seconds: float, chance: Callable[[], float] = random.random
) -> int:
    """Whole seconds until a failed message is visible again: exponential with full jitter, and at least 1.

    Full jitter (uniform between nothing and the ceiling) spreads messages that failed together.
    """
    ceiling = min(max_seconds, base_seconds * 2 ** min(attempt - 1, 40))
    return whole_seconds(max(1.0, chance() * ceiling))


def whole_seconds(seconds: float) -> int:
    """Seconds as SQS takes them: whole ones, rounded up, never negative."""
    return max(0, math.ceil(seconds))


def call_back_off_seconds(
    failures: int, error: QueueError | None, chance: Callable[[], float] = random.random
) -> float:
    """Seconds to wait after this many failing calls in a row, by what went wrong.

    AWS advises 200 ms, then 400 ms, and so on. A throttle gets a second, and what only a person can mend gets five.
    """
    base = 0.2
    if isinstance(error, Throttled):
        base = 1.0
    elif isinstance(error, AccessDenied | QueueMissing):
        base = 5.0
    ceiling: float = min(MAX_CALL_DELAY_SECONDS, base * 2 ** min(failures - 1, 20))
    return ceiling * (0.5 + chance() / 2)
