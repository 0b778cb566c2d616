"""Bytes in hand: what the bodies of the messages in hand take, and how many more fit beside them."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from typing import Protocol

from millpond.hub.clock import Clock, Timer
from millpond.hub.heap import trim
from millpond.observe import log
from millpond.sqs.queue import Received

#: After this many bytes the process gives back what its C library keeps of them, once none has come for this long.
TRIM_BYTES, TRIM_SECONDS = 8 * 1024 * 1024, 10.0
#: What one receive weighs in the mean size of a queue's messages, where they become smaller.
NEWEST_WEIGHT = 0.3
#: A mean below this counts as nothing: the messages of the queue are small again, and it is not looked at any more.
LEAST_BYTES = 1_024


class Polls(Protocol):
    """The open polls of one queue: its Share."""

    @property
    def polling(self) -> int:
        """How many messages they ask for, in all."""
        ...


class BytesInHand:
    """The bytes of all queues of the process; `most`: the bound.

    1. Messages are counted as they stand in the answers of SQS, and no small ones (see sqs/answers.py): a queue of
       small messages pays nothing, and waits for nobody.
    2. An open poll counts as what it asks for, each message of the size that came last. What a queue's first large
       messages are is not known before they come: they can pass the bound by the answers of the polls that are open.
    3. A receive asks for what fits, and for one message more: so the bound may be passed by less than one message.
    4. Of several queues none has the last tenth. One that has nothing in hand may always ask for one message.
    5. Half of them is left to messages that are at work: held ones take no more (see Hold).
    6. When the large messages are done the process gives back their memory (`trim`), which its C library would keep.
    """

    def __init__(self, most: int, queues: int, clock: Clock, trim: Callable[[], object] = trim) -> None:
        self.most = most
        self.number = 0
        self.held = 0  # of these, with messages that are held
        self.most_held = max(1, most // 2)
        self._most_of_one = most - (most // 10 if queues > 1 else 0)
        self._clock = clock
        self._queues: list[QueueBytes] = []
        self._lines = log.Allowance(1 / 60)
        self._trim = trim
        self._untrimmed = 0  # bytes that were in hand since the last trim
        self._trimming: Timer | None = None

    def of_queue(self, polls: Polls) -> QueueBytes:
        """The bytes of one queue."""
        queue = QueueBytes(self, polls)
        self._queues.append(queue)
        return queue

    def add(self, size: int) -> None:
        """Count what has come."""
        self.number += size
        self._untrimmed += size
        if self._trimming is not None and size:
            self._trimming.cancel()
            self._trimming = None

    def remove(self, size: int) -> None:
        """These bytes are not in hand any more."""
        self.number -= size
        if not self.number and self._untrimmed >= TRIM_BYTES and self._trimming is None:
            self._trimming = self._clock.timer(TRIM_SECONDS, self._do_trim)

    def _do_trim(self) -> None:
        self._trimming, self._untrimmed = None, 0
        self._trim()

    def left_for(self, queue: QueueBytes) -> int:
        """Bytes that it may still ask for; less than 0 where there are too many already."""
        expected = sum(other.expected for other in self._queues)
        return min(self.most - self.number - expected, self._most_of_one - queue.number - queue.expected)

    def log_full(self) -> None:
        """Log once a minute that receives, or bodies in S3, wait for memory."""
        if self._lines.take(self._clock.now()):
            text = (
                f"messages of {self.number:,} bytes are in hand, and the next ones may bring more than is left of "
                f"max_bytes_in_flight = {self.most:,}: they wait; raise it where there is memory, which can be "
                "five times as much"
            )
            log.event(logging.INFO, "worker.full", text, bytes=self.number, max_bytes=self.most)


class QueueBytes:
    """The bytes of one queue: `number` are in hand, `mean` is the size of its messages (0: they are small).

    `held`: of those in hand, with messages that are held.
    """

    def __init__(self, all_queues: BytesInHand, polls: Polls) -> None:
        self.number = 0
        self.held = 0
        self.mean = 0
        self._all = all_queues
        self._polls = polls

    @property
    def expected(self) -> int:
        """What its open polls may bring."""
        return self._polls.polling * self.mean

    def room(self) -> int:
        """How many messages a poll may ask for now. It is asked only where there is a mean."""
        left = self._all.left_for(self)
        if left > 0:
            return math.ceil(left / self.mean)
        if not (self.number or self._polls.polling):
            return 1
        self._all.log_full()
        return 0

    def add(self, messages: Sequence[Received]) -> None:
        """Count what a receive has brought; it can be nothing."""
        size = sum(message.size for message in messages)
        self.number += size
        self._all.add(size)
        self.mean = mean_after(self.mean, size // len(messages) if messages else 0)

    def take(self, size: int) -> bool:
        """Count a body that is fetched for a message in hand. False: it does not fit beside the others."""
        if self.number and size > self._all.left_for(self):
            self._all.log_full()
            return False
        self.number += size
        self._all.add(size)
        return True

    def remove(self, size: int) -> None:
        """These bytes are not in hand any more."""
        self.number -= size
        self._all.remove(size)

    # Held

    def hold(self, size: int) -> None:
        """A message is held; with a size below 0 it is not any more."""
        self.held += size
        self._all.held += size

    @property
    def is_held_full(self) -> bool:
        """Whether no more large messages can be held."""
        return self._all.held >= self._all.most_held

    @property
    def is_held_half_empty(self) -> bool:
        """Whether held messages of this queue take less than half of what they may."""
        return 2 * self.held <= self._all.most_held


def mean_after(mean: int, size: int) -> int:
    """The mean size after a receive whose messages were of this size: larger ones count at once."""
    smaller = round(mean + (size - mean) * NEWEST_WEIGHT)
    return size if size >= mean else smaller if smaller >= LEAST_BYTES else 0
