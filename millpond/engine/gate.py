"""Gate: whether a message of one type may begin now, and the line of those that wait for it."""

from __future__ import annotations

import logging
import math
from collections import OrderedDict

from millpond.app.routing import Route
from millpond.engine.breaker import CLOSED, BreakerState, CircuitBreaker
from millpond.engine.delivery import Delivery
from millpond.engine.outcomes import FAILURES, SUCCEEDED, refused_too_often
from millpond.engine.rate import RateState, TypeRate
from millpond.hub.backoff import put_off_seconds
from millpond.hub.clock import Timer
from millpond.hub.countdown import Time
from millpond.message import Outcome
from millpond.observe import log

#: A line holds this many in one queue while its breaker is open.
MAX_HELD = 1_000
#: Once a breaker is closed, this many of those that it held are at work at once: the others find free slots too.
BEGIN_AT_ONCE = 100
#: The line of a type with a rate is what begins in this time, and a few more.
HELD_SECONDS, HELD_BESIDE = 2.0, 10
#: While all slots are busy, what begins in this time by the rate is on its way to one, and no more: else the line would
#: begin at once when they are free.
ON_WAY_SECONDS = 1.0
#: Where there is no rate yet, a refusal that came sooner counts as if it had taken this long.
LEAST_TOOK_SECONDS = 0.05
#: A message that is refused this often in one receive, while others of its type get through, has failed.
MAX_REFUSALS = 20
#: Probes that fail, and rates that are lowered, are logged this often.
LOG_SECONDS = 60.0
#: The outcome of a delivery that is none yet: it is held.
IN_LINE = Outcome("released", reason="it is held until it may begin")


class Gate:
    """The gate of one message type, for all queues of the process.

    1. Where the breaker, the concurrency or the rate does not let a message begin, it is held: it leaves its slot and
       stands in line. What has room for it is its queue's Hold.
    2. Who has stood longest in line begins first, and nobody overtakes. After a breaker has closed, others need not
       wait until the line is at its end.
    3. What fails because the other side is down stands in line again, behind the others: one message that always
       fails must not be the only probe.

    `watches` is false where nothing could be learned from a message: then it is not asked at all.
    """

    def __init__(self, route: Route, time: Time) -> None:
        self.event_type = route.event_type
        self.breaker = CircuitBreaker(route.breaker)
        self.rate = TypeRate(route.rate)
        self.concurrency = route.concurrency or 0
        self._always_watches = bool(route.rate or route.concurrency)
        self._time = time
        self.line: OrderedDict[Delivery, None] = OrderedDict()
        self._begun: set[Delivery] = set()  # let in, and not ended; with a concurrency all, else those of the line
        self._on_way: set[Delivery] = set()  # let in from the line, and not yet in a slot
        self._timer: Timer | None = None
        self._look_at = math.inf  # when it rings
        self._successes = 0  # while it watches
        self._refusals: dict[Delivery, tuple[int, int]] = {}  # how often each was refused; the successes by then
        self._shut_since = 0.0
        self._reason = ""
        self._logged_at = -math.inf
        self._lowered_logged_at = -math.inf
        self.watches = self._always_watches

    @property
    def is_shut(self) -> bool:
        """Whether the breaker is not closed."""
        return self.breaker.state is not CLOSED

    @property
    def bound(self) -> int:
        """How many in line are enough for one queue."""
        if self.is_shut or not self._is_limited:
            return MAX_HELD
        by_concurrency = 2 * self.concurrency if self.concurrency else MAX_HELD
        by_rate = HELD_SECONDS * self.rate.per_second + HELD_BESIDE if self._has_rate else MAX_HELD
        return int(min(by_concurrency, by_rate, MAX_HELD))

    @property
    def rate_now(self) -> float:
        """How many may begin in a second; 0.0 where there is no rate."""
        return self.rate.per_second if self._has_rate else 0.0

    @property
    def _has_rate(self) -> bool:
        return self.rate.state is not RateState.UNLIMITED

    @property
    def _is_limited(self) -> bool:
        return bool(self.concurrency) or self._has_rate

    @property
    def reason(self) -> str:
        """Why messages stand in line."""
        if self.is_shut:
            return self._reason
        return f"{self.event_type} is limited: others of its type have their turn first"

    # In

    def admit(self, delivery: Delivery) -> Outcome | None:
        """None: it may begin now. Else it is held, or the outcome with which it is given back."""
        if delivery in self._begun:
            self._reach_slot(delivery)
            if self.breaker.lets(delivery):
                return None
            self._begun.discard(delivery)  # it was let in, and then the breaker has opened
        elif not (self.line and self._is_in_order) and not self._seconds_left():
            self._let_in(delivery, from_line=False)
            return None
        return self._hold(delivery)

    def _reach_slot(self, delivery: Delivery) -> None:
        was_full = self._is_way_full
        self._on_way.discard(delivery)
        if was_full:
            self._let_next_in()

    @property
    def _is_way_full(self) -> bool:
        return self._has_rate and len(self._on_way) >= max(1.0, ON_WAY_SECONDS * self.rate.per_second)

    @property
    def _is_in_order(self) -> bool:
        return self.is_shut or self._is_limited

    def _seconds_left(self) -> float:
        """0.0: the next one begins now. Else the seconds until it may; infinite where another has to end first."""
        if self.breaker.state is not CLOSED and (seconds := self.breaker.seconds_left(self._time.now())):
            return seconds
        if self.concurrency and len(self._begun) >= self.concurrency:
            return math.inf
        return 0.0 if self.rate.state is RateState.UNLIMITED else self.rate.take(self._time.now())

    def _let_in(self, delivery: Delivery, from_line: bool) -> None:
        if self.breaker.state is not CLOSED:
            self.breaker.begin(delivery, self._time.now())
            text = f"{self.event_type}: a message tries again"
            log.event(logging.DEBUG, "breaker.probing", text, type=self.event_type, reason=self._reason)
            from_line = True
        if from_line or self.concurrency:
            self._begun.add(delivery)

    # In line

    def _hold(self, delivery: Delivery) -> Outcome:
        if not delivery.owner.hold_in_line(delivery, self):
            return no_room(delivery, f"no more messages are held: {self.reason}", self._line_seconds)
        self.line[delivery] = None
        self._let_next_in()
        return IN_LINE

    @property
    def _line_seconds(self) -> float:
        """How long the line lasts by the rate: where all came back later it would be empty meanwhile."""
        return math.inf if self.is_shut else len(self.line) / self.rate.per_second

    def leave_line(self, delivery: Delivery) -> None:
        """It waits no longer: its queue has taken it out."""
        self.line.pop(delivery, None)

    def _let_next_in(self) -> None:
        """Let in what may begin now, and look again when more may."""
        seconds = math.inf
        while self.line and not self._is_way_full and (self._is_in_order or len(self._begun) < BEGIN_AT_ONCE):
            if seconds := self._seconds_left():
                break
            delivery, _ = self.line.popitem(last=False)
            self._on_way.add(delivery)
            self._let_in(delivery, from_line=True)
            delivery.owner.run_again(delivery)
        self._look_again_in(seconds if self.line and seconds else math.inf)
        self.watches = bool(self._is_limited or self.line or self._begun) or not self.breaker.is_quiet

    def _look_again_in(self, seconds: float) -> None:
        due = self._time.now() + seconds
        if self._timer is not None:
            if self._look_at <= due < math.inf:
                return
            self._timer.cancel()
            self._timer = None
        if due < math.inf:
            self._look_at = due
            # A millisecond at least, or with a clock that stands still it would never end.
            self._timer = self._time.timer(max(0.001, seconds), self._look_again)

    def _look_again(self) -> None:
        self._timer = None
        self._let_next_in()

    # Out

    def succeeded(self, delivery: Delivery) -> None:
        """The same as `ended`, for what succeeded: as a rule that changes nothing."""
        self._begun.discard(delivery)
        breaker, rate = self.breaker, self.rate
        is_quiet = breaker.state is CLOSED and not breaker.failures and rate.state is not RateState.LOWERED
        if not (is_quiet and self._always_watches) or self._refusals or (self.line and self.concurrency):
            self.ended(delivery, SUCCEEDED)

    def ended(self, delivery: Delivery, outcome: Outcome) -> Outcome:
        """Learn from how a message ended. Gives the outcome that counts: it may be held instead."""
        now, before = self._time.now(), self.breaker.state
        self._begun.discard(delivery)
        self._on_way.discard(delivery)
        if outcome.name == "succeeded":
            self._successes += 1
            self.rate.succeeded(now)
        elif outcome.cause == "too_fast":
            return self._refused(delivery, outcome, now)
        runs_again = self.breaker.ended(delivery, outcome, now)
        if self.breaker.state is not before:
            self._log_change(before, outcome)
        # A time limit is an attempt also in an outage: it may be this message alone that takes too long.
        # Its thread may run on, too, and it must not run beside itself.
        if runs_again and outcome.cause != "timed_out":
            return self._stay(delivery, outcome)
        return self._leave(delivery, outcome)

    def _refused(self, delivery: Delivery, outcome: Outcome, now: float) -> Outcome:
        """The other side asks for fewer. Of the refusals of one burst only the first shows something of it.

        Nor does a probe's: one message at a time is no rate, and the least one would be left for when it is back.
        """
        if self.is_shut or self._lowers_rate(delivery, outcome, now):
            before = self.breaker.state
            self.breaker.ended(delivery, outcome, now)
            if self.breaker.state is not before:
                self._log_change(before, outcome)
        times, successes = self._refusals.get(delivery, (0, -1))
        times += self._successes > successes
        self._refusals[delivery] = times, self._successes
        if times < MAX_REFUSALS:
            return self._stay(delivery, outcome)
        return self._leave(delivery, refused_too_often(delivery, delivery.desk.policy, outcome))

    def _lowers_rate(self, delivery: Delivery, outcome: Outcome, now: float) -> bool:
        began, running = delivery.started, 0
        if not self._has_rate:
            began, running = min(began, now - LEAST_TOOK_SECONDS), delivery.owner.number_inside(self) + 1
        is_news = self.rate.too_fast(now, outcome.asked_seconds, began=began, running=running)
        if is_news and now >= self._lowered_logged_at + LOG_SECONDS:
            self._lowered_logged_at = now
            self._log_lowered(outcome)
        return is_news

    def _stay(self, delivery: Delivery, outcome: Outcome) -> Outcome:
        held = self._hold(delivery)
        if held is IN_LINE:
            return held
        return self._leave(delivery, held if outcome.cause in FAILURES else outcome)

    def _leave(self, delivery: Delivery, outcome: Outcome) -> Outcome:
        if self._refusals:
            self._refusals.pop(delivery, None)
        self._let_next_in()
        return outcome

    def _log_lowered(self, outcome: Outcome) -> None:
        why, asked = outcome.reason or outcome.error or outcome.cause, outcome.asked_seconds or 0.0
        rate, seconds = float(f"{self.rate.per_second:.3g}"), round(asked, 1)
        begins = (f"none begins for {seconds:g} s, then " if seconds > 0 else "") + f"{rate:g} a second"
        text = f"{self.event_type}: the other side asks for fewer ({why}): {begins}, more again as they succeed"
        fields = {"type": self.event_type, "reason": why, "rate": rate, "seconds": seconds}
        log.event(logging.WARNING, "rate.lowered", text, **fields)

    def _log_change(self, before: BreakerState, outcome: Outcome) -> None:
        now, why = self._time.now(), outcome.error or outcome.reason or outcome.cause
        seconds = round(self.breaker.seconds_left(now), 1)
        if not self.is_shut:
            seconds = round(now - self._shut_since, 1)
            text = f"a message got through, after {seconds:g} s: all of this type may begin again"
            self._log(logging.INFO, "breaker.closed", text, self._reason, seconds)
        elif before is CLOSED:
            self._reason, self._shut_since, self._logged_at = why, now, now
            text = f"{why}: no message of this type begins for {seconds:g} s, then one at a time tries again"
            self._log(logging.WARNING, "breaker.opened", text, why, seconds)
        elif now >= self._logged_at + LOG_SECONDS:
            self._logged_at = now
            text = f"still {why}; {len(self.line)} messages are held, the next one tries again in {seconds:g} s"
            self._log(logging.INFO, "breaker.probing", text, why, seconds)

    def _log(self, level: int, event: str, text: str, reason: str, seconds: float) -> None:
        log.event(level, event, f"{self.event_type}: {text}", type=self.event_type, reason=reason, seconds=seconds)


def no_room(delivery: Delivery, reason: str, line_seconds: float = math.inf) -> Outcome:
    """The outcome of what cannot be held: it is no failure, and comes back later, the later the more often it came."""
    seconds = max(1, put_off_seconds(delivery.received.receive_count, least_seconds=line_seconds / 2))
    return Outcome("released", "no_room", reason, delay_seconds=seconds)
