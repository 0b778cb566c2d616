"""A fake queue whose calls end within the time that they are given, as both clients see to it at SQS."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gevent import getcurrent

from millpond.errors import Unanswered
from millpond.sqs.queue import POLL_GRACE_SECONDS


class Limited:
    """Does what SqsQueue does: `seconds` for each call, on the clock of the test."""

    def __init__(self, queue: Any, clock: Any) -> None:
        self.url = queue.url
        self._queue = queue
        self._clock = clock

    def receive(self, most: int, wait_seconds: int, visibility_seconds: int, attempt_id: str = "") -> Any:
        asked = (most, wait_seconds, visibility_seconds, attempt_id)
        return self._within(wait_seconds + POLL_GRACE_SECONDS, lambda: self._queue.receive(*asked))

    def delete(self, receipt_handles: Any, seconds: float) -> Any:
        return self._within(seconds, lambda: self._queue.delete(receipt_handles))

    def extend(self, changes: Any, seconds: float) -> Any:
        return self._within(seconds, lambda: self._queue.extend(changes))

    def send(self, entries: Any, seconds: float) -> Any:
        return self._within(seconds, lambda: self._queue.send(entries))

    def attributes(self, seconds: float) -> Any:
        return self._within(seconds, self._queue.attributes)

    def _within(self, seconds: float, call: Callable[[], Any]) -> Any:
        caller = getcurrent()
        timer = self._clock.timer(seconds, lambda: caller.throw(_TimeIsOver()))
        try:
            return call()
        except _TimeIsOver:
            raise Unanswered(f"no answer in {seconds:g} s") from None
        finally:
            timer.cancel()


class _TimeIsOver(BaseException):
    """No Exception: no fake's own loop may take it for an error."""
