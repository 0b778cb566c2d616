"""What SQS says of a queue (its redrive policy, the largest message that it takes): asked for until it is known."""

from __future__ import annotations

import logging
import math

from millpond.engine.consumer import Consumer
from millpond.errors import QueueError, QueueMissing
from millpond.foreign.number import number_within
from millpond.foreign.text import shown
from millpond.hub.backoff import call_seconds
from millpond.observe import log
from millpond.process.core import Core
from millpond.sqs.deadline import DeadlineQueue
from millpond.sqs.limits import MAX_BYTES
from millpond.sqs.redrive import read_redrive
from millpond.sqs.sqs_queue import SqsQueue

#: While something is not known it is logged this often.
LOG_SECONDS = 60.0


class AttributeLookup:
    """Learns for one consumer what SQS says of its queue."""

    def __init__(self, core: Core, queue: SqsQueue, consumer: Consumer) -> None:
        self._core = core
        self._queue = queue
        self._consumer = consumer
        self._unknown = ""
        self._logged_at = -math.inf
        self.error: QueueError | None = None  # why not all of it is known
        self.missing: QueueMissing | None = None  # there is no such queue

    def learn(self) -> None:
        """Ask once; what is not known then is asked for again in a greenlet of its own."""
        self.error = self._ask()
        if self.error is not None:
            self._core.spawn(self._ask_again)

    def _ask_again(self) -> None:
        failures = 0
        while self.error is not None:
            failures += 1
            if self._core.wait(call_seconds(failures, self.error)):
                return
            self.error = self._ask()
        log.event(logging.INFO, "queue.known", "the attributes of this queue are known now", queue=self._consumer.name)

    def _ask(self) -> QueueError | None:
        """Why not all of it could be found out; None where it is known."""
        try:
            attributes = self._queue.attributes()
        except QueueMissing as error:  # the receives of this queue say so
            self.missing = error
            return error
        except QueueError as error:
            self._log_unknown("cannot read the attributes of this queue (redrive policy, MaximumMessageSize)", error)
            return error
        redrive = read_redrive(attributes)
        max_bytes = number_within(attributes.get("MaximumMessageSize"), 1, MAX_BYTES, MAX_BYTES)
        self._consumer.learn(redrive.max_receive_count, max_bytes)
        if self._consumer.has_dead_letters:
            return None
        try:
            dead_letters = self._queue.dead_letters(redrive)
        except QueueError as error:
            self._log_unknown("cannot find the dead-letter queue of the redrive policy", error)
            return error
        if dead_letters is not None:
            self._consumer.send_dead_letters_to(DeadlineQueue(dead_letters, self._core.clock))
        else:
            text = f"{redrive.nameless}: what fails for good stays in this queue and is retried"
            log.event(logging.WARNING, "queue.no_dead_letters", text, queue=self._consumer.name)
        return None

    def _log_unknown(self, what: str, error: QueueError) -> None:
        now = self._core.clock.now()
        if what == self._unknown and now < self._logged_at + LOG_SECONDS:
            return
        self._unknown, self._logged_at = what, now
        text = f"{what}: until then what fails for good stays in this queue, or set dead_letter_url: {shown(error)}"
        log.event(logging.WARNING, "queue.unknown", text, queue=self._consumer.name, code=error.code)
