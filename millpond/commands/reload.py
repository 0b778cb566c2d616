"""`worker.py --reload`: for development: starts the worker again when a file of the project changes."""

from __future__ import annotations

import logging
import os
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from millpond.app.config import AllSettings
from millpond.errors import FINISHED, ConfigError
from millpond.foreign.text import shown
from millpond.hub.signals import NUMBERS, ExitSignals
from millpond.process.kept_local import KEPT_LOCAL_VARIABLE

#: What a worker of a development project has at the most between a change and its end.
RELOAD_STOP_SECONDS = 10.0
#: Of these a handler that still runs has this long, and is then given back to the next worker.
RELOAD_DRAIN_SECONDS = 3.0
#: Set in the worker that is started again and again.
RELOADED = "MILLPOND_RELOADED"
#: Its polls wait this long, so that none takes a message when it has gone.
RELOAD_WAIT_SECONDS = 1


def run(settings: AllSettings, argv: Sequence[str], signals: ExitSignals) -> int:
    """Run the worker as a child, and start it again at each change, until Ctrl-C or SIGTERM. Raises ConfigError."""
    if find_spec("watchfiles") is None:
        raise ConfigError("--reload needs watchfiles: pip install watchfiles")
    from watchfiles import PythonFilter, watch

    class ProjectFilter(PythonFilter):
        """Python, and the settings."""

        def __init__(self) -> None:
            super().__init__(extra_extensions=[".toml"])

    logging.getLogger("watchfiles").setLevel(logging.WARNING)  # it says that something has changed, not what
    for number in NUMBERS:
        signal.signal(number, _interrupt)
    signals.allow(2 * RELOAD_STOP_SECONDS, FINISHED)
    local, worker = LocalSqsProcess(settings.local.port), ReloadedWorker(argv)
    try:
        if settings.has_local:
            worker.environ[KEPT_LOCAL_VARIABLE] = local.start()
        worker.start()
        for changes in watch(*watched_folders(settings), watch_filter=ProjectFilter(), raise_interrupt=True):
            names = sorted({os.path.relpath(path) for _, path in changes})
            print(f"--reload: {shown(', '.join(names))} changed: the worker starts again", file=sys.stderr, flush=True)
            worker.stop()
            worker.start()
    except KeyboardInterrupt:
        pass
    code = worker.stop()
    local.stop()
    return code


def with_short_drain(settings: AllSettings) -> AllSettings:
    """The settings of a worker that is to give back what still runs, before it would be ended by force."""
    seconds = min(settings.worker.drain_limit, RELOAD_DRAIN_SECONDS)
    return replace(settings, worker=replace(settings.worker, drain_seconds=seconds))


def watched_folders(settings: AllSettings) -> list[Path]:
    """The folder of config.toml, with all below it, and folders of handlers that are elsewhere."""
    own = settings.folder.resolve()
    folders = [(settings.folder / entry).resolve() for entry in settings.worker.handlers]
    return [own, *(path for path in folders if path.is_dir() and not path.is_relative_to(own))]


class ReloadedWorker:
    """The worker, as a child of this process."""

    def __init__(self, argv: Sequence[str]) -> None:
        self.environ = {**os.environ, RELOADED: "1"}
        program = ["-m", "millpond"] if Path(sys.argv[0]).name == "__main__.py" else [sys.argv[0]]
        self._command = [sys.executable, *program, *(word for word in argv if word != "--reload")]
        self._process: subprocess.Popen[Any] | None = None

    def start(self) -> None:
        """Start it. Ctrl-C is the parent's: it would come twice."""
        self._process = subprocess.Popen(self._command, env=self.environ, start_new_session=True)  # noqa: S603  as typed

    def stop(self) -> int:
        """End it by SIGTERM, or by force where it takes too long. Gives its exit code."""
        if self._process is None:
            return FINISHED
        self._process.terminate()
        try:
            return self._process.wait(RELOAD_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()


class LocalSqsProcess:
    """The local SQS in a process of its own: what is in its queues outlives the workers."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> str:
        """Start it. Gives its URL. Raises ConfigError."""
        places = [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
        environ = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, places))}
        command = [sys.executable, "-m", "millpond.local", "--port", str(self._port)]
        self._process = subprocess.Popen(  # noqa: S603  our own
            command, env=environ, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        said = re.search(r"http://\S+", self._process.stdout.readline() if self._process.stdout is not None else "")
        if said is None:  # its standard error is ours, and has the reason
            raise ConfigError(f"[local] port = {self._port}: no local queue there; is another worker running?")
        return said[0]

    def stop(self) -> None:
        """End it, and all that is in it."""
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.communicate(timeout=RELOAD_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.communicate()


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt
