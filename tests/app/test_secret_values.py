"""References to secrets in config.toml: each is fetched once, at the boot, and never shown."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator
from itertools import pairwise
from types import SimpleNamespace

import boto3
import pytest

from millpond.app import secret_calls, secret_values
from millpond.app.config import AllSettings, load
from millpond.app.secret_references import ALLOWED_REFERENCES, SecretPlace, place_of_reference
from millpond.app.secret_values import fetch_secrets
from millpond.commands.check import preflight
from millpond.errors import ConfigError
from millpond.foreign.scrub import scrubbed
from millpond.foreign.text import shown
from millpond.hub.home import Errand
from tests.dynamo_server import KEYS, OneAtATime, listen
from tests.http_server import HANG_UP, Server
from tests.worker_process import WorkerProcess, local_queues, write_project

QUEUE = '[queues.q]\nurl = "local"\n'
PASSWORD = "correct-horse-battery"


# --- what a reference looks like

ARN = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:prod/smtp-AbCdEf"
PARAMETER_ARN = "arn:aws-cn:ssm:cn-north-1:123456789012:parameter/prod/smtp"


@pytest.mark.parametrize(
    ("text", "place", "key"),
    [
        ("secretsmanager:prod/smtp", SecretPlace("secretsmanager", "prod/smtp", ""), ""),
        ("secretsmanager:prod/smtp#password", SecretPlace("secretsmanager", "prod/smtp", ""), "password"),
        ("secretsmanager:a#b#c", SecretPlace("secretsmanager", "a", ""), "b#c"),
        (f"secretsmanager:{ARN}", SecretPlace("secretsmanager", ARN, "eu-west-1"), ""),
        (f"secretsmanager:{ARN}#password", SecretPlace("secretsmanager", ARN, "eu-west-1"), "password"),
        ("ssm:/prod/smtp", SecretPlace("ssm", "/prod/smtp", ""), ""),
        ("ssm:smtp", SecretPlace("ssm", "smtp", ""), ""),
        ("ssm:/prod/smtp:3", SecretPlace("ssm", "/prod/smtp:3", ""), ""),
        ("ssm:/prod/smtp#password", SecretPlace("ssm", "/prod/smtp", ""), "password"),
        (f"ssm:{PARAMETER_ARN}", SecretPlace("ssm", PARAMETER_ARN, "cn-north-1"), ""),
    ],
)
def test_a_reference_has_a_place_and_perhaps_a_field(text, place, key):
    assert place_of_reference(text) == (place, key)


@pytest.mark.parametrize(
    "text",
    [
        "secretsmanager:",
        "secretsmanager: prod/smtp",
        "secretsmanager:prod/smtp#",
        "secretsmanager:prod\n",
        # As ECS writes it, with the field of JSON behind a colon.
        f"secretsmanager:{ARN}:password::",
        f"secretsmanager:{PARAMETER_ARN}",
        f"ssm:{ARN}",
        "ssm:",
        "ssm:/a:b:c",
        "ssm:/prod smtp",
    ],
)
def test_what_is_none_has_no_place_and_its_text_is_in_no_finding(tmp_path, text):
    assert place_of_reference(text) is None
    path = tmp_path / "config.toml"
    path.write_text(f"{QUEUE}[handlers.email]\npassword = {json.dumps(text)}\n")
    with pytest.raises(ConfigError) as caught:
        load(path, {})
    assert caught.value.findings == (f"{path}: [handlers.email] password: {ALLOWED_REFERENCES}",)


@pytest.mark.parametrize(
    ("password", "environ"),
    [
        ("secretsmanager:${SMTP_SECRET:-}", {}),
        ("${SMTP_PASSWORD}", {"SMTP_PASSWORD": "secretsmanager:"}),
    ],
)
def test_a_reference_whose_name_is_empty_does_not_hide_the_advice(tmp_path, password, environ):
    path = tmp_path / "config.toml"
    path.write_text(f"{QUEUE}[handlers.email]\npassword = {json.dumps(password)}\n")
    with pytest.raises(ConfigError) as caught:
        load(path, environ)
    assert scrubbed(caught.value.findings[0], 1000).endswith(ALLOWED_REFERENCES)


# --- where a reference may stand


@pytest.fixture
def read(tmp_path):
    def read(text: str, secrets: dict[str, str], **environ: str) -> AllSettings:
        path = tmp_path / "config.toml"
        path.write_text(f"{QUEUE}{text}")
        asked: list[str] = []

        def fetch(references):
            asked.extend(references)
            return {name: secrets[name] for name in references}

        settings = load(path, environ, fetch)
        assert sorted(asked) == sorted({*asked}) == sorted(secrets)
        return settings

    return read


@pytest.mark.parametrize(
    ("value", "password"),
    [
        ("ssm:/p", "one"),
        ("${PASSWORD}", "one"),
        ("${UNSET:-ssm:/p}", "one"),
        ("ssm:/${STAGE:-p}", "one"),
        ("ssm:/${STAGE_SET}", "one"),
        ("postgres://app:${PASSWORD}@db/app", "postgres://app:one@db/app"),
        ("${PASSWORD}${PASSWORD}", "oneone"),
        ("see ssm:/p", "see ssm:/p"),
        ("SSM:/p", "SSM:/p"),
    ],
)
def test_a_reference_is_a_whole_value_or_all_of_a_variable(read, value, password):
    secrets = {"ssm:/p": "one"} if "one" in password else {}
    settings = read(f'[handlers.email]\npassword = "{value}"\n', secrets, PASSWORD="ssm:/p", STAGE_SET="p")
    assert settings.handlers["email"]["password"] == password


def test_a_secret_that_looks_like_a_reference_is_a_secret(read):
    text = '[handlers.email]\npassword = "ssm:/p"\nuser = "${USER}"\n'
    settings = read(text, {"ssm:/p": "ssm:/q", "ssm:/u": "ssm:/v"}, USER="ssm:/u")
    assert settings.handlers["email"] == {"password": "ssm:/q", "user": "ssm:/v"}


def test_secrets_stand_in_lists_and_tables_and_become_numbers(read):
    text = """
[worker]
threads = "ssm:/threads"
[handlers.work]
tokens = ["ssm:/a", "b", "ssm:/a"]
servers = {one = "ssm:/c"}
"""
    settings = read(text, {"ssm:/threads": "7", "ssm:/a": "A", "ssm:/c": "C"})
    assert settings.worker.threads == 7
    assert settings.handlers["work"] == {"tokens": ["A", "b", "A"], "servers": {"one": "C"}}
    assert settings.references == (
        ("[worker] threads", "ssm:/threads"),
        ("[handlers.work] tokens", "ssm:/a"),
        ("[handlers.work] tokens", "ssm:/a"),
        ("[handlers.work] servers", "ssm:/c"),
    )


def test_a_file_without_references_asks_nobody(tmp_path):
    path = tmp_path / "config.toml"
    path.write_text(QUEUE)
    assert load(path, {}, lambda references: dict.fromkeys(references, "") or {}).references == ()
    assert fetch_secrets([]) == {}


def test_a_wrong_value_names_the_reference_and_not_the_value(tmp_path):
    path = tmp_path / "config.toml"
    path.write_text(f'{QUEUE}[worker]\nthreads = "ssm:/threads"\n')
    with pytest.raises(ConfigError) as caught:
        load(path, {}, lambda references: {"ssm:/threads": PASSWORD})
    assert caught.value.findings == (f"{path}: [worker] threads (from ssm:/threads): 1 to 1000, a whole number",)


def test_what_nobody_fetched_is_its_text_for_handlers_and_the_default_for_the_worker(tmp_path):
    """As in the tests of an application, which call no AWS."""
    path = tmp_path / "config.toml"
    path.write_text(
        '[worker]\nthreads = "ssm:/threads"\n[queues.q]\nurl = "ssm:/url"\n[handlers.email]\npassword = "ssm:/p"\n'
    )
    settings = load(path, {}, lambda references: {})
    assert settings.worker.threads == 4
    assert settings.queues["q"].url == ""
    assert settings.handlers["email"] == {"password": "ssm:/p"}


# --- from AWS


@pytest.fixture(scope="module")
def aws() -> Iterator[tuple[str, OneAtATime]]:
    """Secrets Manager and the Parameter Store, with something in them."""
    server, application = listen()
    thread = threading.Thread(target=server.serve_forever, args=[0.02])
    thread.start()
    url = f"http://127.0.0.1:{server.server_port}"
    secrets = boto3.client("secretsmanager", endpoint_url=url, **KEYS)
    fields = {"password": PASSWORD, "port": 587, "rate": 1.50, "tls": True, "hosts": ["a"], "none": None, "empty": ""}
    secrets.create_secret(Name="prod/smtp", SecretString=json.dumps(fields))
    secrets.create_secret(Name="prod/key", SecretString="-----BEGIN KEY-----\nabcdef\n")
    secrets.create_secret(Name="prod/bytes", SecretBinary=b"\0\1")
    secrets.create_secret(Name="prod/list", SecretString="[1]")
    secrets.create_secret(Name="prod/deep", SecretString="[" * 60_000)
    parameters = boto3.client("ssm", endpoint_url=url, **KEYS)
    parameters.put_parameter(Name="/prod/token", Value="secure-parameter", Type="SecureString")
    parameters.put_parameter(Name="/prod/url", Value="https://sqs.eu-west-1.amazonaws.com/1/q", Type="String")
    try:
        yield url, application
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def fetch(aws, monkeypatch):
    url, application = aws
    application.calls.clear()
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ENDPOINT_URL", url)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAEXAMPLEEXAMPLE00")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "example-key-0000000000")
    yield fetch_secrets
    application.before = lambda name: None


def test_secrets_and_parameters_are_read_each_once(fetch, aws):
    values = {
        "secretsmanager:prod/smtp#password": PASSWORD,
        "secretsmanager:prod/smtp#port": "587",
        "secretsmanager:prod/smtp#rate": "1.5",
        "secretsmanager:prod/smtp#tls": "true",
        "secretsmanager:prod/smtp#empty": "",
        "secretsmanager:prod/key": "-----BEGIN KEY-----\nabcdef\n",
        "ssm:/prod/token": "secure-parameter",
        "ssm:/prod/url": "https://sqs.eu-west-1.amazonaws.com/1/q",
        "ssm:arn:aws:ssm:us-east-1:123456789012:parameter/prod/token": "secure-parameter",
    }
    assert fetch(list(values)) == values
    assert sorted(aws[1].calls) == ["GetParameter"] * 3 + ["GetSecretValue"] * 2


def test_they_are_hidden_from_the_log_but_a_parameter_that_is_no_secret_is_not(fetch):
    fetch(["secretsmanager:prod/smtp#password", "secretsmanager:prod/key", "ssm:/prod/token", "ssm:/prod/url"])
    assert shown(f"login with {PASSWORD} failed") == "login with *** failed"
    assert "abcdef" not in shown("with -----BEGIN KEY-----\nabcdef\n")
    assert "secure-parameter" not in shown("token secure-parameter")
    assert shown("see https://sqs.eu-west-1.amazonaws.com/1/q") == "see https://sqs.eu-west-1.amazonaws.com/1/q"


@pytest.mark.parametrize(
    ("reference", "text"),
    [
        (
            "secretsmanager:prod/smpt",
            "Secrets Manager has none of this name in us-east-1: create it, or correct its name or the region",
        ),
        (
            "ssm:/prod/tokn",
            "the Parameter Store has none of this name in us-east-1: create it, or correct its name or the region",
        ),
        ("secretsmanager:prod/smtp#pasword", "its field pasword is not there"),
        ("secretsmanager:prod/smtp#hosts", "its field hosts is no text and no number"),
        ("secretsmanager:prod/smtp#none", "its field none is no text and no number"),
        (
            "secretsmanager:prod/key#password",
            "what is kept there is no JSON object: leave #password out, or keep an object there",
        ),
        (
            "secretsmanager:prod/list#0",
            "what is kept there is no JSON object: leave #0 out, or keep an object there",
        ),
        (
            "secretsmanager:prod/deep#a",
            "what is kept there is no JSON object: leave #a out, or keep an object there",
        ),
        ("secretsmanager:prod/bytes", "what is kept there is binary: a text is needed"),
    ],
)
def test_what_is_not_there_is_a_sentence(fetch, reference, text):
    assert str(fetch([reference])[reference]) == f"{reference} cannot be read: {text}"


def aws_error(code: str, message: str) -> tuple[int, bytes]:
    return 400, json.dumps({"__type": code, "message": message}).encode()


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (
            aws_error("AccessDeniedException", "User: arn:aws:iam::1:user/x is not authorized"),
            "Secrets Manager refuses: give the worker's role secretsmanager:GetSecretValue on it "
            "(AccessDeniedException: User: arn:aws:iam::1:user/x is not authorized)",
        ),
        (
            aws_error("DecryptionFailure", "Secrets Manager can't decrypt the protected secret text"),
            "its key does not decrypt it: give the worker's role kms:Decrypt on that key "
            "(DecryptionFailure: Secrets Manager can't decrypt the protected secret text)",
        ),
        (
            aws_error("InvalidRequestException", "it was marked for deletion"),
            "Secrets Manager refuses: InvalidRequestException: it was marked for deletion",
        ),
        (
            (200, b"{}"),
            "the answer is not from Secrets Manager: look at what stands between it and the worker (a proxy)",
        ),
        (
            (200, b'{"SecretString": ["a"]}'),
            "the answer is not from Secrets Manager: look at what stands between it and the worker (a proxy)",
        ),
    ],
)
def test_each_refusal_says_what_helps(fetch, aws, answer, text):
    aws[1].before = lambda name: answer
    assert str(fetch(["secretsmanager:a"])["secretsmanager:a"]) == f"secretsmanager:a cannot be read: {text}"


@pytest.mark.parametrize(
    "answer",
    [(200, b"<html>" + PASSWORD.encode()), (200, b"[1]"), (200, b'"x"'), (200, b"\xff"), (404, b"{"), (302, b"")],
)
def test_garbage_is_an_error_that_shows_nothing_of_it(fetch, aws, answer):
    aws[1].before = lambda name: answer
    error = fetch(["secretsmanager:a", "ssm:/a"])
    assert [*map(type, error.values())] == [ConfigError, ConfigError]
    assert PASSWORD not in str([*error.values()])


def test_a_throttle_is_tried_again(fetch, aws):
    answers = [aws_error("ThrottlingException", "Rate exceeded")]
    aws[1].before = lambda name: answers.pop() if answers else None
    assert fetch(["ssm:/prod/token"]) == {"ssm:/prod/token": "secure-parameter"}
    assert aws[1].calls == ["GetParameter"] * 2


def test_one_that_cannot_be_read_leaves_the_others(fetch):
    values = fetch(["ssm:/prod/token", "ssm:/nowhere", "ssm: no", "secretsmanager:prod/smtp#password"])
    assert [value for value in values.values() if isinstance(value, str)] == ["secure-parameter", PASSWORD]
    assert str(values["ssm: no"]) == ALLOWED_REFERENCES


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.close()


def test_a_server_that_hangs_up_is_said(fetch, server, monkeypatch):
    server.script.extend([HANG_UP] * 9)
    monkeypatch.setenv("AWS_ENDPOINT_URL_SECRETS_MANAGER", server.url)
    monkeypatch.setattr(secret_calls, "SECRET_ATTEMPTS", 1)
    text = "secretsmanager:a cannot be read: Secrets Manager gives no answer: "
    assert str(fetch(["secretsmanager:a"])["secretsmanager:a"]).startswith(text)


def test_a_server_that_never_answers_is_given_up_in_time(fetch, server, monkeypatch):
    server.answers_from = 1_000
    monkeypatch.setenv("AWS_ENDPOINT_URL_SSM", server.url)
    monkeypatch.setattr(secret_values, "SECRETS_SECONDS", 0.3)
    text = "cannot be read: AWS has not answered in 0.3 s"
    values = fetch(["ssm:/a", "ssm:/b"])
    assert {name: str(value) for name, value in values.items()} == {
        "ssm:/a": f"ssm:/a {text}",
        "ssm:/b": f"ssm:/b {text}",
    }


def test_all_references_together_have_one_deadline(monkeypatch):
    waits: list[float] = []

    class Silent(Errand):
        def __init__(self, call, home):
            super().__init__(lambda: None, home)

        def result(self, seconds):
            waits.append(seconds)
            time.sleep(0.01)
            raise TimeoutError

    monkeypatch.setattr(secret_values, "Errand", Silent)
    monkeypatch.setattr(secret_calls, "SecretReader", lambda places: SimpleNamespace(read=print))
    fetch_secrets([f"ssm:/{number}" for number in range(5)])
    assert all(later <= before - 0.01 for before, later in pairwise(waits))


def test_without_a_region_an_arn_is_needed(fetch, monkeypatch, tmp_path):
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    value = fetch(["ssm:/a"])["ssm:/a"]
    text = "its region is not known: set AWS_REGION, or write its ARN in the place of its name"
    assert str(value) == f"ssm:/a cannot be read: {text}"


def test_a_configuration_of_the_sdk_that_is_wrong_is_a_finding(fetch, monkeypatch):
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    assert "Secrets Manager cannot be called: " in str(fetch(["secretsmanager:a"])["secretsmanager:a"])


def test_check_shows_which_secrets_were_read(fetch, tmp_path):
    path = tmp_path / "config.toml"
    path.write_text(f'{QUEUE}[handlers.work]\ntoken = "${{TOKEN}}"\n')
    settings = load(path, {"TOKEN": "ssm:/prod/token"})
    found = [finding for finding in preflight(settings, {}) if finding.where == "secrets"]
    assert [(one.level, one.text) for one in found] == [("ok", "[handlers.work] token: ssm:/prod/token was read")]


HANDLERS = """
import msgspec
from millpond import handler

class Settings(msgspec.Struct):
    token: str

known = {}

def setup(settings: Settings) -> None:
    known["token"] = settings.token

@handler("job")
def job(payload: dict) -> None:
    raise ValueError(f"login with {known['token']} failed, as " + known["token"][::-1])
"""


@pytest.mark.slow
def test_a_worker_has_the_secret_and_shows_it_nowhere(aws, tmp_path):
    config = """
[worker]
handlers = ["jobs"]
[queues.q]
url = "local"
[local]
port = 0
[retry]
max_attempts = 1
[log]
level = "debug"
[handlers.work]
token = "${TOKEN}"
"""
    folder = write_project(tmp_path / "p", HANDLERS, config)
    environ = {"AWS_ENDPOINT_URL": aws[0], "AWS_REGION": "us-east-1", "AWS_ENDPOINT_URL_SQS": ""}
    environ |= {"AWS_ACCESS_KEY_ID": "AKIAEXAMPLEEXAMPLE00", "AWS_SECRET_ACCESS_KEY": "example-key-0000000000"}
    with WorkerProcess(folder, TOKEN="secretsmanager:prod/smtp#password", **environ) as worker:
        local_queues(worker).send("q", "job", {})
        worker.expect("message.dead_lettered")
        worker.signal(15)
        assert worker.exit_code() == 0
        assert PASSWORD[::-1] in worker.output()  # it had the right one
        assert PASSWORD not in worker.output()
    with WorkerProcess(folder, TOKEN="ssm:/prod/nowhere", **environ) as worker:
        assert worker.exit_code() == 3
        assert (
            "[handlers.work] token (from ${TOKEN}): ssm:/prod/nowhere cannot be read: the Parameter Store has none of "
            "this name in us-east-1"
        ) in worker.output()
