"""What a claim's key, digest and expiry are."""

from __future__ import annotations

import hashlib

import msgspec
import pytest

from millpond.claims.claim import (
    CLOCK_MARGIN_SECONDS,
    MAX_KEY_BYTES,
    ClaimRecord,
    ClaimState,
    digest_of,
    expiry_of,
    key_of,
    new_token,
    state_of,
)

NOW = 1_800_000_000.0


def record(**changes):
    fields = {"token": "a", "digest": "d", "lease_until": NOW + 60, "expires": NOW + 3600} | changes
    return ClaimRecord(**fields)


def test_a_key_is_the_type_and_the_event_id():
    assert key_of("invoice.created", "a1b2") == "invoice.created a1b2"
    assert key_of("rechnung.erstellt", "Zürich 7") == "rechnung.erstellt Zürich 7"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("a b", "c"), ("a", "b c")),
        (("a%20b", "c"), ("a b", "c")),
        (("t", "x" * 600), ("t", "x" * 601)),
        (("t" * 600 + "1", "x"), ("t" * 600 + "2", "x")),
        (("t", "a\n"), ("t", "a")),
        (("t", "\ud800"), ("t", "\ud801")),
        (("t", "e\u0301"), ("t", "\u00e9")),
    ],
)
def test_no_two_events_share_a_key(one, other):
    assert key_of(*one) != key_of(*other)


@pytest.mark.parametrize(
    "event", [("t", "x" * 10_000), ("t" * 10_000, ""), ("t", "\U0001f600" * 200), ("\n", "\ud800")]
)
def test_a_key_is_short_text_that_can_be_shown_whatever_the_event_is(event):
    key = key_of(*event)
    assert len(key.encode()) <= MAX_KEY_BYTES
    assert key.isprintable()
    assert key == key_of(*event)


def test_a_digest_is_the_payloads_sha_256():
    expected = hashlib.sha256(b'{"a": 1}').hexdigest()
    assert digest_of(b'{"a": 1}') == digest_of(msgspec.Raw(b'{"a": 1}')) == expected
    assert digest_of(b'{"a":1}') != expected


def test_no_two_tokens_are_the_same():
    assert len({new_token() for _ in range(1_000)}) == 1_000


@pytest.mark.parametrize("expires_seconds", [0, 1, 604_800])
def test_no_record_expires_before_the_lease_in_it_is_over(expires_seconds):
    lease_until = NOW + 43_200
    expires = expiry_of(lease_until, expires_seconds, NOW)
    at_its_end = record(lease_until=lease_until, expires=expires)
    assert state_of(at_its_end, lease_until + CLOCK_MARGIN_SECONDS) is ClaimState.HELD
    assert state_of(at_its_end, lease_until + CLOCK_MARGIN_SECONDS + 0.1) is ClaimState.LAPSED


@pytest.mark.parametrize(
    ("one", "state"),
    [
        (None, ClaimState.FREE),
        (record(), ClaimState.HELD),
        (record(lease_until=NOW - CLOCK_MARGIN_SECONDS), ClaimState.HELD),
        (record(lease_until=NOW - CLOCK_MARGIN_SECONDS - 0.1), ClaimState.LAPSED),
        (record(lease_until=0.0, failures=2), ClaimState.RELEASED),
        (record(done_at=NOW - 1), ClaimState.DONE),
        (record(expires=NOW), ClaimState.FREE),
        (record(done_at=NOW - 1, expires=NOW - 1), ClaimState.FREE),
    ],
)
def test_what_a_record_means(one, state):
    assert state_of(one, NOW) is state
