"""LocalQueue: what SQS does with messages, without I/O. Every call is given `now`, in seconds since 1970.

A message is delayed, visible or in flight (received, and invisible until its visibility time-out). What time alone
changes is done at the next call, or when an alarm rings that the queue has set: nothing is ever scanned.
"""

from __future__ import annotations

import re
import secrets
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

import msgspec

from millpond.local.attributes import LocalQueueSettings, arn
from millpond.local.local_poll import LocalPoll, Receipt
from millpond.local.schedule import Schedule
from millpond.local.sqs_error import SqsError, expired_handle, invalid_value
from millpond.local.stored import StoredMessage

#: A receive can hide a message for 12 h, counted from the receive; extensions do not begin it anew.
MAX_HOLD_SECONDS = 43_200
#: Messages of one standard queue that can be in flight at a time (SQS quotas).
MAX_IN_FLIGHT = 120_000
#: Seconds between two purges of a queue.
PURGE_SECONDS = 60


class Advancing(Protocol):
    """What has something to do at a time: a queue where something becomes visible and a poll waits, or a move task."""

    def advance(self, now: float) -> None: ...


#: Asks for `advance` at that time; the same one's later alarm takes the place of its earlier one.
Alarm = Callable[[Advancing, float], object]

# How many keys of messages that are gone the line of visible ones may keep before it is rebuilt.
_SLACK = 64


class Counts(msgspec.Struct, frozen=True):
    """How many messages a queue has, by state."""

    visible: int
    in_flight: int
    delayed: int


class LocalQueue:
    """One standard queue.

    1. Keeps messages until they are deleted, purged or older than the retention period.
    2. Hands each visible one to one receive at a time, and to waiting polls in the order in which they came.
    3. Moves those that were received too often to `dead_letters`, at the receive that would have been one too many.
    """

    def __init__(
        self, name: str, settings: LocalQueueSettings, created: float = 0.0, alarm: Alarm | None = None
    ) -> None:
        self.name = name
        self.arn = arn(name)
        self.settings = settings
        self.created = self.modified = created
        self.dead_letters: LocalQueue | None = None
        self._alarm = alarm
        self._alarm_time: float | None = None
        self._messages: dict[int, StoredMessage] = {}
        self._visible: deque[int] = deque()
        self._delayed = Schedule()
        self._in_flight = Schedule()
        self._ages = Schedule()  # by the time they were sent, which a dead letter keeps
        self._polls: OrderedDict[LocalPoll, None] = OrderedDict()
        self._last_key = 0
        self._purged: float | None = None
        # A handle names the queue, the message and the receive; a queue made anew does not know the old one's.
        self._handle_prefix = secrets.token_hex(8)
        self._handle = re.compile(rf"{self._handle_prefix}-([0-9]{{1,18}})-([0-9]{{1,9}})")

    def counts(self, now: float) -> Counts:
        """The numbers for GetQueueAttributes."""
        self.advance(now)
        return Counts(self._visible_count, len(self._in_flight), len(self._delayed))

    def send(self, parcels: Sequence[tuple[StoredMessage, int]], now: float) -> None:
        """Take messages in, each with its delay in seconds; a waiting poll can get up to ten of them."""
        for message, delay_seconds in parcels:
            self.admit(message, delay_seconds, now)
        self.advance(now)

    def admit(self, message: StoredMessage, delay_seconds: int, now: float) -> tuple[str, str] | None:
        """Take one message in; `advance` gives it to a poll. A FIFO queue returns its id and sequence number."""
        self._last_key += 1
        message.key = self._last_key
        self._messages[message.key] = message
        self._ages.set(message.key, message.sent)
        if delay_seconds:
            self._delayed.set(message.key, now + delay_seconds)
        else:
            self._visible.append(message.key)
        return None

    def receive(self, poll: LocalPoll, now: float) -> None:
        """Answer the poll, or let it wait. Raises SqsError (OverLimit), never for a poll that can wait."""
        self.advance(now)
        receipts = self._take(poll, now)
        if receipts:
            poll.answer(receipts)
        elif poll.wait_seconds:
            self._polls[poll] = None
            self._set_alarm()
        else:
            self._answer_empty(poll)

    def leave(self, poll: LocalPoll) -> None:
        """Answer a poll that has waited long enough with nothing, unless it has its answer already."""
        if poll in self._polls:
            del self._polls[poll]
            poll.answer([])

    def close_polls(self) -> None:
        """Answer every waiting poll with nothing."""
        for poll in list(self._polls):
            self.leave(poll)

    def delete(self, receipt_handle: str, now: float) -> None:
        """Delete the message, unless it was received again since. Raises SqsError for a wrong or expired handle."""
        message = self._held(receipt_handle)
        if message is None:
            return
        if now - message.received > MAX_HOLD_SECONDS:
            raise expired_handle(receipt_handle)
        self._forget(message.key)
        self._serve(now)  # a poll can wait for room in flight

    def change_visibility(self, receipt_handle: str, seconds: int, now: float) -> None:
        """Make the message visible when `seconds` from now are over.

        Like SQS it does nothing if the visibility time-out has passed and nobody has received the message since. Raises
        SqsError for a wrong handle, for a message that is gone or received again, and beyond 12 h.
        """
        self.advance(now)
        message = self._held(receipt_handle)
        if message is None:
            reason = "Message does not exist or is not available for visibility timeout change."
            raise invalid_value("ReceiptHandle", receipt_handle, reason)
        if message.key not in self._in_flight:
            return
        if now + seconds - message.received > MAX_HOLD_SECONDS:
            reason = f"Total VisibilityTimeout for the message is beyond the limit [{MAX_HOLD_SECONDS} seconds]"
            raise invalid_value("VisibilityTimeout", seconds, reason)
        self._hide(message.key, seconds, now)
        self._serve(now)

    def purge(self, now: float) -> None:
        """Delete every message, those in flight too. Raises SqsError if the last purge was under 60 s ago."""
        if self._purged is not None and now - self._purged < PURGE_SECONDS:
            text = f"Only one PurgeQueue operation on {self.name} is allowed every {PURGE_SECONDS} seconds."
            raise SqsError("PurgeQueueInProgress", text)
        self._purged = now
        self._messages.clear()
        self._visible.clear()
        for schedule in (self._delayed, self._in_flight, self._ages):
            schedule.clear()

    def advance(self, now: float) -> None:
        """Do what is due since the last call: forget messages that are too old, show those that are visible now."""
        for key in self._ages.pop_due(now - self.settings.retention_seconds):
            self._forget(key)
        self._reveal(self._delayed.pop_due(now))
        self._reveal(self._in_flight.pop_due(now))
        self._serve(now)

    def visible_keys(self, now: float) -> list[int]:
        """The keys of the messages that are neither in flight nor delayed, the oldest in this queue first."""
        self.advance(now)
        return [key for key in self._messages if self._is_visible(key)]

    def visible(self, key: int) -> StoredMessage | None:
        """The message, if a receive could get it now."""
        return self._messages[key] if self._is_visible(key) else None

    def withdraw(self, key: int) -> None:
        """Take out a message that is visible: a move task has it."""
        self._forget(key)

    @property
    def _visible_count(self) -> int:
        return len(self._messages) - len(self._in_flight) - len(self._delayed)

    @property
    def _has_ready(self) -> bool:
        """Whether a poll can get a message now."""
        return self._visible_count > 0

    def _is_visible(self, key: int) -> bool:
        return key in self._messages and key not in self._in_flight and key not in self._delayed

    def _forget(self, key: int) -> None:
        del self._messages[key]
        for schedule in (self._delayed, self._in_flight, self._ages):
            schedule.drop(key)
        if len(self._visible) > 2 * self._visible_count + _SLACK:
            self._visible = deque(key for key in self._visible if key in self._messages)

    def _hide(self, key: int, seconds: int, now: float) -> None:
        if seconds:
            self._in_flight.set(key, now + seconds)
        else:
            self._in_flight.drop(key)
            self._reveal((key,))

    def _reveal(self, keys: Iterable[int]) -> None:
        """Show these messages: they have become visible."""
        self._visible.extend(keys)

    def _answer_empty(self, poll: LocalPoll) -> None:
        if len(self._in_flight) >= MAX_IN_FLIGHT:
            raise SqsError("OverLimit", f"Too many messages in flight: {MAX_IN_FLIGHT} is the limit.")
        poll.answer([])

    def _serve(self, now: float) -> None:
        while self._polls and self._has_ready:
            poll, _ = self._polls.popitem(last=False)
            receipts = self._take(poll, now)
            if not receipts:  # all went to the dead-letter queue, or nothing more may be in flight
                self._polls[poll] = None
                self._polls.move_to_end(poll, last=False)
                break
            poll.answer(receipts)
        self._set_alarm()

    def _set_alarm(self) -> None:
        if not self._polls or not self._alarm:
            return
        times = [time for time in (self._delayed.next_time(), self._in_flight.next_time()) if time is not None]
        time = min(times, default=None)
        if time is not None and time != self._alarm_time:
            self._alarm(self, time)
        self._alarm_time = time

    def _take(self, poll: LocalPoll, now: float) -> list[Receipt]:
        seconds = self._seconds(poll)
        limit = min(poll.max_messages, MAX_IN_FLIGHT - len(self._in_flight))
        receipts: list[Receipt] = []
        untouched = len(self._visible)  # what comes back at once (0 s) is not taken twice
        while untouched and self._visible and len(receipts) < limit:
            untouched -= 1
            message = self._messages.get(self._visible.popleft())
            if message is None:
                continue  # deleted, or too old, while it was visible
            if self.dead_letters is not None and self._is_spent(message):
                self._move(message, self.dead_letters, now)
            else:
                receipts.append(self._deliver(message, seconds, now))
        return receipts

    def _seconds(self, poll: LocalPoll) -> int:
        return self.settings.visibility_seconds if poll.visibility_seconds is None else poll.visibility_seconds

    def _deliver(self, message: StoredMessage, seconds: int, now: float) -> Receipt:
        message.receive_count += 1
        message.received = now
        message.first_received = message.first_received or now
        self._hide(message.key, seconds, now)
        handle = f"{self._handle_prefix}-{message.key}-{message.receive_count}"
        return Receipt(message, handle, message.receive_count)

    def _is_spent(self, message: StoredMessage) -> bool:
        redrive = self.settings.redrive
        return redrive is not None and message.receive_count - message.receives_before >= redrive.max_receive_count

    def _move(self, message: StoredMessage, target: LocalQueue, now: float) -> None:
        self._forget(message.key)
        message.source_arn = self.arn
        message.receives_before = message.receive_count
        target.send([(message, 0)], now)

    def _held(self, receipt_handle: str) -> StoredMessage | None:
        """The message, if this handle is from its latest receive; None if it is gone or received again."""
        numbers = self._handle.fullmatch(receipt_handle)
        if not numbers:
            text = f'The input receipt handle "{receipt_handle}" is not a valid receipt handle.'
            raise SqsError("ReceiptHandleIsInvalid", text)
        message = self._messages.get(int(numbers[1]))
        return message if message is not None and message.receive_count == int(numbers[2]) else None
