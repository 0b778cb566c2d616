"""`check`: what a preflight finds, and that it says so without touching a message."""

from __future__ import annotations

import json
import logging
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gevent
import msgspec
import pytest
from gevent.event import Event

from millpond.app.config import AllSettings, load
from millpond.app.routing import Route
from millpond.commands import check, check_host, cli
from millpond.commands.check_queue import MADE_UP_HANDLE, check_queue, queue_at
from millpond.commands.finding import Finding
from millpond.errors import AccessDenied, ConfigError, QueueError, QueueMissing, Unreachable
from millpond.local import LocalSqs
from millpond.sqs.queue import Entry, Failure
from millpond.sqs.redrive import Redrive
from tests.worker_process import ROOT, LocalQueues, WorkerProcess, write_project

REAL = "https://sqs.eu-west-1.amazonaws.com/1/mails"
DEAD = f"{REAL}-dead"
NOWHERE = Path("/nowhere")  # no file there says what runs this process
INVALID = Failure("ReceiptHandleIsInvalid", "The input receipt handle is invalid.", True)
POLICY = {"deadLetterTargetArn": "arn:aws:sqs:eu-west-1:1:mails-dead", "maxReceiveCount": 17}
GOOD = {
    "ApproximateNumberOfMessages": "7",
    "ApproximateNumberOfMessagesNotVisible": "2",
    "MessageRetentionPeriod": "345600",
    "RedrivePolicy": json.dumps(POLICY),
}


class FakeSqs:
    """One queue and its dead-letter queue. An answer that is an exception is raised."""

    def __init__(self, **answers: Any) -> None:
        self.answers = {
            "attributes": GOOD,
            "change_visibility": INVALID,
            "delete": INVALID,
            "dead_letters": DEAD,
            "dead": {"MessageRetentionPeriod": "1209600"},
            "send": Failure("InvalidParameterValue", "Value 901 for parameter DelaySeconds is invalid.", True),
            **answers,
        }
        self.calls: list[tuple[str, Any]] = []

    def connect(self, url: str) -> FakeSqs:
        return self if url == REAL else FakeSqs(attributes=self.answers["dead"], send=self.answers["send"])

    def _answer(self, name: str, given: object = None) -> Any:
        self.calls.append((name, given))
        answer = self.answers[name]
        if isinstance(answer, Exception):
            raise answer
        return answer

    def attributes(self) -> dict[str, str]:
        return dict(self._answer("attributes"))

    def change_visibility(self, changes: Sequence[tuple[str, int]]) -> list[Failure | None]:
        return [self._answer("change_visibility", changes)]

    def delete(self, receipt_handles: Sequence[str]) -> list[Failure | None]:
        return [self._answer("delete", receipt_handles)]

    url = REAL

    def send(self, entries: Sequence[Entry]) -> list[Failure | None]:
        return [self._answer("send", entries)]

    def dead_letters(self, redrive: Redrive) -> FakeSqs | None:
        url = str(self._answer("dead_letters")) if redrive.name else ""
        return self.connect(url) if url else None


def route(timeout_seconds: float = 30, max_attempts: int | None = None) -> dict[str, Route]:
    return {"ok": Route("ok", "jobs.ok", json.loads, lambda payload, message: None, timeout_seconds, max_attempts)}


@pytest.fixture
def settings(tmp_path):
    def settings(queue: str = "", more: str = "") -> AllSettings:
        path = tmp_path / "config.toml"
        path.write_text(f'[queues.mails]\nurl = "{REAL}"\n{queue}\n{more}')
        return load(path, {})

    return settings


def findings(settings: AllSettings, sqs: FakeSqs, routes: dict[str, Route] | None = None) -> list[Finding]:
    return list(check_queue("mails", settings, route() if routes is None else routes, sqs.connect))


def levels(found: list[Finding]) -> set[str]:
    return {finding.level for finding in found}


def the(found: list[Finding], level: str) -> str:
    """The text of the only finding of this level."""
    [text] = [finding.text for finding in found if finding.level == level]
    return text


# --- one queue


def test_a_queue_that_is_as_it_should_be_has_no_warning(settings):
    sqs = FakeSqs()
    found = findings(settings(), sqs)
    assert levels(found) == {"ok", "note"}
    assert {finding.where for finding in found} == {"queues.mails"}
    texts = [finding.text for finding in found]
    assert "the queue is reachable; about 7 messages wait, 2 are in flight" in texts
    assert "sqs:ChangeMessageVisibility is allowed" in texts
    assert "sqs:DeleteMessage is allowed" in texts
    assert "maxReceiveCount = 17, well above max_attempts = 7" in texts


def test_what_cannot_be_tested_without_a_message_is_said_to_be_untested(settings):
    texts = [finding.text for finding in findings(settings(), FakeSqs()) if finding.level == "note"]
    assert "the right to receive is not tested: a receive would take messages" in texts


def test_no_call_names_a_real_message(settings):
    sqs = FakeSqs()
    findings(settings(), sqs)
    assert sqs.calls == [
        ("attributes", None),
        ("change_visibility", [(MADE_UP_HANDLE, 60)]),
        ("delete", [MADE_UP_HANDLE]),
        ("dead_letters", None),
    ]


@pytest.mark.parametrize(
    "error",
    [QueueMissing("there is no such queue"), Unreachable("no answer"), AccessDenied("", "InvalidClientTokenId")],
)
def test_a_queue_that_cannot_be_reached_is_an_error_and_the_rest_is_not_asked(settings, error):
    sqs = FakeSqs(attributes=error)
    found = findings(settings(), sqs)
    assert the(found, "error").startswith("cannot be reached: ")
    assert len(sqs.calls) == 1


def test_attributes_that_may_not_be_read_are_a_warning_since_a_worker_goes_on_without(settings):
    sqs = FakeSqs(attributes=AccessDenied("not for you", "AccessDenied"), dead_letters="")
    found = findings(settings(), sqs)
    warnings = [finding.text for finding in found if finding.level == "warning"]
    assert "error" not in levels(found)
    assert warnings[0].startswith("sqs:GetQueueAttributes is not allowed")
    assert warnings[1].startswith("this queue has no dead-letter queue")
    assert "sqs:DeleteMessage is allowed" in [finding.text for finding in found]


def test_a_handler_that_may_run_for_longer_than_its_message_is_kept_is_a_warning(settings):
    found = findings(settings("max_hold_seconds = 120"), FakeSqs(), route(timeout_seconds=121))
    assert the(found, "warning").startswith("the time limit of ok is 121 s, but a message is kept for max_hold_seconds")


@pytest.mark.parametrize(
    ("call", "right"), [("change_visibility", "sqs:ChangeMessageVisibility"), ("delete", "sqs:DeleteMessage")]
)
@pytest.mark.parametrize(
    "denied",
    [AccessDenied("User is not authorized", "AccessDenied"), Failure("AccessDenied", "User is not authorized", True)],
)
def test_a_right_that_is_missing_is_an_error(settings, call, right, denied):
    text = the(findings(settings(), FakeSqs(**{call: denied})), "error")
    assert text.startswith(right)
    assert "not authorized" in text


@pytest.mark.parametrize(
    "answer",
    [
        INVALID,
        Failure("InvalidParameterValue", "Value for parameter ReceiptHandle is invalid.", True),
        QueueError("The input receipt handle is invalid.", "ReceiptHandleIsInvalid"),
        None,
    ],
)
def test_an_answer_about_the_handle_proves_the_right(settings, answer):
    assert levels(findings(settings(), FakeSqs(change_visibility=answer, delete=answer))) == {"ok", "note"}


def test_an_answer_that_proves_nothing_is_a_warning(settings):
    found = findings(settings(), FakeSqs(delete=Failure("InternalError", "try later")))
    assert the(found, "warning") == "sqs:DeleteMessage: InternalError: try later"


# --- redrive policy and dead letters


def with_policy(**policy: Any) -> FakeSqs:
    return FakeSqs(attributes=GOOD | {"RedrivePolicy": json.dumps(policy)})


@pytest.mark.parametrize(
    ("count", "max_attempts", "level"), [(15, 5, "ok"), (11, 5, "ok"), (10, 5, "warning"), ("3", 5, "warning")]
)
def test_a_redrive_policy_that_comes_before_max_attempts_is_a_warning(settings, count, max_attempts, level):
    more = f"[retry]\nmax_attempts = {max_attempts}"
    found = findings(settings(more=more), with_policy(maxReceiveCount=count))
    [finding] = [finding for finding in found if finding.text.startswith("maxReceiveCount")]
    assert finding.level == level
    if level == "warning":
        assert finding.text.endswith(": set it to 15")


def test_a_handler_with_more_attempts_of_its_own_counts(settings):
    found = findings(settings(), FakeSqs(), route(max_attempts=12))
    assert the(found, "warning").startswith("maxReceiveCount = 17 against max_attempts = 12")


def test_a_max_receive_count_of_1_dead_letters_what_was_never_seen(settings):
    text = the(findings(settings(), with_policy(maxReceiveCount=1)), "warning")
    assert "one receive whose answer is lost" in text


@pytest.mark.parametrize("policy", [None, ""])
def test_no_redrive_policy_is_a_warning(settings, policy):
    attributes = {name: value for name, value in GOOD.items() if name != "RedrivePolicy"}
    if policy is not None:
        attributes["RedrivePolicy"] = policy
    found = findings(settings(), FakeSqs(attributes=attributes))
    warnings = [finding.text for finding in found if finding.level == "warning"]
    assert warnings[0].startswith("there is no redrive policy")
    assert len(warnings) == 1  # and what it means is said there, once


@pytest.mark.parametrize("policy", ["{}", "[]", "nonsense"])
def test_a_redrive_policy_that_names_no_queue_is_an_error(settings, policy):
    found = findings(settings(), FakeSqs(attributes=GOOD | {"RedrivePolicy": policy}))
    assert f"the redrive policy {policy} names no queue" in the(found, "error")


def test_a_dead_letter_queue_of_the_settings_is_the_one_that_is_reached(settings):
    sqs = FakeSqs(dead_letters=AssertionError("not to be asked"))
    found = findings(settings(f'dead_letter_url = "{DEAD}"'), sqs)
    assert "the dead-letter queue is reachable; about ? messages are in it" in [finding.text for finding in found]


@pytest.mark.parametrize(
    ("answers", "level", "said"),
    [
        (
            {"dead_letters": QueueMissing("gone")},
            "error",
            "the dead-letter queue of the redrive policy cannot",
        ),
        ({"dead": QueueMissing("gone")}, "error", "the dead-letter queue cannot be reached: gone"),
        ({"dead": AccessDenied("no")}, "warning", "the dead-letter queue's attributes cannot be read: no"),
        (
            {"dead": {"MessageRetentionPeriod": "3600"}},
            "warning",
            "the dead-letter queue keeps messages for 3600 s",
        ),
    ],
)
def test_what_is_wrong_with_the_dead_letter_queue_is_found(settings, answers, level, said):
    assert the(findings(settings(), FakeSqs(**answers)), level).startswith(said)


@pytest.mark.parametrize(
    "denied",
    [AccessDenied("User is not authorized", "AccessDenied"), Failure("AccessDenied", "User is not authorized", True)],
)
def test_a_dead_letter_queue_that_may_not_be_sent_to_is_an_error(settings, denied):
    text = the(findings(settings(), FakeSqs(send=denied)), "error")
    assert text == "the dead-letter queue: sqs:SendMessage is not allowed: User is not authorized"


def test_a_queue_that_is_near_its_quota_of_messages_in_flight_is_a_warning(settings):
    near = GOOD | {"ApproximateNumberOfMessagesNotVisible": "100000"}
    assert the(findings(settings(), FakeSqs(attributes=near)), "warning").startswith("100000 messages are in flight")
    below = GOOD | {"ApproximateNumberOfMessagesNotVisible": "99999"}
    assert "warning" not in levels(findings(settings(), FakeSqs(attributes=below)))


# --- settings against each other


@pytest.mark.parametrize(
    ("queue", "level"),
    [
        ("visibility_seconds = 60", "ok"),
        ("visibility_seconds = 15", "ok"),
        ("visibility_seconds = 14", "warning"),
        ("visibility_seconds = 10", "warning"),
        ("visibility_seconds = 60\nheartbeat_seconds = 55", "warning"),
    ],
)
def test_a_visibility_that_one_slow_heartbeat_outlasts_is_a_warning(settings, queue, level):
    [finding] = [one for one in findings(settings(queue), FakeSqs()) if one.text.startswith("visibility_seconds")]
    assert finding.level == level


def test_a_time_limit_over_the_visibility_is_no_fault_since_heartbeats_keep_the_message(settings):
    found = findings(settings(), FakeSqs(), route(timeout_seconds=900))
    [finding] = [one for one in found if one.text.startswith("visibility_seconds")]
    assert finding.level == "ok"
    assert "longest time limit: 900 s" in finding.text


@pytest.mark.parametrize(
    ("wait_seconds", "drain_seconds", "suggested"),
    [(20, 25, None), (20, 23, None), (20, 22, 19), (20, 2, 1), (1, 1, 1)],
)
def test_a_poll_that_can_outlast_the_drain_is_a_warning_that_names_the_setting(
    settings, wait_seconds, drain_seconds, suggested
):
    found = findings(
        settings(f"wait_seconds = {wait_seconds}", f"[worker]\ndrain_seconds = {drain_seconds}"), FakeSqs()
    )
    if suggested is None:
        assert levels(found) == {"ok", "note"}
    else:
        assert the(found, "warning").endswith(f"set wait_seconds = {suggested} or less")


# --- the whole


@pytest.fixture
def main(tmp_path, monkeypatch):
    """main(config, handlers) -> exit code of `check`, in this process."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    for name in ("DYNO", "ECS_CONTAINER_METADATA_URI_V4", "KUBERNETES_SERVICE_HOST"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    package = f"checked_{abs(hash(tmp_path))}"  # handlers that were loaded in this process stay

    def main(config: str, text: str = HANDLERS) -> int:
        write_project(tmp_path, text, f'[worker]\nhandlers = ["{package}"]\n{config}', package)
        return cli.main(["check"])

    yield main
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture(scope="module")
def server():
    server = LocalSqs(port=0)
    server.start()
    yield server
    server.stop()


HANDLERS = """
import gevent
import msgspec
from millpond import handler

class Settings(msgspec.Struct):
    host: str = "here"

def setup(settings: Settings) -> None:
    if settings.host == "nowhere":
        raise OSError("no route to it")

@handler("b.job")
def b(payload: dict) -> None:
    pass

@handler("a.job")
def a(payload: dict) -> None:
    pass
"""


def test_check_draws_every_finding_on_a_real_queue_and_takes_no_message(main, server, capsys):
    queues = LocalQueues(server.url)
    url = queues.create("fine")
    queues.send("fine", "a.job")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as statsd:
        statsd.bind(("127.0.0.1", 0))
        port = statsd.getsockname()[1]
        assert main(f'[queues.fine]\nurl = "{url}"\n[statsd]\nhost = "127.0.0.1"\nport = {port}\n') == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "the worker can work: 0 errors, 0 warnings"
    assert any(line.split() == ["ok", "handlers", "types:", "a.job,", "b.job"] for line in lines)
    assert any("the queue is reachable; about 1 message waits, 0 are in flight" in line for line in lines)
    assert sum(" is allowed" in line for line in lines) == 3
    assert any(f"metrics go to 127.0.0.1:{port}" in line for line in lines)
    assert queues.counts("fine") == (1, 0, 0)


def test_check_names_a_folder_of_handlers_that_is_not_listed(main, capsys, tmp_path):
    (tmp_path / "handlers").mkdir()
    assert main('[queues.emails]\nurl = "local"\n') == 0
    assert "is not in [worker] handlers, so it is not loaded" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("own", "shown"),
    [
        (
            'rate = "14/s"\nconcurrency = 5\nbreaker = {failures = 0}',
            "14/s, 5 at once; it waits after 5 failures in a row that are the other side's ok",
        ),
        ("breaker = false", "no rate, any number at once; it never waits for the other side ok"),
    ],
)
def test_check_shows_what_holds_the_messages_of_each_type_back(main, capsys, own, shown):
    assert main(f'[queues.emails]\nurl = "local"\n[types."a.job"]\n{own}\n') == 0
    assert f"a.job: {shown}" in " ".join(capsys.readouterr().out.split())


def test_check_names_a_type_of_config_toml_that_no_handler_takes(main, capsys):
    assert main('[queues.emails]\nurl = "local"\n[types."a.jop"]\n') == 3
    assert '[types."a.jop"]: no handler takes this type; did you mean a.job?' in capsys.readouterr().out


def test_check_on_the_local_queue_says_that_it_starts_with_the_worker(main, capsys):
    assert main('[queues.emails]\nurl = "local"\n') == 0
    assert "it starts with the worker, nothing to reach" in capsys.readouterr().out


def test_check_says_that_the_local_port_is_in_use(main, server, capsys):
    port = server.url.rpartition(":")[2]
    assert main(f'[queues.emails]\nurl = "local"\n[local]\nport = {port}\n') == 0
    assert f"port = {port} is in use" in capsys.readouterr().out


def test_check_is_exit_3_where_one_queue_of_two_is_missing(main, server, capsys):
    url = LocalQueues(server.url).create("there")
    config = f'[queues.a]\nurl = "{server.url}/000000000000/missing"\n[queues.b]\nurl = "{url}"\n'
    assert main(config) == 3
    out = capsys.readouterr().out
    assert "the worker cannot work: 1 error, 0 warnings" in out
    assert [line.split()[1] for line in out.splitlines() if line.startswith("error")] == ["queues.a"]


def test_check_goes_on_with_the_queues_where_handlers_cannot_be_loaded(main, capsys):
    assert main('[queues.emails]\nurl = "local"\n', "import nothing_like_that") == 3
    out = capsys.readouterr().out
    assert "No module named 'nothing_like_that'" in out
    assert "queues.emails" in out


def test_check_calls_setup_as_the_worker_will_and_says_nothing_good_of_one_that_fails(main, capsys):
    assert main('[handlers.work]\nhost = "nowhere"\n[queues.emails]\nurl = "local"\n') == 3
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    [(level, _, module, *text)] = [line for line in lines if line[:2] == ["error", "handlers"]]
    assert level == "error"
    assert module.endswith(".work:")
    assert " ".join(text).startswith("setup() failed: OSError: no route to it (")


def test_check_says_that_it_does_not_try_the_servers_of_handlers_that_have_a_setup(main, capsys):
    assert main('[handlers.work]\nhost = "here"\n[queues.emails]\nurl = "local"\n') == 0
    note = "note handlers the servers of handlers that have no preflight() are not tried"
    assert note in [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]


def test_a_setting_that_a_handlers_module_does_not_know_is_an_error(main, capsys):
    assert main('[handlers.work]\nhots = "here"\n[queues.emails]\nurl = "local"\n') == 3
    assert "did you mean host?" in capsys.readouterr().out


def process_findings(settings: AllSettings, **environ: str) -> dict[str, Finding]:
    found = {finding.where: finding for finding in check.preflight(settings, environ, NOWHERE)}
    return {where: found[where] for where in ("statsd", "platform")}


@pytest.fixture
def local(tmp_path):
    def local(more: str) -> AllSettings:
        write_project(tmp_path, "", f'[queues.q]\nurl = "local"\n{more}')
        return load(tmp_path / "config.toml", {})

    return local


def test_port_465_without_tls_is_told_by_check_as_at_boot(tmp_path):
    text = f'[worker]\nhandlers = ["{ROOT / "handlers"}"]\n[queues.q]\nurl = "local"\n[local]\nport = 0\n'
    (tmp_path / "config.toml").write_text(f'{text}[handlers.email]\nhost = "h"\nport = 465\nfrom = "a@b.org"\n')
    for command in (["check"], []):
        with WorkerProcess(tmp_path, *command) as process:
            assert process.exit_code() == 3
            assert "port 465" in " ".join(process.output().split())


@pytest.mark.parametrize("host", ["nowhere.invalid", "x" * 64 + ".example.com"])
def test_a_statsd_host_that_cannot_be_found_is_a_warning(local, host):
    finding = process_findings(local(f'[statsd]\nhost = "{host}"'))["statsd"]
    assert finding.level == "warning"
    assert host in finding.text


def test_a_statsd_host_that_no_name_server_answers_for_is_a_warning_in_time(local, monkeypatch):
    answered = Event()
    monkeypatch.setattr(check_host, "LOOKUP_SECONDS", 0.1)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: answered.wait())
    with gevent.Timeout(10):
        finding = process_findings(local('[statsd]\nhost = "statsd.example"'))["statsd"]
    answered.set()
    assert finding.level == "warning"
    assert "timed out" in finding.text


@pytest.mark.parametrize(
    ("variable", "platform"),
    [("DYNO", "Heroku"), ("ECS_CONTAINER_METADATA_URI_V4", "ECS"), ("KUBERNETES_SERVICE_HOST", "Kubernetes")],
)
def test_a_drain_that_the_platform_would_cut_short_is_a_warning(local, variable, platform):
    settings = local("[worker]\ndrain_seconds = 26")
    assert process_findings(settings)["platform"].level == "note"
    finding = process_findings(settings, **{variable: "x"})["platform"]
    assert (finding.level, finding.text.split()[0]) == ("warning", platform)
    settings = msgspec.structs.replace(settings, worker=msgspec.structs.replace(settings.worker, drain_seconds=25.0))
    assert process_findings(settings, **{variable: "x"})["platform"].level == "ok"


def test_a_queue_without_a_region_is_an_error_and_not_the_end_of_the_check(settings, monkeypatch, tmp_path):
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    regionless = settings('event_type = "x"').queues["mails"]
    url = "https://vpce-1.sqs.amazonaws.com/1/mails"
    with pytest.raises(ConfigError, match=r"set \[sqs\] region"):
        queue_at(url, regionless, settings())
    found = list(
        check.preflight(
            msgspec.structs.replace(settings(), queues={"mails": msgspec.structs.replace(regionless, url=url)}), {}
        )
    )
    assert any(finding.level == "error" and "[sqs] region" in finding.text for finding in found)
    assert found[-1].where == "platform"


def test_where_a_proxy_takes_boto3_to_speak_to_it_the_check_says_so(settings, monkeypatch):
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    told = {
        client: [
            one for one in check.preflight(settings(more=f'[sqs]\nclient = "{client}"'), {}) if "proxy" in one.text
        ]
        for client in ("wire", "boto3")
    }
    assert [one.level for one in told["wire"] if "boto3 is used" in one.text] == ["note"]
    assert [one for one in told["boto3"] if "boto3 is used" in one.text] == []


def test_a_region_that_is_not_the_urls_is_told_and_the_urls_counts(tmp_path):
    """A queue of the same name in the other region is another queue: its messages are not ours."""
    file, url = tmp_path / "config.toml", "https://sqs.eu-west-1.amazonaws.com/123456789012/work"
    file.write_text(f'[queues.work]\nurl = "{url}"\n[sqs]\nregion = "us-west-2"\n')
    [finding] = list(check._client("work", load(file, {})))
    assert (finding.level, finding.where) == ("note", "queues.work")
    text = "the URL names the region eu-west-1, and that counts: [sqs] region (AWS_REGION) is us-west-2"
    assert finding.text == text
    file.write_text(f'[queues.work]\nurl = "{url}"\n')
    assert list(check._client("work", load(file, {}))) == []


def test_another_host_than_the_urls_is_told(tmp_path, monkeypatch):
    file, url = tmp_path / "config.toml", "https://sqs.eu-west-1.amazonaws.com/123456789012/work"
    file.write_text(f'[queues.work]\nurl = "{url}"\n')
    monkeypatch.setenv("AWS_ENDPOINT_URL_SQS", "http://127.0.0.1:4566")
    [finding] = list(check._client("work", load(file, {})))
    assert finding.level == "note"
    assert finding.text.startswith("http://127.0.0.1:4566/ is called, by [sqs] endpoint_url")
