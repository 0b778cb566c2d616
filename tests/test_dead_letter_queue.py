"""A dead-letter queue that cannot be written, found or read: real workers, a proxy before a local SQS."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from signal import SIGTERM
from typing import Any

import pytest

from tests.between import DENIED, MISSING, Answer, Between, between, refusal
from tests.waiting import until
from tests.worker_process import WORKER, LocalQueues, WorkerProcess, local_sqs, write_project

pytestmark = pytest.mark.slow

HANDLERS = """
from millpond import Reject, handler

@handler("ok")
def ok(payload: dict | None) -> None:
    pass

@handler("reject")
def reject(payload: dict | None) -> None:
    raise Reject("never")
"""
Start = Callable[..., WorkerProcess]


@pytest.fixture(scope="module")
def queues(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalQueues]:
    with local_sqs(tmp_path_factory.mktemp("sqs")) as queues:
        yield queues


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    return f"q-{abs(hash(request.node.name))}"


@pytest.fixture
def proxy(queues: LocalQueues) -> Iterator[Between]:
    with between(queues.endpoint) as proxy:
        yield proxy


@pytest.fixture
def start(tmp_path: Path, queues: LocalQueues) -> Iterator[Start]:
    with ExitStack() as stack:

        def start(
            endpoint: str,
            name: str,
            *arguments: str,
            queue: str = "",
            handlers: str = HANDLERS,
            more: tuple[str, ...] = (),
        ) -> WorkerProcess:
            tables = "".join(
                f'[queues.{one}]\nurl = "{endpoint}/000000000000/{one}"\nwait_seconds = 1\n' for one in more
            )
            config = f"""
                [worker]
                handlers = ["jobs"]
                concurrency = {10 + 2 * len(more)}
                drain_seconds = 20
                [queues.q]
                url = "{endpoint}/000000000000/{name}"
                wait_seconds = 1
                visibility_seconds = 60
                {queue}
                {tables}
            """
            folder = write_project(tmp_path / str(len(list(tmp_path.iterdir()))), handlers, config)
            return stack.enter_context(WorkerProcess(folder, *arguments, program=WORKER))

        yield start


def sends_to(name: str, answer: Answer) -> Callable[[str, dict[str, Any]], Answer]:
    return lambda call, said: answer if call == "SendMessageBatch" and said["QueueUrl"].endswith(name) else None


# It cannot be written


def failed(code: str, sender_fault: bool) -> Answer:
    """Entry by entry, in an answer that is a 200."""
    entries = [{"Id": str(n), "Code": code, "Message": "because", "SenderFault": sender_fault} for n in range(10)]
    return 200, json.dumps({"Failed": entries}).encode()


REFUSALS = {
    "denied": DENIED,
    "deleted": MISSING,
    "broken": (500, b"{}"),
    "throttled": refusal("RequestThrottled"),
    "over its limit": refusal("OverLimit"),
    "its key is disabled": refusal("KmsDisabled"),
    "its key is denied": refusal("KmsAccessDenied"),
    "of another kind": refusal("MissingParameter"),
    "each entry broken": failed("InternalError", False),
    "each entry refused": failed("AccessDenied", True),
    "moved": (301, b""),
    "no SQS": (200, b"<html>"),
}


def test_a_dead_letter_queue_that_cannot_be_written_stops_nothing_and_is_told(start, queues, name, proxy):
    """One worker with a queue for each way in which it cannot: they have nothing to do with each other."""
    answers = {f"{name}-{number}": answer for number, answer in enumerate(REFUSALS.values())}
    for one in answers:
        queues.create(one, max_receive_count=100)
    proxy.rule = lambda call, said: (
        answers.get(said["QueueUrl"].rpartition("/")[2].removesuffix("-dead")) if call == "SendMessageBatch" else None
    )
    first, *others = answers
    worker = start(proxy.url, first, more=tuple(others))
    worker.expect("worker.ready")
    for one in answers:
        queues.send(one, "reject", number=20)
        queues.send(one, "ok", number=20)
    for one, answer in answers.items():
        until(lambda one=one: of(worker, "settle.failed", one) != [])
        told = of(worker, "settle.failed", one)[0]
        assert told["call"] == "sqs:SendMessage"
        assert told["level"] == "warning"
        if answer is DENIED:
            assert "allow sqs:SendMessage" in told["message"]
        until(lambda one=one: sum(queues.counts(one)) == 20)
    until(lambda: len({line["queue"] for line in worker.all("message.retried")}) == len(answers))
    worker.signal(SIGTERM)
    begun = time.monotonic()
    assert worker.exit_code() == 0
    assert time.monotonic() - begun < 8
    assert [line["in_hand"] for line in worker.all("worker.stopped")] == [0] * len(answers)
    for one in answers:
        assert len(of(worker, "settle.failed", one)) <= 2
        assert sum(queues.counts(one)) == 20


def of(worker: WorkerProcess, event: str, name: str) -> list[dict[str, Any]]:
    """Its lines about the dead-letter queue of the queue of this name."""
    return [line for line in worker.all(event) if str(line.get("target")).endswith(f"/{name}-dead")]


def test_a_body_that_leaves_no_room_for_its_reason_in_a_smaller_queue_runs_once(start, queues, name):
    url = queues.create(name)
    dead = {"QueueUrl": f"{url}-dead", "Attributes": {"MaximumMessageSize": "262144"}}
    queues.sqs.set_queue_attributes(**dead)
    body = json.dumps({"event_type": "reject", "payload": {"text": "x" * 262_000}})[:-3]
    body += "x" * (262_144 - len(body) - 3) + '"}}'
    worker = start(queues.endpoint, name, handlers=HANDLERS.replace("Reject(", "Reject('why ' * 300 + "))
    queues.sqs.send_message(QueueUrl=url, MessageBody=body)
    assert "why why" in worker.expect("dead_letter.bare")["reason"]
    assert worker.expect("message.dead_lettered")["attempt"] == 1
    [letter] = queues.receive(f"{name}-dead")
    assert letter["Body"] == body
    assert queues.counts(name) == (0, 0, 0)
    assert worker.all("message.retried") == []


def test_a_dead_letter_queue_that_does_not_answer_stops_nothing_for_long(start, queues, name, proxy):
    queues.create(name, max_receive_count=100)
    forever = threading.Event()
    proxy.rule = lambda call, said: (
        DENIED
        if call == "SendMessageBatch" and said["QueueUrl"].endswith(f"{name}-dead") and forever.wait(60)
        else None
    )
    worker = start(proxy.url, name)
    worker.expect("worker.ready")
    queues.send(name, "reject", number=30)
    worker.expect("settle.failed")
    queues.send(name, "ok", number=50)
    until(lambda: sum(queues.counts(name)) == 30)
    worker.signal(SIGTERM)
    begun = time.monotonic()
    assert worker.exit_code() == 0
    assert time.monotonic() - begun < 8
    forever.set()


def test_a_denied_delete_is_told_and_holds_no_sigterm_for_the_whole_drain(start, queues, name, proxy):
    queues.create(name)
    proxy.rule = lambda call, said: DENIED if call == "DeleteMessageBatch" else None
    worker = start(proxy.url, name)
    worker.expect("worker.ready")
    queues.send(name, "ok", number=3)
    told = worker.expect("settle.failed")
    assert (told["call"], told["code"]) == ("sqs:DeleteMessage", "AccessDenied")
    assert "allow sqs:DeleteMessage" in told["message"]
    worker.signal(SIGTERM)
    begun = time.monotonic()
    assert worker.exit_code() == 1
    assert time.monotonic() - begun < 8
    assert worker.expect("worker.stopped")["abandoned"] == 3


# It is somewhere else


def test_dead_letter_url_can_be_at_another_endpoint_and_check_reaches_it_as_the_worker_does(
    start, queues, name, tmp_path_factory
):
    queues.create(name)
    with local_sqs(tmp_path_factory.mktemp("other")) as other:
        other.create("buried")
        elsewhere = f'dead_letter_url = "{other.url("buried")}"'
        check = start(queues.endpoint, name, "check", queue=elsewhere)
        assert check.exit_code() == 0, check.output()
        worker = start(queues.endpoint, name, queue=elsewhere)
        queues.send(name, "reject")
        worker.expect("message.dead_lettered")
        assert other.counts("buried")[0] == 1
        assert queues.counts(f"{name}-dead") == (0, 0, 0)


def test_a_dead_letter_url_at_an_endpoint_that_is_not_there_stops_nothing(start, queues, name):
    queues.create(name, max_receive_count=100)
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        gone = f'dead_letter_url = "http://127.0.0.1:{nobody.getsockname()[1]}/000000000000/buried"'
        worker = start(queues.endpoint, name, queue=gone)
        queues.send(name, "reject", number=30)
        worker.expect("settle.failed")
        queues.send(name, "ok", number=50)
        until(lambda: sum(queues.counts(name)) == 30)
        worker.signal(SIGTERM)
        assert worker.exit_code() == 0


# What was read once is read again


@pytest.mark.parametrize("call", ["GetQueueAttributes", "GetQueueUrl"])
@pytest.mark.parametrize("answer", [DENIED, (503, b"")], ids=["denied", "broken"])
def test_what_is_refused_at_the_boot_is_asked_again_until_it_is_known(start, queues, name, proxy, call, answer):
    queues.create(name, max_receive_count=100)
    refused = []
    proxy.rule = lambda asked, said: refused.append(asked) or answer if asked == call and len(refused) < 2 else None
    worker = start(proxy.url, name)
    assert "until then" in worker.expect("queue.unknown")["message"]
    worker.expect("worker.ready")
    worker.expect("queue.known")
    queues.send(name, "reject")
    worker.expect("message.dead_lettered")
    assert queues.counts(f"{name}-dead")[0] == 1


def test_what_is_refused_again_and_again_is_told_once_a_minute(start, queues, name, proxy):
    queues.create(name)
    refused = []
    proxy.rule = lambda asked, said: (
        refused.append(asked) or (503, b"") if asked == "GetQueueAttributes" and len(refused) < 5 else None
    )
    worker = start(proxy.url, name)
    worker.expect("queue.known")
    assert len(refused) == 5
    assert len(worker.all("queue.unknown")) == 1


def test_many_queues_are_asked_side_by_side_what_they_are(start, queues, name, proxy):
    """Twenty that hang, one after the other, would hold the first poll up for 200 s."""
    names = [name, f"{name}-2", f"{name}-3"]
    for one in names:
        queues.create(one)
    all_asked = threading.Barrier(len(names))

    def rule(asked: str, said: dict[str, Any]) -> Answer:
        if asked != "GetQueueAttributes":
            return None
        try:
            all_asked.wait(8)
        except threading.BrokenBarrierError:
            return DENIED
        return None

    proxy.rule = rule
    more = [f'[queues.{one}]\nurl = "{proxy.url}/000000000000/{one}"' for one in names[1:]]
    worker = start(proxy.url, name, queue="\n".join(more))
    worker.expect("worker.ready")
    assert worker.all("queue.unknown") == []


def test_a_dead_letter_queue_that_is_gone_at_the_boot_is_no_end_of_it(start, queues, name):
    queues.create(name)
    queues.sqs.delete_queue(QueueUrl=queues.url(f"{name}-dead"))
    worker = start(queues.endpoint, name)
    worker.expect("queue.unknown")
    worker.expect("worker.ready")
    queues.send(name, "ok")
    until(lambda: sum(queues.counts(name)) == 0)


TARGET = '"deadLetterTargetArn": "arn:aws:sqs:us-east-1:000000000000:NAME-dead"'
POLICIES = [
    f"{{{TARGET}}}",
    f'{{{TARGET}, "maxReceiveCount": "many"}}',
    f'{{{TARGET}, "maxReceiveCount": {"9" * 5_000}}}',
    f'{{{TARGET}, "maxReceiveCount": -1}}',
    f'{{{TARGET}, "maxReceiveCount": {{}}}}',
    "[" * 10_000 + "]" * 10_000,
    '{"deadLetterTargetArn": 5}',
    '"NAME"',
    "null",
    "",
]


def test_no_redrive_policy_whatever_it_says_ends_the_boot_or_the_check(start, queues, name, proxy):
    """One worker with a queue for each."""
    policies = {f"{name}-{number}": policy for number, policy in enumerate(POLICIES)}
    for one in policies:
        queues.create(one)

    def change(call: str, answer: dict[str, Any]) -> None:
        if call == "GetQueueAttributes" and "RedrivePolicy" in answer.get("Attributes", {}):
            target = json.loads(answer["Attributes"]["RedrivePolicy"])["deadLetterTargetArn"]
            one = target.rpartition(":")[2].removesuffix("-dead")
            answer["Attributes"]["RedrivePolicy"] = policies[one].replace("NAME", one)

    proxy.change = change
    first, *others = policies
    check, worker = (start(proxy.url, first, *command, more=tuple(others)) for command in (["check"], []))
    for one, policy in policies.items():
        queues.send(one, "reject" if "arn:" in policy else "ok")
    for one, policy in policies.items():
        until(lambda one=one: sum(queues.counts(one)) == 0)
        assert queues.counts(f"{one}-dead")[0] == ("arn:" in policy)
    assert check.exit_code() in (0, 3), check.output()
    assert "Traceback" not in check.output()
    worker.signal(SIGTERM)
    assert worker.exit_code() == 0


SIZES = """
import logging
from millpond import Message, handler

@handler("ok")
def ok(payload: dict | None, message: Message) -> None:
    try:
        message.follow_up("x" * 262_144)
    except ValueError as error:
        logging.getLogger("work").info("%s: %s", message.max_bytes, error)
"""


def test_the_queues_own_maximum_message_size_is_what_a_follow_up_may_have(start, queues, name):
    queues.create(name)
    queues.sqs.set_queue_attributes(QueueUrl=queues.url(name), Attributes={"MaximumMessageSize": "262144"})
    worker = start(queues.endpoint, name, handlers=SIZES)
    queues.send(name, "ok")
    assert worker.expect("log")["message"].startswith("262144: a follow-up of 262,")
