"""What a worker needs to be installed. Imports nothing of it, so that it can be asked first."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

#: Of pyproject.toml.
PACKAGES = ("boto3", "gevent", "msgspec", "rich", "statsd")
OLDEST_PYTHON = (3, 11)
#: The exit code for bad configuration or boot: `millpond.errors` has it too, which an old Python cannot read.
NOT_INSTALLED = 3


def require_packages() -> None:
    """End the process with a sentence where this Python lacks what a worker needs."""
    if sys.version_info < OLDEST_PYTHON:
        version = ".".join(map(str, sys.version_info[:3]))
        _refuse(f"this is Python {version}, and a worker needs {'.'.join(map(str, OLDEST_PYTHON))} or newer")
    if os.name == "nt":
        _refuse("a worker needs the signals and sockets of Unix: on Windows run it in WSL, or in Docker")
    if missing := [name for name in PACKAGES if find_spec(name) is None]:
        _refuse(f"{sys.executable} has no {', '.join(missing)}: {_mend(sys.orig_argv[1:])}")


def hold_signals() -> None:
    """Let signals wait until `main` sees to them: a worker takes a second to be imported, and most would end it."""
    held = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGQUIT)
    signal.pthread_sigmask(signal.SIG_BLOCK, held)


def _mend(arguments: Sequence[str]) -> str:
    own = Path(".venv/bin/python")
    if own.exists() and not own.parent.samefile(Path(sys.executable).parent):
        return f"type {own} {' '.join(arguments)}"
    install = "python3 -m venv .venv && .venv/bin/python -m pip install -r requirements.txt"
    return f"`make run` builds a .venv that has it, or install it: {install}"


def _refuse(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.exit(NOT_INSTALLED)
