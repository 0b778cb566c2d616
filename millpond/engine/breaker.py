"""CircuitBreaker: whether what one message type needs is up, as far as the ends of its messages show it."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from enum import Enum
from typing import Literal

from millpond.app.handler_options import DEFAULT_BREAKER, Breaker
from millpond.engine.delivery import Delivery
from millpond.message import Outcome


class BreakerState(Enum):
    """Whether messages of a type may begin.

    | from          | to      | when |
    |---------------|---------|------|
    | CLOSED        | OPEN    | `CircuitBreaker._open`: one says Unavailable, or too many have failed in a row |
    | OPEN, PROBING | PROBING | `CircuitBreaker.begin`: the wait is over, or nobody waits for the last probe any more |
    | PROBING       | OPEN    | `CircuitBreaker._open`: the probe failed, or has shown nothing |
    | OPEN, PROBING | CLOSED  | `CircuitBreaker._close`: a probe got through |
    """

    CLOSED = "closed"
    OPEN = "open"
    PROBING = "probing"


CLOSED, OPEN, PROBING = BreakerState


#: What the end of one message shows of what its type needs: it says itself that it is down, or it failed as it would if
#: that were down ("other_side"), or it failed whatever the cause.
Sign = Literal["up", "down", "other_side", "failed", "nothing"]
OUTAGES = frozenset({"down", "other_side"})


def sign_of(outcome: Outcome) -> Sign:
    """What an outcome shows. A message that is refused for its own sake shows nothing."""
    if outcome.name == "succeeded":
        return "up"
    if outcome.cause == "unavailable":
        return "down"
    if outcome.cause == "too_fast":
        return "other_side"
    if outcome.cause in ("failed", "timed_out"):
        return "other_side" if outcome.other_side else "failed"
    return "nothing"


class CircuitBreaker:
    """The breaker of one message type.

    1. It opens where a message says Unavailable, and where too many in a row fail: few that look like the other side's
       failure, many of any other kind.
    2. Then one message at a time is the probe. It is waited for until `probe_limit_seconds`: then the next one may
       begin beside it. The waits between probes grow, and never end.
    3. Only a probe shows anything: what began before the breaker opened, a straggler, neither closes it nor opens it
       again.

    `options`: None for a breaker that never opens.
    """

    def __init__(self, options: Breaker | None, chance: Callable[[], float] = random.random) -> None:
        self.state: BreakerState = CLOSED
        self.until = -math.inf  # OPEN: when the next probe may begin; PROBING: until when this one is waited for
        self._is_off = options is None
        self._options = options or DEFAULT_BREAKER
        self._chance = chance
        self.failures = 0  # in a row, of any kind
        self._outage_failures = 0  # in a row, that look like the other side's
        self._wait_seconds = 0.0
        self._opened_at = -math.inf  # on the deliveries' clock: what began by then is a straggler
        self._probes: set[Delivery] = set()  # of this opening
        self._probe: Delivery | None = None  # the last one of these

    @property
    def is_quiet(self) -> bool:
        """Whether a success would change nothing."""
        return self.state is CLOSED and not self.failures

    def seconds_left(self, now: float) -> float:
        """Seconds until a message may begin."""
        return 0.0 if self.state is CLOSED else max(0.0, self.until - now)

    def lets(self, delivery: Delivery) -> bool:
        """Whether a message that was let in may still begin."""
        return self.state is CLOSED or delivery in self._probes

    def begin(self, delivery: Delivery, now: float) -> None:
        """Let a message in: while the breaker is not closed it is the probe."""
        if self.state is not CLOSED:
            self.state = PROBING
            self.until = now + self._options.probe_limit_seconds
            self._probes.add(delivery)
            self._probe = delivery

    def ended(self, delivery: Delivery, outcome: Outcome, now: float) -> bool:
        """Learn from how a message ended. True: that was no fault of its own, it is to run again."""
        sign = sign_of(outcome)
        if self.state is CLOSED:
            return self._count(delivery, sign, outcome.asked_seconds or 0.0, now)
        if delivery in self._probes:
            self._probes.discard(delivery)
            if sign == "up" or (sign == "failed" and not self._options.failures):
                self._close()
            elif delivery is self._probe:
                self._probe_failed(sign, outcome.asked_seconds or 0.0, now)
        return sign in OUTAGES

    def _count(self, delivery: Delivery, sign: Sign, asked_seconds: float, now: float) -> bool:
        if self._is_off:
            return False
        if 0.0 < delivery.started <= self._opened_at:  # a straggler
            return sign in OUTAGES
        if sign == "up":
            self.failures = self._outage_failures = 0
        elif sign != "nothing":
            self.failures += 1
            self._outage_failures = self._outage_failures + 1 if sign in OUTAGES else 0
            if self._is_too_much(sign):
                self._opened_at = max(self._opened_at, delivery.ended)
                self._open(self._options.probe_seconds, asked_seconds, now)
                return sign in OUTAGES
        return False

    def _is_too_much(self, sign: Sign) -> bool:
        most = self._options.failures
        in_a_row = self._outage_failures >= self._options.outage_failures or 0 < most <= self.failures
        return sign == "down" or in_a_row

    def _probe_failed(self, sign: Sign, asked_seconds: float, now: float) -> None:
        if sign == "nothing":
            self._open(self._wait_seconds, 0.0, now)
            self.until = now
            return
        self._probes.clear()
        longest = self._options.max_probe_seconds
        wait = min(longest, 2 * self._wait_seconds) if sign in OUTAGES else self._wait_seconds
        self._open(wait, asked_seconds, now)

    def _open(self, wait_seconds: float, asked_seconds: float, now: float) -> None:
        self.state = OPEN
        self._wait_seconds = wait_seconds
        self.until = now + max(asked_seconds, wait_seconds * (0.5 + self._chance() / 2))
        self._probe = None

    def _close(self) -> None:
        self.state = CLOSED
        self.failures = self._outage_failures = 0
        self._probes.clear()
        self._probe = None
