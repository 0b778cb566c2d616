"""Asks: what the receives of one queue ask for."""

from __future__ import annotations

from uuid import uuid4

import msgspec

from millpond.errors import QueueError, Unreachable
from millpond.sqs.http_connection import TOO_LARGE

#: After an answer that was too large half as many messages are asked for, and each time this has passed one more.
RECOVERY_SECONDS = 60.0
#: SQS knows an attempt id for five minutes; an answer of the last moment is no use.
ATTEMPT_SECONDS = 240.0


class Ask(msgspec.Struct, eq=False):
    """One receive: how many messages it asks for, and its ReceiveRequestAttemptId ("" on a standard queue).

    Made again with the same id it brings what it brought, however few are asked for then.
    """

    number: int
    attempt_id: str
    since: float


class Asks:
    """What the next receive asks for.

    1. Beside other queues it asks for twice what the last one brought, since each message costs a permit while the
       poll is open; a queue alone asks for all that it may.
    2. After an answer that was too large it asks for fewer.
    3. A receive of a FIFO queue whose answer was lost is made again by its attempt id: its messages come, where else
       they and their groups would be stuck until the visibility time-out.
    """

    def __init__(self, most: int, fifo: bool) -> None:
        self.brought = 0  # messages, by the last receive
        self._allowed = most
        self._most = most  # for now
        self._fewer_since: float
        self._fifo = fifo
        self._unanswered: list[Ask] = []

    def number(self, alone: bool, now: float) -> int:
        """How many messages. `alone`: there is no other queue."""
        if self._most < self._allowed and now - self._fewer_since > RECOVERY_SECONDS:
            self._most, self._fewer_since = self._most + 1, now
        # Twice what came: a busy queue has `most` after four.
        return self._most if alone else max(1, min(self._most, 2 * self.brought))

    def is_at_most(self, alone: bool, now: float) -> bool:
        """Whether the next one asks for as many as it may."""
        return self.number(alone, now) == self._most

    def make(self, permits: int, now: float) -> Ask:
        """The first one whose answer was lost, where there are permits for all that it may bring, or a new one."""
        if not self._fifo:
            return Ask(permits, "", now)
        self._unanswered = [ask for ask in self._unanswered if now - ask.since < ATTEMPT_SECONDS]
        for ask in self._unanswered:
            if ask.number <= permits:
                self._unanswered.remove(ask)
                return ask
        return Ask(permits, uuid4().hex, now)

    def fail(self, ask: Ask, permits: int, error: QueueError, now: float) -> None:
        """Learn from a receive that failed; it was made at `now`."""
        if error.code == TOO_LARGE:
            self._most, self._fewer_since = max(1, min(self._most, permits // 2)), now
        elif isinstance(error, Unreachable) and ask.attempt_id:
            self._unanswered.append(ask)
