"""Two hundred schedules keep every rule, and planted bugs are found. The full sets run from the command line."""

from __future__ import annotations

import pytest

from chaos.mutants import hunt
from chaos.planted import MUTANTS
from chaos.simulation.history import story
from chaos.simulation.plan import draw
from chaos.simulation.runner import run_seed, run_seeds

SCHEDULES = 200
#: Seeds that have found something once.
FOUND_ONCE = (318, 393, 504, 737, 995, 996, 1110, 1135, 1360, 1378, 1722, 2675, 2689, 3631, 3643, 41_100)
#: One of each part of the engine; all of them are found within a few schedules.
SOME_MUTANTS = (
    "asks_for_ten",
    "beats_after_give_back",
    "changes_overlap",
    "interrupts_after_the_end",
    "deleted_before_copy",
    "groups_run_at_once",
    "twins_run_side_by_side",
)


@pytest.mark.slow
def test_two_hundred_schedules_break_no_rule() -> None:
    broken = {result.seed: result.violations for result in run_seeds(range(1, 1 + SCHEDULES)) if result.violations}

    assert not broken


@pytest.mark.parametrize("seed", FOUND_ONCE)
def test_a_seed_that_has_found_a_bug_finds_none(seed: int) -> None:
    assert not run_seed(seed).violations


def test_a_seed_is_a_schedule() -> None:
    first, again = run_seed(7, keep=True), run_seed(7, keep=True)

    assert draw(7) == draw(7)
    assert first.history is not None
    assert again.history is not None
    assert story(first.history.events, 0.0) == story(again.history.events, 0.0)


@pytest.mark.parametrize("name", SOME_MUTANTS)
def test_a_planted_bug_is_found(name: str) -> None:
    [bug] = [one for one in MUTANTS if one.name == name]

    number, rules = hunt(bug, within=60)

    assert number
    assert rules
