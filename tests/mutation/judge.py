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

#: A test file that takes longer hangs: the bug is found.
MAX_SECONDS = 300
#: Left out: whole processes, minutes of load.
SLOW = (
    "tests/process/test_signals.py",
    "tests/test_end_to_end.py",
    "tests/test_wheel.py",
    "tests/fuzz/",
    "tests/mutation/",
)
#: What stands for the whole engine, last.
SIMULATION = "chaos/test_simulation.py"
#: What the simulation runs.
SIMULATED = ("millpond/engine/", "millpond/hub/countdown", "millpond/sqs/batcher")
#: Test files: with fewer, a bug may live because its tests were not run.
FEW = 4
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
        shutil.copytree(root, folder, symlinks=True, ignore=shutil.ignore_patterns(*_LEFT_BEHIND), dirs_exist_ok=True)

    def judge(self, plant: Plant) -> Verdict:
        """Run the tests of the file, those nearest to it first, until one fails."""
        try:
            self._write(plant.file, planted(self._root, plant))
            return Verdict(plant, next(filter(None, map(self.failure_of, tests_of(self._root, plant.file))), ""))
        finally:
            self._write(plant.file, (self._root / plant.file).read_text())

    def _write(self, file: str, source: str) -> None:
        (self._folder / file).write_text(source)
        time = next(self._times)
        os.utime(self._folder / file, (time, time))

    def failure_of(self, file: str) -> str:
        """The first test of this file that fails; "" where none does."""
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "--tb=no", file]
        out, err = subprocess.PIPE, subprocess.STDOUT
        process = subprocess.Popen(command, cwd=self._folder, stdout=out, stderr=err, text=True, start_new_session=True)
        try:
            output, _ = process.communicate(timeout=MAX_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)
            process.communicate()
            return f"no end of {file} within {MAX_SECONDS} s"
        if process.returncode == 0:
            return ""
        named = re.search(r"^(?:FAILED|ERROR) (\S+)", output, re.MULTILINE)
        return named[1] if named else f"exit code {process.returncode} of {file}"


def tests_of(root: Path, file: str) -> list[str]:
    """The tests that import this file, or fixtures of it: its own first, then its wing's, then those of fewer imports.

    Where these are FEW, those of the files of ours that import it too: it may be tried through them alone.
    """
    stem = Path(file).stem.strip("_")
    near, files = _about(root, file), [file]
    while len(near) < FEW and files:
        files = [user for one in files for user in _users(root, one)]
        near |= {test for user in files for test in _about(root, user)}

    def distance(test: str) -> tuple[bool, bool, int, str]:
        path = Path(test)
        return path.stem != f"test_{stem}", path.parent.name != Path(file).parent.name, len(_imports(root)[test]), test

    return sorted(near, key=distance) + ([SIMULATION] if file.startswith(SIMULATED) else [])


def _about(root: Path, file: str) -> set[str]:
    return {test for test, names in _imports(root).items() if _is_about(test, names, file)}


def _is_about(test: str, names: frozenset[str], file: str) -> bool:
    for folder, tests in (
        ("handlers/", "tests/mail/"),
        ("millpond/mail/", "tests/mail/"),
        ("millpond/local/", "tests/local/"),
    ):
        if file.startswith(folder):
            return test.startswith(tests)
    return _module(file) in names


def _module(file: str) -> str:
    return file.removesuffix(".py").replace("/", ".")


def _users(root: Path, file: str) -> list[str]:
    """The files of ours that import this one."""
    ours = (path for path in root.glob("millpond/**/*.py") if _module(file) in _names(root, path))
    return sorted(str(path.relative_to(root)) for path in ours)


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
    if "tests.worker_process" in names:
        names.add("millpond.commands.cli")  # which it starts
    return frozenset(names)
