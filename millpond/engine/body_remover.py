"""BodyRemover: a body in S3 is deleted once SQS has confirmed the delete of its message."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from millpond.app.envelope import Pointer
from millpond.engine.delivery import Delivery
from millpond.engine.trouble import LOG_SECONDS
from millpond.foreign.text import shown
from millpond.hub.clock import Clock, Event
from millpond.large_bodies.body_store import BodyStore, BodyStoreError
from millpond.observe import log

#: Deletes under way at once, at most: as many as the backlog needs.
REMOVERS, BACKLOG_OF_ONE = 8, 10
#: Bodies that wait to be deleted, at most: about 15 MB of memory.
MAX_REMOVALS = 10_000
#: Outcomes after which nothing needs the body any more: a dead letter has only the pointer to it.
_NEED_NO_BODY = frozenset({"succeeded", "discarded"})


class BodyRemover:
    """Deletes bodies side by side. One that cannot be deleted stays, and the log says so: its message is done."""

    def __init__(self, store: BodyStore, clock: Clock, spawn: Callable[..., Any]) -> None:
        self._store = store
        self._clock = clock
        self._spawn = spawn
        self._waiting: deque[Pointer] = deque()
        self._removers = 0
        self._left = 0  # since the last line of the log
        self._lines = log.Allowance(1 / LOG_SECONDS)
        self._idle: Event = clock.event()
        self._idle.set()

    def settled(self, deliveries: Sequence[Delivery]) -> None:
        """SQS has confirmed what the outcomes of these needed. Never blocks."""
        for delivery in deliveries:
            if delivery.bodies and delivery.outcome.name in _NEED_NO_BODY:
                self._add(delivery.bodies)
        while self._waiting and self._removers < min(REMOVERS, 1 + len(self._waiting) // BACKLOG_OF_ONE):
            self._removers += 1
            self._idle.clear()
            self._spawn(self._remove_all)

    def _add(self, bodies: Sequence[Pointer]) -> None:
        for body in bodies:
            if len(self._waiting) < MAX_REMOVALS:
                self._waiting.append(body)
            else:
                self._leave(body, "S3 deletes more slowly than messages are done")

    def close(self) -> None:
        """Wait until what is done has no body any more; the caller limits that."""
        self._idle.wait()

    def _remove_all(self) -> None:
        while self._waiting:
            self._remove(self._waiting.popleft())
        self._removers -= 1
        if not self._removers:
            self._idle.set()

    def _remove(self, body: Pointer) -> None:
        try:
            self._store.remove(body.bucket, body.key)
        except BodyStoreError as error:
            self._leave(body, str(error))

    def _leave(self, body: Pointer, why: str) -> None:
        self._left += 1
        if self._lines.take(self._clock.now()):
            where = f"{body.bucket}/{shown(body.key)}"
            text = f"{why}; {self._left:,} bodies of messages that are done stay in S3, the last one is {where}"
            log.event(logging.WARNING, "bodies.left", text, number=self._left)
            self._left = 0
