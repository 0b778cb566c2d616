"""Planted bugs of the stores of claims: `python -m chaos.claim_mutants` hunts them, by the contract of the stores.

Each is one rule of the protocol, and for each store what breaks it.
"""

from __future__ import annotations

from typing import Any
from unittest import mock

import gevent
from msgspec.structs import replace

from chaos.planted.bug import Mutant
from millpond.claims import claim, dynamodb, memory
from millpond.claims.claim import Busy, Claimed, ClaimState, Done
from millpond.claims.dynamodb import DynamoClaims, TableWrite
from millpond.claims.memory import MemoryClaims

STORES = ("memory", "dynamodb")
CLAIM_MUTANTS: dict[str, list[Mutant]] = {store: [] for store in STORES}

Place = tuple[Any, str, Any]  # where, what, and what is wrong instead


def plant(name: str, rule: str, *, memory: list[Place], dynamodb: list[Place]) -> None:
    for store, places in (("memory", memory), ("dynamodb", dynamodb)):
        patches = tuple((where, what, lambda _, wrong=wrong: wrong) for where, what, wrong in places)
        CLAIM_MUTANTS[store].append(Mutant(name, rule, patches))


def without(write: TableWrite, *parts: str) -> TableWrite:
    """A write whose condition lacks these parts."""
    condition = write.condition
    for part in parts:
        assert part in condition, f"{part} is not in {condition}"
        condition = condition.replace(f" AND {part}", "").replace(f"{part} AND ", "")
    return TableWrite(write.update, condition)


def setting(write: TableWrite, part: str, instead: str = "") -> TableWrite:
    assert part in write.update, f"{part} is not in {write.update}"
    return TableWrite(write.update.replace(part, instead), write.condition)


TOKEN, LIVE, OPEN, IN_PROGRESS = (
    "#token = :token",
    "#expires > :now",
    "attribute_not_exists(#done_at)",
    "#lease_until > :zero",
)


def anybody(record, token, now):
    return record is not None


plant(
    "renew_without_condition",
    "a stale owner renews nothing",
    memory=[(memory, "may_renew", lambda record, token, now: claim.may_renew(record, record and record.token, now))],
    dynamodb=[(dynamodb, "RENEW", without(dynamodb.RENEW, TOKEN))],
)
plant(
    "complete_without_condition",
    "a stale owner completes nothing",
    memory=[
        (memory, "may_complete", lambda record, token, now: claim.may_complete(record, record and record.token, now))
    ],
    dynamodb=[(dynamodb, "COMPLETE", without(dynamodb.COMPLETE, TOKEN))],
)
plant(
    "release_without_condition",
    "a stale owner releases nothing",
    memory=[
        (memory, "may_release", lambda record, token, now: claim.may_release(record, record and record.token, now))
    ],
    dynamodb=[
        (dynamodb, "RELEASE", without(dynamodb.RELEASE, TOKEN)),
        (dynamodb, "FORGET", without(dynamodb.FORGET, TOKEN)),
    ],
)
plant(
    "forget_without_condition",
    "a stale owner forgets nothing",
    memory=[(memory, "is_given_up", lambda record, token: record is not None)],
    dynamodb=[(dynamodb, "FORGET", without(dynamodb.FORGET, TOKEN))],
)
plant(
    "any_write_of_an_expired_record",
    "every condition checks the expiry itself",
    memory=[(memory, "may_renew", anybody), (memory, "may_complete", anybody), (memory, "may_release", anybody)],
    dynamodb=[(dynamodb, name, without(getattr(dynamodb, name), LIVE)) for name in ("RENEW", "COMPLETE", "RELEASE")],
)


def expiry_not_looked_at(record, now):
    return ClaimState.FREE if record is None else claim.state_of(replace(record, expires=now + 1), now)


def standing_without_expiry(record, token, digest, now):
    return claim.standing(record and replace(record, expires=now + 1), token, digest, now)


plant(
    "claim_waits_for_the_table_to_delete",
    "what has expired does not count, though it is there: a table deletes it days later",
    memory=[(memory, "state_of", expiry_not_looked_at), (memory, "standing", standing_without_expiry)],
    dynamodb=[
        (dynamodb, "CLAIM", without(dynamodb.CLAIM, LIVE)),
        (dynamodb, "state_of", expiry_not_looked_at),
        (dynamodb, "standing", standing_without_expiry),
    ],
)
plant(
    "expires_under_its_lease",
    "no record expires while its lease lasts",
    memory=[(memory, "expiry_of", lambda lease_until, seconds, now: now + seconds)],
    dynamodb=[(dynamodb, "expiry_of", lambda lease_until, seconds, now: now + seconds)],
)
plant(
    "claim_whatever_its_lease",
    "a claim is its owner's until its lease is over",
    memory=[(memory, "standing", lambda *of: None if isinstance(answer := claim.standing(*of), Busy) else answer)],
    dynamodb=[(dynamodb, "CLAIM", without(dynamodb.CLAIM, "#lease_until < :lapsed"))],
)
plant(
    "no_margin_for_clocks",
    "a claim is its owner's for the margin of the clocks longer",
    memory=[(claim, "CLOCK_MARGIN_SECONDS", 0.0)],
    dynamodb=[(claim, "CLOCK_MARGIN_SECONDS", 0.0), (dynamodb, "CLOCK_MARGIN_SECONDS", 0.0)],
)


def own_write_is_anothers(record, token, digest, now):
    answer = claim.standing(record, token, digest, now)
    return Busy(record.lease_until) if record is not None and isinstance(answer, Claimed) else answer


plant(
    "own_write_is_not_recognised",
    "one's own token in the record is one's own write, made again",
    memory=[(memory, "standing", own_write_is_anothers)],
    dynamodb=[(dynamodb, "standing", own_write_is_anothers)],
)


def no_token(record, token, digest, now):
    answer = claim.standing(record, token, digest, now)
    return Claimed(0) if isinstance(answer, Busy) else answer


plant(
    "no_token",
    "another's claim in progress is not one's own",
    memory=[(memory, "standing", no_token)],
    dynamodb=[(dynamodb, "standing", no_token)],
)
plant(
    "another_payload_is_the_same_event",
    "an event id that was used for another payload is an error of its sender",
    memory=[(memory, "standing", lambda record, *of: claim.standing(record and replace(record, digest=of[1]), *of))],
    dynamodb=[
        (dynamodb, "CLAIM", without(dynamodb.CLAIM, "#digest = :digest")),
        (dynamodb, "standing", lambda record, *of: claim.standing(record and replace(record, digest=of[1]), *of)),
    ],
)
plant(
    "done_is_claimed_again",
    "what is done is not done again",
    memory=[(memory, "standing", lambda *of: None if isinstance(answer := claim.standing(*of), Done) else answer)],
    dynamodb=[(dynamodb, "CLAIM", without(dynamodb.CLAIM, OPEN))],
)
plant(
    "release_undoes_done",
    "a release that was late on its way does not undo what is done",
    memory=[(memory, "may_release", lambda record, token, now: record is not None and record.token == token)],
    dynamodb=[
        (dynamodb, "RELEASE", without(dynamodb.RELEASE, OPEN)),
        (dynamodb, "FORGET", without(dynamodb.FORGET, OPEN)),
    ],
)
plant(
    "renew_revives_what_is_released",
    "a renewal that was late on its way does not hide an event that was released",
    memory=[(memory, "may_renew", claim.may_release)],
    dynamodb=[(dynamodb, "RENEW", without(dynamodb.RENEW, IN_PROGRESS))],
)


def kept_after_failure(self, key, token, failures, now):
    record = self._records.get(key)
    if record is None or not claim.may_release(record, token, now):
        return False
    self._records[key] = replace(record, failures=failures or 0)
    return True


plant(
    "claim_kept_after_failure",
    "a release frees the event at once",
    memory=[(MemoryClaims, "release", kept_after_failure)],
    dynamodb=[(dynamodb, "RELEASE", setting(dynamodb.RELEASE, "#lease_until = :zero, "))],
)


def forgetful(self, key, token, digest, lease_until, now):
    old = self._records.pop(key, None)
    if old is not None:
        self._records[key] = replace(old, failures=0)
    return CLAIM_IN_MEMORY(self, key, token, digest, lease_until, now)


CLAIM_IN_MEMORY = MemoryClaims.claim
plant(
    "failures_are_lost_by_the_next_claim",
    "a claim keeps the failures of those before it",
    memory=[(MemoryClaims, "claim", forgetful)],
    dynamodb=[(dynamodb, "CLAIM", setting(dynamodb.CLAIM, "if_not_exists(#failures, :zero)", ":zero"))],
)
plant(
    "expired_failures_count",
    "the failures of a record that has expired are forgotten",
    memory=[(memory, "state_of", expiry_not_looked_at)],
    dynamodb=[(dynamodb, "CLAIM_EXPIRED", setting(dynamodb.CLAIM_EXPIRED, ", #failures = :zero"))],
)


def done_mark_stays(self, key, token, digest, lease_until, now):
    old = self._records.get(key)
    answer = CLAIM_IN_MEMORY(self, key, token, digest, lease_until, now)
    if old is not None and isinstance(answer, Claimed):
        self._records[key] = replace(self._records[key], done_at=old.done_at)
    return answer


plant(
    "done_mark_outlives_its_expiry",
    "an event that is claimed anew after its expiry is not done",
    memory=[(MemoryClaims, "claim", done_mark_stays)],
    dynamodb=[(dynamodb, "CLAIM_EXPIRED", setting(dynamodb.CLAIM_EXPIRED, " REMOVE #done_at"))],
)


def in_two_steps(make):
    """The look and the write of a claim, with a moment between them."""

    def claim_in_two_steps(self, key, token, digest, lease_until, now):
        record = self.read(key)
        gevent.sleep(0.001)
        answer = claim.standing(record, token, digest, now)
        return answer if answer is not None else make(self, key, token, digest, lease_until, now)

    return claim_in_two_steps


def put_in_memory(self, key, *of):
    with mock.patch.object(memory, "standing", return_value=None):
        return CLAIM_IN_MEMORY(self, key, *of)


def put_in_the_table(self, key, token, digest, lease_until, now):
    record = self.read(key)
    is_new = record is None or claim.state_of(record, now) is ClaimState.FREE
    update = (dynamodb.CLAIM_EXPIRED if is_new else dynamodb.CLAIM).update
    anything = TableWrite(update, "attribute_exists(#id) OR attribute_not_exists(#id)")
    values = {":token": token, ":digest": digest, ":lease_until": lease_until, ":zero": 0}
    self._write(key, anything, values | {":expires": self._expiry(lease_until, now)})
    return Claimed(0 if is_new else record.failures)


plant(
    "look_and_write_are_two_steps",
    "of those that claim at once, one gets it",
    memory=[(MemoryClaims, "claim", in_two_steps(put_in_memory))],
    dynamodb=[(DynamoClaims, "claim", in_two_steps(put_in_the_table))],
)
