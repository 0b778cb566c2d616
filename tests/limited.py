"""A fake queue whose calls are counted and end in time, as those of an SqsQueue do."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from gevent import getcurrent

from millpond.errors import Unanswered
from millpond.sqs.queue import CALL_SECONDS, POLL_GRACE_SECONDS
from millpond.sqs.sqs_queue import LEAST_DRAIN_SECONDS


class Limited:
    """Does what SqsQueue does around another fake, on the clock of the test.

    It stands for what tests/sqs/test_sqs_queue.py and test_stream.py show of the real one: a call ends at its limit,
    whatever the network does, and a send in several calls has one limit. Were that not so, no simulation would tell.
    """

    def __init__(self, queue: Any, clock: Any) -> None:
        self.url = queue.url
        self.calls = 0
        self._end = math.inf
        self._queue = queue
        self._clock = clock

    def limit_calls(self, seconds: float) -> None:
        self._end = self._clock.now() + seconds

    def receive(self, most: int, wait_seconds: int, visibility_seconds: int, attempt_id: str = "") -> Any:
        asked = (most, wait_seconds, visibility_seconds, attempt_id)
        return self._within(wait_seconds + POLL_GRACE_SECONDS, lambda: self._queue.receive(*asked))

    def delete(self, receipt_handles: Any) -> Any:
        return self._settle(lambda: self._queue.delete(receipt_handles))

    def change_visibility(self, changes: Any) -> Any:
        return self._settle(lambda: self._queue.change_visibility(changes))

    def send(self, entries: Any) -> Any:
        return self._settle(lambda: self._queue.send(entries))

    def attributes(self) -> Any:
        return self._settle(self._queue.attributes)

    def _settle(self, call: Callable[[], Any]) -> Any:
        return self._within(min(CALL_SECONDS, max(LEAST_DRAIN_SECONDS, self._end - self._clock.now())), call)

    def _within(self, seconds: float, call: Callable[[], Any]) -> Any:
        self.calls += 1
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
