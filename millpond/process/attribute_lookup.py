"""What SQS says of a queue (its redrive policy, the largest message that it takes): asked for until it is known."""

from __future__ import annotations

import logging
from typing import Protocol

from millpond.app.config import RetrySettings
from millpond.app.redrive_advice import good_count, redrive_shortfall, set_count_command
from millpond.errors import QueueError, QueueMissing, Unreachable
from millpond.foreign.number import number_within
from millpond.foreign.text import shown
from millpond.hub.backoff import call_back_off_seconds
from millpond.observe import log
from millpond.process.core import Core
from millpond.sqs.limits import MAX_BYTES
from millpond.sqs.redrive import Redrive, read_redrive
from millpond.sqs.sqs_queue import SqsQueue


class Learner(Protocol):
    """Who has to know what SQS says of the queue `name`: its consumer."""

    name: str

    @property
    def has_dead_letters(self) -> bool: ...

    def learn(self, max_receive_count: int, max_bytes: int) -> object:
        """After how many receives SQS moves a message itself (0: never, or unknown), and the largest that it takes."""

    def send_dead_letters_to(self, dead_letters: SqsQueue) -> object:
        """The redrive policy names this dead-letter queue."""


class AttributeLookup:
    """Learns for one consumer what SQS says of its queue."""

    def __init__(self, core: Core, queue: SqsQueue, consumer: Learner, policy: RetrySettings) -> None:
        self._core = core
        self._queue = queue
        self._consumer = consumer
        self._policy = policy  # the one with the most attempts
        self._lines: dict[str, log.Allowance] = {}  # of each thing that is not known: one a minute
        self.error: QueueError | None = Unreachable("SQS has not answered yet")  # why not all of it is known
        self.is_missing = False  # there is no such queue; its receives say so

    def learn(self) -> None:
        """Ask once; what is not known then is asked for again in a greenlet of its own."""
        self.ask()
        if self.error is not None:
            self._core.spawn(self._ask_again)

    def _ask_again(self) -> None:
        failures = 0
        while self.error is not None:
            failures += 1
            if self._core.wait(call_back_off_seconds(failures, self.error)):
                return
            self.ask()
        log.event(logging.INFO, "queue.known", "the attributes of this queue are known now", queue=self._consumer.name)

    def ask(self) -> None:
        """Ask, and take note of why not all of it is known."""
        redrive = None
        try:
            attributes = self._queue.attributes()
            redrive = read_redrive(attributes)
            max_bytes = number_within(attributes.get("MaximumMessageSize"), 1, MAX_BYTES, MAX_BYTES)
            self._consumer.learn(redrive.max_receive_count, max_bytes)
            if not self._consumer.has_dead_letters:
                self._find_dead_letters(redrive)
            self.error = None
            self._weigh(redrive)
        except QueueError as error:
            self.error, self.is_missing = error, redrive is None and isinstance(error, QueueMissing)
            if redrive is not None:
                self._log_unknown("cannot find the dead-letter queue of the redrive policy", error)
            elif not self.is_missing:
                self._log_unknown("cannot read the attributes of this queue (its redrive policy, for one)", error)

    def _find_dead_letters(self, redrive: Redrive) -> None:
        if (dead_letters := self._queue.dead_letters(redrive)) is not None:
            self._consumer.send_dead_letters_to(dead_letters)
        else:
            text = f"{redrive.nameless}: what fails for good stays in this queue and is retried"
            log.event(logging.WARNING, "queue.no_dead_letters", text, queue=self._consumer.name)

    def _weigh(self, redrive: Redrive) -> None:
        """Log where a message that fails would not get all its attempts."""
        count = redrive.max_receive_count
        if count and (shortfall := redrive_shortfall(count, self._policy)):
            command = set_count_command(self._queue.url, redrive, good_count(self._policy))
            text = f"{shortfall}, by: {command}" if command else shortfall
            log.event(logging.WARNING, "queue.few_receives", text, queue=self._consumer.name)

    def _log_unknown(self, what: str, error: QueueError) -> None:
        if self._lines.setdefault(what, log.Allowance(1 / 60)).take(self._core.clock.now()):
            text = f"{what}: {shown(error)}; SQS is asked again, and until then failed messages stay in this queue"
            text += ", unless dead_letter_url is set"
            log.event(logging.WARNING, "queue.unknown", text, queue=self._consumer.name, code=error.code)
