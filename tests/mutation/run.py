"""Run: a seeded sample of bugs, each planted and judged, and the table of what was found."""

from __future__ import annotations

import difflib
import random
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue

from tests.mutation.judge import Judge, Verdict, tests_of
from tests.mutation.plant import Plant, planted, plants

ROOT = Path(__file__).parent.parent.parent
#: The share of the sample that must be found.
WANTED = 0.95
#: What a worker does; what only commands, demos and the local queue need is not among it.
ASIDE = ("commands", "local", "testing.py", "__main__.py", "__init__.py")
FILES = sorted(
    str(path.relative_to(ROOT))
    for folder in ("millpond", "handlers")
    for path in (ROOT / folder).rglob("*.py")
    if not {*path.relative_to(ROOT).parts} & {*ASIDE} and not path.is_symlink()
)


def run(files: Sequence[str], sample: int, seed: int, workers: int) -> bool:
    """Whether as many were found as are WANTED."""
    every = [plant for file in files for plant in plants(ROOT, file)]
    chosen = sorted(random.Random(seed).sample(every, min(sample, len(every))))
    print(f"{len(every):,} bugs can be planted in {len(files)} files; {len(chosen)} are, seed {seed}", flush=True)
    started = time.monotonic()
    if broken := _broken(chosen, workers):
        print(f"{broken} fails without any bug planted: no test could tell anything")
        return False
    verdicts = list(_judged(chosen, workers))
    survivors = [verdict.plant for verdict in verdicts if not verdict.by]
    _print(verdicts, time.monotonic() - started)
    return len(survivors) <= (1 - WANTED) * len(chosen)


def _broken(chosen: Sequence[Plant], workers: int) -> str:
    """A test that fails as it is; "" where none does."""
    tests = sorted({test for plant in chosen for test in tests_of(ROOT, plant.file)})
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(workers) as pool:
        judge = Judge(ROOT, Path(folder))
        return next(filter(None, pool.map(judge.failure_of, tests)), "")


def _judged(chosen: Sequence[Plant], workers: int) -> Iterator[Verdict]:
    judges: SimpleQueue[Judge] = SimpleQueue()

    def judge(plant: Plant) -> Verdict:
        mine = judges.get()
        try:
            return mine.judge(plant)
        finally:
            judges.put(mine)

    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(workers) as pool:
        for number in range(workers):
            judges.put(Judge(ROOT, Path(folder) / str(number)))
        for verdict in pool.map(judge, chosen):
            if not verdict.by:
                print(_shown(verdict.plant), flush=True)
            yield verdict


def _shown(plant: Plant) -> str:
    before, after = (ROOT / plant.file).read_text().splitlines(), planted(ROOT, plant).splitlines()
    changed = [line for line in difflib.unified_diff(before, after, n=0, lineterm="") if line[0] in "+-"][2:]
    return f"not found: {plant.file}:{plant.line} {plant.operator} {plant.occurrence}\n    " + "\n    ".join(changed)


def _print(verdicts: Sequence[Verdict], seconds: float) -> None:
    planted_in = Counter(verdict.plant.file for verdict in verdicts)
    found_in = Counter(verdict.plant.file for verdict in verdicts if verdict.by)
    for file, number in sorted(planted_in.items()):
        print(f"{file:32} {found_in[file]:4} of {number:4}")
    found = sum(found_in.values())
    print(f"{found} of {len(verdicts)} found ({100 * found / len(verdicts):.1f} %), {seconds:.0f} s")
