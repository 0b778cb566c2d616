"""The image that was built: what is in it, and 25 e-mails by its own command, beside the services of compose.yaml.

They stand in a network of their own, where those services are at the ports that they have there. Named so that
`make test` does not take it for one of its own: `make image` runs it.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from tests.image.building import ROOT, Image
from tests.image.container import Container, built_image
from tests.platforms import messages
from tests.smtp_server import ScriptedServer
from tests.waiting import until
from tests.worker_process import LocalQueues, WorkerProcess

SERVICES: dict[str, Any] = yaml.safe_load((ROOT / "deploy/docker/compose.yaml").read_text())["services"]
#: What a slim image must not have: compilers, their parts, and what installs packages.
NO_PROGRAMS = ("cc", "gcc", "g++", "clang", "ld", "make", "uv", "git")
MAIL = {"to": ["ann@example.com"], "subject": "Hello", "text": "Hi Ann"}


@pytest.fixture(scope="module")
def image() -> Image:
    return built_image()


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """A folder whose files the image's user may read, unlike those of pytest."""
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        yield Path(name)


@pytest.fixture(scope="module")
def names(folder: Path) -> dict[str, Path]:
    """compose's names of its services, as a mount: here each is this machine."""
    (folder / "hosts").write_text("".join(f"127.0.0.1 {name}\n" for name in ("localhost", *SERVICES)))
    return {"/etc/hosts": folder / "hosts"}


class Compose(NamedTuple):
    """What compose.yaml starts beside the worker."""

    queues: LocalQueues
    mails: ScriptedServer
    metrics: socket.socket
    queue: WorkerProcess


@pytest.fixture
def compose(image: Image, names: dict[str, Path]) -> Iterator[Compose]:
    with ExitStack() as stack:
        mails = stack.enter_context(ScriptedServer(port=int(SERVICES["worker"]["environment"]["SMTP_PORT"])))
        metrics = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        metrics.bind(("127.0.0.1", 8125))
        queue = stack.enter_context(Container(image, *SERVICES["queue"]["command"], mounts=names))
        queue.expect("")
        yield Compose(LocalQueues("http://127.0.0.1:9324"), mails, metrics, queue)


def worker(image: Image, names: dict[str, Path], **environ: str) -> Container:
    return Container(image, mounts=names, **SERVICES["worker"]["environment"], **environ)


def exit_code_of(image: Image, command: list[str], **environ: str) -> tuple[int, str]:
    """What a command in a container of its own, in the same network, ended with and said."""
    with Container(image, *command, **environ) as container:
        return container.exit_code(), container.output()


# --- what is in it


def test_the_image_has_the_code_and_nothing_of_the_workshop(image):
    ours = {path.name for path in (image.files / "app").iterdir()}
    assert ours == {".venv", "__pycache__", "config.toml", "handlers", "millpond", "requirements.txt", "worker.py"}
    folders = [
        image.files / folder for folder in ("bin", "sbin", "usr/bin", "usr/sbin", "usr/local/bin", "app/.venv/bin")
    ]
    assert [f"{folder}/{name}" for folder in folders for name in NO_PROGRAMS if (folder / name).exists()] == []


def test_all_code_is_there_with_its_bytecode(image):
    for folder in ("millpond", "handlers"):
        wanted = {path.relative_to(ROOT) for path in (ROOT / folder).rglob("*.py")}
        app = image.files / "app"
        assert {path.relative_to(app) for path in (app / folder).rglob("*.py")} == wanted
        compiled = {path.parent.parent / f"{path.name.partition('.')[0]}.py" for path in (app / folder).rglob("*.pyc")}
        assert {path.relative_to(app) for path in compiled} == wanted


def test_nothing_in_the_image_is_its_users_or_can_be_written_by_it(image):
    found = [path for path in image.files.rglob("*") if not path.is_symlink()]
    modes = {path: os.lstat(path) for path in found}
    user = int(image.config["User"].partition(":")[0])
    files = {path for path, mode in modes.items() if stat.S_ISREG(mode.st_mode)}
    assert len(files) > 1_000
    assert [path for path, mode in modes.items() if mode.st_uid == user] == []
    assert [path for path in files if modes[path].st_mode & stat.S_IWOTH] == []


def test_nothing_of_the_machine_that_built_it_is_left(image):
    assert not (image.files / "etc/uv").exists()
    assert not (image.files / "root/.cache").exists()
    ours = Path("/etc/ssl/certs/ca-certificates.crt")
    assert not ours.exists() or (image.files / ours.relative_to("/")).stat().st_size > 0


# --- how it runs


def test_25_mails_then_sigterm(image, names, compose):
    compose.queues.send("emails", "email.send", MAIL, number=25)
    started = time.monotonic()
    with worker(image, names) as process:
        process.expect("worker.ready")
        ready = time.monotonic() - started
        process.expect("message.succeeded")
        first = time.monotonic() - started
        until(lambda: compose.queues.counts("emails") == (0, 0, 0))
        assert exit_code_of(image, image.config["Healthcheck"]["Test"][1:])[0] == 0
        assert process.stop() == 0, process.output()
        stopped = process.expect("worker.stopped")
    assert (stopped["received"], stopped["succeeded"]) == (25, 25)
    assert [mail.recipients for mail in compose.mails.taken] == [("ann@example.com",)] * 25
    compose.metrics.settimeout(1.0)  # all has been sent: it waits in the socket
    while b"millpond.emails.succeeded:" not in compose.metrics.recv(65_536):
        pass
    print(f"\nfrom its start to worker.ready {ready:.2f} s, to the first message handled {first:.2f} s")


def test_the_worker_is_process_1_of_its_user_without_any_right_of_root(image, names, compose):
    with worker(image, names) as process:
        process.expect("worker.ready")
        first = process.first_process
        status = process.status(first)
        title = Path(f"/proc/{first}/cmdline").read_text().replace("\0", " ").strip()
        mounts = [line.split() for line in Path(f"/proc/{first}/mounts").read_text().splitlines()]
        assert process.stop() == 0, process.output()
    program = title.removeprefix("[0/100] ")  # within a second it has its counts, and room for a part of the command
    assert status["NSpid"].split()[-1] == "1"
    assert " ".join(image.config["Cmd"]).startswith(program)
    assert program.startswith("python worker.py")  # no shell
    assert (status["Uid"].split(), status["Gid"].split(), status["Groups"]) == (["65532"] * 4, ["65532"] * 4, "")
    assert (int(status["CapEff"], 16), status["NoNewPrivs"]) == (0, "1")
    assert {mount[1] for mount in mounts if "rw" in mount[3].split(",") and mount[2] == "ext4"} == set()


def test_the_local_queue_of_compose_is_healthy_as_compose_asks(image, compose):
    _, *command = SERVICES["queue"]["healthcheck"]["test"]
    assert exit_code_of(image, command)[0] == 0
    assert compose.queue.stop() == 0
    code, said = exit_code_of(image, command)
    assert (code, "9324" in said) == (1, True)


def test_the_health_check_fails_where_no_worker_is(image):
    code, said = exit_code_of(image, image.config["Healthcheck"]["Test"][1:])
    assert (code, "127.0.0.1:8080" in said) == (1, True)


def test_a_worker_without_a_queue_of_its_own_does_not_start_in_a_cluster(image):
    with Container(image, KUBERNETES_SERVICE_HOST="10.0.0.1") as process:
        assert process.exit_code() == 3
    assert "SQS_QUEUE_URL" in process.output()


def test_check_and_send_work_beside_the_running_worker(image, names, compose):
    settings = SERVICES["worker"]["environment"]
    with worker(image, names) as process:
        process.expect("worker.ready")
        for command in (["check"], ["send", "email.send", json.dumps(MAIL)]):
            with Container(image, *image.config["Cmd"], *command, mounts=names, **settings) as other:
                assert other.exit_code() == 0, other.output()
        process.expect("message.succeeded")
        assert process.stop() == 0, process.output()
    assert len(compose.mails.taken) == 1


@pytest.fixture
def jobs(image: Image, folder: Path) -> Iterator[dict[str, Path]]:
    """The handlers and the config.toml that every platform runs, as mounts."""
    place = image.files / "app/jobs"
    (folder / "config.toml").write_text(messages.CONFIG)
    shutil.copytree(messages.HANDLERS, folder / "jobs", ignore=shutil.ignore_patterns("__pycache__"))
    place.mkdir()
    yield {"/app/config.toml": folder / "config.toml", "/app/jobs": folder / "jobs"}
    place.rmdir()


def test_the_200_messages_of_every_platform_end_in_the_image_as_they_do_elsewhere(image, names, compose, jobs):
    url, settings = compose.queues.create("orders", messages.MAX_RECEIVE_COUNT), SERVICES["worker"]["environment"]
    ids = messages.send(compose.queues, "orders")
    with Container(image, mounts=names | jobs, **settings | {"SQS_QUEUE_URL": url}) as process:
        until(lambda: messages.is_over(process.lines) or not process.running, 60)
        assert process.stop() == 0, process.output()
        stories = messages.stories(process.lines, ids)
    assert messages.unexpected(stories) == []
    assert compose.queues.counts("orders") == (0, 0, 0)
    dead = {number for number, sample in enumerate(messages.SAMPLES) if sample.story[-1].startswith("dead_lettered")}
    letters = messages.letters(compose.queues, "orders-dead", ids)
    assert {number: body for number, (body, _) in letters.items()} == {
        number: messages.SAMPLES[number].body for number in dead
    }
