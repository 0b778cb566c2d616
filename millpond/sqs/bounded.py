"""Bounded: a queue whose every call ends in time, whatever the network does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from gevent import getcurrent

from millpond.errors import Unreachable
from millpond.hub.clock import Clock
from millpond.hub.countdown import Countdown
from millpond.sqs.queue import Entry, Failure, Queue, Received

Answer = TypeVar("Answer")

#: A receive that is not back so long after its wait is over is given up (connect 5 s, answer 10 s).
RECEIVE_GRACE_SECONDS = 15
#: A delete, an extension, a send.
SETTLE_SECONDS = 10.0
#: The drain leaves even its last call a chance.
LEAST_SECONDS = 0.5


class Bounded:
    """Wraps a queue: a call past its limit raises Unreachable.

    An SDK's read time-out counts from one byte to the next; a server that drips would hold a call for ever.
    `deadline` is the end of the drain, on the clock: settling calls take no longer than what is left until then.
    """

    def __init__(self, queue: Queue, clock: Clock) -> None:
        self.url = queue.url
        self.deadline: float | None = None
        self.calls = 0  # each a request, which SQS bills where it arrives
        self._queue = queue
        self._clock = clock
        self._limits: dict[float, Countdown[Any]] = {}  # greenlets inside a call, by its limit in seconds

    def receive(
        self, max_messages: int, wait_seconds: int, visibility_seconds: int, attempt_id: str = ""
    ) -> list[Received]:
        limit, asked = wait_seconds + RECEIVE_GRACE_SECONDS, (max_messages, wait_seconds, visibility_seconds)
        return self._within(limit, lambda: self._queue.receive(*asked, attempt_id))

    def delete(self, receipt_handles: Sequence[str]) -> list[Failure | None]:
        return self._settle(lambda: self._queue.delete(receipt_handles))

    def extend(self, changes: Sequence[tuple[str, int]]) -> list[Failure | None]:
        return self._settle(lambda: self._queue.extend(changes))

    def send(self, entries: Sequence[Entry]) -> list[Failure | None]:
        return self._settle(lambda: self._queue.send(entries))

    def attributes(self) -> dict[str, str]:
        return self._settle(self._queue.attributes)

    def _settle(self, call: Callable[[], Answer]) -> Answer:
        if self.deadline is None:
            return self._within(SETTLE_SECONDS, call)
        left = round(self.deadline - self._clock.now(), 1)
        return self._within(max(LEAST_SECONDS, min(SETTLE_SECONDS, left)), call)

    def _within(self, seconds: float, call: Callable[[], Answer]) -> Answer:
        self.calls += 1
        limit = self._limits.get(seconds)
        if limit is None:
            limit = self._limits[seconds] = Countdown(seconds, _cut, self._clock)
        caller = getcurrent()
        limit.add(caller)
        try:
            return call()
        except _Cut:
            raise Unreachable(f"no answer in {seconds:g} s") from None
        finally:
            limit.remove(caller)


def _cut(caller: Any) -> None:
    """In the hub, which has control only while the caller waits inside its call."""
    caller.throw(_Cut())


class _Cut(BaseException):
    """No Exception: an SDK's own loops would take it for an error of the network, and try again."""
