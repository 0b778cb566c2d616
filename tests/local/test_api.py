"""One call of the JSON protocol: its answer, its errors, and what is no call."""

from __future__ import annotations

import json
import time
from collections.abc import Callable

import pytest

from millpond.local import LocalSqs
from tests.local.raw_client import JSON, RawClient

MIB = 1_048_576


def test_an_answer_has_the_headers_and_the_form_of_the_json_protocol(connection: RawClient) -> None:
    status, headers, answer = connection.call("CreateQueue", QueueName="q")
    assert (status, headers["content-type"]) == (200, JSON)
    assert answer == {"QueueUrl": f"http://{connection.host}/000000000000/q"}
    _, again, empty = connection.call("ReceiveMessage", QueueUrl="q")
    assert empty == {}
    assert headers["x-amzn-requestid"] != again["x-amzn-requestid"]


def test_an_error_has_its_shape_its_code_and_its_status(connection: RawClient) -> None:
    status, headers, answer = connection.call("SendMessage", QueueUrl="http://x/000000000000/missing")
    assert (status, headers["x-amzn-query-error"]) == (400, "AWS.SimpleQueueService.NonExistentQueue;Sender")
    assert answer == {
        "__type": "com.amazonaws.sqs#QueueDoesNotExist",
        "message": "The specified queue does not exist.",
    }


def test_queue_urls_begin_with_the_host_that_was_asked(connection: RawClient, server: LocalSqs) -> None:
    raw = connection.request("CreateQueue", b'{"QueueName": "q"}').replace(connection.host.encode(), b"sqs.test:80")
    connection.send(raw)
    assert json.loads(connection.answer()[2]) == {"QueueUrl": "http://sqs.test:80/000000000000/q"}
    assert server.create_queue("q") == f"{server.url}/000000000000/q"


def test_health_is_200(connection: RawClient) -> None:
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
def test_an_unknown_operation_is_named_and_the_connection_goes_on(connection: RawClient, raw: bytes) -> None:
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
def test_a_body_that_is_no_request_is_refused_and_the_connection_goes_on(connection: RawClient, body: bytes) -> None:
    connection.send(connection.request("SendMessage", body))
    status, headers, answer = connection.answer()
    assert (status, headers["x-amzn-query-error"]) == (400, "SerializationException;Sender")
    assert json.loads(answer)["message"].startswith("The request is not a SendMessage: ")
    assert connection.call("CreateQueue", QueueName="q")[0] == 200


def test_a_call_without_a_body_is_one_without_parameters(connection: RawClient) -> None:
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
    connection: RawClient, operation: str, parameters: dict[str, str], missing: str
) -> None:
    connection.call("CreateQueue", QueueName="q")
    status, headers, answer = connection.call(operation, **parameters)
    assert (status, headers["x-amzn-query-error"]) == (400, "MissingParameter;Sender")
    assert answer["message"] == f"The request must contain the parameter {missing}."


@pytest.mark.usefixtures("q")
@pytest.mark.parametrize(
    ("operation", "body"),
    [
        ("SendMessage", b'{"QueueUrl": "q", "MessageBody": "m", "X": ' + b"[" * 10_000 + b"]" * 10_000 + b"}"),
        ("SetQueueAttributes", json.dumps({"Attributes": {"RedrivePolicy": '{"x":' + "[" * 10_000}}).encode()),
        (
            "SetQueueAttributes",
            json.dumps({"Attributes": {"RedrivePolicy": '{"x":' + "[" * 10_000 + "]" * 10_000 + "}"}}).encode(),
        ),
        (
            "SetQueueAttributes",
            json.dumps({"Attributes": {"RedrivePolicy": '{"maxReceiveCount":' + "9" * 5000}}).encode(),
        ),
        ("SendMessage", b'{"MessageBody": "m", "DelaySeconds": ' + b"9" * 400 + b"}"),
        ("SendMessage", b'{"MessageBody": "m", "DelaySeconds": -1e400}'),
        ("SendMessage", b'{"MessageBody": "m", "DelaySeconds": NaN}'),
        ("ReceiveMessage", b'{"WaitTimeSeconds": ' + b"9" * 400 + b"}"),
        ("ReceiveMessage", b'{"MaxNumberOfMessages": 99999999999999999999}'),
        ("ReceiveMessage", b'{"VisibilityTimeout": -99999999999999999999}'),
        ("SendMessage", b'{"MessageBody": "\\udc80"}'),
        ("SendMessage", b'{"MessageBody": "\\u0000"}'),
        ("SendMessage", b'{"MessageBody": ["m"]}'),
        ("SendMessage", b'{"MessageBody": null}'),
        ("SendMessageBatch", b'{"Entries": {"Id": "1"}}'),
        ("SendMessageBatch", b'{"Entries": [null]}'),
        ("DeleteMessage", b'{"ReceiptHandle": "' + b"9" * 5000 + b'"}'),
        ("CreateQueue", b'{"QueueName": "' + b"x" * MIB + b'"}'),
    ],
)
def test_what_no_queue_can_take_is_an_orderly_4xx(
    connect: Callable[[], RawClient], operation: str, body: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    connection = connect()
    body = body.replace(b"{", b'{"QueueUrl": "q", ', 1)
    connection.send(connection.request(operation, body))
    status, headers, answer = connection.answer()
    assert 400 <= status < 500
    assert headers["x-amzn-query-error"].endswith(";Sender")
    assert len(answer) < 10_000
    assert connection.call("SendMessage", QueueUrl="q", MessageBody="m")[0] == 200
    assert capfd.readouterr().err == ""


@pytest.mark.usefixtures("q")
def test_of_two_keys_the_last_one_counts(connect: Callable[[], RawClient]) -> None:
    connection = connect()
    connection.send(connection.request("SendMessage", b'{"QueueUrl":"q","MessageBody":"first","MessageBody":"m"}'))
    assert connection.answer()[0] == 200
    assert connection.call("ReceiveMessage", QueueUrl="q")[2]["Messages"][0]["Body"] == "m"


@pytest.mark.parametrize("text", ["9" * 500_000 + "x", "." * 500_000, "1e" * 100_000, "-" + "0" * 500_000 + "."])
def test_a_long_number_takes_no_longer_than_a_long_text(connect: Callable[[], RawClient], text: str) -> None:
    connection = connect()
    attributes = {"n": {"DataType": "Number", "StringValue": text}}
    started = time.process_time()
    connection.call("SendMessage", QueueUrl="q", MessageBody="m", MessageAttributes=attributes)
    assert time.process_time() - started < 2
