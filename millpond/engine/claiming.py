"""Claiming: an event of an idempotent handler runs under a claim, so that all workers together do it once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import cast

from millpond.app.envelope import Envelope
from millpond.claims.claim import Answer, Busy, Claimed, ClaimStore, Done, digest_of, key_of
from millpond.engine.delivery import Delivery
from millpond.engine.outcomes import FAILURES, LEASE_LOST, RELEASED, unavailable
from millpond.engine.own_claim import OURS, TAKEN, OwnClaim
from millpond.engine.store_trouble import StoreTrouble
from millpond.errors import ClaimStoreError
from millpond.hub.backoff import whole_seconds
from millpond.hub.clock import Clock
from millpond.message import Outcome

#: What another worker runs is given back until that claim ends, for at least and at most this many seconds.
MIN_BUSY_SECONDS, MAX_BUSY_SECONDS = 1, 900
#: How often is looked whether a renewal has come back.
LOOK_SECONDS = 0.05
DIFFERS = "its event_id was used before, for another payload: give each event an id of its own"


class Claiming:
    """The claims of one process's deliveries, at their store. Each method makes calls, in the greenlet that it is in.

    1. `begin`: before the handler, in its slot, the event is claimed until the message's own lease ends.
    2. `renew`: as that lease goes on, so does the claim.
    3. `close`: after a success it is completed; where a dead letter was sent it is forgotten, so that a redrive runs;
       else it is released, with the true number of failures.

    Where the store does not answer, `renew` and `close` raise ClaimStoreError, and `begin` says Unavailable: a store
    that is down is no licence to repeat.
    """

    def __init__(self, store: ClaimStore, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._trouble = StoreTrouble(clock)

    def begin(self, delivery: Delivery) -> Outcome | None:
        """Claim the event of a delivery. None: it is ours, its handler may run; else the outcome says why not."""
        delivery.is_asking = True
        try:
            refusal = None if self._goes_on(delivery) else self._ask(delivery)
        except ClaimStoreError as error:
            refusal = unavailable(str(error))
        if not delivery.stop_asking():
            return RELEASED
        if refusal is None and delivery.lease.is_lost(self._clock.now()):
            return LEASE_LOST
        return refusal

    def _goes_on(self, delivery: Delivery) -> bool:
        """Whether the claim of an earlier run is still ours: the message has been in hand since then."""
        claim = delivery.claim
        if claim is None or claim.state is not OURS:
            return False
        while claim.is_renewing:
            self._clock.sleep(LOOK_SECONDS)
        return self._keep_up(delivery, claim)

    def _ask(self, delivery: Delivery) -> Outcome | None:
        claim = delivery.claim
        if claim is None or claim.state is TAKEN:  # else the store has not answered: the token may have it already
            claim = delivery.claim = _claim_of(delivery)
        lease_until = delivery.lease.deadline
        claim.until = min(claim.until, lease_until)  # asked twice, it may be the first write that stands
        now, until = self._moments(lease_until)
        with self._noted():
            answer = self._store.claim(claim.key, claim.token, claim.digest, until, now)
        if delivery.claim is not claim:  # given back meanwhile
            self._give_up(claim, answer)
            return RELEASED
        if not isinstance(answer, Claimed):
            delivery.claim = None
            return _refusal(answer, self._clock.time())
        claim.state, delivery.failures = OURS, answer.failures
        return None if self._keep_up(delivery, claim) else self._ask(delivery)

    def _keep_up(self, delivery: Delivery, claim: OwnClaim) -> bool:
        """Renew it until it lasts as long as the lease. False: it is lost."""
        while claim.until < delivery.lease.deadline:
            if not self.renew(delivery, claim):
                return False
        return True

    def renew(self, delivery: Delivery, claim: OwnClaim) -> bool:
        """Make it last as long as the message's own lease does now. False: another delivery has it by now."""
        lease_until = delivery.lease.deadline
        now, until = self._moments(lease_until)
        with self._noted():
            is_ours = self._store.renew(claim.key, claim.token, until, now)
        claim.stop_lapse()  # it rings when the claim would have ended
        if is_ours:
            claim.until = lease_until
        elif claim.state is OURS:
            claim.state = TAKEN
        return is_ours

    def close(self, delivery: Delivery, claim: OwnClaim) -> bool:
        """Write what its outcome asks for. False: another delivery has the claim by now, and nothing was written."""
        outcome, now = delivery.outcome, self._clock.time()
        with self._noted():
            if outcome.name in ("succeeded", "discarded"):
                return self._store.complete(claim.key, claim.token, now)
            failures: int | None = (delivery.failures or 0) + (outcome.cause in FAILURES)
            if outcome.name == "dead_lettered":
                failures = None
            return self._store.release(claim.key, claim.token, failures, now)

    def _give_up(self, claim: OwnClaim, answer: Answer) -> None:
        if isinstance(answer, Claimed):
            self._store.release(claim.key, claim.token, answer.failures, self._clock.time())

    def _moments(self, lease_until: float) -> tuple[float, float]:
        """Now, and until when the lease lasts that ends then on our clock, both since the epoch."""
        now = self._clock.time()
        return now, now + max(0.0, lease_until - self._clock.now())

    @contextmanager
    def _noted(self) -> Iterator[None]:
        try:
            yield
        except ClaimStoreError as error:
            self._trouble.failed(error)
            raise
        self._trouble.answered()


def _claim_of(delivery: Delivery) -> OwnClaim:
    envelope = cast("Envelope", delivery.envelope)  # it has a route
    event_id = f"{envelope.source} {envelope.event_id}" if envelope.source else str(envelope.event_id)
    return OwnClaim(key_of(envelope.event_type, event_id), digest_of(envelope.payload))


def _refusal(answer: Answer, now: float) -> Outcome:
    """The outcome of a message that is not to run, or not now."""
    if isinstance(answer, Done):
        return Outcome("discarded", "duplicate", f"this event was done at {_moment(answer.at)}")
    if isinstance(answer, Busy):
        seconds = max(MIN_BUSY_SECONDS, min(MAX_BUSY_SECONDS, whole_seconds(answer.until - now)))
        reason = f"another delivery of this event has its claim, until {_moment(answer.until)}"
        return Outcome("released", "claimed", reason, delay_seconds=seconds)
    return Outcome("dead_lettered", "rejected", DIFFERS)


def _moment(seconds: float) -> str:
    """A time of the store's, which may be any number."""
    try:
        return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
    except (ValueError, OverflowError, OSError):
        return f"{seconds:g} s since the epoch"
