"""The contract finds every planted bug, in each store."""

from __future__ import annotations

import pytest

from chaos.claim_mutants import hunt
from chaos.planted.claims import CLAIM_MUTANTS, STORES
from tests.claims.conftest import TABLE
from tests.claims.opened import DynamoStores, MemoryStores


def test_each_bug_is_planted_in_each_store():
    assert len(CLAIM_MUTANTS["memory"]) >= 20
    assert len({tuple(bug.name for bug in CLAIM_MUTANTS[store]) for store in STORES}) == 1


@pytest.mark.parametrize("bug", CLAIM_MUTANTS["memory"], ids=lambda bug: bug.name)
def test_a_bug_of_the_store_in_memory_is_found(bug):
    assert hunt(bug, MemoryStores())


@pytest.mark.slow
@pytest.mark.parametrize("bug", CLAIM_MUTANTS["dynamodb"], ids=lambda bug: bug.name)
def test_a_bug_of_the_store_in_dynamodb_is_found(bug, table):
    assert hunt(bug, DynamoStores(TABLE))
