"""Settler: outcomes become calls, in batches and in the right order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from millpond.engine import dead_letter
from millpond.engine.dead_letter import Letters
from millpond.engine.delivery import Delivery
from millpond.engine.lease_keeper import DENIED_SECONDS, LeaseKeeper
from millpond.engine.lease_state import ENDED
from millpond.engine.trouble import DENIED_PATIENCE_SECONDS, PATIENCE_SECONDS, Trouble, is_denied
from millpond.hub.clock import Clock
from millpond.message import FollowUp, Outcome, delayed
from millpond.sqs.batcher import Batcher
from millpond.sqs.entries import answers
from millpond.sqs.limits import MAX_DELAY_SECONDS
from millpond.sqs.queue import Entry, Failure, Queue

#: A follow-up that cannot be sent for so long is a dead letter; a delete that fails in a drain without an end is given
#: up then.
GIVE_UP_SECONDS = 300.0
#: Deletes and sends linger this long to travel ten to a call.
DELETE_LINGER_SECONDS = 0.1
#: But a delete for so long only where ten do not come in that time: what is finished and not deleted is run again after
#: a kill -9. At 33 messages a second, with handlers that always run, 0.4 of them instead of 2, for 0.75 delete calls a
#: message instead of 0.23.
BRIEF_SECONDS = 0.01
SEND_LINGER_SECONDS = 0.02
#: Calls of one kind under way at once: at 50 ms a round trip enough for 3,200 messages a second.
FLUSHERS = 16

GIVEN_BACK = frozenset({"retried", "released"})
NO_PLACE = Failure("", "there is no dead-letter queue", denied=True)
NO_ANSWER = Failure("", "it has not answered")


class Sending(msgspec.Struct, eq=False):
    """A dead letter or a follow-up that must be confirmed before its delivery's original is deleted.

    `entry` is what its own queue takes, `letter` what the dead-letter queue does. `job`: None is the message itself.
    """

    delivery: Delivery
    outcome: Outcome  # which it belongs to: void once its delivery has another
    job: FollowUp | None = None
    entry: Entry | None = None
    letter: Entry | None = None
    why: str = ""  # it is a dead letter
    failure: Failure = NO_ANSWER  # of the last call that has offered it

    @property
    def is_void(self) -> bool:
        """Its delivery has another outcome by now, or is over."""
        return self.outcome is not self.delivery.outcome or self.delivery.lease.state is ENDED


class Settler:
    """Settles the deliveries of one queue; each stays leased until SQS has confirmed.

    1. Succeeded, discarded: its follow-ups are sent, then it is deleted. A call that fails is made again for as long
       as it takes: the handler is done, and does not run again. A follow-up that the queue refuses is a dead letter.
    2. Dead-lettered: the copy is sent first, then the same. Where there is no queue for it, or the copy is refused,
       or that queue does not answer, it is retried instead: nothing waits for a dead-letter queue.
    3. Retried, released: its visibility changes.

    `dead_letters` may be known later. `finished` hears of deliveries once they are confirmed, `abandoned` of one that
    could not be settled before the drain was over, `buried` of each follow-up that is a dead letter now, and why,
    `bared` of each dead letter that has no room for its reason.
    `hidden_seconds`: nothing is given back sooner, or an open poll of our own would fetch it behind our back.
    `put_off_seconds` is the back-off of a message that should be a dead letter and cannot be one.
    """

    def __init__(
        self,
        queue: Queue,
        dead_letters: Queue | None,
        leases: LeaseKeeper,
        clock: Clock,
        spawn: Callable[..., Any],
        *,
        name: str,
        limit: int,
        fifo: bool = False,
        finished: Callable[[list[Delivery]], object],
        abandoned: Callable[[Delivery, str], object],
        buried: Callable[[Delivery, FollowUp, str], object],
        bared: Callable[[Delivery, str], object],
        put_off_seconds: Callable[[Delivery], int],
        hidden_seconds: Callable[[], int],
        on_room: Callable[[], object],
        letters: Letters,
    ) -> None:
        self.dead_letters = dead_letters
        self._queue = queue
        self._leases = leases
        self._clock = clock
        self._finished = finished
        self._abandoned = abandoned
        self._buried = buried
        self._bared = bared
        self._put_off_seconds = put_off_seconds
        self._hidden_seconds = hidden_seconds
        self._letters = letters
        self._fifo = fifo
        self._drain_began: float | None = None
        self._unburied: dict[Delivery, Sending] = {}  # dead letters of messages themselves, not confirmed yet
        self._deleting = Trouble("sqs:DeleteMessage", name, clock)
        self._sending = Trouble("sqs:SendMessage", name, clock)
        self._burying = Trouble("sqs:SendMessage", name, clock)

        def batcher(call: Any, linger_seconds: float, **more: Any) -> Batcher[Any]:
            limits: dict[str, Any] = {"flushers": FLUSHERS, "limit": limit}
            return Batcher(call, clock, spawn, linger_seconds=linger_seconds, on_room=on_room, **limits, **more)

        # Within a group nothing overtakes what has failed before it.
        sends: dict[str, Any] = {"size_of": _size, "key_of": _group if fifo else None}
        # The next message of a group waits for the delete of the one before it.
        self.deletes: Batcher[Delivery] = batcher(
            self._delete, 0.0 if fifo else DELETE_LINGER_SECONDS, brief_seconds=BRIEF_SECONDS
        )
        self.follow_ups: Batcher[Sending] = batcher(self._send_follow_ups, SEND_LINGER_SECONDS, **sends)
        self.copies: Batcher[Sending] = batcher(self._send_copies, SEND_LINGER_SECONDS, **sends)

    def settle(self, deliveries: Sequence[Delivery], outcome: Outcome) -> None:
        """Queue the calls that an outcome, which all of them have, needs; never blocks."""
        if outcome.name == "succeeded" and not outcome.follow_ups:  # nearly all
            for delivery in deliveries:
                delivery.outcome = outcome
            self.deletes.put(*deliveries)
        else:
            for delivery in deliveries:
                self._settle(delivery, outcome)

    def _settle(self, delivery: Delivery, outcome: Outcome) -> None:
        if outcome.name in GIVEN_BACK and (hidden := self._hidden_seconds()) > outcome.delay_seconds:
            outcome = msgspec.structs.replace(outcome, delay_seconds=hidden)
        delivery.outcome = outcome
        delivery.settling_since = self._clock.now()
        match outcome.name:
            case "retried" | "released" if not delivery.lease.is_lost(delivery.settling_since):
                delivery.lease.give_back(outcome.delay_seconds)
            case "lease_lost" | "retried" | "released":  # it is somebody else's to give back
                self._finish([delivery])
            case "dead_lettered" if self.dead_letters is None:
                self._put_off(delivery, NO_PLACE.text)
            case _:
                self._send_then_delete(delivery, outcome)

    def given_back(self, delivery: Delivery, failure: Failure | None) -> None:
        """The lease gave the message back, or could not."""
        if failure is None:
            self._finish([delivery])
        elif failure.lease_lost:
            self._finish_late(delivery)
        else:
            self._abandon(delivery, failure)

    @property
    def is_full(self) -> bool:
        """More waits to be settled than the limit allows."""
        changes = self._leases.changes
        return self.deletes.is_full or changes.is_full or self.copies.is_full or self.follow_ups.is_full

    def hurry(self) -> None:
        """The drain has begun: nothing lingers, and nobody waits for a dead-letter queue that does not answer."""
        self._drain_began = self._clock.now()
        self._burying.hurry()
        for batcher in (self.deletes, self.follow_ups, self.copies, self._leases):
            batcher.hurry()
        if self._burying.since:
            self._put_off_all_unburied()
        elif self._unburied:
            self._clock.timer(PATIENCE_SECONDS, self._put_off_all_unburied)

    def _put_off_all_unburied(self) -> None:
        for sending in list(self._unburied.values()):
            self._put_off_unburied(sending)

    # Sending

    def _send_then_delete(self, delivery: Delivery, outcome: Outcome) -> None:
        if outcome.name != "dead_lettered":
            self._leave_behind(delivery, outcome)
            return
        letter = self._letters.of_message(delivery, outcome)
        sending = self._unburied[delivery] = Sending(delivery, outcome, letter=letter, why=outcome.reason)
        self.copies.put(sending)
        if self._drain_began is not None:
            self._clock.timer(PATIENCE_SECONDS, lambda: self._put_off_unburied(sending))

    def _leave_behind(self, delivery: Delivery, outcome: Outcome) -> None:
        """Its follow-ups; then the delete."""
        delivery.unsent = len(outcome.follow_ups)
        if not delivery.unsent:
            self.deletes.put(delivery)
        for job in outcome.follow_ups:
            sending = Sending(delivery, outcome, job)
            if job.reject is None:
                sending.entry = self._entry(delivery, job, job.after_seconds)
                self.follow_ups.put(sending)
            else:
                self._write_letter(sending, job, job.reject)
                self.copies.put(sending)

    def _write_letter(self, sending: Sending, job: FollowUp, why: str) -> None:
        sending.why = why
        sending.letter = self._letters.of_follow_up(sending.delivery, job, why)

    def _entry(self, delivery: Delivery, job: FollowUp, after_seconds: int) -> Entry:
        """A follow-up as its own queue takes it. A FIFO queue delays none: it says itself when its time has come."""
        group = delivery.received.group_id
        after_seconds = min(after_seconds, MAX_DELAY_SECONDS)  # a back-off can be longer, and would be refused for ever
        if not self._fifo:
            return Entry(job.body, after_seconds, group)
        moment = round((self._clock.time() + after_seconds) * 1000)
        body = delayed(job.body, moment) if after_seconds else job.body
        return Entry(body, 0, group, dedup_id=job.dedup_id(delivery.received.message_id))

    def _send_follow_ups(self, batch: list[Sending]) -> list[Sending]:
        """To the queue itself. What is refused there is a dead letter; where that fails too, both are tried again."""
        again, refused = self._offer_jobs([sending for sending in batch if not sending.is_void])
        for sending in refused:
            if sending.job is not None:
                self._write_letter(sending, sending.job, f"it could not be sent: {sending.failure.said}")
        more, stuck = self._offer_letters(refused)
        return again + more + [sending for sending in stuck if not self._is_given_up(sending)]

    def _send_copies(self, batch: list[Sending]) -> list[Sending]:
        """To the dead-letter queue. What is refused there goes back, or (a follow-up) to the queue itself."""
        again, refused = self._offer_letters([sending for sending in batch if not self._is_late(sending)])
        jobs = []
        for sending in refused:
            if sending.job is None:
                self._put_off_unburied(sending)
            else:  # its original must not run again
                seconds = self._put_off_seconds(sending.delivery)
                sending.entry = self._entry(sending.delivery, sending.job, seconds)
                jobs.append(sending)
        more, stuck = self._offer_jobs(jobs)
        return again + more + [sending for sending in stuck if not self._is_given_up(sending)]

    def _is_late(self, sending: Sending) -> bool:
        """It is void, or its message is somebody else's, who will send the dead letter."""
        delivery = sending.delivery
        if not sending.is_void and sending.job is None and delivery.lease.is_lost(self._clock.now()):
            del self._unburied[delivery]
            self._finish([delivery])
        return sending.is_void

    def _offer_jobs(self, batch: list[Sending]) -> tuple[list[Sending], list[Sending]]:
        """Follow-ups to their own queue: those to offer again, and those that it does not take."""
        entries = [sending.entry for sending in batch if sending.entry is not None]
        again = self._offer(self._queue, self._sending, batch, entries)
        refused = [sending for sending in again if sending.failure.sender_fault or self._lasts(sending)]
        return [sending for sending in again if sending not in refused], refused

    def _lasts(self, sending: Sending) -> bool:
        waited = self._clock.now() - sending.delivery.settling_since
        return waited > (DENIED_PATIENCE_SECONDS if is_denied(sending.failure) else GIVE_UP_SECONDS)

    def _offer_letters(self, batch: list[Sending]) -> tuple[list[Sending], list[Sending]]:
        """To the dead-letter queue: those to offer again, and those that it does not take, or not now."""
        if self.dead_letters is None or self._burying.is_out():
            for sending in batch:
                sending.failure = self._burying.last or NO_PLACE
            return [], batch
        left = self._offer_once(self.dead_letters, batch)
        told = [one for one in left if one.failure.sender_fault and one.letter and not dead_letter.is_bare(one.letter)]
        for sending in told:  # there may be no room for the reason
            sending.letter = dead_letter.bare(sending.letter) if sending.letter is not None else None
        left = [sending for sending in left if sending not in told] + self._offer_once(self.dead_letters, told)
        refused = [one for one in left if one.failure.sender_fault or self._burying.lasts]
        for sending in refused:  # once a minute
            self._burying.tell(self.dead_letters.url, sending.failure, self.copies.count)
        return [sending for sending in left if sending not in refused], refused

    def _offer_once(self, queue: Queue, batch: list[Sending]) -> list[Sending]:
        letters = [sending.letter for sending in batch if sending.letter is not None]
        return self._offer(queue, self._burying, batch, letters)

    def _offer(self, queue: Queue, trouble: Trouble, batch: list[Sending], entries: list[Entry]) -> list[Sending]:
        """One call; those that were not sent, with their failures."""
        if not batch:
            return []
        started = self._clock.now()
        results = answers(queue.send, entries)
        if trouble.since or any(results):
            # What is wrong with one entry says nothing of the queue.
            about = [one for one in results if one is None or not one.sender_fault or is_denied(one)]
            trouble.read(queue.url, about, started, self.copies.count + self.follow_ups.count)
        left = []
        for sending, failure in zip(batch, results, strict=True):
            if failure is None:
                self._sent(sending, trouble is self._burying)
            else:
                sending.failure = failure
                left.append(sending)
        return left

    def _sent(self, sending: Sending, is_letter: bool) -> None:
        delivery, job = sending.delivery, sending.job
        if is_letter:
            self._tell_letter(sending)
        if sending.is_void:
            return
        if job is None:
            del self._unburied[delivery]
            self._leave_behind(delivery, sending.outcome)
            return
        delivery.unsent -= 1
        if delivery.unsent == 0:
            self.deletes.put(delivery)

    def _tell_letter(self, sending: Sending) -> None:
        if sending.job is not None:
            self._buried(sending.delivery, sending.job, sending.why)
        if sending.letter is not None and dead_letter.is_bare(sending.letter):
            self._bared(sending.delivery, sending.why)

    def _put_off_unburied(self, sending: Sending) -> None:
        """Its dead letter is not sent: it goes back to its queue."""
        if self._unburied.pop(sending.delivery, None) is not None and not sending.is_void:
            self._burying.put_off += 1
            self._put_off(sending.delivery, f"the dead-letter queue did not take it: {sending.failure.said}")

    def _put_off(self, delivery: Delivery, why: str) -> None:
        """It should be a dead letter and cannot be one now: it stays in the queue, under back-off."""
        was = delivery.outcome
        reason = f"{was.reason} ({why})" if was.reason else why
        seconds = self._put_off_seconds(delivery)
        self.settle([delivery], Outcome("retried", was.cause, reason, was.error, seconds, traceback=was.traceback))

    def _is_given_up(self, sending: Sending) -> bool:
        """A follow-up that nobody takes is offered again for as long as its message can be held: only a drain ends."""
        failure, delivery = sending.failure, sending.delivery
        if not sending.is_void and self._is_over(delivery, failure):
            self._abandon(delivery, failure)
        return sending.is_void

    def _is_over(self, delivery: Delivery, failure: Failure) -> bool:
        """In a drain: what only a person can mend is not waited for, and nothing for ever."""
        if self._drain_began is None:
            return False
        waited = self._clock.now() - max(self._drain_began, delivery.settling_since, delivery.ended)
        return waited >= (DENIED_SECONDS if is_denied(failure) or failure.sender_fault else GIVE_UP_SECONDS)

    # Deleting

    def _delete(self, batch: list[Delivery]) -> list[Delivery]:
        ready = [delivery for delivery in batch if delivery.lease.withhold()]
        # The watchdog is at the others: they wait.
        again = [] if len(ready) == len(batch) else [delivery for delivery in batch if delivery not in ready]
        handles = [delivery.lease.handle for delivery in ready]
        started = self._clock.now()
        results = answers(self._queue.delete, handles) if handles else []
        if self._deleting.since or any(results):
            self._deleting.read(self._queue.url, results, started, self.deletes.count)
        gone = []
        for delivery, handle, failure in zip(ready, handles, results, strict=True):
            # Else it came again meanwhile, and this answer is for the old one.
            current = delivery.lease.handle == handle
            if current and failure is None:
                gone.append(delivery)
            elif self._is_left(delivery, current, failure):
                delivery.lease.resume()
                again.append(delivery)
        if gone:
            self._finish(gone)
        return again

    def _is_left(self, delivery: Delivery, current: bool, failure: Failure | None) -> bool:
        """It was not deleted: whether to try again."""
        if current and failure is not None and failure.lease_lost:
            self._finish_late(delivery)
        elif failure is not None and not failure.lease_lost and self._is_over(delivery, failure):
            self._abandon(delivery, failure)
        else:
            return True
        return False

    # The end

    def _finish(self, deliveries: list[Delivery]) -> None:
        for late in self._leases.end([delivery.lease for delivery in deliveries]):
            late.outcome = _late(late.outcome)
        self._finished(deliveries)

    def _finish_late(self, delivery: Delivery) -> None:
        """SQS says that the message was somebody else's already."""
        delivery.outcome = _late(delivery.outcome)
        self._finish([delivery])

    def _abandon(self, delivery: Delivery, failure: Failure) -> None:
        self._leases.end([delivery.lease])
        self._abandoned(delivery, failure.said)


def _late(outcome: Outcome) -> Outcome:
    if outcome.name == "lease_lost":
        return outcome
    return msgspec.structs.replace(outcome, name="lease_lost", reason=f"too late: {outcome.name}")


def _size(sending: Sending) -> int:
    entry = sending.entry or sending.letter
    return entry.size if entry is not None else 0


def _group(sending: Sending) -> str:
    return sending.delivery.received.group_id
