"""Settler: outcomes become calls, in batches and in the right order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol

import msgspec

from millpond.app.config import QueueSettings
from millpond.engine.books import Books
from millpond.engine.claim_keeper import ClaimKeeper, ClaimOwner, unless_lost
from millpond.engine.delivery import Delivery
from millpond.engine.delivery_state import ON_HOLD
from millpond.engine.held_back import HeldBack
from millpond.engine.lease import LeaseOwner
from millpond.engine.lease_keeper import DENIED_SECONDS, FLUSHERS, LeaseKeeper
from millpond.engine.message_sender import NO_PLACE, MessageSender, SenderOwner
from millpond.engine.outcomes import SUCCEEDED, VISIBLE_AGAIN
from millpond.engine.processor import Processor
from millpond.engine.trouble import Trouble, is_denied, log_call
from millpond.errors import LeaseLost
from millpond.hub.clock import Clock
from millpond.message import Outcome
from millpond.observe import log
from millpond.sqs.batcher import Batcher
from millpond.sqs.entries import results_of
from millpond.sqs.queue import Failure, Queue

#: A call that fails in a drain without an end is given up then.
GIVE_UP_SECONDS = 300.0
#: Deletes linger this long to travel ten to a call.
DELETE_LINGER_SECONDS = 0.1
#: Where ten do not come in that time a delete lingers this long instead, because a message that is finished and not
#: deleted runs again after a kill -9. At 33 messages a second, with handlers that always run, a kill repeats 0.4
#: messages instead of 2. The price is 0.75 delete calls a message instead of 0.23.
SHORT_LINGER_SECONDS = 0.01


class SettlerOwner(Protocol):
    """Who holds the deliveries: the consumer's Endings. No method may block."""

    def finished(self, deliveries: list[Delivery]) -> object:
        """SQS has confirmed what their outcomes needed."""

    def abandoned(self, delivery: Delivery, error: str) -> object:
        """It could not be settled before the drain was over."""

    def has_room(self) -> object:
        """Fewer calls wait than `max_waiting` again."""

    def lost_while_held(self, delivery: Delivery) -> object:
        """The lease of a held message is lost."""


class Settler(LeaseOwner, SenderOwner, ClaimOwner):
    """Settles the deliveries of one queue; each stays leased until SQS has confirmed.

    1. Succeeded, discarded: its follow-ups are sent, then it is deleted. A call that fails is made again for as long
       as it takes: the handler is done, and does not run again.
    2. Dead-lettered: its dead letter is sent first, then the same; where that cannot be, it is retried instead.
    3. Retried, released: its visibility changes.
    4. Where the event was claimed, that claim is closed before the message is deleted, or visible again.
    """

    def __init__(
        self,
        name: str,
        settings: QueueSettings,
        queue: Queue,
        dead_letters: Queue | None,
        processor: Processor,
        books: Books,
        held_back: HeldBack,
        max_waiting: int,
        clock: Clock,
        spawn: Callable[..., Any],
        owner: SettlerOwner,
    ) -> None:
        self.leases = LeaseKeeper(name, settings, queue, max_waiting, self, clock, spawn)
        self._name = name
        self._queue = queue
        self._processor = processor
        self._held_back = held_back
        self._owner = owner
        self._clock = clock
        self._drain_began: float | None = None
        self._deleting = Trouble("sqs:DeleteMessage", name, clock)
        batcher: Any = partial(
            Batcher, clock=clock, spawn=spawn, flushers=FLUSHERS, max_waiting=max_waiting, on_room=self.has_room
        )
        # The next message of a group waits for the delete of the one before it.
        linger_seconds = 0.0 if settings.is_fifo else DELETE_LINGER_SECONDS
        self.deletes: Batcher[Delivery] = batcher(
            self._delete, linger_seconds=linger_seconds, brief_seconds=SHORT_LINGER_SECONDS
        )
        self.sender = MessageSender(name, settings, queue, dead_letters, processor, books, self, clock, batcher)
        claiming = processor.claiming
        self.claims = ClaimKeeper(claiming, self, max_waiting, clock, spawn) if claiming is not None else None

    def settle(self, deliveries: Sequence[Delivery], outcome: Outcome) -> None:
        """Queue the calls that an outcome, which all of them have, needs; never blocks."""
        if outcome is SUCCEEDED:  # nearly all
            for delivery in deliveries:
                delivery.outcome = outcome
            self.deletes.put(*deliveries)
        else:
            for delivery in deliveries:
                self._settle(delivery, outcome)

    def _settle(self, delivery: Delivery, outcome: Outcome) -> None:
        if outcome.name in VISIBLE_AGAIN and (hidden := self._held_back.hidden_seconds()) > outcome.delay_seconds:
            outcome = msgspec.structs.replace(outcome, delay_seconds=hidden)
        delivery.outcome = outcome = unless_lost(delivery.claim, outcome)
        delivery.settling_since = now = self._clock.now()
        match outcome.name:
            case "retried" | "released" if not delivery.lease.is_lost(now):
                if not self._closes_claim(delivery):
                    delivery.lease.let_go(outcome.delay_seconds)
            case "lease_lost" | "retried" | "released":  # another worker has it
                self.finish([delivery])
            case "dead_lettered" if self.sender.dead_letters is None:
                self.put_off(delivery, NO_PLACE.text)
            case _:
                self.sender.send(delivery, outcome)

    def _closes_claim(self, delivery: Delivery) -> bool:
        """Whether its claim is to be closed first: then `claim_closed`, or `claim_lost`, is called."""
        if delivery.claim is None or self.claims is None:
            return False
        self.claims.close(delivery, delivery.claim)
        return True

    def claim_closed(self, delivery: Delivery) -> None:
        if delivery.outcome.name not in VISIBLE_AGAIN:
            self.deletes.put(delivery)
        elif delivery.lease.is_lost(self._clock.now()):
            self.finish([delivery])
        else:
            delivery.lease.let_go(delivery.outcome.delay_seconds)

    def claim_lost(self, delivery: Delivery, outcome: Outcome) -> None:
        delivery.outcome = outcome
        self.finish([delivery])

    # What the leases ask for

    def has_room(self) -> None:
        self._owner.has_room()

    def lease_lost(self, item: Delivery) -> None:
        """Its message may be another worker's: the handler that runs is interrupted, unless it asked to finish."""
        if item.state is ON_HOLD:
            self._owner.lost_while_held(item)
        elif not item.finishes:
            item.interrupt(LeaseLost)

    def lease_extended(self, item: Delivery) -> None:
        """Its claim, if it has one, is to last as long."""
        if item.claim is not None and self.claims is not None:
            self.claims.lease_extended(item)

    def let_go_ended(self, item: Delivery, failure: Failure | None) -> None:
        """Finish what the lease let go, or (`failure`) could not."""
        if failure is None:
            self.finish([item])
        elif failure.lease_lost:
            self._finish_late(item)
        else:
            self.abandon(item, failure)

    @property
    def is_full(self) -> bool:
        """Whether more waits to be settled than `max_waiting`."""
        is_full = self.deletes.is_full or self.leases.changes.is_full or self.sender.is_full
        return is_full or (self.claims is not None and self.claims.is_full)

    @property
    def under_way(self) -> dict[str, int]:
        """How much waits to be settled, or is with a call to SQS, by kind."""
        return {"deletes": self.deletes.count, "changes": self.leases.changes.count, "sends": self.sender.under_way}

    def nothing_follows(self) -> None:
        """Let no delete and no change of visibility wait for others; give up soon what only a person can mend."""
        self.deletes.hurry()
        self.leases.hurry()

    def hurry(self) -> None:
        """Let nothing linger, and wait for nothing that only a person can mend: the drain has begun."""
        self._drain_began = self._clock.now()
        self.deletes.hurry()
        self.leases.hurry()
        self.sender.hurry()
        if self.claims is not None:
            self.claims.hurry()

    # What the sender asks for

    def all_sent(self, delivery: Delivery) -> None:
        if not self._closes_claim(delivery):
            self.deletes.put(delivery)

    def put_off(self, delivery: Delivery, why: str) -> None:
        """Put off what should be a dead letter and cannot be one now: it stays in the queue, under back-off."""
        was, delivery.attempts = delivery.outcome, None
        reason = f"{was.reason} ({why})" if was.reason else why
        seconds = self._processor.retry_seconds(delivery)
        self.settle([delivery], Outcome("retried", was.cause, reason, was.error, seconds, traceback=was.traceback))

    def gives_up(self, failure: Failure, since: float) -> bool:
        """Whether a drain waits no longer: for what only a person can mend it does not, and for nothing for ever."""
        if self._drain_began is None:
            return False
        waited = self._clock.now() - max(self._drain_began, since)
        return waited >= (DENIED_SECONDS if is_denied(failure) or failure.sender_fault else GIVE_UP_SECONDS)

    # Deleting

    def _delete(self, batch: list[Delivery]) -> list[Delivery]:
        ready = [delivery for delivery in batch if delivery.lease.withhold()]
        # The watchdog is extending the others: they wait.
        again = [] if len(ready) == len(batch) else [delivery for delivery in batch if delivery not in ready]
        handles = [delivery.lease.handle for delivery in ready]
        started = self._clock.now()
        results = results_of(self._queue.delete, handles) if handles else []
        if log.is_debug and handles:
            log_call(
                self._name, "delete", len(results) - results.count(None), len(results), self._clock.now() - started
            )
        if self._deleting.since or any(results):
            self._deleting.read(self._queue.url, results, started, self.deletes.count)
        gone = []
        for delivery, handle, failure in zip(ready, handles, results, strict=True):
            # Else it was redelivered meanwhile, and this answer is for the old handle.
            current = delivery.lease.handle == handle
            if current and failure is None:
                gone.append(delivery)
            elif self._goes_again(delivery, current, failure):
                delivery.lease.resume()
                again.append(delivery)
        if gone:
            self.finish(gone)
        return again

    def _goes_again(self, delivery: Delivery, current: bool, failure: Failure | None) -> bool:
        if current and failure is not None and failure.lease_lost:
            self._finish_late(delivery)
        elif failure is not None and not failure.lease_lost and self.gives_up(failure, _settled_at(delivery)):
            self.abandon(delivery, failure)
        else:
            return True
        return False

    # The end

    def finish(self, deliveries: list[Delivery]) -> None:
        """End their leases, and count them: SQS has confirmed what they needed, or another worker has them."""
        for late in self.leases.end([delivery.lease for delivery in deliveries]):
            late.outcome = _late(late.outcome)
        self._owner.finished(deliveries)

    def _finish_late(self, delivery: Delivery) -> None:
        """SQS says that another worker had the message by then."""
        delivery.outcome = _late(delivery.outcome)
        self.finish([delivery])

    def abandon(self, delivery: Delivery, failure: Failure) -> None:
        """Give up what cannot be settled: it waits for its visibility time-out."""
        self.leases.end([delivery.lease])
        self._owner.abandoned(delivery, failure.summary)


def _settled_at(delivery: Delivery) -> float:
    """On the clock: a success without more is settled as its handler ends."""
    return max(delivery.ended, delivery.settling_since)


def _late(outcome: Outcome) -> Outcome:
    if outcome.name == "lease_lost":
        return outcome
    return msgspec.structs.replace(outcome, name="lease_lost", reason=f"too late: {outcome.name}")
