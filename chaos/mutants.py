"""Hunts the planted bugs, each of one rule of the design: the simulation must find every one of them.

`python -m chaos.mutants` shows after how many schedules, and by which rule. Exit code 1: one was not found.
"""

import tests.patch  # noqa: F401, I001  (before all else: the schedules run patched, as the worker does)

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from chaos.planted import MUTANTS, Mutant, planted
from chaos.claimed.runner import run_claimed
from chaos.simulation.runner import run_seed

#: Schedules within which each must be found.
WITHIN = 1_000


def hunt(bug: Mutant, first_seed: int = 1, within: int = WITHIN) -> tuple[int, str]:
    """After how many schedules it was found, and by which rules; 0 where it was not.

    A schedule that breaks a rule without the bug, too, has found something else.
    """
    run: Callable[[int], Any] = run_claimed if bug.is_of_claims else run_seed
    for number, seed in enumerate(range(first_seed, first_seed + within), 1):
        with planted(bug):
            violations = run(seed).violations
        if violations and not run(seed).violations:
            return number, ", ".join(sorted({violation.rule for violation in violations}))
    return 0, ""


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line. 1 where a mutant was not found."""
    parser = argparse.ArgumentParser(prog="python -m chaos.mutants", description="Plants bugs; see the module.")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--within", type=int, default=WITHIN)
    parser.add_argument("names", nargs="*", help="these mutants only")
    options = parser.parse_args(arguments)
    missed, began = 0, time.monotonic()
    print(f"{'mutant':26} {'found after':>11}  by")
    for bug in MUTANTS:
        if not options.names or bug.name in options.names:
            number, rules = hunt(bug, options.seed, options.within)
            missed += not number
            print(f"{bug.name:26} {number or 'NOT FOUND':>11}  {rules}    [{bug.rule}]", flush=True)
    print(f"{missed} not found, {time.monotonic() - began:.0f} s")
    return int(bool(missed))


if __name__ == "__main__":
    sys.exit(main())
