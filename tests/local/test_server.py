"""The server: long polls, alarms, its own faults, its end."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import closing
from typing import Any

import gevent
import pytest
from gevent.event import AsyncResult

from millpond.local import LocalSqs
from millpond.local.attributes import LocalQueueSettings
from millpond.local.local_poll import LocalPoll
from millpond.local.local_queue import LocalQueue
from tests.local.raw_client import RawClient, assert_closed


def test_an_answer_does_not_wait_for_the_clients_acknowledgement(connection: RawClient) -> None:
    assert connection.socket.getsockname()  # connected
    started = gevent.get_hub().loop.now()
    for _ in range(25):
        connection.call("ListQueues")
    gevent.get_hub().loop.update_now()
    assert gevent.get_hub().loop.now() - started < 25 * 0.040  # what delayed acknowledgements would cost


@pytest.fixture
def polls(monkeypatch: pytest.MonkeyPatch) -> gevent.queue.Queue:
    """Every poll that begins to wait."""
    waiting: gevent.queue.Queue = gevent.queue.Queue()
    init = LocalPoll.__init__

    def noted(self: LocalPoll, *arguments: Any) -> None:
        init(self, *arguments)
        if self.wait_seconds:
            waiting.put(self)

    monkeypatch.setattr(LocalPoll, "__init__", noted)
    return waiting


def test_a_poll_whose_client_went_away_still_takes_the_message(
    server: LocalSqs, connection: RawClient, polls: gevent.queue.Queue
) -> None:
    connection.call("CreateQueue", QueueName="q", Attributes={"VisibilityTimeout": "1"})
    gone = RawClient(server)
    gone.send(gone.request("ReceiveMessage", b'{"QueueUrl": "q", "WaitTimeSeconds": 20}'))
    polls.get(timeout=5)
    gone.close()
    connection.call("SendMessage", QueueUrl="q", MessageBody="stranded")
    assert connection.call("ReceiveMessage", QueueUrl="q")[2] == {}
    counts = connection.call("GetQueueAttributes", QueueUrl="q", AttributeNames=["All"])[2]["Attributes"]
    assert counts["ApproximateNumberOfMessagesNotVisible"] == "1"
    _, _, answer = connection.call(
        "ReceiveMessage", QueueUrl="q", WaitTimeSeconds=20, MessageSystemAttributeNames=["ApproximateReceiveCount"]
    )
    assert [message["Attributes"] for message in answer["Messages"]] == [{"ApproximateReceiveCount": "2"}]


def test_a_lost_attempt_is_found_again_with_the_handles_of_the_answer_that_nobody_read(
    server: LocalSqs, connection: RawClient, polls: gevent.queue.Queue
) -> None:
    server.create_queue("q.fifo", {"FifoQueue": "true", "ContentBasedDeduplication": "true"})
    gone = RawClient(server)
    attempt = {"QueueUrl": "q.fifo", "WaitTimeSeconds": 20, "ReceiveRequestAttemptId": "try-1"}
    gone.send(gone.request("ReceiveMessage", json.dumps(attempt).encode()))
    polls.get(timeout=5)
    gone.close()
    connection.call("SendMessage", QueueUrl="q.fifo", MessageBody="m", MessageGroupId="g")
    names = ["ApproximateReceiveCount"]
    again = [
        connection.call("ReceiveMessage", **attempt, MessageSystemAttributeNames=names)[2]["Messages"][0]
        for _ in range(2)
    ]
    assert again[0] == again[1]
    assert again[0]["Attributes"] == {"ApproximateReceiveCount": "1"}
    connection.call("DeleteMessage", QueueUrl="q.fifo", ReceiptHandle=again[0]["ReceiptHandle"])
    assert connection.call("ReceiveMessage", **attempt)[0] == 400


def test_a_long_poll_behind_a_locked_group_costs_nothing_and_wakes_when_its_time_is_over(
    server: LocalSqs, connection: RawClient
) -> None:
    server.create_queue("q.fifo", {"FifoQueue": "true", "VisibilityTimeout": "1"})
    for body in ("1", "2"):
        sent = {"MessageBody": body, "MessageGroupId": "g", "MessageDeduplicationId": body}
        connection.call("SendMessage", QueueUrl="q.fifo", **sent)
    connection.call("ReceiveMessage", QueueUrl="q.fifo")
    started, cpu = time.monotonic(), time.process_time()
    got = connection.call("ReceiveMessage", QueueUrl="q.fifo", WaitTimeSeconds=20, MaxNumberOfMessages=10)[2]
    assert [message["Body"] for message in got["Messages"]] == ["1", "2"]
    assert 0.5 < time.monotonic() - started < 5
    assert time.process_time() - cpu < 0.2


def test_closing_the_polls_answers_them_and_later_ones_do_not_wait(
    server: LocalSqs, connection: RawClient, polls: gevent.queue.Queue
) -> None:
    server.create_queue("q")
    waiting = [gevent.spawn(connection_of_its_own, server) for _ in range(3)]
    for _ in waiting:
        polls.get(timeout=5)
    server.close_polls()
    assert [greenlet.get(timeout=5) for greenlet in waiting] == [{}, {}, {}]
    assert connection.call("ReceiveMessage", QueueUrl="q", WaitTimeSeconds=20)[2] == {}
    assert polls.empty()
    connection.call("SendMessage", QueueUrl="q", MessageBody="m")
    assert len(connection.call("ReceiveMessage", QueueUrl="q", WaitTimeSeconds=20)[2]["Messages"]) == 1


def connection_of_its_own(server: LocalSqs) -> Any:
    with closing(RawClient(server)) as connection:
        return connection.call("ReceiveMessage", QueueUrl="q", WaitTimeSeconds=20)[2]


def test_a_deleted_queue_answers_its_polls(server: LocalSqs, connection: RawClient, polls: gevent.queue.Queue) -> None:
    server.create_queue("q")
    waiting = gevent.spawn(connection_of_its_own, server)
    polls.get(timeout=5)
    connection.call("DeleteQueue", QueueUrl="q")
    assert waiting.get(timeout=5) == {}


def test_stopping_answers_the_polls_and_closes_the_connections(server: LocalSqs, polls: gevent.queue.Queue) -> None:
    server.create_queue("q")
    waiting = gevent.spawn(connection_of_its_own, server)
    polls.get(timeout=5)
    with closing(RawClient(server)) as idle:
        idle.call("ListQueues")
        server.stop()
        assert waiting.get(timeout=5) == {}
        assert_closed(idle)


def test_an_alarm_that_rings_too_early_rings_again() -> None:
    server, queue, rung = LocalSqs(), LocalQueue("q", LocalQueueSettings()), AsyncResult()
    queue.advance = rung.set
    due = time.time() + 0.05
    server._ring(queue, due)
    assert not rung.ready()
    assert rung.get(timeout=5) >= due
    assert server._alarms == {}


def test_a_port_that_is_taken_is_an_os_error(server: LocalSqs) -> None:
    other = LocalSqs(port=int(server.url.rpartition(":")[2]))
    with pytest.raises(OSError, match="in use"):
        other.start()


def test_a_fault_of_the_server_is_an_answer_and_is_shown(
    server: LocalSqs,
    connect: Callable[[], RawClient],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fails(*_: object) -> bytes:
        raise ZeroDivisionError("planted")

    connection = connect()
    with monkeypatch.context() as patch:
        patch.setattr(server._api, "call", fails)
        status, headers, _ = connection.call("ListQueues")
    assert (status, headers["x-amzn-query-error"]) == (500, "InternalFailure;Receiver")
    assert "planted" in capfd.readouterr().err + caplog.text  # the log, once cli.main has run in this process
    assert connection.call("ListQueues")[0] == 200
