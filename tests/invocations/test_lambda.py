"""A Lambda function as Lambda runs it: the real awslambdaric, a Runtime API, and an event source mapping's part."""

from __future__ import annotations

import json
import signal
import socket
import time
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from tests.invocations import runtime_api
from tests.invocations.runtime_api import EventSourceMapping, FunctionError, Lambda, RuntimeApi, record
from tests.worker_process import LocalQueues, local_sqs, write_project

pytestmark = pytest.mark.slow

HANDLERS = """
import gc, time
import gevent, msgspec
from millpond import Message, Reject, handler

class Job(msgspec.Struct):
    n: int = 0

@handler("ok")
def ok(job: Job, message: Message) -> None:
    gevent.sleep(0.005)

@handler("fail")
def fail(job: Job) -> None:
    raise ValueError("not today")

@handler("reject")
def reject(job: Job) -> None:
    raise Reject("no such customer")

@handler("slow")
def slow(job: Job) -> None:
    time.sleep(30)

@handler("alone", concurrency=1)
def alone(job: Job) -> None:
    time.sleep(30 if job.n else 0)

@handler("kills")
def kills(job: Job) -> None:
    time.sleep(0.1)
    for one in gc.get_objects():
        if isinstance(one, gevent.Greenlet) and one is not gevent.getcurrent():
            one.kill(block=False)

@handler("leaves")
def leaves(job: Job, message: Message) -> None:
    if job.n == 0:
        message.follow_up({"n": 1})
"""
#: The runtimes of today poll in a thread: see lambda_config.py of awslambdaric.
ENVIRON = {"AWS_EXECUTION_ENV": "AWS_Lambda_python3.13"}

CONFIG = """
[worker]
handlers = ["jobs"]
[statsd]
host = "127.0.0.1"
port = "${STATSD_PORT}"
[log]
succeeded_per_second = 1
"""


class Stage(NamedTuple):
    """One function, and the queues that are mapped to it."""

    function: Lambda
    queues: LocalQueues
    api: RuntimeApi
    metrics: socket.socket

    def mapping(self, name: str, timeout: float = 30.0) -> EventSourceMapping:
        return EventSourceMapping(self.queues, name, self.api, timeout)


@pytest.fixture(scope="module")
def stage(tmp_path_factory) -> Iterator[Stage]:
    folder = tmp_path_factory.mktemp("function")
    with local_sqs(folder) as queues, runtime_api.running() as api:
        tables = "".join(f'[queues.{name.partition(".")[0]}]\nurl = "{create(queues, name)}"\n' for name in QUEUES)
        project = write_project(folder / "project", HANDLERS, CONFIG + tables)
        metrics = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        metrics.bind(("127.0.0.1", 0))
        metrics.settimeout(5)
        port = str(metrics.getsockname()[1])
        with metrics, Lambda(project, api, STATSD_PORT=port, **ENVIRON) as function:
            yield Stage(function, queues, api, metrics)


QUEUES = (
    "ten",
    "ordered.fifo",
    "broken.fifo",
    "letters",
    "leaves",
    "slow",
    "refused",
    "other",
    "frozen",
    "many",
    "killed",
)  # a test's own each


def create(queues: LocalQueues, name: str) -> str:
    if not name.endswith(".fifo"):
        return queues.create(name)
    queues.sqs.create_queue(QueueName=name, Attributes={"FifoQueue": "true", "ContentBasedDeduplication": "true"})
    return queues.url(name)


def put(stage: Stage, name: str, *types: str, groups: str = "") -> None:
    """One message of each type; a FIFO queue needs groups, a letter for each."""
    for n, event_type in enumerate(types):
        body = json.dumps({"event_type": event_type, "event_id": f"e{n}", "payload": {"n": n}})
        more = {"MessageGroupId": groups[n]} if groups else {}
        stage.queues.sqs.send_message(QueueUrl=stage.queues.url(name), MessageBody=body, **more)


def numbers(mapping: EventSourceMapping, ids: list[str]) -> list[int]:
    """Which messages of the last batch these are."""
    bodies = {one["messageId"]: json.loads(one["body"]) for one in mapping.batches[-1]["Records"]}
    return sorted(bodies[one]["payload"]["n"] for one in ids)


def test_a_batch_of_ten_with_failures_at_3_and_7_returns_just_those(stage):
    put(stage, "ten", *("fail" if n in (3, 7) else "ok" for n in range(10)))
    mapping = stage.mapping("ten")
    assert numbers(mapping, mapping.poll()) == [3, 7]
    assert stage.queues.counts("ten") == (0, 2, 0)  # hidden by their back-off
    for _ in range(2):
        assert stage.function.expect("message.retried", cause="failed")["delay_seconds"] > 0
    answered = stage.function.expect("lambda.answered", queue="ten")
    assert (answered["records"], answered["failures"]) == (10, 2)
    assert stage.function.all("") == []  # what Lambda's own log handler would write beside each line


def test_of_a_fifo_queue_3_and_all_after_it_of_its_group_are_returned(stage):
    groups = "ababbabaab"
    put(stage, "ordered.fifo", *("fail" if n == 3 else "ok" for n in range(10)), groups=groups)
    mapping = stage.mapping("ordered.fifo")
    failed = numbers(mapping, mapping.poll())
    assert failed == [n for n in range(3, 10) if groups[n] == "b"] == [3, 4, 6, 9]
    assert stage.queues.receive("ordered.fifo") == []  # the group stays in order, behind the back-off of 3


def test_a_reject_is_a_dead_letter_with_its_reason_and_done(stage):
    put(stage, "letters", "ok", "reject", "nobody's")
    assert stage.mapping("letters").poll() == []
    letters = stage.queues.receive("letters-dead")
    reasons = sorted(json.loads(one["MessageAttributes"]["millpond"]["StringValue"])["reason"] for one in letters)
    assert reasons == ['no handler for type "nobody\'s"', "no such customer"]
    assert stage.queues.counts("letters") == (0, 0, 0)


def test_what_a_handler_leaves_behind_is_sent(stage):
    put(stage, "leaves", "leaves")
    mapping = stage.mapping("leaves")
    assert mapping.poll() == []
    assert mapping.poll(1) == []
    assert json.loads(mapping.batches[-1]["Records"][0]["body"])["event_id"] == "e0/1"


@pytest.mark.clock
def test_a_handler_has_the_time_of_the_function_and_the_others_are_done(stage):
    put(stage, "slow", "ok", "slow", "ok")
    mapping = stage.mapping("slow", timeout=2)
    began = time.monotonic()
    assert numbers(mapping, mapping.poll()) == [1]
    assert 1.0 < time.monotonic() - began < 2.0
    retried = stage.function.expect("message.retried", cause="timed_out")
    assert "all that the function has left; it stood at jobs/work.py" in retried["reason"]
    assert retried["delay_seconds"] > 0


def test_an_event_that_cannot_be_answered_for_begins_nothing_and_comes_again(stage):
    put(stage, "refused", "ok", "ok")
    mapping = stage.mapping("refused")
    messages = stage.queues.receive("refused")
    nameless = [record(message, "refused") for message in messages]
    del nameless[1]["messageId"]
    for event in ({"Records": nameless}, {"Records": "none"}, ["no event"], {"Records": [record(messages[0], "lost")]}):
        with pytest.raises(FunctionError, match="EventError"):
            stage.api.invoke(event)
        assert stage.function.expect("lambda.refused")["level"] == "critical"
    assert mapping.hand_over(messages) == []


def test_what_stands_behind_a_record_that_cannot_begin_on_a_fifo_queue_does_not_begin(stage):
    put(stage, "broken.fifo", *["ok"] * 4, groups="abab")
    records = [record(message, "broken.fifo") for message in stage.queues.receive("broken.fifo")]
    del records[1]["receiptHandle"]
    failed = [one["itemIdentifier"] for one in stage.api.invoke({"Records": records})["batchItemFailures"]]
    assert failed == [one["messageId"] for one in records[1:]]
    assert stage.function.expect("lambda.incomplete")["queue"] == "broken"


def test_each_record_of_a_queue_is_settled_there(stage):
    stage.queues.send("other", "fail", {"n": 0})
    mapping = stage.mapping("other")
    (failed,) = mapping.poll()
    assert stage.function.expect("message.retried", message_id=failed)["queue"] == "other"
    assert stage.queues.counts("other") == (0, 1, 0)


@pytest.mark.clock
def test_an_environment_that_was_frozen_goes_on_with_the_next_batch(stage):
    put(stage, "frozen", "ok", "fail")
    mapping = stage.mapping("frozen")
    assert len(mapping.poll()) == 1
    stage.function.signal(signal.SIGSTOP)
    time.sleep(1.5)
    stage.function.signal(signal.SIGCONT)
    put(stage, "frozen", *["ok"] * 10)
    began = time.monotonic()
    assert mapping.poll() == []
    assert time.monotonic() - began < 1
    assert stage.function.all("message.lease_lost") == []


def test_with_the_answer_all_that_was_counted_is_out(stage):
    """The environment is frozen then: a second later would be at the next batch, or never."""
    put(stage, "many", *["ok"] * 10)
    assert stage.mapping("many").poll() == []
    assert stage.function.expect("lambda.answered", queue="many")["message"] == "many: 10 of 10 records are done"
    assert stage.function.expect("message.succeeded", queue="many", seconds=1)["more"] >= 9
    counted = b""
    while b"millpond.many.succeeded:10|c" not in counted:
        counted = stage.metrics.recv(65_536)


def test_one_record_is_done_and_more_are(stage):
    put(stage, "many", "ok")
    assert stage.mapping("many").poll() == []
    assert stage.function.expect("lambda.answered", records=1)["message"] == "many: 1 of 1 record is done"


@pytest.mark.clock
def test_a_handler_that_kills_the_engine_costs_the_others_of_its_batch_nothing(stage):
    put(stage, "killed", "ok", "kills", "alone", "ok")
    mapping = stage.mapping("killed")
    began = time.monotonic()
    assert numbers(mapping, mapping.poll()) == [1, 2]
    assert time.monotonic() - began < 3
    assert stage.function.expect("lambda.crashed")["level"] == "critical"
    put(stage, "killed", "alone", "ok")  # its gate has forgotten the one that ended with the engine
    began = time.monotonic()
    assert mapping.poll() == []
    assert time.monotonic() - began < 3


#: SQS does not answer the first question, and the boot waits no longer than this for it.
HANGS_AT_BOOT = """
from millpond.lambda_ import entry

import gevent
from millpond.invocations import function
from millpond.sqs.sqs_queue import SqsQueue

attributes, function.ASK_SECONDS = SqsQueue.attributes, 0.2

def hangs(self):
    SqsQueue.attributes = attributes
    gevent.sleep(60)

SqsQueue.attributes = hangs
handler = entry()
"""


def test_a_queue_that_did_not_answer_at_the_boot_is_asked_again_before_a_batch(stage, tmp_path):
    config = f'[worker]\nhandlers = ["jobs"]\n[queues.q]\nurl = "{stage.queues.create("late")}"\n'
    project = write_project(tmp_path / "project", HANDLERS, config)
    with runtime_api.running() as api, Lambda(project, api, app=HANGS_AT_BOOT, **ENVIRON):
        mapping = EventSourceMapping(stage.queues, "late", api)
        put(stage, "late", "reject")
        assert mapping.poll() == []
    assert len(stage.queues.receive("late-dead")) == 1


def test_a_queue_that_is_gone_keeps_no_other_from_its_work(stage, tmp_path):
    tables = "".join(
        f'[queues.{name}]\nurl = "{url}"\n'
        for name, url in {"stays": stage.queues.create("stays"), "gone": stage.queues.url("ten") + "-gone"}.items()
    )
    project = write_project(tmp_path / "project", HANDLERS, f'[worker]\nhandlers = ["jobs"]\n{tables}')
    with runtime_api.running() as api, Lambda(project, api, **ENVIRON) as function:
        put(stage, "stays", "reject")
        assert EventSourceMapping(stage.queues, "stays", api).poll() == []
        assert "NonExistentQueue" in function.expect("queue.unknown", queue="gone")["code"]


#: No name server answers.
NO_NAMES = """
from millpond.lambda_ import entry

import gevent
from millpond.observe.statsd_sender import StatsdSocket

StatsdSocket._resolve = lambda self: gevent.sleep(60)
handler = entry()
"""


@pytest.mark.clock
def test_metrics_that_find_no_address_cost_no_batch_its_answer(stage, tmp_path):
    config = f'{CONFIG}[queues.q]\nurl = "{stage.queues.create("nameless")}"\n'
    project = write_project(tmp_path / "project", HANDLERS, config)
    with runtime_api.running() as api, Lambda(project, api, app=NO_NAMES, STATSD_PORT="8125", **ENVIRON):
        mapping = EventSourceMapping(stage.queues, "nameless", api, timeout=1.0)
        put(stage, "nameless", "ok")
        assert mapping.poll() == []  # it has booted
        put(stage, "nameless", "ok", "slow")
        began = time.monotonic()
        assert numbers(mapping, mapping.poll()) == [1]
        assert time.monotonic() - began < 1.0


@pytest.mark.parametrize(
    ("app", "found"),
    [
        (runtime_api.APP, '[queues.q] url = "local": set SQS_QUEUE_URL: AWS_LAMBDA_FUNCTION_NAME is set'),
        (f"import ssl\n{runtime_api.APP}", "import millpond.lambda_ first of all"),
    ],
    ids=["settings", "patch"],
)
def test_what_is_wrong_at_the_boot_is_what_lambda_shows(tmp_path, app, found):
    project = write_project(
        tmp_path / "project", HANDLERS, '[worker]\nhandlers = ["jobs"]\n[queues.q]\nurl = "local"\n'
    )
    with runtime_api.running() as api, Lambda(project, api, app=app) as function:
        assert function.exit_code() == 1
    assert [error["errorType"] for error in api.errors] == ["ConfigError"]
    assert found in api.errors[0]["errorMessage"]
