"""InHand: the messages of one queue that are received and not yet settled."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import msgspec

from millpond.engine.books import Books
from millpond.engine.delivery import Delivery, DeliveryKeeper
from millpond.engine.lease import Lease
from millpond.engine.lease_keeper import LeaseKeeper
from millpond.engine.lease_state import LEAVING, LOST
from millpond.engine.outcomes import DONE, FAILURES, SUCCEEDED, VISIBLE_AGAIN
from millpond.engine.permits import Share
from millpond.hub.clock import Clock, Event
from millpond.sqs.queue import Received

#: Messages of which it is remembered how their receives ended.
MAX_SEEN_MESSAGES = 10_000


class Seen(NamedTuple):
    """How earlier receives of a message ended, as far as this worker has seen."""

    spared: int = 0  # no failures: put off, given back
    failures: int = 0


NOTHING_SEEN = Seen()


class InHand:
    """What a receive brings becomes deliveries with a lease. A message runs once, however often SQS delivers it."""

    def __init__(self, owner: DeliveryKeeper, leases: LeaseKeeper, books: Books, share: Share, clock: Clock) -> None:
        self.number = 0  # deliveries that are not settled
        self.deliveries: dict[str, Delivery] = {}  # by message id: the newest one of each message
        self.back_off_until = 0.0  # when the last message that this worker put off is visible again
        self.idle: Event = clock.event()  # nothing is in hand
        self.idle.set()
        self._owner = owner
        self._leases = leases
        self._books = books
        self._share = share
        self.seen: dict[str, Seen] = {}  # by message id
        self._clock = clock
        self._abandoned_until: list[float] = []

    def take(self, messages: list[Received], since: float) -> list[Delivery]:
        """Take in the messages that SQS delivered at `since`. Gives the deliveries that are to run."""
        self._books.receive(len(messages))
        wall_time, taken = self._clock.time(), []
        for received in messages:
            earlier = self.deliveries.get(received.message_id)
            if earlier is None or earlier.lease.state in LEAVING:
                self.deliveries[received.message_id] = delivery = self._deliver(received, since, wall_time)
                taken.append(delivery)
            elif received.receive_count < earlier.lease.receive_count:
                self._drop(received)  # an answer that was long on its way: its handle is dead
            elif earlier.lease.state is LOST and earlier.is_inside() and not earlier.finishes:
                delivery = self._deliver(received, since, wall_time)
                self._hold([delivery], since)
                self._owner.give_back(delivery)
            else:
                self._redelivered(earlier, received, since)
        self._hold(taken, since)
        return taken

    def _deliver(self, received: Received, since: float, wall_time: float) -> Delivery:
        delivery = Delivery(received, self._owner, self._clock, wall_time)
        delivery.lease = self._leases.take(delivery, received.receipt_handle, since, received.receive_count)
        if self.seen:
            delivery.spared, delivery.seen_failures = self.seen.get(received.message_id, NOTHING_SEEN)
        return delivery

    def _hold(self, deliveries: list[Delivery], since: float) -> None:
        self._leases.begin([delivery.lease for delivery in deliveries], since)
        self.number += len(deliveries)
        if self.number:
            self.idle.clear()

    def _redelivered(self, delivery: Delivery, received: Received, since: float) -> None:
        """SQS delivered again what is in hand: go on with the new handle, run nothing twice."""
        delivery.lease.redelivered(received.receipt_handle, since, received.receive_count)
        delivery.received = msgspec.structs.replace(delivery.received, receive_count=received.receive_count)
        delivery.lease.is_lost(self._clock.now())  # it may be lost again already: then its handler is interrupted
        self._drop(received)

    def _drop(self, received: Received) -> None:
        self._books.count_redelivery()
        self._share.settled(received.size)
        self._share.release()

    def finish(self, deliveries: list[Delivery]) -> None:
        """Forget what is settled, but remember when messages that went back are visible, and which receives use up no
        attempt."""
        for delivery in deliveries:
            if delivery.outcome is not SUCCEEDED or (self.seen and delivery.received.receive_count > 1):
                self._learn(delivery)
        self._forget(deliveries)

    def _learn(self, delivery: Delivery) -> None:
        message_id, outcome = delivery.received.message_id, delivery.outcome
        is_back = outcome.name in VISIBLE_AGAIN
        if is_back:
            self.back_off_until = max(self.back_off_until, self._clock.now() + outcome.delay_seconds)
        if is_back or outcome.name in DONE:
            self.seen.pop(message_id, None)
        if is_back:
            if len(self.seen) >= MAX_SEEN_MESSAGES:  # the one that was not seen for longest
                del self.seen[next(iter(self.seen))]
            failed = outcome.cause in FAILURES
            self.seen[message_id] = Seen(delivery.spared + (not failed), delivery.seen_failures + failed)

    def _forget(self, deliveries: list[Delivery]) -> None:
        if self._share.bytes.number:
            self._share.settled(sum(delivery.received.size for delivery in deliveries))
        by_id = self.deliveries
        for delivery in deliveries:
            message_id = delivery.received.message_id
            if by_id.get(message_id) is delivery:
                del by_id[message_id]
        self.number -= len(deliveries)
        if self.number == 0:
            self.idle.set()

    def abandon(self, delivery: Delivery) -> None:
        """It could not be settled: it waits for its visibility time-out."""
        if delivery.lease.deadline > self._clock.now():
            self._abandoned_until.append(delivery.lease.deadline)
        self._forget([delivery])

    def left(self) -> int:
        """Deliveries that are not settled, and messages that wait for their visibility time-out because of us."""
        now = self._clock.now()
        return self.number + sum(until > now for until in self._abandoned_until)

    def leases(self) -> list[Lease]:
        """Of all in hand now. For the watchdog's thread too: one step of the interpreter's takes the list."""
        return [delivery.lease for delivery in list(self.deliveries.values())]

    def __iter__(self) -> Iterator[Delivery]:
        return iter(list(self.deliveries.values()))
