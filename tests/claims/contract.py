"""What every store of claims promises: each function is one promise, and runs against each store.

Time is what they say it is: a store asks no clock.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Protocol

import gevent

from millpond.claims.claim import CLOCK_MARGIN_SECONDS, Busy, Claimed, ClaimStore, Differs, Done

NOW = 1_800_000_000.0
WEEK = 604_800.0
LEASE = NOW + 60
#: The first moment at which a claim until LEASE is another's to take.
LAPSED = LEASE + CLOCK_MARGIN_SECONDS + 0.1
#: By now every record of these tests has expired, and no table has deleted one.
EXPIRED = NOW + 2 * WEEK


class Stores(Protocol):
    """Opens stores over the same records."""

    def open(self, expires_seconds: float = WEEK) -> ClaimStore: ...


Promise = Callable[[Stores], None]
CONTRACT: list[Promise] = []


def promise(function: Promise) -> Promise:
    CONTRACT.append(function)
    return function


def fresh() -> str:
    return f"invoice.created {uuid.uuid4()}"


def claim(store: ClaimStore, key: str, token: str, now: float = NOW, digest: str = "digest", lease: float = 60):
    return store.claim(key, token, digest, now + lease, now)


@promise
def an_event_that_nobody_knows_is_claimed(stores):
    assert claim(stores.open(), fresh(), "a") == Claimed(0)


@promise
def anothers_claim_is_busy_until_its_lease_and_the_margin_are_over(stores):
    store, key = stores.open(), fresh()
    claim(store, key, "a")
    until = Busy(LEASE + CLOCK_MARGIN_SECONDS)
    assert claim(store, key, "b") == until
    assert claim(store, key, "b", LEASE + 1) == until
    assert claim(store, key, "b", LEASE + CLOCK_MARGIN_SECONDS) == until
    assert claim(store, key, "b", LAPSED) == Claimed(0)


@promise
def a_renewed_claim_is_busy_for_longer(stores):
    store, key = stores.open(), fresh()
    claim(store, key, "a")
    assert store.renew(key, "a", NOW + 600, NOW + 30)
    assert claim(store, key, "b", LAPSED) == Busy(NOW + 600 + CLOCK_MARGIN_SECONDS)


@promise
def a_renewal_that_was_late_on_its_way_makes_no_claim_shorter(stores):
    store, key = stores.open(), fresh()
    claim(store, key, "a")
    assert store.renew(key, "a", NOW + 600, NOW + 30)
    assert store.renew(key, "a", NOW + 300, NOW + 20)
    assert claim(store, key, "b", NOW + 400) == Busy(NOW + 600 + CLOCK_MARGIN_SECONDS)


@promise
def a_lapsed_claim_can_still_be_renewed_and_completed_while_nobody_else_has_it(stores):
    store, key = stores.open(), fresh()
    claim(store, key, "a")
    assert store.renew(key, "a", LAPSED + 60, LAPSED)
    assert isinstance(claim(store, key, "b", LAPSED + 1), Busy)
    assert store.complete(key, "a", LAPSED + 600)
    assert claim(store, key, "b", LAPSED + 601) == Done(LAPSED + 600)


@promise
def a_done_event_is_done_for_everybody(stores):
    store, key = stores.open(), fresh()
    claim(store, key, "a")
    assert store.complete(key, "a", NOW + 7)
    assert claim(store, key, "a", NOW + 8) == Done(NOW + 7)
    assert claim(store, key, "b", NOW + WEEK) == Done(NOW + 7)


@promise
def a_released_claim_is_free_at_once_and_keeps_its_failures(stores):
    store, key = stores.open(), fresh()
    for failures in range(3):
        token = f"token {failures}"
        assert claim(store, key, token) == Claimed(failures)
        assert store.release(key, token, failures + 1, NOW + 1)
    assert claim(store, key, "given back") == Claimed(3)
    assert store.release(key, "given back", 3, NOW + 1)
    assert claim(store, key, "last") == Claimed(3)


@promise
def failures_outlive_the_worker_that_died_next(stores):
    store, key = stores.open(), fresh()
    claim(store, key, "a")
    store.release(key, "a", 2, NOW)
    assert claim(store, key, "dies") == Claimed(2)
    assert claim(store, key, "b", LAPSED) == Claimed(2)


@promise
def a_forgotten_event_is_as_new(stores):
    store, key = stores.open(), fresh()
    claim(store, key, "a")
    store.release(key, "a", 4, NOW)
    claim(store, key, "b")
    assert store.release(key, "b", None, NOW + 1)
    assert store.release(key, "b", None, NOW + 2)  # again: its answer was lost
    assert claim(store, key, "c", NOW + 2, digest="another payload") == Claimed(0)
    assert not store.release(key, "b", None, NOW + 3)
    assert isinstance(claim(store, key, "d", NOW + 3, digest="another payload"), Busy)


@promise
def another_payload_differs_whatever_became_of_the_event(stores):
    store, key = stores.open(), fresh()
    claim(store, key, "a")
    assert claim(store, key, "b", digest="other") == Differs()
    assert claim(store, key, "b", LAPSED, digest="other") == Differs()
    store.release(key, "a", 1, NOW)
    assert claim(store, key, "b", digest="other") == Differs()
    claim(store, key, "b")
    store.complete(key, "b", NOW)
    assert claim(store, key, "c", digest="other") == Differs()


@promise
def ones_own_claim_is_recognised(stores):
    """The first answer was lost, and the SDK made the call again."""
    store, key = stores.open(), fresh()
    claim(store, key, "a")
    store.release(key, "a", 2, NOW)
    assert claim(store, key, "b") == Claimed(2)
    assert claim(store, key, "b") == Claimed(2)
    assert isinstance(claim(store, key, "c"), Busy)


@promise
def ones_own_other_writes_can_be_made_again(stores):
    store, key = stores.open(), fresh()
    claim(store, key, "a")
    assert store.release(key, "a", 1, NOW)
    assert store.release(key, "a", 1, NOW)
    claim(store, key, "b")
    assert store.renew(key, "b", NOW + 90, NOW)
    assert store.renew(key, "b", NOW + 90, NOW)
    assert store.complete(key, "b", NOW)
    assert store.complete(key, "b", NOW)
    assert claim(store, key, "c") == Done(NOW)


@promise
def a_claim_of_an_owner_before_is_not_taken_for_the_owners_own(stores):
    store, key = stores.open(), fresh()
    claim(store, key, "a")
    assert claim(store, key, "b", LAPSED) == Claimed(0)
    assert isinstance(claim(store, key, "a", LAPSED), Busy)


@promise
def a_stale_owner_writes_nothing(stores):
    store, key = stores.open(), fresh()
    claim(store, key, "a")
    assert claim(store, key, "b", LAPSED) == Claimed(0)
    before = store.read(key)
    assert before is not None
    assert before.token == "b"
    assert not store.renew(key, "a", LAPSED + 600, LAPSED)
    assert store.read(key) == before, "renewed"
    assert not store.complete(key, "a", LAPSED)
    assert store.read(key) == before, "completed"
    assert not store.release(key, "a", 1, LAPSED)
    assert store.read(key) == before, "released"
    assert not store.release(key, "a", None, LAPSED)
    assert store.read(key) == before, "forgotten"
    assert store.complete(key, "b", LAPSED + 1)
    assert not store.release(key, "a", 1, LAPSED + 2)
    assert claim(store, key, "c", LAPSED + 2) == Done(LAPSED + 1)


@promise
def what_is_done_stays_done(stores):
    """A beat or a give-back that was late on its way."""
    store, key = stores.open(), fresh()
    claim(store, key, "a")
    store.complete(key, "a", NOW)
    assert not store.renew(key, "a", NOW + 600, NOW + 1)
    assert not store.release(key, "a", 1, NOW + 1)
    assert not store.release(key, "a", None, NOW + 1)
    assert claim(store, key, "b", NOW + 2) == Done(NOW)


@promise
def what_is_released_stays_released(stores):
    """A beat that was late on its way would hide the message from its next owner."""
    store, key = stores.open(), fresh()
    claim(store, key, "a")
    store.release(key, "a", 1, NOW)
    assert not store.renew(key, "a", NOW + 600, NOW)
    assert not store.complete(key, "a", NOW)
    assert claim(store, key, "b") == Claimed(1)


@promise
def an_event_that_nobody_claimed_can_be_neither_renewed_nor_completed_nor_released(stores):
    store, key = stores.open(), fresh()
    assert not store.renew(key, "a", LEASE, NOW)
    assert not store.complete(key, "a", NOW)
    assert not store.release(key, "a", 1, NOW)
    assert not store.release(key, "a", None, NOW)
    assert store.read(key) is None


@promise
def what_has_expired_counts_no_more_though_it_is_still_there(stores):
    store = stores.open()
    for end in ("done", "released", "died"):
        key = fresh()
        claim(store, key, "a")
        if end == "done":
            store.complete(key, "a", NOW)
        if end == "released":
            store.release(key, "a", 5, NOW)
        assert store.read(key) is not None
        assert claim(store, key, "b", EXPIRED, digest="other") == Claimed(0), end
        assert isinstance(claim(store, key, "c", EXPIRED, digest="other"), Busy), end
        # The failures of before are not in the record either.
        assert claim(store, key, "c", EXPIRED + 100, digest="other") == Claimed(0), end
        assert store.complete(key, "c", EXPIRED + 101), end
        assert claim(store, key, "d", EXPIRED + 102, digest="other") == Done(EXPIRED + 101), end


@promise
def what_has_expired_is_nobodys(stores):
    store, key = stores.open(), fresh()
    claim(store, key, "a")
    before = store.read(key)
    assert not store.renew(key, "a", EXPIRED + 60, EXPIRED)
    assert not store.complete(key, "a", EXPIRED)
    assert not store.release(key, "a", 1, EXPIRED)
    assert not store.release(key, "a", None, EXPIRED)
    assert store.read(key) == before


@promise
def no_record_expires_under_its_lease(stores):
    store, key = stores.open(expires_seconds=60), fresh()
    claim(store, key, "a", lease=600)
    assert isinstance(claim(store, key, "b", NOW + 600), Busy)
    assert store.renew(key, "a", NOW + 43_200, NOW + 500)
    assert isinstance(claim(store, key, "b", NOW + 43_200), Busy)
    assert store.complete(key, "a", NOW + 43_200)
    assert claim(store, key, "b", NOW + 43_259) == Done(NOW + 43_200)
    assert claim(store, key, "b", NOW + 43_262) == Claimed(0)


@promise
def of_twenty_that_claim_at_once_one_gets_it(stores):
    store = stores.open()
    for before in ("nothing", "released", "died", "expired"):
        key, now, failures = fresh(), NOW, 0
        if before != "nothing":
            claim(store, key, "before")
            now = LAPSED
        if before == "released":
            store.release(key, "before", 3, NOW)
            failures = 3
        if before == "expired":
            now = EXPIRED
        running = [gevent.spawn(claim, store, key, f"token {number}", now) for number in range(20)]
        gevent.joinall(running, raise_error=True)
        answers = [one.value for one in running]
        assert answers.count(Claimed(failures)) == 1, before
        assert answers.count(Busy(now + 60 + CLOCK_MARGIN_SECONDS)) == 19, before
        owner = f"token {answers.index(Claimed(failures))}"
        assert store.complete(key, owner, now), before


@promise
def events_have_nothing_to_do_with_each_other(stores):
    store = stores.open()
    keys = [fresh(), f"{fresh()} Zürich 東京 \U0001f600", f"{fresh()}{'x' * 470}", f"{fresh()} '\"\\ :#"]
    for key in keys:
        assert claim(store, key, "a") == Claimed(0)
    store.release(keys[0], "a", 1, NOW)
    assert store.complete(keys[1], "a", NOW)
    assert claim(store, keys[0], "b") == Claimed(1)
    assert claim(store, keys[1], "b") == Done(NOW)
    assert isinstance(claim(store, keys[2], "b"), Busy)
    assert isinstance(claim(store, keys[3], "b"), Busy)


@promise
def people_read_and_remove_what_they_have_seen(stores):
    store, key = stores.open(), fresh()
    assert store.read(key) is None
    assert not store.remove(key, "a")
    claim(store, key, "a")
    record = store.read(key)
    assert record is not None
    assert (record.token, record.digest, record.lease_until, record.failures) == ("a", "digest", LEASE, 0)
    assert record.done_at is None
    assert not store.remove(key, "b")
    assert store.read(key) == record
    assert store.remove(key, "a")
    assert store.read(key) is None
    assert not store.renew(key, "a", LEASE, NOW)
    assert store.read(key) is None
    assert claim(store, key, "b") == Claimed(0)
