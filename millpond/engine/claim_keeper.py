"""ClaimKeeper: the claims of one queue's deliveries, from the begin of their handlers to the end of their settling."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from millpond.engine.claiming import Claiming
from millpond.engine.delivery import Delivery
from millpond.engine.delivery_state import SETTLING
from millpond.engine.outcomes import VISIBLE_AGAIN
from millpond.engine.own_claim import CLOSING, OURS, TAKEN, ClaimLapsed, ClaimLost, OwnClaim
from millpond.errors import ClaimStoreError
from millpond.hub.backoff import call_back_off_seconds
from millpond.hub.clock import Clock
from millpond.message import Outcome
from millpond.sqs.batcher import HURRIED_BACK_OFF_SECONDS, MAX_BACK_OFF_SECONDS
from millpond.sqs.queue import Failure

#: A claim that is over, though its message was in hand (the hub stood still, and its watchdog kept the lease), has this
#: long to be renewed before its handler is interrupted.
RENEW_GRACE_SECONDS = 2.0
#: In a drain a message is given back after this long, whether or not its claim could be released: that ends by itself.
#: (Of a drain of 5 s, 1 s is left for what was interrupted.)
RELEASE_SECONDS = 0.5
LOST_TEXT = "another delivery of this event has its claim by now: that one decides"
UNKNOWN_TEXT = "the lease was lost before the store of claims had answered"
LAPSED_TEXT = "the claim could not be renewed in time: another delivery of this event may take it"


class ClaimOwner(Protocol):
    """Who settles the deliveries. No method may block."""

    def claim_closed(self, delivery: Delivery) -> object:
        """What its outcome asks for at the store is written, or is left to the end of the claim's own time."""

    def claim_lost(self, delivery: Delivery, outcome: Outcome) -> object:
        """Its event is another delivery's: nothing more is written of it. `outcome`: instead of its own."""

    def gives_up(self, failure: Failure, since: float) -> bool:
        """Whether what has failed since then is not tried any longer."""

    def abandon(self, delivery: Delivery, failure: Failure) -> object:
        """Its success could not be written before the drain was over."""

    def has_room(self) -> object:
        """There is room for claims that wait to be closed again."""


class ClaimKeeper:
    """Renews the claims of the deliveries of one queue, and closes them. The calls are made by greenlets of its own.

    1. A claim is renewed after a beat of its message's own lease is confirmed, and only while its handler runs, what
       it leaves behind is sent, or the store does not take its mark: at most one renewal is on its way.
    2. One that is lost interrupts its handler; so does one that is not renewed in time, as another may take it.
    3. To close it is tried until the store answers, for as long as the message is in hand.
    """

    def __init__(
        self, claiming: Claiming, owner: ClaimOwner, max_waiting: int, clock: Clock, spawn: Callable[..., Any]
    ) -> None:
        self._claiming = claiming
        self._owner = owner
        self._max_waiting = max_waiting
        self._clock = clock
        self._spawn = spawn
        self._closing: dict[Delivery, OwnClaim] = {}
        self._is_draining = False

    @property
    def is_full(self) -> bool:
        """Twice as many wait as `max_waiting`: all that ran when the store went down must not stop the other types."""
        return len(self._closing) >= 2 * self._max_waiting

    def hurry(self) -> None:
        """The drain has begun: no message waits for long until its claim is released."""
        self._is_draining = True
        for delivery, claim in self._closing.items():
            self._limit(delivery, claim)

    # While its handler runs

    def lease_extended(self, delivery: Delivery) -> None:
        """Renew the claim as well, if it is to last; never blocks."""
        claim = delivery.claim
        if claim is None or claim.is_renewing:
            return
        if _is_needed(delivery, claim):
            claim.is_renewing = True
            if claim.state is OURS:
                self._watch(delivery, claim)
            self._spawn(self._renew, delivery, claim)

    def _watch(self, delivery: Delivery, claim: OwnClaim) -> None:
        """Interrupt its handler when the claim is over, unless it is renewed before."""
        if claim.lapse is None:
            left = claim.until - self._clock.now()
            claim.lapse = self._clock.timer(
                left if left > 0 else RENEW_GRACE_SECONDS, lambda: self._lapsed(delivery, claim)
            )

    def _renew(self, delivery: Delivery, claim: OwnClaim) -> None:
        """Until it lasts as long as the lease; another beat may be confirmed meanwhile."""
        failures, is_ours = 0, True
        while is_ours and claim.until < delivery.lease.deadline and _is_needed(delivery, claim):
            try:
                is_ours = self._claiming.renew(delivery, claim)
                self._read(delivery, claim, is_ours)
                failures = 0
            except ClaimStoreError:
                failures += 1
                self._back_off(failures)
        claim.is_renewing = False

    def _read(self, delivery: Delivery, claim: OwnClaim, is_ours: bool) -> None:
        if not is_ours and claim.state is TAKEN and not delivery.finishes:
            delivery.interrupt(lambda: ClaimLost(LOST_TEXT))
        elif claim.state is OURS and claim.until < delivery.lease.deadline:
            self._watch(delivery, claim)

    def _lapsed(self, delivery: Delivery, claim: OwnClaim) -> None:
        """In the hub. What runs in a thread has its effect all the same: its mark counts, where nobody is faster."""
        claim.lapse = None
        if claim.state is OURS and not delivery.finishes and not delivery.thread:
            delivery.throw(lambda: ClaimLapsed(LAPSED_TEXT))

    # At its end

    def close(self, delivery: Delivery, claim: OwnClaim) -> None:
        """Write at the store what the outcome asks for; then the owner goes on. Never blocks."""
        if claim.state is not OURS:
            self._end(delivery, claim, written=False if claim.state is TAKEN else None)
            return
        claim.state = CLOSING
        claim.stop_lapse()
        self._closing[delivery] = claim
        if self._is_draining:
            self._limit(delivery, claim)
        self._spawn(self._close, delivery, claim)

    def _limit(self, delivery: Delivery, claim: OwnClaim) -> None:
        if delivery.outcome.name in VISIBLE_AGAIN:
            self._clock.timer(RELEASE_SECONDS, lambda: self._end(delivery, claim, written=None))

    def _close(self, delivery: Delivery, claim: OwnClaim) -> None:
        failures = 0
        while delivery.claim is claim and not self._close_once(delivery, claim):
            failures += 1
            self._back_off(failures)

    def _back_off(self, failures: int) -> None:
        longest = HURRIED_BACK_OFF_SECONDS if self._is_draining else MAX_BACK_OFF_SECONDS
        self._clock.sleep(call_back_off_seconds(failures, None, most=longest))

    def _close_once(self, delivery: Delivery, claim: OwnClaim) -> bool:
        try:
            written = self._claiming.close(delivery, claim)
        except ClaimStoreError as error:
            failure = Failure("", str(error))
            if delivery.lease.is_lost(self._clock.now()):
                self._end(delivery, claim, written=None)
            elif delivery.claim is claim and self._owner.gives_up(failure, delivery.settling_since):
                delivery.claim = None
                self._forget(delivery)
                self._owner.abandon(delivery, failure)
            return delivery.claim is not claim
        else:
            self._end(delivery, claim, written)
        return True

    def _end(self, delivery: Delivery, claim: OwnClaim, written: bool | None) -> None:
        """Go on, once. `written`: whether the store has taken it; None: nobody knows."""
        if delivery.claim is not claim:
            return
        delivery.claim = None
        if goes_on(delivery.outcome, written):
            self._owner.claim_closed(delivery)
        else:
            text = LOST_TEXT if written is False else UNKNOWN_TEXT
            self._owner.claim_lost(delivery, Outcome("lease_lost", "claim_lost", text))
        self._forget(delivery)

    def _forget(self, delivery: Delivery) -> None:
        was_full = self.is_full
        self._closing.pop(delivery, None)
        if was_full and not self.is_full:
            self._owner.has_room()


def _is_needed(delivery: Delivery, claim: OwnClaim) -> bool:
    """Whether it is to last: its handler runs, or what that has left behind is sent, or its mark is not written yet.

    What is held needs none.
    """
    if claim.state is CLOSING:
        return delivery.claim is claim and delivery.outcome.name in ("succeeded", "discarded")
    return claim.state is OURS and (delivery.is_inside() or (delivery.state is SETTLING and delivery.claim is claim))


def unless_lost(claim: OwnClaim | None, outcome: Outcome) -> Outcome:
    """The outcome of a delivery with this claim: nothing is settled of what is another delivery's by now."""
    if claim is not None and claim.state is TAKEN and outcome.name != "lease_lost":
        return Outcome("lease_lost", "claim_lost", LOST_TEXT)
    return outcome


def goes_on(outcome: Outcome, written: bool | None) -> bool:
    """Whether its message is settled as its outcome says.

    What is lost is another delivery's to settle: unless its copy is in the dead-letter queue already. What nobody knows
    of is given back all the same, since the claim ends by itself; but no success is, that may have to be repeated.
    """
    if outcome.name == "dead_lettered" or written:
        return True
    return written is None and outcome.name in VISIBLE_AGAIN
