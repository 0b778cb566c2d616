"""The Procfile as Heroku runs it, by honcho: the release phase, a worker dyno, its metrics; and app.json."""

from __future__ import annotations

import json
import re
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from signal import SIGTERM

import gevent
import pytest

from tests.smtp_server import ScriptedServer
from tests.worker_process import CLIENT, ROOT, LocalQueues, WorkerProcess, local_sqs

#: Heroku kills a dyno this long after SIGTERM.
KILL_SECONDS = 30
HONCHO = ("-m", "honcho", "start", "--no-prefix")
APP = json.loads((ROOT / "app.json").read_text())
PROCFILE = dict(re.findall(r"^(\w+): (.+)$", (ROOT / "Procfile").read_text(), re.MULTILINE))


@pytest.fixture(scope="module")
def queues(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalQueues]:
    with local_sqs(tmp_path_factory.mktemp("sqs")) as queues:
        queues.create("emails", 17)
        yield queues


class Dyno(WorkerProcess):
    """honcho with its processes, which would outlive a SIGKILL of honcho."""

    def __exit__(self, *exception: object) -> None:
        if self.running:
            self.signal(SIGTERM)
            self.exit_code()
        super().__exit__(*exception)


def dyno(*processes: str, **environ: str) -> Dyno:
    """Processes of the Procfile, as on a dyno: what they get is their environment alone."""
    keys = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_REGION": "us-east-1"}
    python = {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin", "SQS_CLIENT": CLIENT}
    return Dyno(ROOT, *processes, program=HONCHO, **keys, **python, DYNO="worker.1", **environ)


@pytest.mark.slow
def test_the_release_phase_stops_a_deploy_without_a_queue(queues):
    with dyno("release") as release:
        assert release.exit_code() == 3
        assert "set SQS_QUEUE_URL: DYNO is set" in release.output()


@pytest.mark.slow
def test_a_deploy_is_checked_works_and_ends_within_its_thirty_seconds(queues):
    with ScriptedServer() as server, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as statsd:
        statsd.bind(("127.0.0.1", 0))
        environ = {
            "SQS_QUEUE_URL": queues.url("emails"),
            "SQS_WAIT_TIME_SECONDS": "1",
            "SMTP_HOST": "127.0.0.1",
            "SMTP_PORT": str(server.port),
            "SMTP_SECURITY": "none",
            "MAIL_FROM": "a@example.com",
            "STATSD_HOST": "127.0.0.1",
            "STATSD_PORT": f"tcp://127.0.0.1:{statsd.getsockname()[1]}",
            "DYNO_RAM": "512",
        }
        with dyno("release", **environ) as release:
            assert release.exit_code() == 0
            output = " ".join(release.output().split())
            assert "Heroku kills 30 s after SIGTERM, always; drain_seconds = 25 fits into that" in output
            assert "512 MiB are here" in output
        with dyno("worker", **environ) as worker:
            worker.expect("worker.ready")
            mail = {"to": ["b@example.com"], "subject": "Hello", "text": "Hi"}
            queues.send("emails", "email.send", mail, number=5)
            with gevent.Timeout(20, AssertionError("not all mails have come")):
                while len(server.taken) < 5:
                    gevent.sleep(0.02)
            gauges = _gauges(statsd, "millpond.emails.in_hand.")
            stopped = time.monotonic()
            worker.signal(SIGTERM)
            worker.expect("worker.stopped", why="SIGTERM", exit_code=0, succeeded=5)
            assert worker.exit_code(KILL_SECONDS) == 128 + SIGTERM  # honcho's own, whatever its processes say
            assert time.monotonic() - stopped < KILL_SECONDS
    assert gauges == {"worker_1"}


def _gauges(statsd: socket.socket, prefix: str) -> set[str]:
    """The processes that have a gauge of this name, of the packets until there is one."""
    found: set[str] = set()
    with gevent.Timeout(20, AssertionError(f"no {prefix}")):
        while not found:
            text = statsd.recv(65_536).decode()
            found = set(re.findall(rf"^{re.escape(prefix)}([^:]+):", text, re.MULTILINE))
    return found


def test_app_json_has_the_processes_of_the_procfile_and_the_variables_of_env_example():
    assert set(PROCFILE) - {"release"} == set(APP["formation"])
    known = set(re.findall(r"^(\w+)=", (ROOT / ".env.example").read_text(), re.MULTILINE))
    assert set(APP["env"]) - known == {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"}
    assert {key for key, value in APP["env"].items() if value.get("required", True)} == {
        "SQS_QUEUE_URL",
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
    }


def test_app_json_has_only_keys_that_heroku_knows():
    """As devcenter.heroku.com lists them (app.json schema): anything else is ignored without a word."""
    assert set(APP) <= {
        *("name", "description", "keywords", "website", "repository", "logo", "success_url", "scripts", "env"),
        *("formation", "image", "addons", "buildpacks", "environments", "stack"),
    }
    assert all(set(one) <= {"description", "value", "required", "generator"} for one in APP["env"].values())
    assert all(set(one) == {"quantity", "size"} for one in APP["formation"].values())
