"""`python -m millpond.local` as a process."""

from __future__ import annotations

import os
import re
import subprocess
import sys

from tests.worker_process import COVERAGE

FIRST_LINE = re.compile(
    r"millpond\.local listens on (http://127\.0\.0\.1:\d+) - messages are in memory only and gone when it ends\n"
)


def local_process(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-m", "millpond.local", *arguments],
        env={**os.environ, **COVERAGE},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def first_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    found = FIRST_LINE.fullmatch(process.stdout.readline())
    assert found
    return found[1]
