"""LocalMove: the letters of a dead-letter queue on their way back, without I/O. SQS calls that a redrive.

A letter arrives as a new message: body, user attributes, group and trace header are kept; id, time of sending and
retention are new, and its receives are counted from 0 (SQS Developer Guide, "dead-letter queue redrive").
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from enum import Enum
from math import floor
from uuid import uuid4

from millpond.local.local_queue import LocalQueue
from millpond.local.sqs_error import invalid_parameter
from millpond.local.stored import StoredMessage, size_bytes

#: The greatest MaxNumberOfMessagesPerSecond, and the rate of a task that names none.
MAX_RATE = 500

# What a task says that could not go on, as AWS does (recorded by localstack; SQS Developer Guide, troubleshooting).
_NO_QUEUE = "AWS.SimpleQueueService.NonExistentQueue"
_NO_SOURCE = "CouldNotDetermineMessageSource"
_TOO_LONG = "InvalidParameterValue"  # SendMessage's code; AWS documents none

# Letters that are moved in one go, and the least seconds between two goes: 500 a second are 25 every 50 ms.
_GO = 25
_GO_SECONDS = 0.05


class MoveStatus(Enum):
    """RUNNING and CANCELLING are active: meanwhile the queue can have no other task."""

    RUNNING = "RUNNING"
    CANCELLING = "CANCELLING"
    COMPLETED = "COMPLETED"
    CANCELLED = "CANCELLED"
    FAILED = "FAILED"


_NEXT = {
    MoveStatus.RUNNING: {MoveStatus.COMPLETED, MoveStatus.CANCELLING, MoveStatus.FAILED},
    MoveStatus.CANCELLING: {MoveStatus.CANCELLED},
}


class LocalMove:
    """One task: it moves what was visible in `source` when it started, the oldest first, at `rate` letters a second.

    `find`: the queue with that ARN. `destination_arn`: None moves each letter to the queue that it came from. A letter
    that is in flight at its turn stays. The first letter that cannot go ends the task, and stays with those behind it.
    """

    def __init__(
        self,
        source: LocalQueue,
        find: Callable[[str], LocalQueue | None],
        now: float,
        *,
        destination_arn: str | None = None,
        rate: int | None = None,
    ) -> None:
        self.id = str(uuid4())
        self.source_arn = source.arn
        self.destination_arn = destination_arn
        self.rate = rate
        self.started = now
        self.status = MoveStatus.RUNNING
        self.failure_reason = ""
        self.moved = 0
        self._source = source
        self._find = find
        self._keys = deque(source.visible_keys(now))
        self.to_move = len(self._keys)
        self._due = now  # when the next letter may go

    @property
    def is_active(self) -> bool:
        """Whether it is not over."""
        return self.status in _NEXT

    def cancel(self) -> None:
        """Stop before the next letter; none comes back. Raises SqsError for a task that is not running."""
        if self.status is not MoveStatus.RUNNING:
            raise invalid_parameter("Only active tasks can be cancelled.")
        self._become(MoveStatus.CANCELLING)

    def step(self, now: float) -> float | None:
        """Move what may go by now; when to come again, None if the task is over."""
        if self.status is MoveStatus.CANCELLING:
            self._become(MoveStatus.CANCELLED)
        if not self.is_active:
            return None
        rate = self.rate or MAX_RATE
        allowed = min(floor((now - self._due) * rate) + 1, _GO)
        self._source.advance(now)
        while allowed > 0 and self._keys and self.status is MoveStatus.RUNNING:
            moved = self._move_next(now)
            allowed -= moved
            self._due += moved / rate
        if self.status is MoveStatus.RUNNING and not self._keys:
            self._become(MoveStatus.COMPLETED)
        self._due = max(self._due, now)
        return max(self._due, now + _GO_SECONDS) if self.is_active else None

    def _move_next(self, now: float) -> int:
        """Move the next letter, unless it is gone or in flight; the number that was moved."""
        key = self._keys.popleft()
        letter = self._source.visible(key)
        if letter is None:
            return 0
        target = self._find(self.destination_arn or letter.source_arn or "")
        self.failure_reason = self._hindrance(letter, target)
        if self.failure_reason or target is None:
            self._become(MoveStatus.FAILED)
            return 0
        self._source.withdraw(key)
        target.send([(_made_new(letter, now), target.settings.delay_seconds)], now)
        self.moved += 1
        return 1

    def _hindrance(self, letter: StoredMessage, target: LocalQueue | None) -> str:
        """Why the letter cannot go to `target`; "" if it can."""
        if self._find(self.source_arn) is not self._source:
            return _NO_QUEUE
        if self.destination_arn is None and letter.source_arn is None:
            return _NO_SOURCE
        if target is None:
            return _NO_QUEUE
        too_long = size_bytes(letter.body, letter.attributes) > target.settings.max_message_bytes
        return _TOO_LONG if too_long else ""

    def _become(self, status: MoveStatus) -> None:
        if status not in _NEXT.get(self.status, ()):
            raise RuntimeError(f"a move task that is {self.status.value} cannot become {status.value}")
        self.status = status


def _made_new(letter: StoredMessage, now: float) -> StoredMessage:
    """The letter as the message that its new queue takes in; a FIFO queue gives it another sequence number.

    Its deduplication id is its new id, as of what is redriven: no queue may take it for one that it knows, and lose it.
    """
    new_id = str(uuid4())
    return StoredMessage(
        new_id,
        letter.body,
        letter.body_md5,
        now,
        letter.attributes,
        letter.attributes_md5,
        letter.group_id,
        new_id if letter.deduplication_id else "",
        letter.trace_header,
    )
