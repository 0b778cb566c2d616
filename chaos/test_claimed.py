"""Some schedules of idempotent handlers keep every rule, and planted bugs of the protocol are found."""

from __future__ import annotations

import pytest

from chaos.claimed.runner import run_claimed
from chaos.mutants import hunt
from chaos.planted import MUTANTS

SCHEDULES = 75
#: Seeds that have found something once: a claim that was asked for twice, held messages that ran after their end.
FOUND_ONCE = (79, 704, 783)
#: The bugs that the issue of stale owners is about; all of them are found within a few schedules.
SOME = (
    "no_token",
    "no_expiry_check",
    "renewed_without_condition",
    "closed_before_the_sends",
    "claim_kept_after_failure",
    "runs_though_store_is_down",
    "busy_is_free",
    "lapse_is_not_watched",
)


#: Where the hunt begins, for a bug that another seed shows late or with much work.
FIRST_SEEDS = {"no_expiry_check": 4, "lapse_is_not_watched": 28}


@pytest.mark.slow
def test_no_schedule_breaks_a_rule() -> None:
    results = [run_claimed(seed) for seed in range(1, 1 + SCHEDULES)]

    assert not {result.seed: result.violations for result in results if result.violations}
    assert sum(result.repeated for result in results)  # the documented window is there
    assert sum(result.refused for result in results)


@pytest.mark.parametrize("seed", FOUND_ONCE)
def test_a_seed_that_has_found_a_bug_of_claims_finds_none(seed: int) -> None:
    assert not run_claimed(seed).violations


@pytest.mark.slow
@pytest.mark.parametrize("name", SOME)
def test_a_planted_bug_of_claims_is_found(name: str) -> None:
    [bug] = [one for one in MUTANTS if one.name == name]

    number, rules = hunt(bug, FIRST_SEEDS.get(name, 1), within=100)

    assert number
    assert rules


def test_a_seed_is_a_schedule() -> None:
    assert run_claimed(5) == run_claimed(5)
