"""What nobody may read: every secret is planted, and all that goes out is searched for it."""

from __future__ import annotations

import json
import re
import socket
from base64 import b64encode
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from gevent.server import StreamServer

from millpond.app.config import AllSettings, load
from millpond.app.opener import Opener
from millpond.message import FollowUp, Message
from millpond.producer import Outgoing
from millpond.sqs.http_connection import HttpAnswer
from millpond.sqs.queue import Attribute, Entry, Received
from tests.worker_process import CLIENT, LocalQueues, WorkerProcess, local_sqs, write_project

pytestmark = pytest.mark.slow

PLANTED = {
    "AWS_ACCESS_KEY_ID": "AKIAPLANTEDACCESS000",
    "AWS_SECRET_ACCESS_KEY": "plantedSecret/Key+0123456789abcdefghij0",
    "AWS_SESSION_TOKEN": "plantedSessionToken//" + "T0k3n" * 60,
    "SMTP_PASSWORD": 'planted "smtp" pässword',
    "WORK_TOKEN": "planted-handlers-token",
    "SENTRY_DSN": "https://plantedpublickey@o1.ingest.sentry.example/5",
    "DATABASE_URL": "postgres://app:plantedDatabase@127.0.0.1/app",
}
URL_PASSWORD = "plantedUrlPassword"
BODY = "planted-body-text"
ADDRESS = "planted.person@example.com"
PREFIX = "1f0c3a7e-planted-4bd2-9c1d-0123456789ab"

HANDLERS = """
import enum, logging, time
import msgspec
import pydantic
from millpond import Discard, Message, Reject, Retry, Unavailable, handler

log = logging.getLogger("work")

class Settings(msgspec.Struct):
    token: str = ""
    password: str = ""

known = {}

def setup(settings: Settings) -> None:
    known["settings"] = settings

class Colour(enum.Enum):
    RED = "red"

class Job(msgspec.Struct, forbid_unknown_fields=True):
    how: str = ""
    text: str = ""
    to: str = ""
    colour: Colour = Colour.RED
    cents: int = 0

class Model(pydantic.BaseModel):
    cents: int
    to: str = ""

@handler("job")
def job(job: Job, message: Message) -> None:
    settings = known["settings"]
    log.debug("%s of %s", message, settings)
    if message.attempt > 1:
        log.info("done", extra={"settings": settings, "secrets": [settings.token, {"a": settings.password}]})
        return
    if job.how == "retry":
        raise Retry(f"the service said: token {settings.token} is wrong, wrote to {job.to}", after=0)
    if job.how == "fail":
        raise ValueError(f"AUTH PLAIN failed: {settings.password}", {"Authorization": f"Bearer {settings.token}"})
    if job.how == "reject":
        message.follow_up({"how": "", "text": job.text}, reject=f"no: {settings.token} {job.to}")
        raise Reject(f"550 <{job.to}> unknown: {settings.password}")
    if job.how == "discard":
        raise Discard(f"{settings.token}")
    if job.how == "block":
        planted = settings.token
        end = time.monotonic() + 4
        while time.monotonic() < end:
            pass
    if job.how == "exit":
        error = ValueError(settings.password)
        log.error("postgres://app:plantedDatabase@127.0.0.1/app cannot be reached", exc_info=error)
        raise SystemExit(f"with {settings.token}")

@handler("model")
def model(payload: Model) -> None:
    ...
"""

FORMS: dict[str, Callable[[str], str]] = {
    "as it is": str,
    "in JSON": lambda text: json.dumps(text)[1:-1],
    "in a URL": lambda text: quote(text, safe=""),
    "as repr": lambda text: repr(text)[1:-1],
    "base64": lambda text: b64encode(text.encode()).decode().rstrip("=")[:-1],
    "AUTH PLAIN": lambda text: b64encode(b"\0user\0" + text.encode()).decode()[8:-4],
}


def assert_nothing_planted(*emitted: str, but: str = "") -> None:
    secrets = [*(value for name, value in PLANTED.items() if name != "SENTRY_DSN" and "URL" not in name)]
    secrets += ["plantedpublickey", "plantedDatabase", URL_PASSWORD, BODY, ADDRESS, PREFIX]
    for text in emitted:
        for secret in (secret for secret in secrets if secret != but):
            for name, form in FORMS.items():
                assert form(secret) not in text, (
                    f"{secret} {name}: ...{text[max(0, text.find(form(secret)) - 300) :][:500]}"
                )


def lines_of(worker: WorkerProcess) -> list[str]:
    return [json.dumps(line, ensure_ascii=False) if line["event"] else line["message"] for line in worker.lines]


class Sink:
    """StatsD's place: what comes there."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]

    def read(self) -> str:
        self._socket.setblocking(False)
        packets = []
        while True:
            try:
                packets.append(self._socket.recv(65_536).decode())
            except BlockingIOError:
                return "\n".join(packets)


@pytest.fixture
def sink() -> Iterator[Sink]:
    sink = Sink()
    yield sink
    sink._socket.close()


@pytest.fixture
def queues(tmp_path: Path) -> Iterator[LocalQueues]:
    with local_sqs(tmp_path) as queues:
        yield queues


def project(folder: Path, url: str, style: str, sink: Sink, more: str = "") -> Path:
    config = f"""
[worker]
handlers = ["jobs"]
max_block_seconds = 60
[queues.q]
url = "{url}"
wait_seconds = 1
visibility_seconds = 6
{more}
[retry]
base_seconds = 0.5
max_attempts = 2
[statsd]
host = "127.0.0.1"
port = {sink.port}
prefix = "{PREFIX}"
[log]
level = "debug"
format = "{style}"
succeeded_per_second = 1000
[handlers.work]
token = "${{WORK_TOKEN}}"
password = "${{SMTP_PASSWORD}}"
"""
    return write_project(folder, HANDLERS, config)


def planted_url(url: str) -> str:
    return url.replace("http://", f"http://user:{URL_PASSWORD}@")


BODIES = [
    {"event_type": "job", "payload": {"how": how, "text": BODY, "to": ADDRESS}}
    for how in ("", "retry", "fail", "reject", "discard", "exit", "block")
] + [
    {"event_type": "job", "payload": {"colour": BODY}},
    {"event_type": "job", "payload": {"cents": BODY}},
    {"event_type": "job", "payload": {BODY: 1}},
    {"event_type": "model", "payload": {"cents": BODY, "to": ADDRESS}},
    {"event_type": "model", "payload": {"to": ADDRESS, "text": BODY}},
    {"text": BODY, "to": ADDRESS},
    [BODY],
]


@pytest.mark.parametrize("style", ["json", "text"])
def test_nothing_that_a_worker_emits_has_a_secret_a_body_or_an_address(tmp_path, queues, sink, style):
    url = queues.create("q")
    folder = project(tmp_path / "p", planted_url(url) if CLIENT == "boto3" else url, style, sink)
    for body in BODIES:
        queues.sqs.send_message(QueueUrl=url, MessageBody=json.dumps(body))
    queues.sqs.send_message(QueueUrl=url, MessageBody=f"{BODY} {ADDRESS}")
    with WorkerProcess(folder, "--until-empty", **PLANTED) as worker:
        assert worker.exit_code(60) == 1, worker.output()
        emitted = "\n".join(lines_of(worker))
        for event in (
            "message.succeeded",
            "message.retried",
            "message.dead_lettered",
            "message.discarded",
            "worker.blocked",
        ):
            assert event in emitted
        assert_nothing_planted(emitted, worker.stderr)
    letters = queues.receive("q-dead") + queues.receive("q-dead")
    assert len(letters) >= 9
    assert_nothing_planted(*(letter["MessageAttributes"]["millpond"]["StringValue"] for letter in letters))
    assert_nothing_planted(sink.read(), but=PREFIX)


@pytest.mark.parametrize("command", [["check"], ["send", "job", "@job.json", "--count", "3"], []])
def test_a_server_that_echoes_a_request_gets_nothing_of_it_into_the_output(tmp_path, sink, command):
    def echo(sock: socket.socket, address: object) -> None:
        with sock, sock.makefile("rwb") as stream:
            head = b""
            while (line := stream.readline()) not in (b"", b"\r\n"):
                head += line
            length = re.search(rb"(?i)content-length: (\d+)", head)
            body = stream.read(int(length[1])) if length else b""
            text = f"denied \x1b[2J\x9b\u202e\u2028: {(head + body).decode()} " + "x" * 1_000_000
            answer = json.dumps({"__type": "com.amazonaws.sqs#AccessDenied", "message": text}).encode()
            stream.write(b"HTTP/1.1 400 Bad Request\r\nContent-Type: application/x-amz-json-1.0\r\n")
            stream.write(b"Content-Length: %d\r\nConnection: close\r\n\r\n%b" % (len(answer), answer))

    server = StreamServer(("127.0.0.1", 0), echo)
    server.start()
    url = f"http://127.0.0.1:{server.server_port}/000000000000/q?token={URL_PASSWORD}"
    folder = project(tmp_path / "p", url, "json", sink)
    (folder / "job.json").write_text(json.dumps({"text": BODY, "to": ADDRESS}))
    with WorkerProcess(folder, *command, **PLANTED) as process:
        process.exit_code(60)
        told = [
            line["message"] if not line["event"] else json.dumps(line, ensure_ascii=False) for line in process.lines
        ]
        assert_nothing_planted(*told, process.stderr)
        for text in (*told, *process.stderr.splitlines()):
            assert text.isprintable() or text == "", text[:200]
            assert len(text) < 10_000
        assert "denied" in process.output()
    server.stop(0)


@pytest.mark.parametrize(
    ("handlers", "told"),
    [
        (
            "def setup(settings: Settings) -> None: raise ValueError(settings.token, settings.password)",
            "setup() failed",
        ),
        ("def setup(settings: Settings) -> None: raise SystemExit(settings.token)", "SystemExit"),
        ("import os\nraise ValueError('boot ' + os.environ['SMTP_PASSWORD'] + '\\x1b[2J')", "cannot be loaded"),
        (
            "import gevent\nfrom millpond.process import service\n"
            "def setup(settings: Settings) -> None:\n"
            "    def crash(consumer): raise ValueError(settings.token, settings.password)\n"
            "    service.Service._step = crash\n",
            "ValueError",
        ),
        (
            "import threading, gevent\n"
            "class Closing:\n"
            "    def __del__(self): raise ValueError(known['settings'].token)\n"
            "def fail(): raise ValueError(known['settings'].password)\n"
            "@handler('last')\n"
            "def last(job: Job) -> None:\n"
            "    Closing()\n"
            "    gevent.spawn(fail).join()\n"
            "    thread = threading.Thread(target=fail)\n"
            "    thread.start()\n"
            "    thread.join()\n",
            "greenlet.failed",
        ),
        (
            "import warnings\n"
            "@handler('last')\n"
            "def last(job: Job) -> None:\n"
            "    warnings.warn(f'{known[\"settings\"].token} is old\\x1b[2J')\n"
            "    error = ValueError(known['settings'].token)\n"
            "    error.add_note(known['settings'].password)\n"
            "    raise KeyError(known['settings'].token) from error\n",
            "UserWarning: *** is old",
        ),
    ],
)
def test_no_way_to_fail_at_boot_or_behind_a_handler_tells_a_secret(tmp_path, queues, sink, handlers, told):
    url = queues.create("q")
    folder = project(tmp_path / "p", url, "json", sink)
    (folder / "jobs" / "work.py").write_text(f"{HANDLERS}\n{handlers}\n")
    queues.send("q", "last", {})
    with WorkerProcess(folder, "--until-empty", **PLANTED) as worker:
        worker.exit_code(60)
        assert told in worker.output()
        assert_nothing_planted(worker.stderr, *lines_of(worker))


def test_a_setting_with_a_wrong_value_is_named_and_not_shown(tmp_path, sink):
    folder = project(
        tmp_path / "p", "local", "json", sink, f'dead_letter_url = "ftp://user:{URL_PASSWORD}@host/{BODY}"'
    )
    before, sqs, after = (folder / "config.toml").read_text().partition("[sqs]\n")
    endpoint = f'endpoint_url = "{URL_PASSWORD}?token={BODY}"\n'
    (folder / "config.toml").write_text(f"{before}{sqs or '[sqs]' + chr(10)}{endpoint}{after}")
    with WorkerProcess(folder, **PLANTED) as worker:
        assert worker.exit_code() == 3
        assert "dead_letter_url" in worker.stderr
        assert_nothing_planted(worker.stderr, but=URL_PASSWORD)


# --- repr()


def settings(tmp_path: Path) -> AllSettings:
    (tmp_path / "config.toml").write_text(
        f'[queues.q]\nurl = "https://user:{BODY}@host/1/q"\n[statsd]\nprefix = "{BODY}"\n[handlers.a]\nb = "{BODY}"\n'
    )
    return load(tmp_path / "config.toml", {})


@pytest.mark.parametrize(
    "make",
    [
        lambda path: settings(path),
        lambda path: settings(path).queues["q"],
        lambda path: settings(path).statsd,
        lambda path: Message("m", "e", "t", "q", BODY, attributes={"a": BODY}),
        lambda path: Received("m", BODY, BODY, attributes={"a": Attribute("String", BODY)}),
        lambda path: Entry(BODY, attributes={"a": Attribute("Binary", BODY.encode())}),
        lambda path: Attribute("String", BODY),
        lambda path: FollowUp("e", BODY, reject=BODY),
        lambda path: Opener().open(Received("m", "h", json.dumps({"event_type": "t", "payload": BODY}))),
        lambda path: Outgoing("t", BODY),
        lambda path: HttpAnswer(200, b"", BODY.encode()),
    ],
)
def test_a_repr_has_neither_a_body_nor_a_password(make, tmp_path):
    value = make(tmp_path)
    assert BODY not in repr(value)
    assert BODY not in f"{value} {[value]}"
    assert BODY not in repr(list(getattr(value, "__rich_repr__", list)()))


def test_what_fails_beside_a_setup_while_check_runs_tells_no_secret(tmp_path, queues, sink):
    folder = project(tmp_path / "p", queues.create("q"), "json", sink)
    (folder / "jobs" / "work.py").write_text(
        f"{HANDLERS}\nimport gevent\n"
        "def fail(text): raise ValueError(text)\n"
        "class Closing:\n    def __del__(self): fail(known['text'])\n"
        "def setup(settings: Settings) -> None:\n"
        "    known.update(settings=settings, text=settings.token)\n"
        "    Closing()\n"
        "    gevent.spawn(fail, settings.password).join()\n"
    )
    with WorkerProcess(folder, "check", **PLANTED) as process:
        assert process.exit_code() == 0, process.output()
        for event in ("greenlet.failed", "object.failed"):
            assert event in process.stderr
        assert_nothing_planted(process.stderr, *lines_of(process))
