"""All tests, some pytests at a time: `python -m tests.side_by_side` (`make test`), with `--quick` (`make quick`).

Most tests wait, for processes, sockets and timers: one after the other they take a quarter of an hour, of which five
minutes are work. (pytest-xdist cannot: its workers stop where gevent has patched the process.) What waits for longest
runs beside what works most, from the beginning. Files share a process, a few of those with slow tests, many of the
others: a second is what a pytest takes to begin.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, zip_longest
from pathlib import Path
from typing import NamedTuple

from tests.stalls import AGAIN

ROOT = Path(__file__).parent.parent
#: Processes at a time, on two cores.
AT_A_TIME = 4
#: What files without slow tests are dealt out to; those of `--quick` are all.
HANDS = 6
#: How many files with slow tests one process has, but for those that are not measured: each of these has its own.
SLOW_IN_ONE = 3
#: They take longest, up to three minutes, and most of it they wait.
LONGEST = (
    "tests/process/test_signals.py",
    "tests/test_end_to_end.py",
    "tests/process/test_watchdog.py",
    "tests/test_dead_letter_queue.py",
    "tests/test_secrets.py",
    "tests/commands/test_dlq_moves.py",
    "tests/process/test_steering_signals.py",
)
#: What a test that is not marked slow may take.
QUICK_SECONDS = 3.0
#: Files whose coverage is not measured, as that makes them dearer (before Python 3.13 three times): whole processes,
#: load and chance, for minutes. What they reach, others must reach too. And the one that counts steps, of which
#: coverage takes some; and the one whose processes fork beside threads: a fork that comes while coverage holds a lock
#: of its own never ends.
UNMEASURED = (
    *("chaos/", "tests/fuzz/", "tests/test_dead_letter_queue", "tests/test_documents", "tests/test_end_to_end"),
    *("tests/test_reference", "tests/test_secrets", "tests/test_wheel", "tests/process/test_signals"),
    *(
        "tests/engine/test_gate.py",
        "tests/engine/test_gate_rate",
        "tests/engine/test_hold",
        "tests/engine/test_interrupts",
    ),
    *("tests/engine/test_lease_model", "tests/engine/test_permits"),
    *("tests/local/test_fifo.py", "tests/local/test_local_queue.py", "tests/mail/test_mailer"),
    "tests/hub/test_threads",
    *("tests/test_cost", "tests/hub/test_forked"),
)

_COUNT = re.compile(r"(\d+) (passed|failed|skipped|error)")
_FAILED = re.compile(r"^(?:FAILED|ERROR) ([^\s:]+\.py)", re.MULTILINE)
_LONG = re.compile(r"^(\d+\.\d+)s (call|setup|teardown) +(\S+)", re.MULTILINE)
_SLOW = re.compile(r"pytest\.mark\.slow\b")


class Result(NamedTuple):
    """`counts`: tests by what became of them."""

    name: str
    code: int
    output: str
    counts: Counter[str]
    seconds: float


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; further arguments are pytest's. What fails is shown whole. The exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.side_by_side", description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="only what is not marked slow")
    parser.add_argument("--coverage", action="store_true", help="fail below the floor in pyproject.toml")
    options, more = parser.parse_known_args(arguments)
    return _run_quick(more) if options.quick else _run_all(more, options.coverage)


def _files() -> list[str]:
    """Those with slow tests first, and large ones."""
    found = [*ROOT.glob("tests/**/test_*.py"), *ROOT.glob("chaos/**/test_*.py")]
    found.sort(key=lambda path: (not _has_slow(str(path.relative_to(ROOT))), -path.stat().st_size))
    return [str(path.relative_to(ROOT)) for path in found]


def _run_all(arguments: Sequence[str], coverage: bool) -> int:
    """What takes long first, or it would run alone in the end: by turns one that waits and one that works."""
    with tempfile.TemporaryDirectory(prefix="coverage-") as folder, ThreadPoolExecutor(AT_A_TIME) as pool:
        environ = {**os.environ, "COVERAGE_FILE": f"{folder}/data"}

        def run(files: Sequence[str]) -> Result:
            measured = coverage and not files[0].startswith(UNMEASURED)
            return _run(_name(files), [*files, *arguments], measured, environ)

        files = _files()
        longest = [[file] for file in LONGEST]
        measured, others = _by_measure(file for file in files if _has_slow(file) and file not in LONGEST)
        slow = [*([file] for file in others), *_dealt(measured, -(-len(measured) // SLOW_IN_ONE))]
        measured, others = _by_measure(file for file in files if not _has_slow(file))
        hands = [hand for hand in (*_dealt(measured, HANDS), *_dealt(others, 1)) if hand]
        first = chain.from_iterable(zip_longest(longest, hands))
        results = list(pool.map(run, [*filter(None, first), *slow]))
        code = _summary([_again(result, arguments) if result.code else result for result in results])
        return (_coverage(environ) if coverage else 0) or code


def _by_measure(files: Iterable[str]) -> tuple[list[str], list[str]]:
    """Those whose coverage is measured, and the others."""
    found: tuple[list[str], list[str]] = [], []
    for file in files:
        found[file.startswith(UNMEASURED)].append(file)
    return found


def _dealt(files: Sequence[str], hands: int) -> list[Sequence[str]]:
    return [files[number::hands] for number in range(hands)]


def _name(files: Sequence[str]) -> str:
    return files[0] if len(files) == 1 else f"{len(files)} files: {files[0]}"


def _has_slow(file: str) -> bool:
    return bool(_SLOW.search((ROOT / file).read_text()))


def _run_quick(arguments: Sequence[str]) -> int:
    hands = _dealt(_files(), HANDS)
    durations = ["-m", "not slow", "--durations=5", f"--durations-min={QUICK_SECONDS}"]
    with ThreadPoolExecutor(AT_A_TIME) as pool:
        results = list(pool.map(lambda hand: _run(_name(hand), [*hand, *durations, *arguments]), hands))
    found = [(float(seconds), test) for result in results for seconds, _, test in _LONG.findall(result.output)]
    for seconds, test in sorted(found, reverse=True)[:5]:
        print(f"{seconds:.0f} s for {test}: if this machine had nothing else to do, mark it slow")
    return _summary(results)


def _run(name: str, arguments: Sequence[str], measured: bool = False, environ: dict[str, str] | None = None) -> Result:
    started = time.monotonic()
    program = [sys.executable, "-m", *(["coverage", "run", "-m"] if measured else []), "pytest", *arguments]
    done = subprocess.run(program, cwd=ROOT, env=environ, capture_output=True, text=True, check=False)
    counts = Counter({what: int(number) for number, what in _COUNT.findall(done.stdout.rpartition("\n=")[2][-500:])})
    result = Result(name, done.returncode, done.stdout + done.stderr, counts, time.monotonic() - started)
    if result.code:
        print(result.output, flush=True)
    print(f"{name:46} {'FAILED' if result.code else 'ok':>6} {result.seconds:6.1f} s", flush=True)
    for line in done.stdout.splitlines():
        if line.startswith(AGAIN):
            print(line, flush=True)
    return result


def _again(failed: Result, arguments: Sequence[str]) -> Result:
    """What failed, run once more by itself: some tests have a limit by the clock, which a busy machine passes.

    What fails again has failed. What does not is named: it leans on the clock, or on the tests beside it.
    """
    files = sorted(set(_FAILED.findall(failed.output)))
    if not files or _run(f"once more: {' '.join(files)}", [*files, *arguments]).code:
        return failed
    print(f"failed beside others, and passed alone: {' '.join(files)}", flush=True)
    passed = failed.counts["passed"] + failed.counts["failed"] + failed.counts["error"]
    return failed._replace(code=0, counts=Counter(passed=passed, skipped=failed.counts["skipped"]))


def _summary(results: Sequence[Result]) -> int:
    counts = sum((result.counts for result in results), Counter[str]())
    failed = [result.name for result in results if result.code]
    if failed:
        print(f"failed: {' '.join(failed)}")
    print(f"{counts['passed']} passed, {max(counts['failed'] + counts['error'], len(failed))} failed", end="")
    print(f", {counts['skipped']} skipped", flush=True)
    return 1 if failed else 0


def _coverage(environ: dict[str, str]) -> int:
    """Show the files that miss most; 2 where all together miss too much."""
    program = [sys.executable, "-m", "coverage"]
    subprocess.run([*program, "combine", "-q"], cwd=ROOT, env=environ, check=True)
    report = [*program, "report", "--sort=-cover"]
    done = subprocess.run(report, cwd=ROOT, env=environ, capture_output=True, text=True, check=False)
    print("\n".join(done.stdout.splitlines()[-20:]) + done.stderr, flush=True)
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
