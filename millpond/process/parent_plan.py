"""ParentPlan: what the parent of several workers is to do, and the exec by which a process becomes that parent."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

import msgspec

ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
STEERING = (signal.SIGUSR1, signal.SIGUSR2, signal.SIGQUIT)
_START = (
    "import sys; sys.path[:0] = sys.argv[1:2]; from millpond.process.parent import main; sys.exit(main(sys.argv[2]))"
)


class ParentPlan(msgspec.Struct, frozen=True):
    """What the parent is to do. `command`: the arguments of Python for a worker; `drain_seconds` None: no limit."""

    number: int
    command: list[str]
    drain_seconds: float | None = None
    until_empty: bool = False
    level: str = "info"
    format: str = "auto"


def become_parent(plan: ParentPlan) -> NoReturn:
    """Replace this process by the parent of workers. What a signal asks meanwhile, the parent will do."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {*ENDING, *STEERING})
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):
            stream.flush()
    root = str(Path(__file__).parents[2])
    program = [sys.executable, "-P", "-c", _START, root, msgspec.json.encode(plan).decode()]
    os.execv(sys.executable, program)  # noqa: S606  no shell is wanted
