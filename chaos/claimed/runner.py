"""Runs schedules of idempotent handlers, and prints what was found."""

from __future__ import annotations

import argparse
import gc
import sys
import time
from collections import Counter
from collections.abc import Sequence

import msgspec

from chaos.claimed.rules import check, repeats
from chaos.claimed.schedule import ClaimedSchedule, draw_claimed
from chaos.claimed.tale import read
from chaos.simulation.history import History, story
from chaos.simulation.rules.rule import Violation

#: Stories that one run prints, and the lines of each.
MAX_STORIES, STORY_LINES = 4, 60


class ClaimedResult(msgspec.Struct):
    """What one schedule showed."""

    seed: int
    violations: list[Violation]
    effects: int = 0
    repeated: int = 0
    refused: int = 0  # writes of stale owners
    history: History | None = None


def run_claimed(seed: int) -> ClaimedResult:
    """One schedule, from its seed to its violations."""
    schedule = ClaimedSchedule(*draw_claimed(seed))
    try:
        history = schedule.run()
    except RuntimeError as error:  # a spin that never ends
        return ClaimedResult(seed, [Violation("hub_rests", 0.0, "", str(error))])
    tale = read(schedule.plan, history.events, schedule.events)
    violations = check(tale)
    refused = sum(one.answer is False for one in tale.writes)
    effects = len(tale.of_kind["effect"])
    return ClaimedResult(seed, violations, effects, repeats(tale), refused, history if violations else None)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line. 1 where a rule was broken."""
    parser = argparse.ArgumentParser(prog="python -m chaos.claimed", description=__doc__)
    parser.add_argument("--schedules", type=int, default=300)
    parser.add_argument("--seed", type=int, default=1, help="of the first one; the others follow")
    options = parser.parse_args(arguments)
    began = time.monotonic()
    gc.disable()
    results = []
    for seed in range(options.seed, options.seed + options.schedules):
        results.append(run_claimed(seed))
        if not seed % 20:
            gc.collect()
    gc.enable()
    return _report(results, time.monotonic() - began)


def _report(results: list[ClaimedResult], seconds: float) -> int:
    broken = [result for result in results if result.violations]
    print(f"{len(results)} schedules in {seconds:.0f} s")
    print(f"{sum(one.effects for one in results)} effects, {sum(one.repeated for one in results)} of them repeats")
    print(f"{sum(one.refused for one in results)} writes of stale owners, all refused by the store")
    rules = Counter(violation.rule for result in broken for violation in result.violations)
    print(f"violations: {rules.total()} in {len(broken)} schedules", *(f"\n  {rule} {n}" for rule, n in rules.items()))
    for result in broken[:MAX_STORIES]:
        _print(result)
    return int(bool(broken))


def _print(result: ClaimedResult) -> None:
    violation = result.violations[0]
    print(
        f"\nseed {result.seed}: {violation.rule} at {violation.at - 1_000.0:.3f}: {violation.message} {violation.text}"
    )
    if result.history is not None:
        lines = story(result.history.events, 1_000.0, violation.message).splitlines()
        print("\n".join(line[:170] for line in lines[-STORY_LINES:]))


if __name__ == "__main__":
    sys.exit(main())
