"""`worker.py --reload`: real processes, real files."""

import os
import re
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from signal import SIGHUP, SIGINT, SIGKILL, SIGTERM

import pytest

from millpond.process.core import SECOND_SIGNAL_SECONDS
from tests.waiting import until
from tests.worker_process import SECONDS, WORKER, WorkerProcess, local_queues, write_project

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
    with reloading(folder) as parent:
        parent.expect("", message="version 1")
        parent.expect("worker.ready")
        until(lambda: watches(parent.pid, folder / "jobs"))
        children = {*children_of(parent.pid)}  # the worker, and the local queue
        began = time.monotonic()
        (folder / "jobs/work.py").write_text(HANDLERS.replace("version 1", "version 2"))
        parent.expect("worker.draining", why="SIGTERM")
        parent.expect("worker.stopped", exit_code=0)
        parent.expect("", message="version 2")
        assert time.monotonic() - began < SECONDS
        parent.expect("worker.ready")
        children |= {*children_of(parent.pid)}
        if number == SIGTERM:  # what does not load ends the worker, and is mended by the next change
            (folder / "jobs/work.py").write_text('print("version 0", flush=True)\n1 / 0')
            parent.expect("", message="version 0")
            until(lambda: len(children_of(parent.pid)) == 1)  # the local queue
            (folder / "jobs/work.py").write_text(HANDLERS.replace("version 1", "version 3"))
            parent.expect("", message="version 3")
            parent.expect("worker.ready")
        parent.signal(number)
        parent.expect("worker.stopped")
        assert parent.exit_code() == 0
        assert "jobs/work.py changed: the worker starts again" in parent.stderr
        assert ("the worker has ended, exit code 3" in parent.stderr) == (number == SIGTERM)
    assert [pid for pid in children if Path(f"/proc/{pid}").exists()] == []


def test_what_is_in_the_local_queue_outlives_a_change(tmp_path):
    buggy = HANDLERS.replace("pass", 'raise Reject("a bug")').replace("import handler", "import Reject, handler")
    folder = write_project(tmp_path / "w", buggy, CONFIG)
    with reloading(folder) as parent:
        queues = local_queues(parent)
        parent.expect("worker.ready")
        until(lambda: watches(parent.pid, folder / "jobs"))
        queues.send("q", "ok", {})
        parent.expect("message.dead_lettered")
        children = {*children_of(parent.pid)}
        (folder / "jobs/work.py").write_text(HANDLERS.replace("version 1", "version 2"))
        parent.expect("", message="version 2")
        assert local_queues(parent).endpoint == queues.endpoint
        parent.expect("worker.ready")
        assert queues.counts("q-dead") == (1, 0, 0)
        queues.send("q", "ok", {})
        parent.expect("message.succeeded")
        children |= {*children_of(parent.pid)}
        parent.signal(SIGTERM)
        assert parent.exit_code() == 0
    assert parent.all("local.gone") == []
    assert [pid for pid in children if Path(f"/proc/{pid}").exists()] == []


def test_a_handler_that_still_runs_is_given_back_to_the_mended_one(tmp_path):
    hanging = HANDLERS.replace("pass", "import time; time.sleep(60)")
    folder = write_project(tmp_path / "w", hanging, CONFIG)
    with reloading(folder) as parent:
        queues = local_queues(parent)
        parent.expect("worker.ready")
        until(lambda: watches(parent.pid, folder / "jobs"))
        queues.send("q", "ok", {})
        until(lambda: queues.counts("q")[1] == 1)
        (folder / "jobs/work.py").write_text(HANDLERS)
        parent.expect("message.released")
        parent.expect("worker.stopped", exit_code=0)
        parent.expect("message.succeeded")


def test_a_port_of_the_local_queue_that_is_taken_is_named(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        folder = write_project(tmp_path / "w", HANDLERS, CONFIG.replace("port = 0", f"port = {port}"))
        with WorkerProcess(folder, "--reload") as parent:
            assert parent.exit_code() == 3
            assert f"[local] port = {port}: no local queue there; is another worker running?" in parent.stderr
            assert "Address already in use" in parent.stderr


def test_a_second_ctrl_c_gives_back_at_once_and_nohup_is_obeyed(tmp_path):
    stuck = 'print("begun", flush=True); __import__("time").sleep(60)'
    slow = HANDLERS.replace("pass", stuck)
    folder = write_project(tmp_path / "w", slow, CONFIG)
    program = (sys.executable, *WORKER)
    with (
        WorkerProcess(folder, "--reload", program=program, executable="nohup") as parent,
        no_child_left(parent) as left,
    ):
        queues = local_queues(parent)
        parent.expect("worker.ready")
        [ignored] = re.findall(r"SigIgn:\s*(\w+)", Path(f"/proc/{parent.pid}/status").read_text())
        assert int(ignored, 16) & 1 << (SIGHUP - 1)
        queues.send("q", "ok", {})
        parent.expect("", message="begun")
        parent.signal(SIGINT)
        parent.expect("worker.draining")
        time.sleep(SECOND_SIGNAL_SECONDS + 0.1)
        parent.signal(SIGINT)
        assert parent.expect("worker.stopped")["released"] == 1
        assert parent.exit_code() == 0
        assert left() == []


def test_the_worker_ends_with_a_parent_that_is_killed(tmp_path):
    """It would go on unseen, and keep the port of the local queue."""
    folder = write_project(tmp_path / "w", HANDLERS, CONFIG)
    with WorkerProcess(folder, "--reload") as parent, no_child_left(parent) as left:
        parent.expect("worker.ready")
        parent.signal(SIGKILL)
        until(lambda: not left())
        assert parent.exit_code() == -SIGKILL


@contextmanager
def no_child_left(parent: WorkerProcess) -> Iterator[Callable[[], list[int]]]:
    """Yields what gives the children that go on: the worker and the local queue. They are killed at the end.

    A worker that goes on holds the output open, for the end of which a test waits.
    """
    until(lambda: len(children_of(parent.pid)) == 2)
    children = [*children_of(parent.pid)]
    left = lambda: [pid for pid in children if Path(f"/proc/{pid}").exists()]  # noqa: E731
    try:
        yield left
    finally:
        for pid in left():
            os.kill(pid, SIGKILL)


@contextmanager
def reloading(folder: Path) -> Iterator[WorkerProcess]:
    """Ended by SIGTERM, also where the test fails: its children would go on, and hold the pipes that are read."""
    with WorkerProcess(folder, "--reload") as parent:
        try:
            yield parent
        finally:
            if parent.running:
                parent.signal(SIGTERM)
                parent.exit_code()


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
