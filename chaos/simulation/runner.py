"""Runs many schedules and prints what was found: the command line of the simulation, and what the mutants use."""

from __future__ import annotations

import argparse
import gc
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

import msgspec

from chaos.simulation.history import History, story
from chaos.simulation.plan import draw
from chaos.simulation.reader import read
from chaos.simulation.rules import Violation, check
from chaos.simulation.schedule import Schedule

#: Stories that one run prints.
MAX_STORIES = 5
#: Lines of a story that is not asked for by --verbose.
STORY_LINES = 40


class Result(msgspec.Struct):
    """What one schedule showed."""

    seed: int
    violations: list[Violation]
    messages: int
    faults: Counter[str]
    history: History | None = None


def run_seed(seed: int, keep: bool = False) -> Result:
    """One schedule, from its seed to its violations."""
    plan = draw(seed)
    try:
        history = Schedule(plan).run()
    except RuntimeError as error:  # a spin that never ends
        return Result(seed, [Violation("hub_rests", 0.0, "", str(error))], 0, Counter())
    tale = read(plan, history)
    violations = check(tale)
    return Result(seed, violations, len(tale.puts), _faults(history), history if keep or violations else None)


def run_seeds(seeds: Iterable[int]) -> Iterator[Result]:
    """One after the other. The collector runs between schedules, not in them."""
    gc.disable()
    try:
        for number, seed in enumerate(seeds):
            yield run_seed(seed)
            if number % 20 == 19:
                gc.collect(1)
            if number % 200 == 199:
                gc.collect()
    finally:
        gc.enable()


def _faults(history: History) -> Counter[str]:
    """By kind; a call that carries ten messages counts once."""
    calls = {event.call: str(event.value) for event in history.events if event.what == "fault"}
    counted = Counter(calls.values())
    for what in ("duplicate", "crash", "still", "drain"):
        counted[what] = sum(event.what == what for event in history.events)
    return counted


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line. 1 where a rule was broken."""
    parser = argparse.ArgumentParser(prog="python -m chaos.simulation", description=__doc__)
    parser.add_argument("--schedules", type=int, default=1_000)
    parser.add_argument("--seed", type=int, default=1, help="of the first one; the others follow")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--message", default="", help="with --verbose: the story of this message only")
    parser.add_argument("--verbose", action="store_true", help="print every schedule's story")
    options = parser.parse_args(arguments)
    if options.verbose:
        return _print_all(range(options.seed, options.seed + options.schedules), options.message)
    seeds = range(options.seed, options.seed + options.schedules)
    if options.processes > 1:
        return _run_apart(seeds, options.processes)
    began = time.monotonic()
    results = list(run_seeds(seeds))
    return _report(results, time.monotonic() - began)


def _run_apart(seeds: range, processes: int) -> int:
    """In this many processes, each with its own part of the seeds and its own report."""
    size = -(-len(seeds) // processes)
    parts = [seeds[start : start + size] for start in range(0, len(seeds), size)]
    command = [sys.executable, "-m", "chaos.simulation"]
    running = [subprocess.Popen([*command, "--seed", str(part[0]), "--schedules", str(len(part))]) for part in parts]
    return max(one.wait() for one in running)


def _print_all(seeds: range, message: str) -> int:
    broken = False
    for seed in seeds:
        result = run_seed(seed, keep=True)
        print(draw(seed))
        if result.history is not None:
            print(story(result.history.events, 1_000.0, message))
        for violation in result.violations:
            print(_line(violation))
        broken = broken or bool(result.violations)
    return int(broken)


def _report(results: list[Result], seconds: float) -> int:
    broken = [result for result in results if result.violations]
    faults = sum((result.faults for result in results), Counter[str]())
    print(f"{len(results)} schedules in {seconds:.0f} s, {60 * len(results) / seconds:.0f} a minute")
    print(f"{sum(result.messages for result in results)} messages")
    print("faults: " + ", ".join(f"{kind} {number}" for kind, number in sorted(faults.items())))
    rules = Counter(violation.rule for result in broken for violation in result.violations)
    print(
        f"violations: {rules.total()} in {len(broken)} schedules"
        + "".join(f"\n  {rule} {n}" for rule, n in rules.items())
    )
    for result in broken[:MAX_STORIES]:
        _print(result)
    return int(bool(broken))


def _print(result: Result) -> None:
    violation = result.violations[0]
    again = f"--seed {result.seed} --schedules 1 --verbose --message '{violation.message}'"
    print(f"\nseed {result.seed}: {_line(violation)}")
    print(f"  python -m chaos.simulation {again}")
    history = (result if result.history is not None else run_seed(result.seed, keep=True)).history
    if history is not None:
        lines = story(history.events, 1_000.0, violation.message).splitlines()
        print("\n".join(line[:160] for line in lines[-STORY_LINES:]))


def _line(violation: Violation) -> str:
    return f"{violation.rule} at {violation.at - 1_000.0:.3f}: {violation.message} {violation.text}"
