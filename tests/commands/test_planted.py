"""`check` finds what has bitten users of SQS: each misconfiguration is planted in a project that is otherwise sound.

The queues are real ones of the local SQS, asked over HTTP; so are the mail servers, the StatsD port and the KMS.
"""

from __future__ import annotations

import json
import logging
import resource
import socket
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import pytest

from millpond.commands import check_host, cli
from millpond.commands.check_rights import IMPOSSIBLE_DELAY_SECONDS
from millpond.errors import AccessDenied, QueueMissing
from millpond.local import LocalSqs
from millpond.mail import preflight
from millpond.sqs.credentials_advice import mend_credentials, with_advice
from tests.http_server import Server
from tests.smtp_server import ScriptedServer, make_certificate
from tests.worker_process import LocalQueues, write_project

PUBLIC = json.dumps({"Statement": {"Effect": "Allow", "Principal": "*", "Action": "sqs:SendMessage"}})
JOB = '@handler("a.job"{})\ndef a(payload: dict) -> None:\n    pass\n'
PLATFORM_VARIABLES = ("DYNO", "ECS_CONTAINER_METADATA_URI_V4", "KUBERNETES_SERVICE_HOST", "AWS_LAMBDA_FUNCTION_NAME")


class Checked(NamedTuple):
    """What `check --json` has printed, and its exit code."""

    code: int
    findings: list[dict[str, str]]

    def the(self, text: str) -> dict[str, str]:
        """The only finding that says this."""
        [found] = [one for one in self.findings if text in f"{one['what']}; {one['why']}"]
        return found


class Project:
    """A sound project on a real queue; each test plants its own misconfiguration, then calls check()."""

    def __init__(self, folder: Path, queues: LocalQueues, name: str) -> None:
        self.folder, self.queues, self.name = folder, queues, name
        self.url = queues.create(name, 17)
        self.dead_url = queues.url(f"{name}-dead")
        self.dead(MessageRetentionPeriod="1209600")
        self.worker, self.queue, self.tables, self.more = "", "", "", ""
        self.handlers = JOB.format(", timeout=10")

    def own(self, **attributes: str) -> None:
        self.queues.sqs.set_queue_attributes(QueueUrl=self.url, Attributes=attributes)

    def dead(self, **attributes: str) -> None:
        self.queues.sqs.set_queue_attributes(QueueUrl=self.dead_url, Attributes=attributes)

    def check(self, capsys: pytest.CaptureFixture[str], *options: str) -> Checked:
        package = f"planted_{self.name.replace('-', '_')}"  # handlers that were loaded in this process stay
        config = f'[worker]\nhandlers = ["{package}"{self.more}]\n{self.worker}\n[queues.mails]\nurl = "{self.url}"\n'
        config += f"{self.queue}\n{self.tables}"
        write_project(self.folder, f"from millpond import handler\n{self.handlers}", config, package)
        capsys.readouterr()
        code = cli.main(["-c", str(self.folder / "config.toml"), "check", "--json", *options])
        found = json.loads(capsys.readouterr().out)
        levels = [one["level"] for one in found["findings"]]
        assert levels == sorted(levels, key=["error", "warning", "note", "ok"].index)  # the worst first
        assert len(found["findings"]) == len({json.dumps(one) for one in found["findings"]})  # none twice
        assert found["can_work"] == (code == 0) == ("error" not in levels)
        return Checked(code, found["findings"])


@pytest.fixture(scope="module")
def queues() -> Iterator[LocalQueues]:
    server = LocalSqs(port=0)
    server.start()
    yield LocalQueues(server.url)
    server.stop()


@pytest.fixture
def project(tmp_path, queues, request, monkeypatch) -> Iterator[Project]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    for name in (*PLATFORM_VARIABLES, "NOTIFY_SOCKET", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    yield Project(tmp_path, queues, f"q{abs(hash(request.node.name)) % 10**9}")
    root.handlers[:] = handlers
    root.setLevel(level)


def test_a_sound_project_has_neither_an_error_nor_a_warning(project, capsys):
    checked = project.check(capsys)
    assert [one for one in checked.findings if one["level"] in ("error", "warning")] == []
    assert checked.code == 0
    right = "the dead-letter queue: sqs:SendMessage is allowed (asked with a delay that SQS refuses)"
    assert checked.the(right)["level"] == "ok"
    assert project.queues.counts(f"{project.name}-dead") == (0, 0, 0)  # and nothing was left there


class Plant(NamedTuple):
    """A misconfiguration, and what `check` says of it. `plant`: what makes it, given the project."""

    plant: Callable[[Project], object]
    level: str
    text: str
    mend: str = ""
    options: tuple[str, ...] = ()


def queue(text: str) -> Callable[[Project], object]:
    return lambda project: setattr(project, "queue", text)


def worker(text: str) -> Callable[[Project], object]:
    return lambda project: setattr(project, "worker", text)


def tables(text: str) -> Callable[[Project], object]:
    return lambda project: setattr(project, "tables", text)


def handlers(text: str) -> Callable[[Project], object]:
    return lambda project: setattr(project, "handlers", text)


def own(**attributes: str) -> Callable[[Project], object]:
    return lambda project: project.own(**attributes)


def dead(**attributes: str) -> Callable[[Project], object]:
    return lambda project: project.dead(**attributes)


def another_dead_letter_queue(project: Project) -> None:
    project.queue = f'dead_letter_url = "{project.queues.create("elsewhere")}"'


def reads_its_dead_letters(project: Project) -> None:
    project.queue = f'dead_letter_url = "{project.dead_url}"\n[queues.letters]\nurl = "{project.dead_url}"'


def reads_what_its_policy_redrives(project: Project) -> None:
    project.queue = f'\n[queues.letters]\nurl = "{project.dead_url}"\n'


def dead_letter_queue_gone(project: Project) -> None:
    project.queues.sqs.delete_queue(QueueUrl=project.dead_url)


def no_queue(project: Project) -> None:
    project.url += "-nowhere"


def redrives_on(project: Project) -> None:
    arn = f"arn:aws:sqs:us-east-1:000000000000:{project.name}"
    project.dead(RedrivePolicy=json.dumps({"deadLetterTargetArn": arn, "maxReceiveCount": 5}))


def few_receives(project: Project) -> None:
    arn = f"arn:aws:sqs:us-east-1:000000000000:{project.name}-dead"
    project.own(RedrivePolicy=json.dumps({"deadLetterTargetArn": arn, "maxReceiveCount": 3}))


LOOP = JOB.format("") + textwrap.dedent("""
    import asyncio

    @handler("loop.job")
    def loop_job(payload: dict) -> None:
        asyncio.new_event_loop().run_until_complete(None)
    """)
PLANTS = {
    "no such queue": Plant(no_queue, "error", "cannot be reached"),
    "no redrive policy": Plant(own(RedrivePolicy=""), "warning", "there is no redrive policy", "make a dead-letter"),
    "few receives": Plant(few_receives, "warning", "maxReceiveCount = 3 ends what fails after 3 receives"),
    "retries outlast retention": Plant(
        own(MessageRetentionPeriod="3600"), "warning", "keeps messages for 3600 s, and all"
    ),
    "delayed queue": Plant(own(DelaySeconds="30"), "note", "delays each message that is sent by 30 s"),
    "public queue": Plant(own(Policy=PUBLIC), "warning", "allows everybody sqs:SendMessage", "name the Principal"),
    "key of AWS": Plant(own(KmsMasterKeyId="alias/aws/sqs"), "note", "S3, SNS and EventBridge cannot send to it"),
    "own key": Plant(own(KmsMasterKeyId="alias/mine"), "note", "a receive needs kms:Decrypt"),
    "dead letters kept short": Plant(dead(MessageRetentionPeriod="3600"), "warning", "keeps messages for 3600 s, less"),
    "small dead letters": Plant(dead(MaximumMessageSize="2048"), "warning", "takes 2048 bytes a message"),
    "dead letters that move on": Plant(redrives_on, "warning", "has a redrive policy of its own", "remove"),
    "redrive not allowed": Plant(
        dead(RedriveAllowPolicy='{"redrivePermission": "denyAll"}'), "error", "(denyAll) does not name this queue"
    ),
    "redrive for others only": Plant(
        dead(RedriveAllowPolicy='{"redrivePermission": "byQueue", "sourceQueueArns": ["arn:aws:sqs:a:1:b"]}'),
        "error",
        "(byQueue) does not name this queue",
        "add this queue's ARN",
    ),
    "two dead-letter queues": Plant(another_dead_letter_queue, "warning", "and the redrive policy names"),
    "reads its dead letters": Plant(reads_its_dead_letters, "error", "handled again at once", "take [queues.letters]"),
    "reads what its policy redrives": Plant(
        reads_what_its_policy_redrives, "warning", "handled again at once", "take [queues.letters]"
    ),
    "dead-letter queue gone": Plant(dead_letter_queue_gone, "error", "the dead-letter queue of the redrive policy"),
    "letters AWS cannot redrive": Plant(
        queue(""), "note", "takes back only the dead letters that SQS moved itself", "dlq replay"
    ),
    "short visibility": Plant(queue("visibility_seconds = 10"), "warning", "visibility_seconds = 10 is short"),
    "short hold": Plant(
        lambda project: (handlers(JOB.format(", timeout=100"))(project), queue("max_hold_seconds = 60")(project)),
        "warning",
        "max_hold_seconds = 60 at most",
    ),
    "long handler": Plant(
        handlers(JOB.format(", timeout=100")), "note", "longer than the drain waits", "drain_seconds"
    ),
    "long thread": Plant(handlers(JOB.format(", timeout=100, thread=True")), "warning", "threads go on to the end"),
    "poll outlasts the drain": Plant(worker("drain_seconds = 10"), "warning", "can outlast the drain (10 s)"),
    "short drain on Heroku": Plant(
        worker("drain_seconds = 60"),
        "warning",
        "Heroku kills 30 s after SIGTERM",
        options=("--platform", "heroku"),
    ),
    "long handler on Lambda": Plant(
        handlers(JOB.format(", timeout=1000")),
        "warning",
        "and a function ends after 900 s",
        "run it in a worker",
        ("--platform", "lambda"),
    ),
    "own asyncio loop": Plant(handlers(LOOP), "warning", "runs an asyncio loop of its own", "call asyncio.run()"),
    "sqlite3": Plant(handlers(f"import sqlite3\n{JOB.format('')}"), "warning", "sqlite3 waits in C", "thread=True"),
    "missing handler": Plant(tables('[types."a.jop"]'), "error", "did you mean a.job?"),
    "claims forgotten": Plant(
        lambda project: (
            handlers(JOB.format(", timeout=10, idempotent=True"))(project),
            tables("[idempotency]\nexpires_seconds = 3600")(project),
        ),
        "warning",
        "and what is done is remembered for 3600 s",
        "expires_seconds = 345600",
    ),
    "memory store": Plant(handlers(JOB.format(", idempotent=True")), "error", "[idempotency] table is empty"),
    "unresolved StatsD": Plant(tables('[statsd]\nhost = "nowhere.invalid"'), "warning", "cannot be resolved"),
}


@pytest.mark.parametrize("name", PLANTS)
def test_a_planted_misconfiguration_is_found(project, capsys, name):
    plant = PLANTS[name]
    plant.plant(project)
    found = project.check(capsys, *plant.options).the(plant.text)
    assert found["level"] == plant.level
    assert plant.mend in found["mend"]


# --- what needs a server, a library or a machine of its own


@pytest.fixture
def listening() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        yield server


def test_a_statsd_port_that_nothing_listens_at_is_a_warning_and_one_that_takes_all_is_none(project, capsys, listening):
    port = listening.getsockname()[1]
    project.tables = f'[statsd]\nhost = "127.0.0.1"\nport = {port}'
    assert project.check(capsys).the(f"metrics go to 127.0.0.1:{port}")["level"] == "ok"


def test_metrics_that_nobody_takes_are_a_warning(project, capsys, listening):
    port = listening.getsockname()[1]
    listening.close()
    project.tables = f'[statsd]\nhost = "127.0.0.1"\nport = {port}'
    found = project.check(capsys).the(f"nothing takes metrics at 127.0.0.1:{port}: Connection refused")
    assert (found["level"], found["mend"]) == ("warning", "start the StatsD server, or mend host and port")


def test_too_few_descriptors_are_a_warning(project, capsys, monkeypatch):
    monkeypatch.setattr(resource, "getrlimit", lambda which: (163, 163))
    found = project.check(capsys).the("the limit of open files and sockets is 163, and about 164 are needed")
    assert found["level"] == "warning"
    assert "ulimit -n 328" in found["mend"]


def test_as_many_descriptors_as_are_needed_are_enough(project, capsys, monkeypatch):
    monkeypatch.setattr(resource, "getrlimit", lambda which: (164, 164))
    assert not [one for one in project.check(capsys).findings if "open files" in one["what"]]


@pytest.mark.parametrize(("minutes", "side"), [(10, "behind"), (-10, "ahead of")])
def test_a_clock_that_is_not_that_of_sqs_is_a_warning(project, capsys, minutes, side):
    server = Server()
    date = format_datetime(datetime.now(UTC) + timedelta(minutes=minutes), usegmt=True)
    server.script.append(f"HTTP/1.1 404 Not Found\r\nDate: {date}\r\nContent-Length: 0\r\n\r\n".encode())
    server.script.appendleft(b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n")  # for the attributes of the queue
    project.tables = f'[queues.other]\nurl = "{server.url}/000000000000/other"'
    found = project.check(capsys).the("this machine's clock is")
    server.close()
    assert found["level"] == "warning"
    assert f" s {side} that of SQS" in found["what"]


def loaded(monkeypatch: pytest.MonkeyPatch, **modules: Any) -> None:
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name.replace("__", "."), module)


@pytest.mark.parametrize(
    ("module", "text"),
    [("grpc", "grpc has threads and a loop"), ("uvloop", "uvloop brings"), ("MySQLdb", "mysqlclient waits in C")],
)
def test_a_library_that_does_not_fit_greenlets_is_a_warning(project, capsys, monkeypatch, module, text):
    loaded(monkeypatch, **{module: ModuleType(module)})
    assert project.check(capsys).the(text)["level"] == "warning"


@pytest.mark.parametrize(("callback", "found"), [(None, 1), (print, 0)])
def test_psycopg2_without_a_wait_callback_is_a_warning(project, capsys, monkeypatch, callback, found):
    extensions = ModuleType("psycopg2.extensions")
    extensions.get_wait_callback = lambda: callback
    loaded(monkeypatch, psycopg2__extensions=extensions)
    assert len([one for one in project.check(capsys).findings if "psycopg2" in one["what"]]) == found


def test_a_library_that_waits_in_c_is_no_fault_where_every_handler_has_a_thread(project, capsys, monkeypatch):
    loaded(monkeypatch, MySQLdb=ModuleType("MySQLdb"))
    project.handlers = JOB.format(", timeout=10, thread=True")
    assert not [one for one in project.check(capsys).findings if "mysqlclient" in one["what"]]


def kms(code: str) -> bytes:
    body = json.dumps({"__type": code, "message": "said KMS"})
    return f"HTTP/1.1 400 Bad\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()


@pytest.mark.parametrize(
    ("code", "level", "text"),
    [
        ("DryRunOperationException", "ok", "kms:GenerateDataKey is allowed"),
        ("AccessDeniedException", "warning", "kms:GenerateDataKey is not allowed"),
        ("DisabledException", "warning", "kms:GenerateDataKey is refused (DisabledException)"),
    ],
)
def test_the_right_on_the_key_of_the_dead_letter_queue_is_tried(project, capsys, monkeypatch, code, level, text):
    server = Server()
    server.script.append(kms(code))
    monkeypatch.setenv("AWS_ENDPOINT_URL_KMS", server.url)
    project.dead(KmsMasterKeyId="alias/dead")
    found = project.check(capsys).the(text)
    server.close()
    assert found["level"] == level
    assert json.loads(server.requests[0].partition(b"\r\n\r\n")[2])["DryRun"] is True


# --- a mail server that is really spoken to


@pytest.fixture
def mail(project, capsys, monkeypatch):
    """mail(server, settings) -> the finding on the mail server at this port."""
    monkeypatch.setattr(preflight, "GREETING_SECONDS", 0.5)

    def check(port: int, settings: str) -> dict[str, str]:
        project.more = ', "millpond.mail.handler"'
        table = f'[handlers.email]\nhost = "127.0.0.1"\nport = {port}\nfrom = "a@example.org"\n{settings}'
        project.tables = table
        [found] = [one for one in project.check(capsys).findings if f"127.0.0.1:{port}" in one["what"]]
        return found

    return check


@pytest.mark.clock
@pytest.mark.parametrize(
    ("extensions", "script", "settings", "level", "text", "mend"),
    [
        (("AUTH PLAIN",), {}, 'security = "none"', "ok", "was greeted, in the clear, without a login", ""),
        ((), {}, "", "error", "it offers no STARTTLS", "(587)"),
        ((), {}, 'security = "none"\nuser = "u"\npassword = "p"', "error", "neither AUTH PLAIN nor", "most servers"),
        (
            ("AUTH PLAIN",),
            {"AUTH": ["535 5.7.8 no"]},
            'security = "none"\nuser = "u"\npassword = "p"',
            "error",
            "535 5.7.8 at AUTH",
            "SMTP_USER",
        ),
        ((), {}, 'security = "tls"', "error", "it does not speak TLS there", 'security = "starttls"'),
        ((), {"banner": ["421 4.3.2 busy"]}, 'security = "none"', "warning", "421", ""),
    ],
)
def test_the_mail_server_is_spoken_to(mail, extensions, script, settings, level, text, mend):
    with ScriptedServer(script, extensions=extensions) as server:
        found = mail(server.port, settings)
        assert server.taken == []
    assert found["level"] == level
    assert text in found["what"]
    assert mend in found["what"]


def test_a_mail_server_that_is_down_is_a_warning_since_mails_wait_for_it(mail):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    found = mail(port, "")
    assert (found["level"], found["why"]) == ("warning", "the messages of its types wait until that is over")
    assert "connection refused" in found["what"]


def test_a_port_that_waits_for_tls_says_nothing_and_that_is_said(mail, tmp_path):
    context = make_certificate(tmp_path).server_context()
    with ScriptedServer(tls=context, implicit_tls=True) as server:
        found = mail(server.port, "")
    assert found["level"] == "warning"
    assert 'or it waits for TLS there (security = "tls")' in found["what"]


def test_a_certificate_that_nobody_here_trusts_is_an_error(mail, tmp_path):
    context = make_certificate(tmp_path).server_context()
    with ScriptedServer(tls=context, implicit_tls=True) as server:
        found = mail(server.port, 'security = "tls"')
    assert found["level"] == "error"
    assert "its certificate does not verify" in found["what"]


# --- credentials


@pytest.mark.parametrize(
    ("profile", "text", "mend"),
    [
        ("sso_start_url = https://a.awsapps.com/start\nsso_region = eu-west-1\nsso_account_id = 1\nsso_role_name = r",
         "credentials: ", "the SSO session is over: aws sso login --profile mine"),
        ("credential_process = false", "credentials: ", "the profile is mine (AWS_PROFILE): look at it"),
    ],
)  # fmt: skip
def test_credentials_that_are_wrong_are_one_finding_of_all_queues_that_names_the_profile(
    project, capsys, monkeypatch, tmp_path, profile, text, mend
):
    (tmp_path / "aws").write_text(f"[profile mine]\n{profile}\n")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_ROLE_ARN"):
        monkeypatch.delenv(name, raising=False)
    for name, value in (("AWS_CONFIG_FILE", tmp_path / "aws"), ("AWS_PROFILE", "mine"), ("HOME", tmp_path)):
        monkeypatch.setenv(name, str(value))
    monkeypatch.setattr(check_host, "_date_of", lambda endpoint: time.time())  # no name server is asked
    project.url = "https://sqs.eu-west-1.amazonaws.com/1/a"
    project.tables = '[queues.b]\nurl = "https://sqs.eu-west-1.amazonaws.com/1/b"'
    found = project.check(capsys).the(text)
    assert (found["level"], found["where"]) == ("error", "queues.mails, queues.b")
    assert found["mend"].startswith(mend)


def test_where_there_are_no_credentials_what_mends_that_is_said_once(project, capsys, monkeypatch, tmp_path):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ROLE_ARN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setattr(check_host, "_date_of", lambda endpoint: time.time())  # no name server is asked
    project.url = "https://sqs.eu-west-1.amazonaws.com/1/a"
    found = project.check(capsys).the("no credentials")
    assert found["what"] == "cannot be reached: GetQueueAttributes: no credentials"
    assert found["mend"].startswith("set AWS_ACCESS_KEY_ID and")


@pytest.mark.parametrize(
    ("environ", "mend"),
    [
        ({"AWS_ROLE_ARN": "arn:aws:iam::1:role/w", "AWS_PROFILE": "p"}, "the role is arn:aws:iam::1:role/w"),
        ({"AWS_CONTAINER_CREDENTIALS_RELATIVE_URI": "/v2"}, "the keys are of the task's role (taskRoleArn"),
        ({"AWS_ACCESS_KEY_ID": "AKIA"}, "the keys are those of AWS_ACCESS_KEY_ID"),
        ({}, "set AWS_ACCESS_KEY_ID and"),
    ],
)
def test_what_mends_credentials_names_where_they_come_from(environ, mend):
    assert mend_credentials("AccessDenied", environ).startswith(mend)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            AccessDenied("the token is over", "ExpiredToken"),
            "the token is over: the profile is mine (AWS_PROFILE)",
        ),
        (
            AccessDenied("no keys: set AWS_ACCESS_KEY_ID and", "x"),
            "no keys: set AWS_ACCESS_KEY_ID and: the profile is mi",
        ),
        (AccessDenied("SendMessage is not allowed", "AccessDenied"), "SendMessage is not allowed"),
        (QueueMissing("there is no such queue", "QueueDoesNotExist"), "there is no such queue"),
    ],
)
def test_an_error_of_credentials_names_what_mends_it_once_and_one_of_a_right_does_not(error, said):
    environ = {"AWS_PROFILE": "mine"}
    text = with_advice(error, environ)
    assert text.startswith(said)
    again = type(error)(text, error.code)
    assert with_advice(again, environ) == text


# --- the whole


def test_settings_that_cannot_be_read_are_json_too(tmp_path, capsys):
    (tmp_path / "config.toml").write_text("[worker]\nconcurency = 1\n")
    assert cli.main(["-c", str(tmp_path / "config.toml"), "check", "--json"]) == 3
    found = json.loads(capsys.readouterr().out)
    assert not found["can_work"]
    assert any("did you mean concurrency?" in one["what"] for one in found["findings"])


def test_a_local_queue_is_refused_as_it_would_be_on_that_platform(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("DYNO", raising=False)
    (tmp_path / "config.toml").write_text('[queues.q]\nurl = "local"\n')
    assert cli.main(["-c", str(tmp_path / "config.toml"), "check", "--json", "--platform", "heroku"]) == 3
    assert "DYNO is set, and a queue in memory" in capsys.readouterr().out


def test_no_sqs_takes_the_delay_that_tries_the_right_to_send():
    assert IMPOSSIBLE_DELAY_SECONDS > 900
