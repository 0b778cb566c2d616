"""A server in a process of its own that takes orders: both of its ends.

It prints where it listens; then it takes orders on standard input, one line of JSON each, answers each with a line, and
ends where standard input does.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tests.worker_process import ROOT


class Ordered:
    """One that runs. `where`: the line that it printed first."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._in, self._out = process.stdin, process.stdout
        self.pid = process.pid
        self.where = self._out.readline().strip()

    def order(self, do: str, **more: Any) -> None:
        """Done when this returns."""
        self._in.write(json.dumps({"do": do, **more}) + "\n")
        self._in.flush()
        if self._out.readline() != "done\n":
            raise RuntimeError(f"{self.where} has ended")


@contextmanager
def ordered(module: str, *arguments: str) -> Iterator[Ordered]:
    """`python -m MODULE ARGUMENT...`, ended with the `with` block."""
    process = subprocess.Popen(
        [sys.executable, "-m", module, *arguments], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        yield Ordered(process)
    finally:
        process.kill()
        process.communicate()


def obey(where: object, do: Callable[[dict[str, Any]], None]) -> None:
    """In that process, until its standard input ends; the greenlets of the server run meanwhile."""
    from gevent.fileobject import FileObject

    print(where, flush=True)
    for line in FileObject(sys.stdin.buffer, "rb", close=False):
        do(json.loads(line))
        print("done", flush=True)
