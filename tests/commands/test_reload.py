"""`worker.py --reload`: real processes, real files."""

import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from signal import SIGINT, SIGTERM

import pytest

from tests.worker_process import SECONDS, WorkerProcess, write_project

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="it looks for the child in /proc"),
]

HANDLERS = """
print("version 1", flush=True)
from millpond import handler

@handler("ok")
def ok(payload: dict) -> None:
    pass
"""
CONFIG = '[worker]\nhandlers = ["jobs"]\n[queues.q]\nurl = "local"\n[local]\nport = 0\n'


@pytest.mark.parametrize("number", [SIGTERM, SIGINT])
def test_a_change_starts_the_worker_again_and_a_signal_ends_both(tmp_path, number):
    folder = write_project(tmp_path / "w", HANDLERS, CONFIG)
    with WorkerProcess(folder, "--reload") as parent:
        parent.expect("", message="version 1")
        parent.expect("worker.ready")
        until(lambda: watches(parent.pid, folder / "jobs"))
        [child] = children_of(parent.pid)
        children = {child}
        began = time.monotonic()
        (folder / "jobs/work.py").write_text(HANDLERS.replace("version 1", "version 2"))
        parent.expect("worker.draining", why="SIGTERM")
        parent.expect("worker.stopped", exit_code=0)
        parent.expect("", message="version 2")
        assert time.monotonic() - began < SECONDS
        parent.expect("worker.ready")
        children |= {*children_of(parent.pid)}
        if number == SIGTERM:  # what does not load ends the worker, and is mended by the next change
            (folder / "jobs/work.py").write_text("this is no Python")
            parent.expect("worker.stopped")
            until(lambda: [state for pid, state in children_of(parent.pid).items() if pid not in children] == ["Z"])
            (folder / "jobs/work.py").write_text(HANDLERS.replace("version 1", "version 3"))
            parent.expect("", message="version 3")
            parent.expect("worker.ready")
        parent.signal(number)
        parent.expect("worker.stopped")
        assert parent.exit_code() == 0
        assert "jobs/work.py changed: the worker starts again" in parent.stderr
    assert [pid for pid in children if Path(f"/proc/{pid}").exists()] == []


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def watches(pid: int, folder: Path) -> bool:
    """Whether the kernel tells this process of changes in this folder."""
    inode = f" ino:{folder.stat().st_ino:x} "
    for info in Path(f"/proc/{pid}/fdinfo").iterdir():
        with suppress(OSError):  # it was closed meanwhile
            if inode in info.read_text():
                return True
    return False


def children_of(pid: int) -> dict[int, str]:
    """Their states; Z: it has ended."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
            except OSError:
                continue
            if int(parent) == pid:
                found[int(entry.name)] = state
    return found


def test_without_watchfiles_it_says_what_to_install(tmp_path):
    folder = write_project(tmp_path / "w", HANDLERS, CONFIG)
    (folder / "site").mkdir()
    (folder / "site" / "sitecustomize.py").write_text("import sys\nsys.modules['watchfiles'] = None\n")
    path = os.pathsep.join([str(folder / "site"), str(Path(__file__).parents[2])])
    with WorkerProcess(folder, "--reload", PYTHONPATH=path) as worker:
        assert worker.exit_code() == 3
        assert "--reload needs watchfiles: pip install watchfiles" in worker.stderr
