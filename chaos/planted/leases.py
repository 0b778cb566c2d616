"""Bugs of the lease: two writers, a belief that is too long, or a lease that ends before its message does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from unittest import mock

from chaos.planted.bug import mutant
from millpond.engine.consumer import Consumer
from millpond.engine.delivery import Delivery
from millpond.engine.held_back import WORKING
from millpond.engine.lease import LIMIT_SECONDS, Change, Lease
from millpond.engine.lease_keeper import LeaseKeeper
from millpond.engine.lease_state import DELETING, ENDED, HELD, LETTING_GO, LOST
from millpond.engine.settler import Settler
from millpond.hub.backoff import whole_seconds
from millpond.message import Outcome


@mutant("a lease is ended by the confirmed delete alone, not by the end of its handler", (Settler, "settle"))
def lease_ends_with_handler(original: Any) -> Any:
    def settle(self: Settler, deliveries: Sequence[Delivery], outcome: Outcome) -> None:
        original(self, deliveries, outcome)
        if outcome.name == "succeeded":
            for delivery in deliveries:
                delivery.lease.stop_beating()

    return settle


@mutant("at most one change of a message is on its way", (Lease, "_ask"))
def changes_overlap(original: Any) -> Any:
    def ask(self: Lease, seconds: int) -> None:
        self.change = Change(self, seconds)
        self.terms.changes.put(self.change)

    return ask


@mutant("of two changes that are wanted, the newer one is sent", (Lease, "_ask"))
def oldest_change_wins(original: Any) -> Any:
    def ask(self: Lease, seconds: int) -> None:
        if self.change is None or self.change.seconds is None:
            original(self, seconds)

    return ask


@mutant("letting go makes unsent beats void", (Lease, "let_go"), (Lease, "_beat"))
def beats_after_give_back(original: Any) -> Any:
    def let_go(self: Lease, seconds: float) -> None:
        self.state = LETTING_GO
        self._ask(self._clamped(seconds, LIMIT_SECONDS))

    def beat(self: Lease) -> None:
        if self.state is not DELETING and self.state is not ENDED:
            self._ask(self._clamped(self.terms.visibility_seconds, self.terms.hold_seconds))

    return let_go if original.__name__ == "let_go" else beat


@mutant("a beat's answer is ignored once there is an outcome", (Change, "answered"))
def failed_beat_again(original: Any) -> Any:
    def answered(self: Change, handle: str, seconds: int, started: float, failure: Any) -> bool:
        again: bool = original(self, handle, seconds, started, failure)
        if self.lease.state is LETTING_GO and failure is not None and not failure.lease_lost:
            self.seconds = seconds
        return again

    return answered


@mutant("a failed change is sent again", (Change, "answered"))
def failed_change_dropped(original: Any) -> Any:
    def answered(self: Change, handle: str, seconds: int, started: float, failure: Any) -> bool:
        if original(self, handle, seconds, started, failure):
            self.lease.change = None
        return False

    return answered


@mutant("a beat is withheld while its own delete is on its way", (Lease, "withhold"))
def beats_behind_delete(original: Any) -> Any:
    def withhold(self: Lease) -> bool:
        free: bool = original(self)
        self.state = HELD if self.state is DELETING else self.state
        return free

    return withhold


@mutant("beats go on where a delete has failed", (Lease, "resume"))
def beats_stay_withheld(original: Any) -> Any:
    return lambda self: None


@mutant("the lease has its own deadline, since a 200 proves nothing", (Lease, "is_lost"))
def no_deadline(original: Any) -> Any:
    return lambda self, now: self.state is LOST


@mutant("an extension counts from its request's start", (Change, "answered"))
def counts_from_answer(original: Any) -> Any:
    def answered(self: Change, handle: str, seconds: int, started: float, failure: Any) -> bool:
        again: bool = original(self, handle, seconds, self.lease.terms.clock.now(), failure)
        return again

    return answered


@mutant("a receive counts a second less: its answer was on its way", (LeaseKeeper, "take"))
def receive_without_margin(original: Any) -> Any:
    def take(self: LeaseKeeper, *what: Any) -> Lease:
        self.terms.lease_seconds = self.terms.visibility_seconds
        taken: Lease = original(self, *what)
        return taken

    return take


@mutant("an answer that waited unread, while the process stood still, counts from before", (Consumer, "accept"))
def old_answers_are_new(original: Any) -> Any:
    def accept(self: Consumer, messages: list[Any], *more: Any) -> None:
        with mock.patch.object(self, "_unread_since", lambda now: now):
            original(self, messages)

    return accept


@mutant("an extension is clamped to what is left of 12 h", (Lease, "_clamped"))
def asks_past_twelve_hours(original: Any) -> Any:
    return lambda self, seconds, longest_seconds: whole_seconds(seconds)


@mutant("what has lost its lease is not started", (Consumer, "work"))
def lost_is_started(original: Any) -> Any:
    def work(self: Consumer, delivery: Delivery) -> None:
        if self._held_back.state is not WORKING or not delivery.lease.is_lost(self._clock.now()):
            original(self, delivery)
            return
        self.ready -= 1
        self.endings.end(delivery, self._processor.process(delivery, self._opener))

    return work
