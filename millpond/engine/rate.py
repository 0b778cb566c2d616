"""TypeRate: when the next message of a type may begin, by its rate, or by the lower one that the other side takes."""

from __future__ import annotations

import math
from enum import Enum, auto

from millpond.app.handler_options import MOST_PER_SECOND, RateLimit

#: A rate is kept a hundredth below what was written: what travels unevenly is else, now and then, one too many for a
#: second of the other side's. 14/s are 13.86/s.
KEPT_SHARE = 0.99
#: A timer that comes late is made up for, this much at the most; time in which nothing waited never is.
CATCH_UP_SECONDS = 0.05
#: A timer may come this early.
EARLY_SECONDS = 0.0005
#: After a refusal the next one lowers the rate again only this much later.
LOWERED_FOR_SECONDS = 1.0
#: In the first second after a rate was measured it may come this much later.
ROUGH_SECONDS = 0.25
#: The least rate, where none is written that is less.
LEAST_PER_SECOND = 0.1
#: A lowered rate is back at this share of the one that was refused after the first time, and at all of it after the
#: second. Then it doubles each time.
NEAR_SHARE, NEAR_SECONDS, FULL_SECONDS, DOUBLE_SECONDS = 0.9, 2.0, 20.0, 5.0
#: Where nothing has waited for a rate for so long, it is far above what is used.
UNUSED_SECONDS = 10.0


class RateState(Enum):
    """See the table of TypeRate."""

    UNLIMITED = auto()
    WRITTEN = auto()
    LOWERED = auto()


class TypeRate:
    """The rate of one type in one worker: a state, whose every answer follows from it and the time of the call.

    | from | to | when |
    |---|---|---|
    | UNLIMITED, WRITTEN | LOWERED | the other side asks for fewer (`too_fast`): half of what was refused |
    | LOWERED | LOWERED | it asks again, of a message that began at the lowered rate: half of that |
    | LOWERED | WRITTEN | successes have restored the rate that is written |
    | LOWERED | UNLIMITED | none is written, and nothing has waited for the restored one for a while |

    Each message begins a full interval after the one before: time in which none began earns no burst.
    """

    def __init__(self, written: RateLimit | None) -> None:
        self._written = math.inf if written is None else written.per_second * KEPT_SHARE
        self._least = min(LEAST_PER_SECOND, self._written)
        self.state = RateState.UNLIMITED if written is None else RateState.WRITTEN
        self.per_second = self._written
        self._next_at = -math.inf
        self._is_awaited = False  # whether one was to begin at `_next_at`
        self._awaited_at = -math.inf  # when one last had to wait
        self._lowered_at = -math.inf
        self._measured_at = -math.inf  # when it came from UNLIMITED
        # Of a lowered rate:
        self._restored_from: float  # `_lowered_at`, or when Retry-After was over
        self._lowered_to: float
        self._refused: float  # the rate at which the other side refused
        self._accepted = self._declined = 0  # messages, since it was lowered

    def take(self, now: float) -> float:
        """0.0: a message begins now. Else the seconds until one may: ask again then."""
        early = self._next_at - now
        if early > EARLY_SECONDS:
            self._is_awaited = True
            self._awaited_at = now
            return early
        if self.per_second != math.inf:
            late = min(-early, CATCH_UP_SECONDS) if self._is_awaited else 0.0
            self._next_at = now - late + 1 / self.per_second
            self._is_awaited = self._is_awaited and self._next_at < now
        return 0.0

    def too_fast(self, now: float, after: float | None = None, *, began: float, running: int) -> bool:
        """The other side asks for fewer; none begins before `after` seconds. True: the rate is lowered.

        `began`: when the message began that it refused; one from before the last lowering shows nothing of it.
        `running`: messages at work now. Where there is no rate yet, they and the time that the refused one took say
        how many were begun in a second.
        """
        self._declined += 1
        is_news = self.state is RateState.UNLIMITED or (
            began >= self._lowered_at and now >= self._lowered_at + self._least_seconds(now)
        )
        if is_news:
            self._lower(now, max(now - began, 1 / MOST_PER_SECOND), running)
        if after is not None:
            self._next_at = max(self._next_at, now + after)
            self._restored_from = max(self._restored_from, now + after)
        return is_news

    def _least_seconds(self, now: float) -> float:
        """Until it may be lowered again. What was measured is too much as a rule: refusals come fast."""
        return ROUGH_SECONDS if now < self._measured_at + LOWERED_FOR_SECONDS else LOWERED_FOR_SECONDS

    def _lower(self, now: float, took_seconds: float, running: int) -> None:
        refused, since = self.per_second, now - self._lowered_at
        if self.state is RateState.UNLIMITED:
            self._measured_at = now
            refused = max(1, running) / took_seconds
        half = refused / 2
        is_flooded = self.state is RateState.LOWERED and self._declined > self._accepted > 0
        if is_flooded and since > 2 * took_seconds:  # the other side has shown what it takes
            refused = half = min(half, max(self._accepted / since, refused / 8))
        self._refused, self._lowered_to = max(self._least, refused), max(self._least, half)
        self.per_second = self._lowered_to
        self._lowered_at = self._restored_from = self._awaited_at = now
        self._accepted = self._declined = 0
        self._next_at = max(self._next_at, now + 1 / self.per_second)
        self.state = RateState.LOWERED

    def succeeded(self, now: float) -> None:
        """A message of the type has succeeded: a lowered rate is restored, by the time since it was lowered."""
        if self.state is not RateState.LOWERED:
            return
        self._accepted += 1
        self.per_second = restored(self._lowered_to, self._refused, max(0.0, now - self._restored_from))
        if self.per_second >= self._written:
            self.state, self.per_second = RateState.WRITTEN, self._written
        elif self.per_second > self._refused and now >= self._awaited_at + UNUSED_SECONDS and self._written == math.inf:
            self.state, self.per_second = RateState.UNLIMITED, math.inf


def restored(lowered_to: float, refused: float, seconds: float) -> float:
    """The rate so long after it was lowered: quickly near the refused one, slowly up to it, and then to find a new one.

    So it is most of the time just below what the other side takes.
    """
    if seconds <= NEAR_SECONDS:
        near = max(lowered_to, NEAR_SHARE * refused)
        return lowered_to + (near - lowered_to) * seconds / NEAR_SECONDS
    if seconds <= FULL_SECONDS:
        share = NEAR_SHARE + (1 - NEAR_SHARE) * (seconds - NEAR_SECONDS) / (FULL_SECONDS - NEAR_SECONDS)
        return max(lowered_to, share * refused)
    return float(refused * 2 ** min((seconds - FULL_SECONDS) / DOUBLE_SECONDS, 60.0))
