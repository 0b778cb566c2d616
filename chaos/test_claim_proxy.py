"""The proxy before the table of claims: its log has each write in the table's order, and knows a stale owner."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from chaos import claim_proxy
from chaos.claim_table import NAME, claim_table
from chaos.proxy_process import NO_FAULTS, proxy
from chaos.scenarios.claims_audit import number
from millpond.claims.claim import CLOCK_MARGIN_SECONDS, Claimed, key_of
from millpond.claims.dynamodb import DynamoClaims, connect_table
from millpond.errors import ClaimStoreError

pytestmark = pytest.mark.slow


def test_a_stale_owner_is_known_and_an_ordered_fault_strikes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    with claim_table() as endpoint, proxy(endpoint, tmp_path, NO_FAULTS, "chaos.claim_proxy") as between:
        monkeypatch.setenv("AWS_ENDPOINT_URL_DYNAMODB", f"{between.url}/w0")
        store = DynamoClaims(connect_table(NAME, "us-east-1", 2), 3_600)
        key, now = key_of("claimed", "e7"), time.time()
        assert store.claim(key, "old", "digest", now + 1, now) == Claimed(0)
        later = now + 1 + CLOCK_MARGIN_SECONDS + 1
        assert store.claim(key, "new", "digest", later + 10, later) == Claimed(0)
        assert not store.renew(key, "old", later + 10, later)
        assert not store.complete(key, "old", later)
        assert not store.release(key, "old", 1, later)
        assert store.complete(key, "new", later)
        between.fail("UpdateItem")
        with pytest.raises(ClaimStoreError):
            store.complete(key, "new", later)
        writes = claim_proxy.read(between.passed)
    assert [(one.what, one.token, one.taken, one.stale) for one in writes] == [
        ("claim", "old", True, False),
        ("claim", "new", True, False),
        ("renew", "old", False, True),
        ("done", "old", False, True),
        ("release", "old", False, True),
        ("done", "new", True, False),
    ]
    assert {(one.worker, number(one.key)) for one in writes} == {("w0", 7)}
