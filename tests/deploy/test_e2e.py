"""deploy/e2e.py against real worker processes on a local queue, and against CloudWatch and ECS by moto."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

import boto3
import pytest

from deploy import e2e
from millpond.engine.outcomes import SUCCEEDED
from millpond.engine.settler import _late
from tests.dynamo_server import KEYS, listen
from tests.worker_process import ROOT, SECONDS, LocalQueues, local_sqs, write_project

HANDLERS = """
from millpond import Discard, Message, Reject, Retry, handler

@handler("e2e.ping", backoff=(0, 0))
def ping(payload: dict, message: Message) -> None:
    if payload.get("reject") and message.event_id.endswith("-00004"):
        raise Reject("no such customer")
    if payload.get("again") and message.attempt == 1 and message.event_id.endswith("7"):
        raise Retry("not yet", after=0)
"""
CONFIG = """
[worker]
handlers = ["jobs"]
[queues.q]
url = "{url}"
wait_seconds = 1
[log]
format = "json"
succeeded_per_second = {per_second}
"""
MANY = 100_000


def config(queues: LocalQueues, per_second: int = MANY) -> str:
    return CONFIG.format(url=queues.url("q"), per_second=per_second)


@pytest.fixture(scope="module")
def sqs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalQueues]:
    with local_sqs(tmp_path_factory.mktemp("sqs")) as queues:
        yield queues


@pytest.fixture
def queues(sqs: LocalQueues) -> Iterator[LocalQueues]:
    sqs.create("q")
    yield sqs
    for name in ("q", "q-dead"):
        sqs.sqs.delete_queue(QueueUrl=sqs.url(name))


class Tried:
    """A run of e2e.py in a process of its own, with a pipe for the log."""

    def __init__(self, queues: LocalQueues, *arguments: str) -> None:
        reading, writing = os.pipe()
        self.log = os.fdopen(writing, "wb")  # gevent's own os.close closes later
        program = [sys.executable, str(ROOT / "deploy/e2e.py"), "--queue-url", queues.url("q"), "--type", "e2e.ping"]
        self.process = subprocess.Popen(
            [*program, "--settle", "1", *arguments],
            stdin=reading,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={"PATH": os.environ["PATH"]},
            text=True,
        )
        os.close(reading)
        assert self.process.stdout is not None
        self._stdout: IO[str] = self.process.stdout

    def wait_until_sent(self) -> str:
        """The first of the jobs' event ids."""
        line = self._stdout.readline()
        assert "jobs e2e.ping sent to q, event ids " in line
        return re.findall(r"e2e-\w+-00001", line)[0]

    def result(self) -> tuple[int, str]:
        self.log.close()
        text, _ = self.process.communicate(timeout=SECONDS * 2)
        return self.process.returncode, text


@contextmanager
def worker(folder: Path, config: str, log: IO[bytes], *options: str) -> Iterator[subprocess.Popen[bytes]]:
    """A worker whose standard output is this pipe."""
    write_project(folder, HANDLERS, config)
    environ = {"PATH": os.environ["PATH"], "HOME": str(folder), "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([sys.executable, ROOT / "worker.py", *options], cwd=folder, env=environ, stdout=log)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(SECONDS)


@pytest.mark.slow
def test_each_job_is_done_once_and_the_times_are_printed(queues: LocalQueues, tmp_path: Path) -> None:
    tried = Tried(queues, "--jobs", "500", "--payload", '{"again": true}')
    with worker(tmp_path / "app", config(queues), tried.log):
        tried.process.wait(SECONDS * 2)
    code, text = tried.result()
    assert code == 0, text
    assert "500 jobs e2e.ping sent to q" in text
    assert re.search(r"500 of 500 done in \d+\.\d s, \d+\.\d a second", text)
    assert re.search(r"sent to done \(s\): +min \d+\.\d{3}  p50 \d+\.\d{3}  p90 .*  p99 .*  max \d+\.\d{3}", text)
    assert "in the handler (s):" in text
    assert "retries: 50\n" in text
    assert text.endswith("passed: each job was done once\n")


@pytest.mark.slow
def test_one_lost_one_doubled_and_one_dead_letter_are_each_named(queues: LocalQueues, tmp_path: Path) -> None:
    tried = Tried(queues, "--jobs", "50", "--payload", '{"reject": true}')
    first = tried.wait_until_sent()
    lost, doubled = plant_a_loss_and_a_double(queues, {f"{first[:-5]}00004"})
    with worker(tmp_path / "app", config(queues), tried.log, "--until-empty") as process:
        process.wait(SECONDS * 2)
    code, text = tried.result()  # the log has ended: nothing more is to be waited for
    assert code == 1
    assert f"missing: {lost}: no line of the log says that it is done\n" in text
    assert re.search(rf"doubled: {doubled}: it succeeded 2 times, within \d+\.\d s\n", text)
    assert f"dead-lettered: {first[:-5]}00004: no such customer\n" in text
    assert f"{first[:-5]}00004 was still in the dead-letter queue: deleted\n" in text
    assert text.endswith("FAILED: 1 missing, 1 doubled, 1 dead-lettered\n")
    assert queues.counts("q") == queues.counts("q-dead") == (0, 0, 0)


def plant_a_loss_and_a_double(queues: LocalQueues, not_these: set[str]) -> tuple[str, str]:
    """Take one message away, and send another a second time; their event ids."""
    found = queues.receive("q")
    lost, doubled = [one for one in found if json.loads(one["Body"])["event_id"] not in not_these][:2]
    queues.sqs.delete_message(QueueUrl=queues.url("q"), ReceiptHandle=lost["ReceiptHandle"])
    queues.sqs.send_message(QueueUrl=queues.url("q"), MessageBody=doubled["Body"])
    for handle in (one["ReceiptHandle"] for one in found if one is not lost):
        queues.sqs.change_message_visibility(QueueUrl=queues.url("q"), ReceiptHandle=handle, VisibilityTimeout=0)
    return json.loads(lost["Body"])["event_id"], json.loads(doubled["Body"])["event_id"]


@pytest.mark.slow
def test_a_log_that_only_counts_successes_is_named_as_the_reason(queues: LocalQueues, tmp_path: Path) -> None:
    tried = Tried(queues, "--jobs", "30")
    tried.wait_until_sent()
    with worker(tmp_path / "app", config(queues, per_second=3), tried.log, "--until-empty") as process:
        process.wait(SECONDS * 2)
    code, text = tried.result()
    assert code == 1
    hidden = int(re.findall(r"the log only counts (\d+) successes", text)[0])
    missing = int(re.findall(r"FAILED: (\d+) missing", text)[0])
    assert hidden >= missing >= 1
    assert "set LOG_SUCCEEDED_PER_SECOND=100000" in text


def success(name: str, **more: object) -> str:
    """A line of the log."""
    line = {"event": "message.succeeded", "event_id": name, "ts": datetime.now(UTC).isoformat(), **more}
    return json.dumps(line)


@pytest.mark.slow
@pytest.mark.parametrize(("counted_at", "passes"), [("of the run", False), ("before it", True)])
def test_doubles_may_be_among_successes_that_are_only_counted(
    queues: LocalQueues, counted_at: str, passes: bool
) -> None:
    tried = Tried(queues, "--jobs", "1")
    name = tried.wait_until_sent()
    old = {} if counted_at == "of the run" else {"ts": "2026-01-01T00:00:00+00:00"}
    for line in (success("", more=2, **old), success(name)):
        tried.log.write(f"{line}\n".encode())
    code, text = tried.result()
    assert (code, "passed: each job was done once" in text) == (0 if passes else 1, passes)
    assert ("the log only counts 2 successes, and doubles may be among them: set" in text) is not passes


def test_a_success_that_came_too_late_beside_another_is_a_double() -> None:
    """Its handler ran to its end, and SQS had the message delivered again by then."""
    books = e2e.Books()
    books.jobs["e"] = e2e.Job(time.time())
    assert books.read(json.dumps({"event": "message.lease_lost", "event_id": "e", "reason": _late(SUCCEEDED).reason}))
    assert not books.are_settled
    assert books.read(success("e"))
    assert "e: it succeeded 2 times" in books.failures()["doubled"][0]


class Group:
    """A log group, and an ECS service, by moto in this process."""

    def __init__(self, url: str) -> None:
        self.logs = boto3.client("logs", endpoint_url=url, **KEYS)
        self.logs.create_log_group(logGroupName="/ecs/app")
        self.ecs = boto3.client("ecs", endpoint_url=url, **KEYS)

    def write(self, stream: str, lines: list[str], age_ms: int = 0) -> None:
        self.logs.create_log_stream(logGroupName="/ecs/app", logStreamName=stream)
        now = int(time.time() * 1000) - age_ms
        events = [{"timestamp": now, "message": line} for line in lines]
        self.logs.put_log_events(logGroupName="/ecs/app", logStreamName=stream, logEvents=events)

    def make_service(self, desired: int) -> str:
        arn = str(self.ecs.create_cluster(clusterName="jobs")["cluster"]["clusterArn"])
        container = {"name": "worker", "image": "worker", "memory": 256}
        self.ecs.register_task_definition(family="worker", containerDefinitions=[container])
        self.ecs.create_service(cluster=arn, serviceName="worker", taskDefinition="worker", desiredCount=desired)
        return arn


@pytest.fixture
def group(monkeypatch: pytest.MonkeyPatch) -> Iterator[Group]:
    server, _ = listen()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    url = f"http://127.0.0.1:{server.server_port}"
    for name in ("CLOUDWATCH_LOGS", "ECS"):
        monkeypatch.setenv(f"AWS_ENDPOINT_URL_{name}", url)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "nobody")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "nothing")
    monkeypatch.setenv("MOTO_ECS_SERVICE_RUNNING", "2")
    monkeypatch.setattr(e2e.CloudWatch, "look_seconds", 0.1)
    try:
        yield Group(url)
    finally:
        boto3.client("logs", endpoint_url=url, **KEYS).delete_log_group(logGroupName="/ecs/app")
        server.shutdown()
        thread.join()
        server.server_close()


def by_group(queues: LocalQueues, *arguments: str) -> int:
    where = ["--queue-url", queues.url("q"), "--type", "e2e.ping", "--log-group", "/ecs/app", "--settle", "0.3"]
    return e2e.main([*where, *arguments])


def succeeded(queues: LocalQueues, number: int) -> Iterator[str]:
    """A worker's line for each message that comes."""
    while number and (batch := queues.receive("q", 5)):
        for message in batch:
            number -= 1
            body = json.loads(message["Body"])
            queues.sqs.delete_message(QueueUrl=queues.url("q"), ReceiptHandle=message["ReceiptHandle"])
            yield json.dumps(
                {"ts": "2026-11-26T12:00:00Z", "event": "message.succeeded", "event_id": body["event_id"], "seconds": 0}
            )


@pytest.mark.slow
def test_the_log_of_a_running_ecs_service_is_read_from_cloudwatch(
    queues: LocalQueues, group: Group, capsys: pytest.CaptureFixture[str]
) -> None:
    arn = group.make_service(desired=2)
    others = ["START RequestId: 1", json.dumps({"event": "message.succeeded", "event_id": "another"})]

    def work() -> None:
        lines = list(succeeded(queues, 25))
        group.write("worker/1", lines[:13] + others)
        group.write("worker/2", lines[13:])

    thread = threading.Thread(target=work)
    thread.start()
    code = by_group(queues, "--jobs", "25", "--cluster-arn", arn, "--service-name", "worker")
    thread.join()
    shown = capsys.readouterr()
    assert (code, shown.err) == (0, "")
    assert "25 of 25 done" in shown.out


@pytest.mark.slow
def test_what_cannot_be_tried_sends_nothing_and_says_why(
    queues: LocalQueues, group: Group, capsys: pytest.CaptureFixture[str]
) -> None:
    arn = group.make_service(desired=3)  # of which two run
    service = ("--cluster-arn", arn, "--service-name")
    for arguments, said in (
        (("--log-group", "/ecs/none"), "ResourceNotFoundException"),
        ((*service, "worker", "--timeout", "0.2"), "service worker does not run: 2 of 3 tasks run"),
        ((*service, "other"), "there is no service other in arn:aws:ecs:"),
    ):
        assert by_group(queues, *arguments) == 3
        assert said in capsys.readouterr().err
    assert queues.counts("q") == (0, 0, 0)


@pytest.mark.slow
def test_a_line_that_reaches_cloudwatch_late_is_read_once_and_so_is_every_other(group: Group) -> None:
    log = e2e.CloudWatch("/ecs/app", "us-east-1", "e2e-1")
    group.write("worker/1", ["first"])
    assert [*log.new_lines()] == ["first"]
    group.write("worker/2", ["late"], age_ms=30_000)
    assert [*log.new_lines()] == ["late"]
    assert [*log.new_lines()] == []


def test_only_the_runs_own_leftovers_are_removed_and_none_where_that_is_asked(
    queues: LocalQueues, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO()))  # a log that ends at once
    queues.send("q", "other.type", {})
    queues.send("q-dead", "other.type", {})
    where = ["--queue-url", queues.url("q"), "--type", "e2e.ping", "--jobs", "12"]
    assert e2e.main([*where, "--no-cleanup"]) == 1
    assert queues.counts("q") == (13, 0, 0)
    assert e2e.main(where) == 1
    assert queues.counts("q") == (13, 0, 0)
    assert queues.counts("q-dead") == (1, 0, 0)
    shown = capsys.readouterr()
    assert shown.out.count("was still in the queue: deleted") == 12
    assert "the log has ended" in shown.err


class Script:
    """A log that brings these lines, some at each look; it goes on without an end."""

    look_seconds = 0.01
    has_ended = False

    def __init__(self, *looks: list[str]) -> None:
        self._looks = list(looks)

    def new_lines(self) -> list[str]:
        return self._looks.pop(0) if self._looks else []


def test_a_double_that_comes_after_all_are_done_is_seen() -> None:
    found = books()
    options = e2e._parse(["--queue-url", "u", "--type", "t", "--log-group", "g", "--settle", "0.5"])
    e2e._follow(Script([line()], [], [], [], [line()]), found, options)
    assert [*found.failures()] == ["doubled"]


# --- the log's lines


def line(**fields: object) -> str:
    return json.dumps({"ts": "2026-11-26T12:00:01.500Z", "event": "message.succeeded", "event_id": "e2e-1", **fields})


def books(*lines: str) -> e2e.Books:
    books = e2e.Books()
    books.jobs["e2e-1"] = e2e.Job(sent=0.0)
    for text in lines:
        books.read(text)
    return books


@pytest.mark.parametrize("before", ["", "2026-11-26T12:00:02+00:00 app[worker.1]: ", "[pod/worker-0] ", "a | "])
def test_a_line_is_found_behind_what_a_platform_puts_before_it(before: str) -> None:
    found = books(before + line(seconds=0.25))
    assert found.failures() == {}
    [job] = found.jobs.values()
    assert job.handler_seconds == 0.25
    assert job.done == [1795694401.5]


@pytest.mark.parametrize(
    "text", ["", "plain", "{", "[1]", '{"a": 1}', '{"event": 7}', "{" * 100_000, '{"event": "x"} y']
)
def test_what_is_no_line_of_a_worker_is_passed_over(text: str) -> None:
    assert [*books(text).failures()] == ["missing"]


def test_a_repeat_that_an_idempotent_handler_did_not_run_is_no_double() -> None:
    found = books(line(), line(event="message.discarded", cause="duplicate"))
    assert found.failures() == {}
    assert found.jobs["e2e-1"].repeats == 1


def test_a_discarded_job_is_a_failure_with_its_reason() -> None:
    found = books(line(event="message.discarded", reason="already there"))
    assert found.failures() == {"discarded": ["e2e-1: already there"]}


def test_a_dead_letter_without_a_reason_shows_the_error() -> None:
    found = books(line(event="message.dead_lettered", error="ValueError: no"))
    assert found.failures() == {"dead-lettered": ["e2e-1: ValueError: no"]}


def test_a_log_that_is_not_json_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    e2e._print_verdict(books("12:00:00 INFO  message.succeeded in 0.1 s"))
    assert 'no line of the log is JSON: set [log] format = "json"' in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--payload", "{"], "--payload: "),
        (["--payload", "@/none/there"], "--payload: "),
        (["--jobs", "0"], "--jobs must be 1 or more"),
        (["--service-name", "worker"], "--cluster-arn and --service-name go together"),
    ],
)
def test_a_wrong_argument_sends_nothing(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        e2e.main(["--queue-url", "http://127.0.0.1:1/0/q", "--type", "t", "--log-group", "g", *arguments])
    assert ended.value.code == 3
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("url", ["", "emails", "https://sqs.eu-west-1.amazonaws.com", "ftp://host/1/q", "http:///1/q"])
def test_what_is_not_the_url_of_a_queue_is_named(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert e2e.main(["--queue-url", url, "--type", "t", "--log-group", "g"]) == 3
    assert "this is not the URL of a queue" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("url", "region"),
    [
        ("https://sqs.eu-west-1.amazonaws.com/1/q", "eu-west-1"),
        ("https://sqs-fips.us-gov-west-1.amazonaws.com/1/q", "us-gov-west-1"),
        ("https://vpce-1-a.sqs.eu-central-1.vpce.amazonaws.com/1/q", "eu-central-1"),
        ("http://127.0.0.1:9324/000000000000/emails", "us-east-1"),
    ],
)
def test_the_region_is_read_from_the_url(url: str, region: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_REGION", raising=False)
    monkeypatch.delenv("AWS_DEFAULT_REGION", raising=False)
    options = e2e._parse(["--queue-url", url, "--type", "t", "--log-group", "g"])
    assert e2e._region(options) == region
