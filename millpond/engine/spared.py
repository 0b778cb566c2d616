"""Spared: receives that SQS has counted, and that use up no attempt."""

from __future__ import annotations

from millpond.engine.delivery import Delivery
from millpond.engine.outcomes import DONE, FAILURES, GIVEN_BACK

#: Messages of which it is remembered how many receives were no failures.
MAX_SPARED = 10_000


class Spared:
    """How many receives of a message were no failure, as far as this worker has seen, by message id."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}

    def finish(self, delivery: Delivery) -> None:
        """Learn from how a delivery ended."""
        message_id, outcome = delivery.received.message_id, delivery.outcome
        if outcome.name in DONE:
            self.counts.pop(message_id, None)
        elif outcome.name in GIVEN_BACK and outcome.cause not in FAILURES:
            self.counts.pop(message_id, None)
            if len(self.counts) >= MAX_SPARED:  # the one that was not seen for longest
                del self.counts[next(iter(self.counts))]
            self.counts[message_id] = delivery.spared + 1
