"""A simulated SQS queue, standard or FIFO, with the semantics that matter to who holds a message.

It lives on the world's time and is told of requests when they arrive; answers go back by callbacks.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Sequence
from random import Random

import msgspec

from chaos.simulation.clock import WorldClock
from chaos.simulation.history import History, message_of
from millpond.sqs.limits import MAX_HOLD_SECONDS
from millpond.sqs.queue import Entry, Failure, Received

#: What SQS says of a handle that is no longer one.
NOT_AVAILABLE = Failure("InvalidParameterValue", "not available for visibility timeout change", True)
BEYOND = Failure("InvalidParameterValue", "Total VisibilityTimeout for the message is beyond the limit", True)
EXPIRED = Failure("ReceiptHandleIsInvalid", "The receipt handle has expired", True)
#: A FIFO receive with the same attempt id is answered the same for so long.
ATTEMPT_SECONDS = 300.0


#: What every third message takes, as an answer has it, and what the others take.
LARGE_BYTES, OTHER_BYTES = 100_000, 1_000


def size_of(message: str) -> int:
    """What a message counts as while it is in hand."""
    return LARGE_BYTES if int(message[1:]) % 3 == 0 else OTHER_BYTES


class Stored(msgspec.Struct, eq=False):
    """One message in the queue."""

    id: str
    number: int
    entry: Entry
    visible_at: float
    receives: int = 0
    handle: str = ""
    taken_at: float = 0.0
    entered: int = 0  # which of its entries in the queue's order counts

    def in_flight(self, now: float) -> bool:
        return bool(self.handle) and self.visible_at > now


class WaitingPoll(msgspec.Struct, eq=False):
    """A long poll that waits at the server. It takes messages whether or not anybody still listens."""

    worker: str
    call: int
    want: int
    visibility: int
    answer: Callable[[list[Received]], object]
    attempt: str = ""


class SimulatedQueue:
    """See the module. `duplicates`: the chance that a receive brings a message that is in flight already."""

    def __init__(self, clock: WorldClock, history: History, chance: Random, *, fifo: bool, duplicates: float) -> None:
        self.clock = clock
        self.fifo = fifo
        self.duplicates = duplicates
        self.messages: dict[str, Stored] = {}
        self._history = history
        self._chance = chance
        self._numbers = itertools.count(1)
        self._order: list[tuple[float, int, Stored]] = []  # by when each is visible; stale entries are skipped
        self._entries = itertools.count()
        self._polls: list[WaitingPoll] = []
        self._rings_at = 0.0
        self._seen: set[str] = set()  # deduplication ids
        self._attempts: dict[str, tuple[float, list[Received]]] = {}

    # Sending

    def put(self, entry: Entry, kind: str = "work") -> str:
        """The id of the new message; "" where a FIFO queue has it already."""
        if self.fifo and entry.dedup_id:
            if entry.dedup_id in self._seen:
                return ""
            self._seen.add(entry.dedup_id)  # five minutes, at SQS; no schedule sends one again later
        number = next(self._numbers)
        one = self.messages[f"m{number}"] = Stored(f"m{number}", number, entry, 0.0)
        self._history.add("put", message=one.id, value=(entry.group_id, kind))
        self._hide(one, entry.delay_seconds)
        self._serve()
        return one.id

    # Receiving

    def poll(self, poll: WaitingPoll, wait_seconds: float) -> None:
        """A receive has arrived."""
        if poll.attempt and self._replay(poll):
            return
        self._polls.append(poll)
        self._serve()
        if poll in self._polls:
            self.clock.timer(wait_seconds, lambda: self._give_up(poll))

    def _replay(self, poll: WaitingPoll) -> bool:
        """The same answer, its visibility anew, if none of it was deleted or changed since."""
        now = self.clock.now()
        at, before = self._attempts.get(poll.attempt, (0.0, []))
        ones = [self.messages.get(received.message_id) for received in before]
        same = all(
            one is not None and one.handle == received.receipt_handle and one.visible_at > now
            for one, received in zip(ones, before, strict=True)
        )
        if not before or not same or now - at > ATTEMPT_SECONDS:
            return False
        for one in ones:
            assert one is not None
            self._hide(one, poll.visibility)
            self._history.add("gave", poll.worker, one.id, one.handle, poll.call, one.visible_at)
        poll.answer(before)
        return True

    def _give_up(self, poll: WaitingPoll) -> None:
        if poll in self._polls:
            self._polls.remove(poll)
            poll.answer([])

    def _serve(self) -> None:
        """Give the waiting polls what there is."""
        while self._polls and (found := self._take(self._polls[0])):
            poll = self._polls.pop(0)
            if poll.attempt:
                self._attempts[poll.attempt] = (self.clock.now(), found)
            poll.answer(found)
        self._arm()

    def _take(self, poll: WaitingPoll) -> list[Received]:
        ones = self._next_in_groups(poll.want) if self.fifo else self._next(poll.want)
        if len(ones) < poll.want and self.duplicates and self._chance.random() < self.duplicates:
            ones += self._duplicate(ones)
        return [self._give(one, poll) for one in ones]

    def _give(self, one: Stored, poll: WaitingPoll) -> Received:
        now = self.clock.now()
        one.receives += 1
        one.handle = f"{one.id}#{one.receives}"
        one.taken_at = now
        self._hide(one, poll.visibility)
        self._history.add("gave", poll.worker, one.id, one.handle, poll.call, one.visible_at)
        entry = one.entry
        size = size_of(one.id)
        return Received(
            one.id, one.handle, entry.body, one.receives, 1, entry.group_id, "", entry.attributes, size=size
        )

    def _duplicate(self, but: Sequence[Stored]) -> list[Stored]:
        now = self.clock.now()
        flying = [one for one in self.messages.values() if one.in_flight(now) and one not in but]
        if not flying:
            return []
        one = self._chance.choice(flying)
        self._history.add("duplicate", message=one.id, handle=one.handle)
        return [one]

    def _next(self, number: int) -> list[Stored]:
        found: list[Stored] = []
        while len(found) < number and (one := self._peek()) is not None and one.visible_at <= self.clock.now():
            heapq.heappop(self._order)
            found.append(one)
        return found

    def _next_in_groups(self, number: int) -> list[Stored]:
        """In order, of groups of which nothing is in flight; as much as can be of one group first."""
        now = self.clock.now()
        groups: dict[str, list[Stored]] = {}
        for one in self.messages.values():
            groups.setdefault(one.entry.group_id, []).append(one)
        free = [line for line in groups.values() if not any(one.in_flight(now) for one in line)]
        return [one for line in free for one in line][:number]

    # Visibility

    def _hide(self, one: Stored, seconds: float) -> None:
        one.visible_at = self.clock.now() + seconds
        one.entered = next(self._entries)
        heapq.heappush(self._order, (one.visible_at, one.entered, one))

    def _peek(self) -> Stored | None:
        """The message that is visible first."""
        while self._order:
            _, entered, one = self._order[0]
            if self.messages.get(one.id) is one and one.entered == entered:
                return one
            heapq.heappop(self._order)
        return None

    def _arm(self) -> None:
        """While polls wait: look again when the next message becomes visible."""
        if not self._polls:
            return
        now = self.clock.now()
        if self.fifo:
            flying = [one.visible_at for one in self.messages.values() if one.visible_at > now]
            when = min(flying, default=0.0)
        else:
            first = self._peek()
            when = first.visible_at if first is not None else 0.0
        if when > now and not (now < self._rings_at <= when):
            self._rings_at = when
            self.clock.timer(when - now, self._serve)

    # Changes

    def change(self, handle: str, seconds: int, worker: str, call: int) -> Failure | None:
        """ChangeMessageVisibility."""
        failure = self._change(handle, seconds)
        self._history.add("changed", worker, message_of(handle), handle, call, (seconds, failure and failure.text))
        self._serve()
        return failure

    def _change(self, handle: str, seconds: int) -> Failure | None:
        now = self.clock.now()
        one = self.messages.get(message_of(handle))
        if one is None or one.handle != handle:
            return NOT_AVAILABLE
        if not one.in_flight(now):
            return EXPIRED if self.fifo else None  # a standard queue says 200, and does nothing
        if now + seconds > one.taken_at + MAX_HOLD_SECONDS:
            return BEYOND
        self._hide(one, seconds)
        return None

    def delete(self, handle: str, worker: str, call: int) -> Failure | None:
        """DeleteMessage. By an old handle: 200, and not deleted (an error on a FIFO queue)."""
        one = self.messages.get(message_of(handle))
        failure = self._expired(one, handle) if self.fifo and one is not None else None
        gone = failure is None and one is not None and one.handle == handle
        if gone:
            del self.messages[message_of(handle)]
        self._history.add("deleted", worker, message_of(handle), handle, call, (gone, failure and failure.text))
        self._serve()
        return failure

    def _expired(self, one: Stored, handle: str) -> Failure | None:
        return None if one.handle == handle and one.in_flight(self.clock.now()) else EXPIRED

    def is_empty(self) -> bool:
        return not self.messages


class LetterBox:
    """A dead-letter queue: what goes in is in the history, and nobody takes it out."""

    def __init__(self, fifo: bool) -> None:
        self.fifo = fifo

    def put(self, entry: Entry, kind: str) -> str:
        return ""
