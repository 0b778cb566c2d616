"""Judge: do the tests of a file find the bug that is planted in it?"""

from __future__ import annotations

import ast
import itertools
import os
import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import NamedTuple

from tests.mutation.plant import Plant, planted

#: A run that takes longer hangs: the bug is found.
MAX_SECONDS = 300
#: Left out, as `make quick` does: whole processes, minutes of load.
SLOW = ("tests/test_signals.py", "tests/test_end_to_end.py", "tests/fuzz/", "tests/chaos/", "tests/mutation/")
#: What stands for the whole engine, last.
SIMULATION = "tests/chaos/test_simulation.py"
#: What the simulation runs.
SIMULATED = {"account", "batch", "bounded", "consumer", "countdown", "deadletter", "delivery", "groups", "lease"} | {
    *("message", "permits", "poller", "processor", "settler")
}
_LEFT_BEHIND = (".git", ".venv", "__pycache__", ".*_cache", ".hypothesis", ".bench", "outbox")


class Verdict(NamedTuple):
    """`by`: the test that found it; "" where none did."""

    plant: Plant
    by: str


class Judge:
    """A copy of the tree, in which one bug at a time is planted."""

    def __init__(self, root: Path, folder: Path) -> None:
        self._root = root
        self._folder = folder
        # A .pyc is believed where its source is as long and as old as it was: no two of ours are as old.
        self._times = itertools.count(1_000_000_000)
        shutil.copytree(root, folder, ignore=shutil.ignore_patterns(*_LEFT_BEHIND), dirs_exist_ok=True)

    def judge(self, plant: Plant) -> Verdict:
        """Run the tests of the file, those nearest to it first, until one fails."""
        try:
            self._write(plant.file, planted(self._root, plant))
            return Verdict(plant, self.found_by(tests_of(self._root, plant.file)))
        finally:
            self._write(plant.file, (self._root / plant.file).read_text())

    def _write(self, file: str, source: str) -> None:
        (self._folder / file).write_text(source)
        time = next(self._times)
        os.utime(self._folder / file, (time, time))

    def found_by(self, tests: list[str]) -> str:
        """The first of these tests that fails; "" where none does."""
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "--tb=no", *tests]
        out, err = subprocess.PIPE, subprocess.STDOUT
        process = subprocess.Popen(command, cwd=self._folder, stdout=out, stderr=err, text=True, start_new_session=True)
        try:
            output, _ = process.communicate(timeout=MAX_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)
            process.communicate()
            return f"no end within {MAX_SECONDS} s"
        if process.returncode == 0:
            return ""
        named = re.search(r"^(?:FAILED|ERROR) (\S+)", output, re.MULTILINE)
        return named[1] if named else f"exit code {process.returncode}"


def tests_of(root: Path, file: str) -> list[str]:
    """The tests that import this file, or fixtures of it: its own first, then those with fewer imports."""
    stem = Path(file).stem.strip("_")
    folder = "tests/local/" if file.startswith("millpond/local/") else "tests/"
    near = [test for test, names in _imports(root).items() if _is_about(test, names, file, folder)]
    near.sort(key=lambda test: (Path(test).stem != f"test_{stem}", len(_imports(root)[test])))
    return near + ([SIMULATION] if file.startswith("millpond/") and stem in SIMULATED else [])


def _is_about(test: str, names: frozenset[str], file: str, folder: str) -> bool:
    if file.startswith("handlers/"):
        return Path(test).stem.startswith(("test_email", "test_smtp"))
    if file.startswith("millpond/local/"):
        return test.startswith(folder)
    return file.removesuffix(".py").replace("/", ".") in names


@cache
def _imports(root: Path) -> dict[str, frozenset[str]]:
    """What each quick test imports, its helpers' imports (tests/rig.py) too."""
    files = sorted(str(path.relative_to(root)) for path in root.glob("tests/**/test_*.py"))
    return {file: _names(root, root / file) for file in files if not file.startswith(SLOW)}


@cache
def _names(root: Path, path: Path) -> frozenset[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    for name in sorted(names):
        helper = root / f"{name.replace('.', '/')}.py"
        if name.startswith("tests.") and helper.exists() and helper != path:
            names |= _names(root, helper)
    return frozenset(names)
