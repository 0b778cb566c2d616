"""Back-off: how long to wait after failures, as pure functions."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

from millpond.errors import AccessDenied, QueueError, QueueMissing, Throttled

#: Each wait of a message that fails is this many times the one before it.
RETRY_GROWTH = 3
#: How long a message is put off that could not begin: the first time, and at most. Each wait is twice the one
#: before it, since what it waits for, such as a free thread, may come at any moment.
PUT_OFF_SECONDS, MAX_PUT_OFF_SECONDS = 30.0, 900.0
#: The longest wait between two calls that fail, 7.5 s on average: work goes on within ten seconds of a queue's return.
#: An hour of it is 480 calls of a queue, 0.02 cents where SQS bills them at all.
MAX_CALL_DELAY_SECONDS = 10.0


def retry_seconds(
    attempt: int, base_seconds: float, max_seconds: float, chance: Callable[[], float] = random.random
) -> int:
    """Whole seconds until a message that has failed this many times is visible again; at least 1."""
    ceiling = min(max_seconds, base_seconds * RETRY_GROWTH ** min(attempt - 1, 40))
    return whole_seconds(max(1.0, in_upper_half(ceiling, chance)))


def retries_seconds(attempts: int, base_seconds: float, max_seconds: float) -> tuple[int, int]:
    """How long a message that always fails waits until its last attempt: at the least and at the most, in seconds."""
    waits = [(attempt, base_seconds, max_seconds) for attempt in range(1, attempts)]
    return sum(retry_seconds(*wait, lambda: 0.0) for wait in waits), sum(
        retry_seconds(*wait, lambda: 1.0) for wait in waits
    )


def put_off_seconds(receives: int, chance: Callable[[], float] = random.random, least_seconds: float = math.inf) -> int:
    """Whole seconds until a message that could not begin is visible again; some come after `least_seconds`."""
    ceiling = min(MAX_PUT_OFF_SECONDS, PUT_OFF_SECONDS * 2 ** min(receives - 1, 40))
    least = min(least_seconds, ceiling / 2)
    return whole_seconds(least + chance() * (ceiling - least))


def in_upper_half(ceiling: float, chance: Callable[[], float] = random.random) -> float:
    """A random number between half of the ceiling and the ceiling.

    Jitter spreads what failed together. It takes no more than half, so that the waits stay as long as they are meant.
    """
    return ceiling * (0.5 + chance() / 2)


def whole_seconds(seconds: float) -> int:
    """Seconds as SQS takes them: whole ones, rounded up, never negative."""
    return max(0, math.ceil(seconds))


def call_back_off_seconds(
    failures: int,
    error: QueueError | None,
    chance: Callable[[], float] = random.random,
    *,
    most: float = MAX_CALL_DELAY_SECONDS,
) -> float:
    """Seconds to wait after this many failing calls in a row, by what went wrong; `most` at most.

    AWS advises 200 ms, then 400 ms, and so on. A throttle gets a second, and what only a person can mend gets five.
    """
    base = 0.2
    if isinstance(error, Throttled):
        base = 1.0
    elif isinstance(error, AccessDenied | QueueMissing):
        base = 5.0
    ceiling: float = min(most, base * 2 ** min(failures - 1, 20))
    return in_upper_half(ceiling, chance)
