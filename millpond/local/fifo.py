"""FifoQueue: what SQS does differently with the messages of a FIFO queue, without I/O.

A group's messages are received in the order in which they were sent. One that is in flight or delayed holds back those
behind it in its group, and none before it: so AWS does where a message comes back earlier than the ones that were
received with it (recorded by localstack: test_fifo_group_visibility_extends_with_change_message_visibility).
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Hashable, Iterable
from itertools import islice
from typing import Generic, TypeVar

import msgspec

from millpond.local.attributes import LocalQueueSettings
from millpond.local.local_poll import LocalPoll, Receipt
from millpond.local.local_queue import MAX_HOLD_SECONDS, MAX_IN_FLIGHT, Alarm, LocalQueue
from millpond.local.sqs_error import expired_handle, invalid_value
from millpond.local.stored import StoredMessage

#: Seconds for which a deduplication id counts, and the attempt id of a receive.
RECENT_SECONDS = 300

# What the sequence numbers are counted from: 20 digits, as in SQS's own.
_SEQUENCE_BASE = 18_800_000_000_000_000_000

Value = TypeVar("Value")


class Recent(Generic[Value]):
    """Values by key, for five minutes each."""

    def __init__(self) -> None:
        self._entries: OrderedDict[Hashable, tuple[float, Value]] = OrderedDict()

    def set(self, key: Hashable, value: Value, now: float) -> None:
        """Set a value; its five minutes begin."""
        self._entries[key] = (now, value)
        self._entries.move_to_end(key)

    def get(self, key: Hashable, now: float) -> Value | None:
        """The value, None if it was not set or too long ago."""
        while self._entries and next(iter(self._entries.values()))[0] <= now - RECENT_SECONDS:
            self._entries.popitem(last=False)
        entry = self._entries.get(key)
        return entry[1] if entry else None

    def clear(self) -> None:
        """Forget everything."""
        self._entries.clear()


class ReceiveAttempt(msgspec.Struct):
    """A receive that can be tried again: the handles that it got, and until when they hide the messages.

    `poll`: the poll itself, as long as it has got nothing.
    """

    poll: LocalPoll | None = None
    handles: list[str] = []
    until: float = 0.0


class FifoQueue(LocalQueue):
    """One FIFO queue. It is a LocalQueue that

    1. keeps the order within each group, as the first lines of this file say;
    2. takes a message whose deduplication id it knows for the one that it has or had;
    3. refuses a receipt handle whose visibility time-out has passed;
    4. answers a receive that is tried again with its attempt id as it did the first time.
    """

    def __init__(
        self, name: str, settings: LocalQueueSettings, created: float = 0.0, alarm: Alarm | None = None
    ) -> None:
        super().__init__(name, settings, created, alarm)
        # AWS goes by the scope that a queue was created with, whatever is set and shown later (recorded by localstack:
        # test_fifo_change_to_high_throughput_after_creation).
        self._scope_is_group = settings.fifo is not None and settings.fifo.deduplicates_by_group
        self._visible = deque(maxlen=0)  # what waits in line here is groups
        # The keys of each group's messages in the order in which they were sent, and the groups that can be received
        # from, the one that waits longest first: those whose first message is visible.
        self._groups: dict[str | None, OrderedDict[int, None]] = {}
        self._ready: OrderedDict[str | None, None] = OrderedDict()
        self._known: Recent[tuple[str, str]] = Recent()
        self._attempts: Recent[ReceiveAttempt] = Recent()

    def admit(self, message: StoredMessage, delay_seconds: int, now: float) -> tuple[str, str]:
        """As in LocalQueue. A duplicate is not taken in, and gets the id and the sequence number of the original."""
        scope = (message.group_id if self._scope_is_group else None, message.deduplication_id)
        known = self._known.get(scope, now)
        if known is not None:
            return known
        super().admit(message, delay_seconds, now)
        message.sequence_number = str(_SEQUENCE_BASE + message.key)
        self._groups.setdefault(message.group_id, OrderedDict())[message.key] = None
        self._sort(message.group_id)
        known = message.id, message.sequence_number
        self._known.set(scope, known, now)
        return known

    def receive(self, poll: LocalPoll, now: float) -> None:
        """Answer the poll, or let it wait. Raises SqsError for an attempt whose messages have changed since."""
        self.advance(now)
        if poll.attempt_id is not None and self._repeat(poll, poll.attempt_id, now):
            return
        super().receive(poll, now)

    def delete(self, receipt_handle: str, now: float) -> None:
        """Delete the message. Raises SqsError for a handle that is wrong, or whose visibility time-out has passed."""
        self.advance(now)
        if self._held(receipt_handle) is None and int(receipt_handle.split("-")[1]) in self._messages:
            raise expired_handle(receipt_handle)
        super().delete(receipt_handle, now)

    def purge(self, now: float) -> None:
        """As in LocalQueue. What was sent before is no longer an original (localstack's recordings of AWS)."""
        super().purge(now)
        for entries in (self._groups, self._ready, self._known, self._attempts):
            entries.clear()

    def visible(self, key: int) -> StoredMessage | None:
        """As in LocalQueue; one behind another of its group is not."""
        message = super().visible(key)
        return message if message is not None and next(iter(self._groups[message.group_id])) == key else None

    @property
    def _has_ready(self) -> bool:
        return bool(self._ready)

    def _sort(self, group_id: str | None) -> None:
        """Put the group last among those that can be received from, or take it out."""
        group = self._groups.get(group_id)
        if group and self._is_visible(next(iter(group))):
            self._ready.setdefault(group_id)
        else:
            self._ready.pop(group_id, None)

    def _reveal(self, keys: Iterable[int]) -> None:
        for key in keys:
            self._sort(self._messages[key].group_id)

    def _hide(self, key: int, seconds: int, now: float) -> None:
        super()._hide(key, seconds, now)
        self._sort(self._messages[key].group_id)

    def _forget(self, key: int) -> None:
        group_id = self._messages[key].group_id
        super()._forget(key)
        del self._groups[group_id][key]
        if not self._groups[group_id]:
            del self._groups[group_id]
        self._sort(group_id)

    def _answer_empty(self, poll: LocalPoll) -> None:
        poll.answer([])  # no OverLimit: "Amazon SQS returns no error messages" for FIFO queues (SQS quotas)

    def _take(self, poll: LocalPoll, now: float) -> list[Receipt]:
        seconds = self._seconds(poll)
        limit = min(poll.max_messages, MAX_IN_FLIGHT - len(self._in_flight))
        receipts: list[Receipt] = []
        untouched = len(self._ready)  # a group that is ready again at once (0 s) is not taken from twice
        while untouched and self._ready and len(receipts) < limit:
            untouched -= 1
            group_id, _ = self._ready.popitem(last=False)  # whatever is taken from it sorts it in again
            receipts += self._take_from(group_id, limit - len(receipts), seconds, now)
        if poll.attempt_id is not None and receipts:
            handles = [receipt.handle for receipt in receipts]
            self._attempts.set(poll.attempt_id, ReceiveAttempt(None, handles, now + seconds), now)
        return receipts

    def _take_from(self, group_id: str | None, limit: int, seconds: int, now: float) -> list[Receipt]:
        receipts: list[Receipt] = []
        while keys := list(islice(self._groups.get(group_id, ()), len(receipts), limit)):
            for key in keys:
                if not self._is_visible(key):
                    return receipts
                message = self._messages[key]
                if self.dead_letters is not None and self._is_spent(message):
                    self._move(message, self.dead_letters, now)
                else:
                    receipts.append(self._deliver(message, seconds, now))
        return receipts

    def _move(self, message: StoredMessage, target: LocalQueue, now: float) -> None:
        # Unlike in a standard queue, the age of a dead letter counts from its move, and its deduplication id is its own
        # (SQS Developer Guide, dead-letter queues).
        message.sent = now
        message.deduplication_id = message.id
        super()._move(message, target, now)

    def _held(self, receipt_handle: str) -> StoredMessage | None:
        """The message, if this handle is from its latest receive and the visibility time-out has not passed."""
        message = super()._held(receipt_handle)
        return message if message is not None and message.key in self._in_flight else None

    def _repeat(self, poll: LocalPoll, attempt_id: str, now: float) -> bool:
        """Answer the poll as the first one with this id was answered. Returns whether that was done.

        It is not if the first one got nothing, or its time-out has passed. If the first one still waits, its client has
        gone, and this poll takes its place.
        """
        attempt = self._attempts.get(attempt_id, now)
        if attempt is None or attempt.until <= now:
            if attempt is not None and attempt.poll is not None:
                self.leave(attempt.poll)
            self._attempts.set(attempt_id, ReceiveAttempt(poll), now)
            return False
        messages = self._untouched(attempt)
        if len(messages) < len(attempt.handles):
            # The words of AWS: aws/aws-sdk-java#2613.
            reason = "The receiveRequestAttemptId is not valid anymore since the receive call is not retryable."
            raise invalid_value("ReceiveRequestAttemptId", attempt_id, reason)
        seconds = min(self._seconds(poll), int(messages[0].received + MAX_HOLD_SECONDS - now))
        attempt.until = now + seconds
        for message in messages:
            self._hide(message.key, seconds, now)
        pairs = zip(messages, attempt.handles, strict=True)
        poll.answer([Receipt(message, handle, message.receive_count) for message, handle in pairs])
        self._serve(now)
        return True

    def _untouched(self, attempt: ReceiveAttempt) -> list[StoredMessage]:
        """The messages that were neither deleted, nor had their visibility changed, since the attempt got them."""
        held = [message for handle in attempt.handles if (message := self._held(handle)) is not None]
        return [message for message in held if self._in_flight.time(message.key) == attempt.until]
