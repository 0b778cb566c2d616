"""All tests, a pytest for each file, some at a time: `python -m tests.side_by_side` (`make test`).

Most tests wait, for processes, sockets and timers: one after the other they take ten minutes, of which three are work.
(pytest-xdist cannot: its workers stop where gevent has patched the process.)
"""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
#: Files at a time, on two cores.
AT_A_TIME = 4
#: Begun first, or the last of them would run alone: those of half a minute and more.
LONGEST = ("test_watchdog", "test_end_to_end", "test_signals", "test_fuzz", "test_simulation", "test_scenarios")

_COUNT = re.compile(r"(\d+) (passed|failed|skipped|error)")


class Result(NamedTuple):
    """`counts`: tests by what became of them."""

    file: str
    code: int
    output: str
    counts: Counter[str]
    seconds: float


def main(arguments: Sequence[str] = ()) -> int:
    """Run them, with these arguments for pytest; what fails is shown whole. The exit code."""
    files = sorted(
        (str(path.relative_to(ROOT)) for path in [*ROOT.glob("tests/**/test_*.py"), *ROOT.glob("chaos/**/test_*.py")]),
        key=_turn,
    )
    with ThreadPoolExecutor(AT_A_TIME) as pool:
        results = list(pool.map(lambda file: _told(_run(file, arguments)), files))
    counts = sum((result.counts for result in results), Counter[str]())
    failed = [result.file for result in results if result.code]
    if failed:
        print(f"failed: {' '.join(failed)}")
    print(f"{counts['passed']} passed, {max(counts['failed'] + counts['error'], len(failed))} failed", end="")
    print(f", {counts['skipped']} skipped")
    return 1 if failed else 0


def _turn(file: str) -> tuple[int, str]:
    stem = Path(file).stem
    return LONGEST.index(stem) if stem in LONGEST else len(LONGEST), file


def _run(file: str, arguments: Sequence[str]) -> Result:
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "pytest", file, *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    counts = Counter({what: int(number) for number, what in _COUNT.findall(done.stdout.rpartition("\n=")[2][-500:])})
    return Result(file, done.returncode, done.stdout + done.stderr, counts, time.monotonic() - started)


def _told(result: Result) -> Result:
    if result.code:
        print(result.output, flush=True)
    print(f"{result.file:46} {'FAILED' if result.code else 'ok':>6} {result.seconds:6.1f} s", flush=True)
    return result


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
