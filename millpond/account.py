"""Account: what became of every delivery of one queue, in numbers, in StatsD and in the log."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Container
from typing import NamedTuple

from millpond import log
from millpond.clock import Clock
from millpond.delivery import Delivery
from millpond.message import FollowUp, Outcome
from millpond.metrics import Metrics, Sample, Tally

LEVELS = {
    "succeeded": logging.INFO,
    "discarded": logging.INFO,
    "released": logging.INFO,
    "retried": logging.WARNING,
    "lease_lost": logging.WARNING,
    "dead_lettered": logging.ERROR,
}

#: Reasons and errors are cut in the log: an error's text may hold a whole body.
MAX_TEXT = 500


class Ending(NamedTuple):
    """What StatsD hears of one way that deliveries of one type end: to look the names up cost 2 us a message."""

    tally: Tally
    duration: Sample  # the queue's
    type_duration: Sample


class Account:
    """One queue's books: `received` = the sum of `outcomes` + what is in hand.

    `causes` are counted beside the outcomes. `types` are the message types that StatsD may name.
    """

    def __init__(
        self, queue: str, types: Container[str], metrics: Metrics, succeeded: log.Allowance, clock: Clock
    ) -> None:
        self.queue = queue
        self.received = 0
        self.outcomes: Counter[str] = Counter()
        self.causes: Counter[str] = Counter()
        self.abandoned = 0  # could not be settled: they wait for their visibility time-out
        self.taken_over = 0  # came again while they were in hand: received twice, counted once
        self.rejected_follow_ups = 0  # dead letters that handlers left behind, or that could not be sent
        self._unlogged = 0
        self._types = types
        self._endings: dict[tuple[str, str, str], Ending] = {}
        self._metrics = metrics
        self._latency = metrics.sample(f"{queue}.latency")
        self._succeeded = succeeded
        self._clock = clock

    def receive(self, number: int) -> None:
        """So many deliveries more."""
        self.received += number
        self.count("received", number)

    def take_over(self) -> None:
        """A delivery turned out to be of a message that is in hand: there is one less."""
        self.receive(-1)
        self.taken_over += 1
        self.count("taken_over")

    def count(self, name: str, number: int = 1) -> None:
        """A counter of this queue."""
        self._metrics.tally(f"{self.queue}.{name}").n += number

    def start(self, delivery: Delivery) -> None:
        """A handler is about to run: how long the message has waited, told for first attempts."""
        received = delivery.received
        if received.receive_count == 1 and received.sent_ms:
            self._latency.add(self._clock.time() * 1000 - received.sent_ms)

    def finish(self, delivery: Delivery, outcome: Outcome) -> None:
        """A delivery has ended, and SQS knows it."""
        self.outcomes[outcome.name] += 1
        if outcome.cause:
            self.causes[outcome.cause] += 1
        ending = self._ending(delivery, outcome)
        ending.tally.n += 1
        seconds = 0.0
        if delivery.started:
            seconds = delivery.ended - delivery.started
            ending.duration.add(seconds * 1000)
            ending.type_duration.add(seconds * 1000)
        if outcome.name != "succeeded" or self._succeeded.take(self._clock.now()):
            self._log(delivery, outcome, seconds)
        else:
            self._leave_out()

    def bury_follow_up(self, delivery: Delivery, job: FollowUp, why: str) -> None:
        """A job that a handler has left behind is in the dead-letter queue now."""
        self.rejected_follow_ups += 1
        self.count("follow_up_dead_lettered")
        fields = {**delivery.identity(), "follow_up": log.printable(job.event_id), "reason": why[:MAX_TEXT]}
        log.event(logging.ERROR, "follow_up.dead_lettered", "", **fields)

    def bare_letter(self, delivery: Delivery, why: str) -> None:
        """A dead letter went without its reason, which the log alone has now."""
        text = "its dead letter has no room for the reason"
        log.event(logging.WARNING, "dead_letter.bare", text, **delivery.identity(), reason=why[:MAX_TEXT])

    def abandon(self, delivery: Delivery, error: str) -> None:
        """A delivery could not be settled."""
        self.abandoned += 1
        self.count("abandoned")
        text = "could not be settled and waits for its visibility time-out"
        log.event(logging.ERROR, "message.abandoned", text, **delivery.identity(), error=error)

    def _leave_out(self) -> None:
        """More succeed than are logged one by one: say how many, once a second."""
        self._unlogged += 1
        if self._unlogged == 1:
            self._clock.timer(1.0, self._tell_left_out)

    def _tell_left_out(self) -> None:
        text = f"{self._unlogged} more, not shown one by one ([log] succeeded_per_second)"
        log.event(logging.INFO, "message.succeeded", text, queue=self.queue, more=self._unlogged)
        self._unlogged = 0

    def _ending(self, delivery: Delivery, outcome: Outcome) -> Ending:
        event_type = delivery.envelope.event_type if delivery.envelope is not None else ""
        kind = event_type if event_type in self._types else "unknown"  # a type from the wire can be anything
        key = (kind, outcome.name, outcome.cause)
        ending = self._endings.get(key)
        if ending is None:
            ending = self._endings[key] = self._make_ending(kind.replace(".", "_"), (outcome.name, outcome.cause))
        return ending

    def _make_ending(self, kind: str, names: tuple[str, str]) -> Ending:
        mine, types = self.queue, f"{self.queue}.type.{kind}"
        counters = [f"{place}.{name}" for name in names if name for place in (mine, types)]
        sample = self._metrics.sample
        return Ending(self._metrics.tally(*counters), sample(f"{mine}.duration"), sample(f"{types}.duration"))

    def _log(self, delivery: Delivery, outcome: Outcome, seconds: float) -> None:
        fields = delivery.identity()
        fields["seconds"] = round(seconds, 3)
        for name in ("cause", "reason", "error", "traceback"):
            if value := getattr(outcome, name):
                fields[name] = value if name == "traceback" else value[:MAX_TEXT]
        if outcome.name == "retried":
            fields["retry_seconds"] = outcome.delay_seconds
        log.event(LEVELS[outcome.name], f"message.{outcome.name}", "", **fields)
