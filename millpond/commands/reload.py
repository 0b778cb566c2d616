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
from millpond.errors import FINISHED, LEFT, ConfigError
from millpond.foreign.text import shown
from millpond.hub.signals import ExitSignals
from millpond.process.kept_local import KEPT_LOCAL_VARIABLE

#: What a worker of a development project has at the most between a change and its end.
RELOAD_STOP_SECONDS = 10.0
#: Of these a handler that still runs has this long, and is then given back to the next worker.
RELOAD_DRAIN_SECONDS = 3.0
#: How often is looked whether the worker has ended by itself.
LOOK_MS = 1_000
#: Characters of what is said of a change: names of files.
MAX_SAID = 1_000
#: `python -m millpond.local` that ends with its parent.
LOCAL_PROGRAM = """
import sys
from millpond.hub.parent_end import end_with_parent
from millpond.local.__main__ import main
end_with_parent(sys.argv[1])
sys.exit(main(sys.argv[2:]))
"""
#: Set in the worker that is started again and again: the descriptor that is closed with its parent.
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
    lifeline, _held = os.pipe()  # the end that is held closes with this process, however that ends
    local, worker = LocalSqsProcess(settings.local.port, lifeline), ReloadedWorker(argv, lifeline)
    signals.on_signal(worker.end)
    signals.allow(2 * RELOAD_STOP_SECONDS, LEFT)
    try:
        if settings.has_local:
            worker.environ[KEPT_LOCAL_VARIABLE] = local.start()
        worker.start()
        for changes in watch(
            *watched_folders(settings),
            watch_filter=ProjectFilter(),
            stop_event=worker.asked,
            rust_timeout=LOOK_MS,
            yield_on_timeout=True,
            ignore_permission_denied=True,
        ):
            _take(worker, sorted({os.path.relpath(path) for _, path in changes}))
    except OSError as error:  # the kernel watches no more folders for this user
        raise ConfigError(f"--reload: the folder of config.toml cannot be watched: {shown(error)}") from None
    finally:
        code = worker.stop()
        local.stop()
    return code


def with_short_drain(settings: AllSettings) -> AllSettings:
    """The settings of a worker that is to give back what still runs, before it would be ended by force."""
    seconds = min(settings.worker.drain_limit, RELOAD_DRAIN_SECONDS)
    return replace(settings, worker=replace(settings.worker, drain_seconds=seconds))


def _take(worker: ReloadedWorker, names: Sequence[str]) -> None:
    """Start the worker again where these files have changed; or else say it where it has ended by itself."""
    if names:
        _say(f"{', '.join(names)} changed: the worker starts again")
        worker.stop()
        if not worker.asked.is_true:
            worker.start()
    elif (code := worker.ended()) is not None:
        _say(f"the worker has ended, exit code {code}: the next change starts it again")


def _say(text: str) -> None:
    print(f"--reload: {shown(text, MAX_SAID)}", file=sys.stderr, flush=True)


def watched_folders(settings: AllSettings) -> list[Path]:
    """The folder of config.toml, with all below it, and folders of handlers that are elsewhere."""
    own = settings.folder.resolve()
    folders = [(settings.folder / entry).resolve() for entry in settings.worker.handlers]
    return [own, *(path for path in folders if path.is_dir() and not path.is_relative_to(own))]


class Asked:
    """Whether the end was asked for; threading's own has a lock, on which a second signal amid the first would hang."""

    is_true = False

    def is_set(self) -> bool:
        return self.is_true


class ReloadedWorker:
    """The worker, as a child of this process. `asked`: its end was asked for, and it is not started again."""

    def __init__(self, argv: Sequence[str], lifeline: int) -> None:
        self.environ = {**os.environ, RELOADED: str(lifeline)}
        self._lifeline = lifeline
        program = ["-m", "millpond"] if Path(sys.argv[0]).name == "__main__.py" else [sys.argv[0]]
        self._command = [sys.executable, *program, *(word for word in argv if word != "--reload")]
        self._process: subprocess.Popen[Any] | None = None
        self._said_end = False
        self.asked = Asked()

    def start(self) -> None:
        """Start it. Ctrl-C is the parent's: it would come twice."""
        self._process = subprocess.Popen(  # noqa: S603  as typed
            self._command, env=self.environ, start_new_session=True, pass_fds=[self._lifeline]
        )
        self._said_end = False

    def end(self, number: int) -> None:
        """A signal: the worker ends, and at a second Ctrl-C gives back at once what it has in hand."""
        if self.asked.is_true and number == signal.SIGINT and self._process is not None:
            self._process.send_signal(signal.SIGINT)
        self.asked.is_true = True

    def ended(self) -> int | None:
        """Its exit code, once, where it has ended by itself."""
        code = None if self._process is None or self._said_end else self._process.poll()
        self._said_end = self._said_end or code is not None
        return code

    def stop(self) -> int:
        """End it by SIGTERM, or by force where it takes too long. Gives its exit code."""
        if self._process is None:
            return FINISHED
        self._process.terminate()
        try:
            code = self._process.wait(RELOAD_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            _say(f"the worker did not end within {RELOAD_STOP_SECONDS:g} s and was killed")
            self._process.kill()
            code = self._process.wait()
        if code == -signal.SIGTERM:  # it had not begun yet
            return FINISHED
        return code if code >= 0 else LEFT


class LocalSqsProcess:
    """The local SQS in a process of its own: what is in its queues outlives the workers."""

    def __init__(self, port: int, lifeline: int) -> None:
        self._port = port
        self._lifeline = lifeline
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> str:
        """Start it. Gives its URL. Raises ConfigError."""
        places = [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
        environ = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, places))}
        command = [sys.executable, "-c", LOCAL_PROGRAM, str(self._lifeline), "--port", str(self._port)]
        self._process = subprocess.Popen(  # noqa: S603  our own
            command,
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
            pass_fds=[self._lifeline],
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
