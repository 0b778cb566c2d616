"""DeadlineQueue: the queue that an engine works on, whose settling calls end with the drain."""

from __future__ import annotations

from collections.abc import Sequence

from millpond.hub.clock import Clock
from millpond.sqs.queue import SETTLE_SECONDS, Entry, Failure, Received
from millpond.sqs.sqs_queue import SqsQueue

#: The drain leaves even its last call a chance.
LEAST_SECONDS = 0.5


class DeadlineQueue:
    """Gives each settling call the time that it may take, which the client keeps; and counts all calls.

    `deadline` is the end of the drain, on the clock: no settling call takes longer than what is left until then. A
    receive takes its wait and the client's grace; the drain waits for it, or goes without it.
    """

    def __init__(self, queue: SqsQueue, clock: Clock) -> None:
        self.url = queue.url
        self.deadline: float | None = None
        self.calls = 0  # each a request, which SQS bills where it arrives
        self._queue = queue
        self._clock = clock

    def receive(
        self, max_messages: int, wait_seconds: int, visibility_seconds: int, attempt_id: str = ""
    ) -> list[Received]:
        self.calls += 1
        return self._queue.receive(max_messages, wait_seconds, visibility_seconds, attempt_id)

    def delete(self, receipt_handles: Sequence[str]) -> list[Failure | None]:
        return self._queue.delete(receipt_handles, self._seconds())

    def extend(self, changes: Sequence[tuple[str, int]]) -> list[Failure | None]:
        return self._queue.extend(changes, self._seconds())

    def send(self, entries: Sequence[Entry]) -> list[Failure | None]:
        return self._queue.send(entries, self._seconds())

    def attributes(self) -> dict[str, str]:
        return self._queue.attributes(self._seconds())

    def _seconds(self) -> float:
        """What the call that begins now may take."""
        self.calls += 1
        if self.deadline is None:
            return SETTLE_SECONDS
        return max(LEAST_SECONDS, min(SETTLE_SECONDS, self.deadline - self._clock.now()))
