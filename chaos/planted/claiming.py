"""Bugs of claims: an event that is done twice, a stale owner's write that counts, or a claim that nobody can take."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import msgspec

from chaos.planted.bug import claims_mutant
from millpond.claims import claim, memory
from millpond.claims.claim import Answer, Busy, ClaimRecord, ClaimState
from millpond.engine import claim_keeper, claiming
from millpond.engine.claim_keeper import ClaimKeeper
from millpond.engine.claiming import Claiming
from millpond.engine.delivery import Delivery
from millpond.engine.outcomes import VISIBLE_AGAIN
from millpond.engine.own_claim import OwnClaim
from millpond.engine.settler import Settler
from millpond.errors import ClaimStoreError
from millpond.message import Outcome

# The protocol, at the store


@claims_mutant("each claim has a token of its own", (claiming, "_claim_of"))
def no_token(original: Any) -> Any:
    return lambda delivery: msgspec.structs.replace(original(delivery), token="ours")


@claims_mutant("a claim whose lease is over is another's to take", (memory, "standing"))
def no_expiry_check(original: Any) -> Any:
    def standing(record: ClaimRecord | None, token: str, digest: str, now: float) -> Answer | None:
        if record is not None and claim.state_of(record, now) is ClaimState.LAPSED:
            return Busy(record.lease_until)
        answer: Answer | None = original(record, token, digest, now)
        return answer

    return standing


@claims_mutant("a claim is nobody else's before its lease is over", (memory, "standing"))
def live_claims_are_taken(original: Any) -> Any:
    def standing(*what: Any) -> Answer | None:
        answer: Answer | None = original(*what)
        return None if isinstance(answer, Busy) else answer

    return standing


@claims_mutant(
    "clocks may be apart: a claim is another's once its lease and the margin are over", (claim, "CLOCK_MARGIN_SECONDS")
)
def no_margin(original: Any) -> Any:
    return 0.0


@claims_mutant("a renewal is its token's alone", (memory, "may_renew"))
def renewed_without_condition(original: Any) -> Any:
    return _anybody


@claims_mutant("a done mark is its token's alone", (memory, "may_complete"))
def completed_without_condition(original: Any) -> Any:
    return _anybody


@claims_mutant("a release is its token's alone", (memory, "may_release"))
def released_without_condition(original: Any) -> Any:
    return _anybody


def _anybody(record: ClaimRecord | None, token: str, now: float) -> bool:
    return record is not None


# Before the handler


def _run_in_spite_of(cause: str) -> Callable[[Any], Any]:
    def make(original: Any) -> Any:
        def begin(self: Claiming, delivery: Delivery) -> Outcome | None:
            refusal: Outcome | None = original(self, delivery)
            return None if refusal is not None and refusal.cause == cause else refusal

        return begin

    return make


@claims_mutant("a store that is down is no licence to repeat", (Claiming, "begin"))
def runs_though_store_is_down(original: Any) -> Any:
    return _run_in_spite_of("unavailable")(original)


@claims_mutant("what another delivery runs does not run here", (Claiming, "begin"))
def busy_is_free(original: Any) -> Any:
    return _run_in_spite_of("claimed")(original)


@claims_mutant("what is done does not run again", (Claiming, "begin"))
def done_is_free(original: Any) -> Any:
    return _run_in_spite_of("duplicate")(original)


@claims_mutant(
    "a claim that was kept, or asked for twice, is renewed before the handler begins", (Claiming, "_keep_up")
)
def kept_claims_are_not_renewed(original: Any) -> Any:
    return lambda self, delivery, claim: True


# While it runs


@claims_mutant("a claim is renewed with the beats", (ClaimKeeper, "lease_extended"))
def never_renewed(original: Any) -> Any:
    return lambda self, delivery: None


@claims_mutant("a handler whose claim is not renewed in time is interrupted", (ClaimKeeper, "_watch"))
def lapse_is_not_watched(original: Any) -> Any:
    return lambda self, delivery, claim: None


# At its end


@claims_mutant("follow-ups and dead letters are sent before the claim is closed", (Settler, "_settle"))
def closed_before_the_sends(original: Any) -> Any:
    def settle(self: Settler, delivery: Delivery, outcome: Outcome) -> None:
        if delivery.claim is not None and self.claims is not None and outcome.name not in VISIBLE_AGAIN:
            delivery.outcome = outcome
            self.claims._spawn(_write_at_once, self.claims._claiming, delivery, delivery.claim)
        original(self, delivery, outcome)

    return settle


def _write_at_once(claiming: Claiming, delivery: Delivery, claim: OwnClaim) -> None:
    with suppress(ClaimStoreError):
        claiming.close(delivery, claim)


@claims_mutant("a success is deleted once the store has confirmed that it is done", (Settler, "all_sent"))
def deleted_before_the_done_mark(original: Any) -> Any:
    def all_sent(self: Settler, delivery: Delivery) -> None:
        if delivery.claim is not None and self.claims is not None:
            self.claims._spawn(_write_at_once, self.claims._claiming, delivery, delivery.claim)
            delivery.claim = None
        self.deletes.put(delivery)

    return all_sent


@claims_mutant("what is given back or put off is released first", (ClaimKeeper, "close"))
def claim_kept_after_failure(original: Any) -> Any:
    def close(self: ClaimKeeper, delivery: Delivery, claim: OwnClaim) -> None:
        if delivery.outcome.name in VISIBLE_AGAIN:
            self._end(delivery, claim, written=True)
        else:
            original(self, delivery, claim)

    return close


@claims_mutant("a failure is counted in the record", (claiming, "FAILURES"))
def failures_are_not_counted(original: Any) -> Any:
    return frozenset[str]()


@claims_mutant("a give-back is no failure", (claiming, "FAILURES"))
def give_backs_are_failures(original: Any) -> Any:
    return original | {"", "unavailable"}


@claims_mutant("a dead letter forgets the claim", (Claiming, "close"))
def dead_letters_keep_the_claim(original: Any) -> Any:
    def close(self: Claiming, delivery: Delivery, claim: OwnClaim) -> bool:
        return delivery.outcome.name == "dead_lettered" or bool(original(self, delivery, claim))

    return close


@claims_mutant("a success whose claim is another's is not deleted", (claim_keeper, "goes_on"))
def deleted_though_the_claim_is_lost(original: Any) -> Any:
    return lambda outcome, written: True
