"""What the proxy does to a call, as its sender and the queue see it."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from chaos.fault_log import Injected
from chaos.faults import ANY, BATCH, TAKEN, FaultPlan
from chaos.handles import ANY_ATTEMPT
from chaos.proxy_process import ProxyProcess, proxy
from tests.worker_process import LocalQueues, local_sqs


class Client:
    """A worker as far as the proxy can tell: `call` gives status and answer, or raises what the network does."""

    def __init__(self, between: ProxyProcess, queues: LocalQueues) -> None:
        self.proxy = between
        self.queues = queues
        self.url = queues.create("jobs")
        self.worker = "w0"
        self.faults_seen = 0

    def call(self, operation: str, **parameters: Any) -> tuple[int, Any]:
        connection = http.client.HTTPConnection(self.proxy.url.removeprefix("http://"), timeout=10)
        try:
            headers = {"X-Amz-Target": f"AmazonSQS.{operation}"}
            connection.request("POST", f"/{self.worker}/", json.dumps({"QueueUrl": self.url, **parameters}), headers)
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())
        finally:
            connection.close()

    def received(self, number: int = 1) -> list[dict[str, str]]:
        """The messages of a receive, as the entries of a batch."""
        self.queues.send("jobs", "chaos.job", {"n": 7}, number)
        names = ["ApproximateReceiveCount"]
        answer = self.call("ReceiveMessage", MaxNumberOfMessages=10, MessageSystemAttributeNames=names)[1]
        handles = [message["ReceiptHandle"] for message in answer["Messages"]]
        return [{"Id": str(index), "ReceiptHandle": handle} for index, handle in enumerate(handles)]

    def fault(self) -> Injected:
        """The one that was injected since the last look."""
        (found,) = self.proxy.faults()[self.faults_seen :]
        self.faults_seen += 1
        return found


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    folder: Path = tmp_path_factory.mktemp("proxy")
    with local_sqs(folder) as queues, proxy(queues.endpoint, folder) as between:
        yield Client(between, queues)


@pytest.fixture(autouse=True)
def _healed(client: Client) -> Iterator[None]:
    yield
    client.proxy.heal()
    client.proxy.follow(FaultPlan(scale=0.0))
    client.worker = "w0"
    client.queues.sqs.delete_queue(QueueUrl=client.url)
    client.queues.create("jobs")
    client.faults_seen = len(client.proxy.faults())


def test_calls_pass_where_nothing_is_to_happen(client: Client) -> None:
    entries = client.received(3)
    status, answer = client.call("DeleteMessageBatch", Entries=entries)
    assert (status, len(answer["Successful"])) == (200, 3)
    assert client.queues.counts("jobs") == (0, 0, 0)


@pytest.mark.parametrize("kind", ANY)
def test_a_fault_takes_the_call_or_does_not_and_no_answer_looks_like_one(client: Client, kind: str) -> None:
    entries = client.received()
    client.proxy.fail("DeleteMessageBatch", kind)
    status, answer = 0, None
    with suppress(OSError, http.client.HTTPException, ValueError):  # reset, cut short, no JSON
        status, answer = client.call("DeleteMessageBatch", Entries=entries)
    assert (status == 200 and answer is not None) == (kind == "slow")
    assert client.queues.counts("jobs") == ((0, 0, 0) if kind in TAKEN else (0, 1, 0))
    found = client.fault()
    assert (found.kind, found.operation, found.worker, found.messages) == (kind, "DeleteMessageBatch", "w0", [(7, 1)])


@pytest.mark.parametrize("kind", BATCH)
def test_entries_fail_done_or_not(client: Client, kind: str) -> None:
    entries = client.received(2)
    client.proxy.fail("DeleteMessageBatch", kind)
    _, answer = client.call("DeleteMessageBatch", Entries=entries)
    assert [entry["Id"] for entry in answer["Successful"]] == ["1"]
    assert [(entry["Id"], entry["SenderFault"]) for entry in answer["Failed"]] == [("0", False)]
    assert client.queues.counts("jobs") == (0, 1 if kind.endswith("not done") else 0, 0)
    assert client.fault().messages == [(7, 1)]


def test_a_throttle_has_its_code_in_head_and_body(client: Client) -> None:
    client.proxy.fail("DeleteMessageBatch", "throttled")
    status, answer = client.call("DeleteMessageBatch", Entries=[])
    assert (status, answer["__type"]) == (403, "com.amazonaws.sqs#RequestThrottled")


def test_a_receive_that_is_lost_strands_what_it_took(client: Client) -> None:
    client.queues.send("jobs", "chaos.job", {"n": 7})
    client.proxy.fail("ReceiveMessage", "reset after it was taken")
    with pytest.raises((OSError, http.client.HTTPException)):
        client.call("ReceiveMessage", MessageSystemAttributeNames=["ApproximateReceiveCount"])
    assert client.queues.counts("jobs") == (0, 1, 0)
    assert client.fault().messages == [(7, 1)]


def test_a_message_that_is_handed_out_twice(client: Client) -> None:
    client.proxy.fail("ReceiveMessage", "duplicate")
    client.received()
    assert client.queues.receive("jobs", wait_seconds=5)[0]["Attributes"]["ApproximateReceiveCount"] == "2"


def test_copies_for_the_dead_letter_queue_are_known_by_their_number(client: Client) -> None:
    client.proxy.fail("SendMessageBatch", "503, not taken")
    body = json.dumps({"payload": {"n": 7}})
    client.call("SendMessageBatch", Entries=[{"Id": "0", "MessageBody": body}])
    assert client.fault().messages == [(7, ANY_ATTEMPT)]


def test_planned_faults_spare_a_worker_until_it_has_received(client: Client) -> None:
    client.worker = "w1"
    client.proxy.follow(FaultPlan(scale=1_000.0))  # every call
    assert client.call("GetQueueAttributes", AttributeNames=["All"])[0] == 200
    client.received()
    with suppress(OSError, http.client.HTTPException, ValueError):
        client.call("ReceiveMessage")
    assert client.fault().worker == "w1"
