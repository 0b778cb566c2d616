"""Books: what became of every delivery of one queue, in numbers, in StatsD and in the log."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Callable, Container, Mapping, Sequence
from typing import NamedTuple

from millpond.engine.attempts import Attempts
from millpond.engine.delivery import Delivery
from millpond.engine.outcomes import FAILURES, attempts_of
from millpond.hub.clock import Clock
from millpond.message import FollowUp, Outcome
from millpond.observe import log
from millpond.observe.metric_row import UNKNOWN_TYPE, MetricKey
from millpond.observe.metrics import MetricCounter, Metrics, MetricTimer

LEVELS = {
    "succeeded": logging.INFO,
    "discarded": logging.INFO,
    "released": logging.INFO,
    "retried": logging.WARNING,
    "lease_lost": logging.WARNING,
    "dead_lettered": logging.ERROR,
}

#: What the log says of each other outcome than retried; the fields of the event stand in braces.
SENTENCES = {
    "succeeded": "succeeded in {seconds:g} s",
    "discarded": "the handler discarded this message; it was deleted",
    "released": "given back: this message is received again, by this or another worker",
    "lease_lost": "the lease was lost: SQS may have given this message to another worker",
    "dead_lettered": "this message is in the dead-letter queue now, with the reason",
}
#: Causes that say more than their outcomes.
CAUSE_SENTENCES = {
    "test_event": "S3 tests whether it can reach this queue: nothing to do, the message was deleted",
    "duplicate": "this event was done before: the message was deleted, and its handler did not run",
    "claimed": "another delivery runs this event: this message is received again when that claim is over",
    "claim_lost": "another delivery may have this event: nothing of this one is settled, and its message comes again",
}
#: Reasons and errors are cut in the log: an error's text may hold a whole body.
MAX_TEXT = 500


class OutcomeMetrics(NamedTuple):
    """One way that deliveries of one type end, with its metrics: to look them up cost 2 us a message."""

    outcome: str
    cause: str
    counter: MetricCounter
    duration: MetricTimer
    latency: MetricTimer


class Books:
    """One queue's books: `received` = the sum of `outcomes` + `abandoned` + what is in hand.

    `causes` are counted beside the outcomes. `types` are the message types that StatsD may name.
    """

    def __init__(
        self, queue: str, types: Container[str], metrics: Metrics, succeeded: log.Allowance, clock: Clock
    ) -> None:
        self.queue = queue
        self.received = 0
        self.abandoned = 0  # could not be settled: they wait for their visibility time-out
        self.redelivered = 0  # came again while they were in hand: received twice, counted once
        self.follow_ups_dead_lettered = 0  # dead letters that handlers left behind, or that could not be sent
        self._unlogged = 0  # that succeeded, and are not logged one by one: their number is logged once a second
        self._types = types
        self._outcome_metrics: dict[tuple[str, str, str], OutcomeMetrics] = {}
        self._metrics = metrics
        self._succeeded = succeeded
        self._no_room = log.Allowance(1)
        # Called after the log line of each failure; None: nobody asks.
        self.on_failure: Callable[[Delivery, Outcome, Mapping[str, object]], object] | None = None
        self._clock = clock

    @property
    def outcomes(self) -> Counter[str]:
        return self._sums(lambda metrics: metrics.outcome)

    @property
    def causes(self) -> Counter[str]:
        """How many ended for which cause, where they did not succeed."""
        return self._sums(lambda metrics: metrics.cause)

    def _sums(self, name_of: Callable[[OutcomeMetrics], str]) -> Counter[str]:
        sums: Counter[str] = Counter()
        for metrics in dict.fromkeys(self._outcome_metrics.values()):
            if name := name_of(metrics):
                sums[name] += metrics.counter.total
        return sums

    def outcomes_by_type(self) -> dict[str, Counter[str]]:
        """The outcomes of each registered type, and of "unknown" ones."""
        found: dict[str, Counter[str]] = {}
        for (kind, outcome, _), metrics in self._outcome_metrics.items():
            found.setdefault(kind, Counter())[outcome] += metrics.counter.total
        return found

    def causes_by_type(self) -> dict[str, Counter[str]]:
        """The causes of each registered type, and of "unknown" ones, where they did not succeed."""
        found: dict[str, Counter[str]] = {}
        for (kind, _, cause), metrics in self._outcome_metrics.items():
            if cause:
                found.setdefault(kind, Counter())[cause] += metrics.counter.total
        return found

    def succeeded_of(self, types: Container[str]) -> int:
        """How many of these types have succeeded so far."""
        found = self._outcome_metrics.items()
        return sum(one.counter.total for (kind, name, _), one in found if name == "succeeded" and kind in types)

    def receive(self, number: int) -> None:
        self.received += number
        self.count("received", number)

    def count_redelivery(self) -> None:
        """Count a delivery of a message that was in hand already: it is none of its own."""
        self.receive(-1)
        self.redelivered += 1
        self.count("redelivered")

    def count(self, name: str, number: int = 1) -> None:
        """Add to a counter of this queue."""
        self._metrics.counter(MetricKey(name, self.queue)).total += number

    def finish(self, deliveries: Sequence[Delivery]) -> None:
        now, unlogged = self._clock.now(), 0
        fraction_ms, epoch_ms = math.modf((self._clock.time() - now) * 1000)
        epoch_ms = int(epoch_ms)  # what is left of two large whole numbers is a small one, and cheap
        last_type, last_outcome = "", None
        for delivery in deliveries:
            outcome, envelope, started = delivery.outcome, delivery.envelope, delivery.started
            event_type = envelope.event_type if envelope is not None else ""
            if outcome is not last_outcome or event_type != last_type:  # most end as the one before them did
                last_type, last_outcome = event_type, outcome
                metrics = self._metrics_of(delivery, event_type, outcome)
            metrics.counter.total += 1
            if started:
                metrics.duration.add((delivery.ended - started) * 1000)
                received = delivery.received
                if received.receive_count == 1 and received.sent_ms:  # how long it had waited for its handler
                    metrics.latency.add(started * 1000 + fraction_ms - (received.sent_ms - epoch_ms))
            if outcome.name == "succeeded" and (unlogged or not self._succeeded.take(now)):
                unlogged += 1
            elif outcome.cause != "no_room" or self._no_room.take(now):  # these are many, and queue.full says why
                self._log(delivery, outcome)
        if unlogged and not self._unlogged:
            self._clock.timer(1.0, self.log_left_out)
        self._unlogged += unlogged

    def follow_up_dead_lettered(self, delivery: Delivery, follow_up: FollowUp, why: str) -> None:
        self.follow_ups_dead_lettered += 1
        self.count("follow_ups_dead_lettered")
        fields = {**delivery.identity(), "follow_up": log.printable(follow_up.event_id), "reason": why[:MAX_TEXT]}
        text = "a follow-up of this message is in the dead-letter queue now"
        log.event(logging.ERROR, "follow_up.dead_lettered", text, **fields)

    def sent_without_reason(self, delivery: Delivery, why: str) -> None:
        """Log a dead letter that went without its reason, which the log alone has now."""
        text = "the dead letter of this message had no room for the reason"
        log.event(logging.WARNING, "dead_letter.bare", text, **delivery.identity(), reason=why[:MAX_TEXT])

    def abandon(self, delivery: Delivery, error: str) -> None:
        self.abandoned += 1
        self.count("abandoned")
        text = "this message could not be settled: it comes back after its visibility time-out"
        log.event(logging.ERROR, "message.abandoned", text, **delivery.identity(), error=error)

    def log_left_out(self) -> None:
        """Log how many succeeded, of those that are not logged one by one."""
        if not self._unlogged:
            return
        text = f"{self._unlogged:,} more succeeded; they are not logged one by one ([log] succeeded_per_second)"
        log.event(logging.INFO, "message.succeeded", text, queue=self.queue, more=self._unlogged)
        self._unlogged = 0

    def _metrics_of(self, delivery: Delivery, event_type: str, outcome: Outcome) -> OutcomeMetrics:
        if delivery.desk is not None:  # a prefix is named as its handler has it
            event_type = delivery.desk.route.event_type
        kind = event_type if event_type in self._types else UNKNOWN_TYPE  # a type from the wire can be anything
        key = (kind, outcome.name, outcome.cause)
        if key not in self._outcome_metrics:
            self._outcome_metrics[key] = self._make_metrics(*key)
        return self._outcome_metrics[key]

    def _make_metrics(self, kind: str, outcome: str, cause: str) -> OutcomeMetrics:
        counter = self._metrics.counter(*(MetricKey(name, self.queue, kind) for name in (outcome, cause) if name))
        duration, latency = (self._metrics.timer(MetricKey(name, self.queue, kind)) for name in ("duration", "latency"))
        return OutcomeMetrics(outcome, cause, counter, duration, latency)

    def _log(self, delivery: Delivery, outcome: Outcome) -> None:
        fields = delivery.identity()
        fields["seconds"] = round(delivery.ended - delivery.started, 3) if delivery.started else 0.0
        for name in ("cause", "reason", "error", "traceback"):
            if value := getattr(outcome, name):
                fields[name] = value if name == "traceback" else value[:MAX_TEXT]
        attempts = attempts_of(delivery, outcome)
        if attempts is not None and attempts.failures is not None:
            fields["failures"] = attempts.failures
        if outcome.name == "retried":
            fields["delay_seconds"] = outcome.delay_seconds
            level, text = _retried(outcome, attempts)
        else:
            sentence = CAUSE_SENTENCES.get(outcome.cause) or SENTENCES[outcome.name]
            level, text = LEVELS[outcome.name], sentence.format_map(fields)
        if outcome.name == "succeeded" and not fields["seconds"]:
            text = "succeeded in less than 1 ms"
        log.event(level, f"message.{outcome.name}", text, **fields)
        if outcome.cause in FAILURES and self.on_failure is not None:
            self.on_failure(delivery, outcome, fields)


def _retried(outcome: Outcome, attempts: Attempts | None) -> tuple[int, str]:
    """The level and the sentence of what is visible again after a wait: only a failure is one to look at."""
    again = f"in {outcome.delay_seconds} s"
    if attempts is None and outcome.cause in FAILURES:
        return logging.WARNING, f"it cannot be sent to a dead-letter queue: this message is visible again {again}"
    if attempts is None:
        return logging.INFO, f"put off, which is no failure: this message is visible again {again}"
    if attempts.failures is not None:
        text = f"failure {attempts.failures} of {attempts.max_attempts}"
    else:
        text = f"attempt {attempts.used} of {attempts.max_attempts} failed ({attempts})"
    return logging.WARNING, f"{text}, next attempt {again}"
