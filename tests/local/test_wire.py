"""The HTTP side, by raw sockets: what no SDK would send, and clients that go away."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from email.utils import parsedate_to_datetime
from typing import Any

import gevent
import pytest
from gevent import socket
from gevent.event import AsyncResult

from millpond.local import LocalSqs
from millpond.local.attributes import LocalQueueSettings
from millpond.local.http_requests import MAX_REQUEST_BYTES
from millpond.local.local_queue import LocalPoll, LocalQueue

JSON = "application/x-amz-json-1.0"


@pytest.fixture
def server() -> Iterator[LocalSqs]:
    server = LocalSqs(port=0)
    server.start()
    yield server
    server.stop()


class Connection:
    """A kept connection to the server."""

    def __init__(self, server: LocalSqs) -> None:
        self.host = server.url.removeprefix("http://")
        host, port = self.host.split(":")
        self.socket = socket.create_connection((host, int(port)), timeout=10)
        self.file = self.socket.makefile("rb")

    def close(self) -> None:
        self.file.close()
        self.socket.close()

    def send(self, raw: bytes) -> None:
        self.socket.sendall(raw)

    def answer(self) -> tuple[int, dict[str, str], bytes]:
        """Status, headers in lower case, body."""
        status = int(self.file.readline().split()[1])
        headers = {}
        while (line := self.file.readline()) != b"\r\n":
            key, _, value = line.decode().partition(":")
            headers[key.lower()] = value.strip()
        return status, headers, self.file.read(int(headers["content-length"]))

    def request(self, operation: str, body: bytes, *headers: str) -> bytes:
        head = [
            "POST / HTTP/1.1",
            f"Host: {self.host}",
            f"X-Amz-Target: AmazonSQS.{operation}",
            f"Content-Type: {JSON}",
            *(headers or [f"Content-Length: {len(body)}"]),
        ]
        return "\r\n".join([*head, "", ""]).encode() + body

    def call(self, operation: str, **parameters: Any) -> tuple[int, dict[str, str], Any]:
        self.send(self.request(operation, json.dumps(parameters).encode()))
        status, headers, body = self.answer()
        return status, headers, json.loads(body)


@pytest.fixture
def connection(server: LocalSqs) -> Iterator[Connection]:
    with closing(Connection(server)) as connection:
        yield connection


def assert_closed(connection: Connection) -> None:
    with suppress(ConnectionResetError):  # so it is where the server left bytes unread
        assert connection.file.read() == b""


def test_an_answer_has_the_headers_and_the_form_of_the_json_protocol(connection: Connection) -> None:
    status, headers, answer = connection.call("CreateQueue", QueueName="q")
    assert (status, headers["content-type"]) == (200, JSON)
    assert answer == {"QueueUrl": f"http://{connection.host}/000000000000/q"}
    _, again, empty = connection.call("ReceiveMessage", QueueUrl="q")
    assert empty == {}
    assert headers["x-amzn-requestid"] != again["x-amzn-requestid"]


def test_an_error_has_its_shape_its_code_and_its_status(connection: Connection) -> None:
    status, headers, answer = connection.call("SendMessage", QueueUrl="http://x/000000000000/missing")
    assert (status, headers["x-amzn-query-error"]) == (400, "AWS.SimpleQueueService.NonExistentQueue;Sender")
    assert answer == {
        "__type": "com.amazonaws.sqs#QueueDoesNotExist",
        "message": "The specified queue does not exist.",
    }


def test_queue_urls_begin_with_the_host_that_was_asked(connection: Connection, server: LocalSqs) -> None:
    raw = connection.request("CreateQueue", b'{"QueueName": "q"}').replace(connection.host.encode(), b"sqs.test:80")
    connection.send(raw)
    assert json.loads(connection.answer()[2]) == {"QueueUrl": "http://sqs.test:80/000000000000/q"}
    assert server.create_queue("q") == f"{server.url}/000000000000/q"


def test_health_is_200(connection: Connection) -> None:
    connection.send(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
    assert connection.answer()[0] == 200


@pytest.mark.parametrize(
    "raw",
    [
        b"GET /000000000000/q?Action=SendMessage HTTP/1.1\r\nHost: x\r\n\r\n",
        b"PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}",
        b"POST / HTTP/1.1\r\nHost: x\r\nX-Amz-Target: AmazonSQS.Dance\r\nContent-Length: 2\r\n\r\n{}",
        b"POST / HTTP/1.1\r\nHost: x\r\nX-Amz-Target: DynamoDB_20120810.GetItem\r\nContent-Length: 2\r\n\r\n{}",
        b"POST / HTTP/1.1\r\nHost: x\r\nX-Amz-Target: SendMessage\r\nContent-Length: 2\r\n\r\n{}",
    ],
)
def test_an_unknown_operation_is_named_and_the_connection_goes_on(connection: Connection, raw: bytes) -> None:
    connection.send(raw)
    status, headers, body = connection.answer()
    assert (status, headers["x-amzn-query-error"]) == (400, "InvalidAction;Sender")
    assert json.loads(body)["__type"].endswith("#UnknownOperationException")
    assert "AmazonSQS.<Operation>" in json.loads(body)["message"]
    assert connection.call("CreateQueue", QueueName="q")[0] == 200


@pytest.mark.parametrize(
    "body",
    [
        b"garbage",
        b"[]",
        b'"text"',
        b"{",
        b'{"QueueUrl": 1}',
        b'{"QueueUrl": "q", "MessageBody": "\\ud800"}',
        b'{"QueueUrl": "q", "MessageBody": "\xff"}',
        b'{"QueueUrl": "q", "MessageBody": "m", "DelaySeconds": "soon"}',
        b'{"QueueUrl": "q", "MessageBody": "m", "MessageAttributes": {"a": {"BinaryValue": "no base64"}}}',
        b'{"Deep": ' + b"[" * 100_000,
        b'{"MessageAttributes": ' + b'{"a":' * 100_000,
    ],
    ids=lambda body: body[:50].decode(errors="replace"),
)
def test_a_body_that_is_no_request_is_refused_and_the_connection_goes_on(connection: Connection, body: bytes) -> None:
    connection.send(connection.request("SendMessage", body))
    status, headers, answer = connection.answer()
    assert (status, headers["x-amzn-query-error"]) == (400, "SerializationException;Sender")
    assert json.loads(answer)["message"].startswith("The request is not a SendMessage: ")
    assert connection.call("CreateQueue", QueueName="q")[0] == 200


def test_a_call_without_a_body_is_one_without_parameters(connection: Connection) -> None:
    connection.send(connection.request("ListQueues", b""))
    assert connection.answer()[2] == b"{}"


@pytest.mark.parametrize(
    ("operation", "parameters", "missing"),
    [
        ("ReceiveMessage", {}, "QueueUrl"),
        ("CreateQueue", {}, "QueueName"),
        ("GetQueueUrl", {}, "QueueName"),
        ("DeleteMessage", {"QueueUrl": "q"}, "ReceiptHandle"),
        ("ChangeMessageVisibility", {"QueueUrl": "q", "ReceiptHandle": "h"}, "VisibilityTimeout"),
    ],
)
def test_a_missing_parameter_is_named(
    connection: Connection, operation: str, parameters: dict[str, str], missing: str
) -> None:
    connection.call("CreateQueue", QueueName="q")
    status, headers, answer = connection.call(operation, **parameters)
    assert (status, headers["x-amzn-query-error"]) == (400, "MissingParameter;Sender")
    assert answer["message"] == f"The request must contain the parameter {missing}."


@pytest.mark.parametrize(
    "raw",
    [
        b"\r\n\r\n",
        b"garbage\r\n\r\n",
        b"POST / HTTP/9.9\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: many\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: 1_0\r\n\r\n",
        b"POST / HTTP/1.1\r\nTransfer-Encoding: gzip\r\n\r\n",
        b"POST / HTTP/1.1\r\nno header\r\n\r\n",
        b"POST / HTTP/1.1\r\nX: " + b"x" * 70_000 + b"\r\n\r\n",
        b"POST / HTTP/1.1\r\n" + b"X: x\r\n" * 1000 + b"\r\n",
        b"POST /" + b"x" * 70_000 + b" HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    ],
    ids=lambda raw: raw[:30].decode(errors="replace"),
)
def test_what_is_no_http_is_answered_with_a_4xx_and_the_server_goes_on(
    server: LocalSqs, connection: Connection, raw: bytes
) -> None:
    connection.send(raw)
    assert 400 <= connection.answer()[0] < 500
    assert_closed(connection)
    with closing(Connection(server)) as other:
        assert other.call("CreateQueue", QueueName="q")[0] == 200


def test_a_request_that_is_too_large_is_refused_before_it_is_kept(connection: Connection) -> None:
    connection.send(connection.request("SendMessage", b"", f"Content-Length: {MAX_REQUEST_BYTES + 1}"))
    assert_refused_as_too_large(connection)


def test_a_chunked_request_that_is_too_large_is_refused(connection: Connection) -> None:
    connection.send(connection.request("SendMessage", b"", "Transfer-Encoding: chunked"))
    chunk = b"%x\r\n%b\r\n" % (MAX_REQUEST_BYTES // 7, b"x" * (MAX_REQUEST_BYTES // 7))
    for _ in range(8):
        connection.send(chunk)
    assert_refused_as_too_large(connection)


def assert_refused_as_too_large(connection: Connection) -> None:
    status, headers, body = connection.answer()
    assert (status, headers["connection"]) == (413, "close")
    assert json.loads(body)["message"] == f"A request has {MAX_REQUEST_BYTES} bytes at most."


def test_one_mebibyte_of_the_dearest_characters_fits_into_a_request(connection: Connection) -> None:
    connection.call("CreateQueue", QueueName="q")
    body = b'{"QueueUrl": "q", "MessageBody": "' + b"\\u0009" * 1_048_576 + b'"}'
    connection.send(connection.request("SendMessage", body))
    assert connection.answer()[0] == 200


@pytest.mark.parametrize(
    ("headers", "part"),
    [
        ("Content-Length: 100", b'{"QueueUrl"'),
        ("Transfer-Encoding: chunked", b'b\r\n{"QueueUrl"\r\n'),
        ("Transfer-Encoding: chunked", b'ff\r\n{"QueueUrl"'),
        ("Transfer-Encoding: chunked", b"no length\r\n"),
    ],
)
def test_a_request_that_ends_too_early_is_refused_and_does_nothing(
    server: LocalSqs, connection: Connection, headers: str, part: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    connection.send(connection.request("SendMessage", part, headers))
    connection.socket.shutdown(socket.SHUT_WR)
    status, answer_headers, body = connection.answer()
    assert (status, answer_headers["connection"]) == (400, "close")
    assert json.loads(body)["message"].startswith("The request's body cannot be read: ")
    assert_closed(connection)
    assert capfd.readouterr().err == ""


def test_chunks_are_one_body(connection: Connection) -> None:
    connection.send(connection.request("CreateQueue", b"", "Transfer-Encoding: chunked"))
    for part in (b'{"Queue', b'Name": "chunked"}'):
        connection.send(b"%x\r\n%b\r\n" % (len(part), part))
    connection.send(b"0\r\n\r\n")
    assert connection.answer()[0] == 200
    assert connection.call("GetQueueUrl", QueueName="chunked")[0] == 200


def test_a_chunks_extension_and_the_trailers_are_passed_over(connection: Connection) -> None:
    raw = b'12;note="x"\r\n{"QueueName": "q"}\r\n0\r\nChecksum: 1\r\nOther: 2\r\n\r\n'
    connection.send(connection.request("CreateQueue", raw, "Transfer-Encoding: chunked"))
    assert connection.answer()[0] == 200
    assert connection.call("GetQueueUrl", QueueName="q")[0] == 200


def test_a_chunk_that_is_longer_than_it_says_is_refused(connection: Connection) -> None:
    raw = b'5\r\n{"QueueName": "q"}\r\n0\r\n\r\n'
    connection.send(connection.request("CreateQueue", raw, "Transfer-Encoding: chunked"))
    status, headers, body = connection.answer()
    assert (status, headers["connection"]) == (400, "close")
    assert json.loads(body)["message"].endswith(": a chunk is longer than it says.")
    assert_closed(connection)


def test_a_request_that_comes_byte_by_byte_is_one_request(connection: Connection) -> None:
    for byte in connection.request("CreateQueue", b'{"QueueName": "q"}'):
        connection.send(bytes([byte]))
        gevent.sleep(0)
    assert connection.answer()[0] == 200


@pytest.mark.parametrize(
    "raw",
    [b"GET /health HTTP/1.0\r\n\r\n", b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: Close\r\n\r\n"],
    ids=["HTTP/1.0", "Connection: Close"],
)
def test_a_client_that_asks_once_is_answered_and_hung_up_on(connection: Connection, raw: bytes) -> None:
    connection.send(raw)
    assert connection.answer()[0] == 200
    assert_closed(connection)


def test_an_answer_tells_the_time(connection: Connection) -> None:
    _, headers, _ = connection.call("ListQueues")
    assert abs(parsedate_to_datetime(headers["date"]).timestamp() - time.time()) < 60


def test_a_client_that_asks_before_it_sends_is_told_to_go_on(connection: Connection) -> None:
    connection.send(connection.request("CreateQueue", b"", "Content-Length: 18", "Expect: 100-continue"))
    assert connection.file.readline() == b"HTTP/1.1 100 Continue\r\n"
    assert connection.file.readline() == b"\r\n"
    connection.send(b'{"QueueName": "q"}')
    assert connection.answer()[0] == 200


def test_requests_sent_at_once_are_answered_in_their_order(connection: Connection) -> None:
    names = [f"q{n}" for n in range(20)]
    connection.send(b"".join(connection.request("CreateQueue", json.dumps({"QueueName": n}).encode()) for n in names))
    urls = [json.loads(connection.answer()[2])["QueueUrl"] for _ in names]
    assert [url.rpartition("/")[2] for url in urls] == names


def test_an_answer_does_not_wait_for_the_clients_acknowledgement(connection: Connection) -> None:
    assert connection.socket.getsockname()  # connected
    started = gevent.get_hub().loop.now()
    for _ in range(25):
        connection.call("ListQueues")
    gevent.get_hub().loop.update_now()
    assert gevent.get_hub().loop.now() - started < 25 * 0.040  # what delayed acknowledgements would cost


# Long polls


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
    server: LocalSqs, connection: Connection, polls: gevent.queue.Queue
) -> None:
    connection.call("CreateQueue", QueueName="q", Attributes={"VisibilityTimeout": "1"})
    gone = Connection(server)
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
    server: LocalSqs, connection: Connection, polls: gevent.queue.Queue
) -> None:
    server.create_queue("q.fifo", {"FifoQueue": "true", "ContentBasedDeduplication": "true"})
    gone = Connection(server)
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
    server: LocalSqs, connection: Connection
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
    server: LocalSqs, connection: Connection, polls: gevent.queue.Queue
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
    with closing(Connection(server)) as connection:
        return connection.call("ReceiveMessage", QueueUrl="q", WaitTimeSeconds=20)[2]


def test_a_deleted_queue_answers_its_polls(server: LocalSqs, connection: Connection, polls: gevent.queue.Queue) -> None:
    server.create_queue("q")
    waiting = gevent.spawn(connection_of_its_own, server)
    polls.get(timeout=5)
    connection.call("DeleteQueue", QueueUrl="q")
    assert waiting.get(timeout=5) == {}


def test_stopping_answers_the_polls_and_closes_the_connections(server: LocalSqs, polls: gevent.queue.Queue) -> None:
    server.create_queue("q")
    waiting = gevent.spawn(connection_of_its_own, server)
    polls.get(timeout=5)
    with closing(Connection(server)) as idle:
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
