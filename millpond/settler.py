"""Settler: outcomes become calls, in batches and in the right order."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from millpond.batch import Batcher
from millpond.clock import Clock
from millpond.delivery import Delivery
from millpond.lease import LeaseKeeper
from millpond.message import FollowUp, Outcome
from millpond.queue import Entry, Failure, Queue, answers, dedup_id_of

#: A delete or a copy that fails is tried for so long; then the message is left to its visibility time-out.
GIVE_UP_SECONDS = 300.0
#: Deletes and sends linger this long to travel ten to a call.
DELETE_LINGER_SECONDS = 0.1
SEND_LINGER_SECONDS = 0.02
#: Calls of one kind under way at once: at 50 ms a round trip enough for 3,200 messages a second.
FLUSHERS = 16

GIVEN_BACK = frozenset({"retried", "released"})


class Sending(msgspec.Struct, eq=False):
    """A copy or a follow-up that must be confirmed before its delivery's original is deleted."""

    delivery: Delivery
    outcome: Outcome  # which it belongs to: void once its delivery has another
    entry: Entry
    original: bool = False  # the dead letter of the message itself


class Settler:
    """Settles the deliveries of one queue; each stays leased until SQS has confirmed.

    1. Succeeded, discarded: its follow-ups are sent, then it is deleted.
    2. Dead-lettered: the copy is sent, then it is deleted; where there is no queue for it, or the copy is refused,
       it is retried instead.
    3. Retried, released: its visibility changes.

    `finished` hears of each delivery once it is confirmed, `abandoned` of one that could not be settled, `rejected` of
    each follow-up that is a dead letter now.
    `hidden_seconds`: nothing is given back sooner, or an open poll of our own would fetch it behind our back.
    `put_off_seconds` is the back-off of a message that should be a dead letter and cannot be one. `letters` makes the
    dead letters of a delivery: that of the message itself, and those of its rejected follow-ups.
    """

    def __init__(
        self,
        queue: Queue,
        dead_letters: Queue | None,
        leases: LeaseKeeper,
        clock: Clock,
        spawn: Callable[..., Any],
        *,
        limit: int,
        fifo: bool = False,
        finished: Callable[[Delivery, Outcome], object],
        abandoned: Callable[[Delivery, str], object],
        rejected: Callable[[Delivery, Entry], object],
        put_off_seconds: Callable[[Delivery], int],
        failed: Callable[[Delivery, str], Outcome],
        hidden_seconds: Callable[[], int],
        on_room: Callable[[], object],
        letters: Callable[[Delivery, Outcome], tuple[list[Entry], list[Entry]]],
    ) -> None:
        self._queue = queue
        self._dead_letters = dead_letters
        self._changes = leases.changes
        self._clock = clock
        self._finished = finished
        self._abandoned = abandoned
        self._rejected = rejected
        self._put_off_seconds = put_off_seconds
        self._failed = failed
        self._hidden_seconds = hidden_seconds
        self._letters = letters

        self._fifo = fifo

        def batcher(call: Any, linger_seconds: float, size_of: Callable[[Any], int] | None = None) -> Batcher[Any]:
            # One at a time keeps what is sent to a FIFO queue in order.
            limits = {"flushers": 1 if fifo and size_of is not None else FLUSHERS, "limit": limit}
            return Batcher(
                call, clock, spawn, linger_seconds=linger_seconds, size_of=size_of, on_room=on_room, **limits
            )

        # The next message of a group waits for the delete of the one before it.
        self.deletes: Batcher[Delivery] = batcher(self._delete, 0.0 if fifo else DELETE_LINGER_SECONDS)
        self.follow_ups: Batcher[Sending] = batcher(self._send_follow_ups, SEND_LINGER_SECONDS, _size)
        self.copies: Batcher[Sending] = batcher(self._send_copies, SEND_LINGER_SECONDS, _size)

    def settle(self, delivery: Delivery, outcome: Outcome) -> None:
        """Queue the calls that an outcome needs; never blocks."""
        if outcome.name in GIVEN_BACK and (hidden := self._hidden_seconds()) > outcome.delay_seconds:
            outcome = msgspec.structs.replace(outcome, delay_seconds=hidden)
        delivery.outcome = outcome
        delivery.settling_since = self._clock.now()
        match outcome.name:
            case "succeeded" if not outcome.follow_ups:
                self.deletes.put(delivery)
            case "retried" | "released" if not delivery.lease.is_lost(delivery.settling_since):
                delivery.lease.give_back(outcome.delay_seconds)
            case "lease_lost" | "retried" | "released":  # it is somebody else's to give back
                self._finish(delivery)
            case "dead_lettered" if self._dead_letters is None:
                self._put_off(delivery, "there is no dead-letter queue")
            case _:
                self._send_then_delete(delivery, outcome)

    def returned(self, delivery: Delivery, failure: Failure | None) -> None:
        """The lease has given the message back, or could not."""
        if failure is None or failure.lease_lost:
            delivery.lease.lost = failure is not None
            self._finish(delivery)
        else:
            self._abandon(delivery, failure)

    @property
    def is_full(self) -> bool:
        """More waits to be settled than the limit allows."""
        return self.deletes.is_full or self._changes.is_full or self.copies.is_full or self.follow_ups.is_full

    def hurry(self) -> None:
        """The drain has begun: nothing lingers."""
        for batcher in (self.deletes, self.follow_ups, self.copies, self._changes):
            batcher.hurry()

    # Sending

    def _send_then_delete(self, delivery: Delivery, outcome: Outcome) -> None:
        group = delivery.received.group_id
        jobs = [self._job(job, group) for job in outcome.follow_ups if job.reject is None]
        own, rejected = self._letters(delivery, outcome)
        delivery.unsent = len(jobs) + len(own) + len(rejected)
        if not delivery.unsent:
            self.deletes.put(delivery)
        for entry in jobs:
            self.follow_ups.put(Sending(delivery, outcome, entry))
        for entry in rejected:
            self.copies.put(Sending(delivery, outcome, entry))
        for entry in own:
            self.copies.put(Sending(delivery, outcome, entry, original=True))

    def _job(self, job: FollowUp, group_id: str) -> Entry:
        dedup_id = dedup_id_of(job.event_id) if self._fifo else ""
        return Entry(job.body, job.after_seconds, group_id, dedup_id=dedup_id)

    def _send_follow_ups(self, batch: list[Sending]) -> list[Sending]:
        return self._send(self._queue, batch, self._follow_up_refused)

    def _send_copies(self, batch: list[Sending]) -> list[Sending]:
        if self._dead_letters is None:
            for sending in batch:
                self._copy_refused(sending, "there is no dead-letter queue")
            return []
        return self._send(self._dead_letters, batch, self._copy_refused)

    def _send(self, queue: Queue, batch: list[Sending], refused: Callable[[Sending, str], object]) -> list[Sending]:
        batch = [sending for sending in batch if not self._is_void(sending)]
        entries = [sending.entry for sending in batch]
        results = answers(lambda: queue.send(entries), len(entries)) if entries else []
        again = []
        for sending, failure in zip(batch, results, strict=True):
            if failure is None:
                self._sent(sending, queue is self._dead_letters)
            elif failure.sender_fault or self._is_late(sending.delivery):
                refused(sending, f"{failure.code} {failure.text}".strip())
            else:
                again.append(sending)
        return again

    def _is_void(self, sending: Sending) -> bool:
        """Its delivery has another outcome by now, or the message is somebody else's, who will send its own."""
        delivery = sending.delivery
        if sending.outcome is delivery.outcome and sending.original and delivery.lease.is_lost(self._clock.now()):
            self._finish(delivery)
        return sending.outcome is not delivery.outcome

    def _sent(self, sending: Sending, is_dead_letter: bool) -> None:
        delivery = sending.delivery
        if is_dead_letter and not sending.original:
            self._rejected(delivery, sending.entry)
        if sending.outcome is delivery.outcome:
            delivery.unsent -= 1
            if delivery.unsent == 0:
                self.deletes.put(delivery)

    def _copy_refused(self, sending: Sending, why: str) -> None:
        if sending.outcome is not sending.delivery.outcome:
            return  # it was settled otherwise while this was on its way
        if sending.original:
            self._put_off(sending.delivery, f"the dead-letter queue refused it: {why}")
        else:  # its original must not run again: the rejected job waits in the queue itself
            self.follow_ups.put(sending)

    def _follow_up_refused(self, sending: Sending, why: str) -> None:
        """That makes its original a failure: the handler runs again, or the message is a dead letter."""
        if sending.outcome is sending.delivery.outcome:
            self.settle(sending.delivery, self._failed(sending.delivery, f"a follow-up was refused: {why}"))

    def _put_off(self, delivery: Delivery, why: str) -> None:
        """It should be a dead letter and cannot be one now: it stays in the queue, under back-off."""
        was = delivery.outcome
        reason = f"{was.reason} ({why})" if was.reason else why
        seconds = self._put_off_seconds(delivery)
        self.settle(delivery, Outcome("retried", was.cause, reason, was.error, seconds, traceback=was.traceback))

    # Deleting

    def _delete(self, batch: list[Delivery]) -> list[Delivery]:
        ready = [delivery for delivery in batch if delivery.lease.withhold()]
        # The watchdog is at the others: they wait.
        again = [] if len(ready) == len(batch) else [delivery for delivery in batch if delivery not in ready]
        handles = [delivery.lease.handle for delivery in ready]
        results = answers(lambda: self._queue.delete(handles), len(handles)) if handles else []
        for delivery, handle, failure in zip(ready, handles, results, strict=True):
            if not self._deleted(delivery, handle, failure):
                delivery.lease.resume()
                again.append(delivery)
        return again

    def _deleted(self, delivery: Delivery, handle: str, failure: Failure | None) -> bool:
        """Read one entry's answer. False: try again."""
        current = delivery.lease.handle == handle  # else it came again meanwhile, and this answer is for the old one
        if failure is None and current:
            self._finish(delivery)
        elif failure is not None and failure.lease_lost and current:
            delivery.lease.lost = True
            self._finish(delivery)
        elif failure is not None and self._is_late(delivery):
            self._abandon(delivery, failure)
        else:
            return False
        return True

    def _is_late(self, delivery: Delivery) -> bool:
        return self._clock.now() - delivery.settling_since > GIVE_UP_SECONDS

    # The end

    def _finish(self, delivery: Delivery) -> None:
        outcome = delivery.outcome
        if delivery.lease.lost and outcome.name != "lease_lost":
            delivery.outcome = outcome = msgspec.structs.replace(
                outcome, name="lease_lost", reason=f"too late: {outcome.name}"
            )
        delivery.lease.end()
        self._finished(delivery, outcome)

    def _abandon(self, delivery: Delivery, failure: Failure) -> None:
        delivery.lease.end()
        self._abandoned(delivery, f"{failure.code} {failure.text}".strip())


def _size(sending: Sending) -> int:
    return sending.entry.size
