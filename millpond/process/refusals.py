"""Refusals: queues from which nothing can be received until a person mends it (no such queue, or no right to it)."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from millpond.engine.consumer import Consumer
from millpond.errors import MISCONFIGURED, AccessDenied, QueueError, QueueMissing
from millpond.observe import log
from millpond.process.core import Core


class Refusals:
    """Which queues are refused. Where all of them are, the process stops (exit code 3); else they are tried again."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._consumers: Sequence[Consumer] = ()
        self._lines: dict[str, log.Allowance] = {}  # of each queue that was refused: one a minute

    def watch(self, consumers: Sequence[Consumer]) -> None:
        """Look after these: each of them reports to `note`, so they are built later."""
        self._consumers = consumers

    def note(self, name: str, error: QueueError) -> None:
        """A receive has failed before any of this queue has come back."""
        if not isinstance(error, AccessDenied | QueueMissing):
            return
        lines = self._lines.setdefault(name, log.Allowance(1 / 60))
        if all(self.refuses(consumer) for consumer in self._consumers):
            text = f"no queue can be received from, so the worker stops: {error}"
            log.event(logging.CRITICAL, "worker.refused", text, queue=name, code=error.code)
            self._core.stop("refused", MISCONFIGURED)
        elif lines.take(self._core.clock.now()):
            text = f"cannot receive from this queue, and work goes on with the others; it is tried again: {error}"
            log.event(logging.ERROR, "queue.refused", text, queue=name, code=error.code)

    def refuses(self, consumer: Consumer) -> bool:
        """True where nothing was ever received from this queue, since it is refused."""
        return consumer.name in self._lines and not consumer.pollers.ever_received
