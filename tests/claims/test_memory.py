"""The store in memory keeps to its bound."""

from __future__ import annotations

from millpond.claims.claim import Busy, Claimed, Done
from millpond.claims.memory import MemoryClaims

NOW = 1_800_000_000.0


def claim(store, key, now=NOW, lease=60.0):
    return store.claim(key, f"token of {key}", "digest", now + lease, now)


def test_what_has_expired_leaves_faster_than_new_records_come():
    store = MemoryClaims(expires_seconds=100)
    for number in range(1_000):
        claim(store, f"old {number}")
    for number in range(500):
        claim(store, f"new {number}", now=NOW + 1_000)
    assert len(store) == 500


def test_the_oldest_records_leave_where_there_are_too_many():
    store = MemoryClaims(expires_seconds=604_800, max_records=100)
    for number in range(300):
        assert claim(store, f"event {number}") == Claimed(0)
        assert store.complete(f"event {number}", f"token of event {number}", NOW)
    assert len(store) == 100
    assert store.read("event 199") is None
    assert claim(store, "event 200") == Done(NOW)


def test_a_claim_in_hand_stays_whatever_comes_after_it():
    store = MemoryClaims(expires_seconds=604_800, max_records=10)
    held = [f"held {number}" for number in range(20)]
    for key in held:
        claim(store, key)
    for number in range(200):
        claim(store, f"event {number}")
        assert store.release(f"event {number}", f"token of event {number}", 1, NOW)
    assert [type(claim(store, key)) for key in held] == [Claimed] * 20  # own tokens
    assert isinstance(store.claim("held 0", "another", "digest", NOW + 60, NOW), Busy)
    assert len(store) < 40


def test_its_check_says_that_it_ends_with_the_process():
    [finding] = MemoryClaims(1).check()
    assert finding.level == "note"
    assert "in memory" in finding.text
