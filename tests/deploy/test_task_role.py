"""The task role allows what a worker calls, and nothing else: its calls are compared with the policies.

Real worker processes: SQS is the local one behind a proxy, the other services are moto's.
"""

from __future__ import annotations

import json
import threading
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from signal import SIGTERM
from typing import Any

import boto3
import pytest
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server

from millpond import Producer
from tests.between import between
from tests.deploy.terraform_check import as_list, rendered
from tests.deploy.terraform_files import ROOT
from tests.dynamo_server import KEYS
from tests.waiting import until
from tests.worker_process import WorkerProcess, local_sqs, write_project

pytestmark = pytest.mark.slow

POLICIES = ROOT / "deploy/policies"
ENVIRON = {"AWS_REGION": "us-east-1", "AWS_ACCESS_KEY_ID": "any", "AWS_SECRET_ACCESS_KEY": "any"}
HANDLERS = """
import time
import msgspec
from millpond import Discard, Message, Reject, Retry, handler

class Settings(msgspec.Struct):
    password: str
    host: str

def setup(settings: Settings) -> None:
    assert (settings.password, settings.host) == ("hidden", "mail.example.com")

@handler("once", idempotent=True)
def once(payload: dict) -> None:
    pass

@handler("large")
def large(payload: str) -> None:
    pass

@handler("retry")
def retry(payload: dict, message: Message) -> None:
    if message.attempt == 1:
        raise Retry("later", after=1)

@handler("reject")
def reject(payload: dict) -> None:
    raise Reject("never")

@handler("discard")
def discard(payload: dict) -> None:
    raise Discard("not wanted")

@handler("leave")
def leave(payload: dict, message: Message) -> None:
    if "/" not in message.event_id:
        message.follow_up({})

@handler("wait", timeout=60)
def wait(payload: dict) -> None:
    time.sleep(60)
"""
COMMANDS = {
    "check": ["check"],
    "claims release": ["claims", "release", "the-event", "--force"],
}


def allowed(name: str, **values: Any) -> set[tuple[str, str]]:
    """What a policy allows: (action, resource)."""
    found = set()
    for one in rendered(POLICIES / f"{name}.json", values)["Statement"]:
        assert one["Effect"] == "Allow"
        found |= {(action, resource) for action in as_list(one["Action"]) for resource in as_list(one["Resource"])}
    return found


#: What a pointer of the extended client begins with.
CLASS = "software.amazon.payloadoffloading.PayloadS3Pointer"
#: What the agent of ECS calls in the place of the task, by the task's role.
OF_THE_AGENT = {"PUT": "ecs:UpdateTaskProtection", "GET": "ecs:GetTaskProtection"}


class Aws:
    """What is not SQS, by moto, and the right that each call needs."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.called: set[str] = set()

    def client(self, service: str) -> Any:
        return boto3.client(service, endpoint_url=self.url, **KEYS)


@contextmanager
def moto() -> Iterator[Aws]:
    application = DomainDispatcherApplication(create_backend_app)
    lock = threading.Lock()

    def record(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if environ["PATH_INFO"] == "/task-protection/v1/state":
            aws.called.add(OF_THE_AGENT[environ["REQUEST_METHOD"]])
            return _as_the_agent(environ, start_response)
        aws.called.add(_right(environ))
        with lock:  # moto is not made for calls side by side
            return [b"".join(application(environ, start_response))]

    server = make_server("127.0.0.1", 0, record, threaded=True, request_handler=_Quiet)
    server.daemon_threads = True
    aws = Aws(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, args=[0.02])
    thread.start()
    try:
        yield aws
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _as_the_agent(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    wish = json.loads(environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"])))
    answer = json.dumps({"protection": {"ProtectionEnabled": wish["ProtectionEnabled"]}}).encode()
    start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(answer)))])
    return [answer]


class _Quiet(WSGIRequestHandler):
    def log(self, *_: object) -> None:
        pass


def _right(environ: dict[str, Any]) -> str:
    """The right that a call needs: its service is in its signature, its name in a header or, with S3, in its verb."""
    service = environ["HTTP_AUTHORIZATION"].split("Credential=")[1].split("/")[3]
    name = environ.get("HTTP_X_AMZ_TARGET", "").rpartition(".")[2]
    return f"{service}:{name or environ['REQUEST_METHOD'].capitalize() + 'Object'}"


class Run:
    """What a run called: rights on the two queues, and rights elsewhere."""

    def __init__(self, of_queues: list[tuple[str, str]], elsewhere: set[str]) -> None:
        self.of_queues = {
            (f"sqs:{call.removesuffix('Batch')}", {"q": "QUEUE", "q-dead": "DEAD"}[queue]) for call, queue in of_queues
        }
        self.elsewhere = elsewhere

    def of(self, *services: str) -> set[str]:
        return {right for right in self.elsewhere if right.partition(":")[0] in services}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    """A worker that meets all there is, and then the commands of people."""
    folder = tmp_path_factory.mktemp("role")
    with local_sqs(folder) as queues, between(queues.endpoint) as proxy, moto() as aws:
        queues.create("q", max_receive_count=17)
        _prepare(aws)
        config = _config(f"{proxy.url}/000000000000/q", aws.url)
        project = write_project(folder / "project", HANDLERS, config)
        environ = {**ENVIRON, "AWS_ENDPOINT_URL": aws.url, "AWS_ENDPOINT_URL_SQS": "", "ECS_AGENT_URI": aws.url}
        aws.called.clear()
        with WorkerProcess(project, "-c", "config.toml", **environ) as worker:
            worker.expect("worker.ready")
            for name in ("retry", "reject", "discard", "leave", "wait"):
                queues.send("q", name, {})
            pointer = [CLASS, {"s3BucketName": "large-bodies", "s3Key": "one"}]
            queues.sqs.send_message(QueueUrl=queues.url("q"), MessageBody=json.dumps(pointer))
            body = json.dumps({"event_type": "once", "event_id": "the-event", "payload": {}})
            queues.sqs.send_message(QueueUrl=queues.url("q"), MessageBody=body)
            _wait_for_all(worker)
            until(lambda: {("ChangeMessageVisibilityBatch", "q"), ("GetQueueAttributes", "q-dead")} <= {*proxy.calls})
            of_page = _move_by_page(worker, proxy.calls)
            worker.signal(SIGTERM)
            assert worker.exit_code() == 0, worker.output()
        runs = {"worker": Run([*proxy.calls], {*aws.called}), "page": of_page}
        for name, arguments in COMMANDS.items():
            proxy.calls.clear()
            aws.called.clear()
            with WorkerProcess(project, "-c", "config.toml", *arguments, **environ) as command:
                assert command.exit_code() == 0, command.output()
            runs[name] = Run([*proxy.calls], {*aws.called})
        proxy.calls.clear()
        with pytest.MonkeyPatch.context() as patch:
            for name, value in ENVIRON.items():
                patch.setenv(name, value)
            Producer(f"{proxy.url}/000000000000/q").send("discard", {})
        return {**runs, "Producer": Run([*proxy.calls], set())}


def _move_by_page(worker: WorkerProcess, calls: list[tuple[str, str]]) -> Run:
    """Look at the dead letters by the live page, and send them back. A worker receives none itself."""
    before, port = {*calls}, next(line["port"] for line in worker.lines if line["event"] == "http.ready")
    headers = {"Authorization": "Bearer a-token-of-this-test", "Content-Type": "application/json"}
    for path, order in (("look", {"queue": "q"}), ("move", {"do": "replay", "queue": "q", "all": True})):
        url = f"http://127.0.0.1:{port}/letters/{path}"
        request = urllib.request.Request(url, json.dumps(order).encode(), headers)
        with urllib.request.urlopen(request, timeout=20) as answer:
            assert "error" not in json.load(answer)
    worker.expect("letters.moved", moved=1)
    return Run([call for call in {*calls} - before if call[1] == "q-dead"], set())


def _prepare(aws: Aws) -> None:
    attributes = [{"AttributeName": "id", "AttributeType": "S"}]
    keys = [{"AttributeName": "id", "KeyType": "HASH"}]
    dynamodb = aws.client("dynamodb")
    dynamodb.create_table(
        TableName="claims", AttributeDefinitions=attributes, KeySchema=keys, BillingMode="PAY_PER_REQUEST"
    )
    wanted = {"Enabled": True, "AttributeName": "expires"}
    dynamodb.update_time_to_live(TableName="claims", TimeToLiveSpecification=wanted)
    aws.client("secretsmanager").create_secret(Name="smtp", SecretString=json.dumps({"password": "hidden"}))
    s3 = aws.client("s3")
    s3.create_bucket(Bucket="large-bodies")
    s3.put_object(Bucket="large-bodies", Key="one", Body=b'{"event_type": "large", "payload": "x"}')
    aws.client("ssm").put_parameter(Name="/smtp/host", Value="mail.example.com", Type="SecureString")


def _config(url: str, s3: str) -> str:
    return f"""
        [worker]
        handlers = ["jobs"]
        drain_seconds = 3
        [queues.q]
        url = "{url}"
        wait_seconds = 1
        visibility_seconds = 6
        heartbeat_seconds = 1
        [idempotency]
        table = "claims"
        [large_bodies]
        buckets = ["large-bodies"]
        endpoint_url = "{s3}"
        delete_after_success = true
        [platform]
        task_protection = "auto"
        [http]
        listen = "127.0.0.1:0"
        token = "a-token-of-this-test"
        [cloudwatch]
        namespace = "Mill"
        [handlers.work]
        password = "secretsmanager:smtp#password"
        host = "ssm:/smtp/host"
    """


def _wait_for_all(worker: WorkerProcess) -> None:
    wanted = {
        *(("message.succeeded", name) for name in ("once", "retry", "leave", "large")),
        *(("message.retried", "retry"), ("message.dead_lettered", "reject"), ("message.discarded", "discard")),
    }
    until(lambda: wanted <= {(line["event"], line.get("event_type", line.get("type"))) for line in worker.lines})


def test_what_a_worker_calls_on_its_queues_is_what_its_role_allows(runs):
    assert runs["worker"].of_queues - runs["page"].of_queues == allowed(
        "worker", queue_arn="QUEUE", dead_letter_arn="DEAD"
    )


def test_what_its_page_calls_on_dead_letters_is_what_one_more_policy_allows(runs):
    assert runs["page"].of_queues == allowed("worker-dead-letters", dead_letter_arn="DEAD")


def test_what_it_calls_for_its_claims_is_what_its_role_allows(runs):
    assert runs["worker"].of("dynamodb") == {action for action, _ in allowed("worker-idempotency")}


def test_what_it_calls_for_its_secrets_is_what_its_role_allows(runs):
    assert runs["worker"].of("secretsmanager", "ssm") == {action for action, _ in allowed("worker-secrets")}


def test_what_it_calls_for_large_bodies_is_what_its_role_allows(runs):
    policies = allowed("worker-large-bodies") | allowed("worker-large-bodies-delete")
    # No call needs s3:ListBucket: without it S3 refuses what is gone, and its message would wait.
    assert runs["worker"].of("s3") == {action for action, _ in policies} - {"s3:ListBucket"}


def test_what_it_calls_for_its_protection_is_what_its_role_allows(runs):
    assert runs["worker"].of("ecs") == {action for action, _ in allowed("worker-task-protection")}


def test_it_calls_nothing_else(runs):
    assert runs["worker"].elsewhere == runs["worker"].of("dynamodb", "secretsmanager", "ssm", "s3", "ecs")


def test_check_asks_for_no_right_more(runs):
    assert runs["check"].of_queues <= runs["worker"].of_queues - runs["page"].of_queues
    assert runs["check"].elsewhere <= runs["worker"].elsewhere


def test_what_an_operator_calls_is_allowed(runs):
    policy = allowed("operator", queue_arn="QUEUE", dead_letter_arn="DEAD")
    assert runs["Producer"].of_queues < policy
    assert runs["claims release"].of("dynamodb") == {action for action, _ in policy if action.startswith("dynamodb:")}


def test_what_a_producer_calls_is_what_its_policy_allows(runs):
    assert runs["Producer"].of_queues == allowed("producer", queue_arn="QUEUE")
