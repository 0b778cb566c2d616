"""What boto3 answers, and what the engine hears."""

import json

import pytest
from botocore.awsrequest import AWSResponse
from botocore.exceptions import EndpointConnectionError, NoCredentialsError, ReadTimeoutError

from millpond.errors import AccessDenied, ConfigError, QueueError, QueueMissing, Throttled, Unreachable
from millpond.queue import Attribute, Entry, Failure
from millpond.sqs import SqsQueue, connect

URL = "http://127.0.0.1:9/000000000000/q"


class Raw:
    def __init__(self, content):
        self.content = content

    def stream(self, **kwargs):
        yield self.content


@pytest.fixture
def wire():
    """A queue whose network is a script: `wire.answer(status, body, headers)`; `wire.requests` has what was sent."""

    class Wire:
        def __init__(self):
            self.requests = []
            self.clients = connect(URL, region="eu-west-1", endpoint_url="", wait_seconds=20, polls=1, settles=1)
            self.queue = SqsQueue(URL, self.clients)
            self.answer(200, {})
            for client in (self.clients.poll, self.clients.settle):
                client.meta.events.register("before-send.sqs.*", self._send)

        def answer(self, status, body, **headers):
            content = body if isinstance(body, bytes) else json.dumps(body).encode()
            self._answer = status, {"content-type": "application/x-amz-json-1.0"} | headers, content

        def error(self, status, shape, code=None, text="because"):
            headers = {"x-amzn-query-error": f"{code};Sender"} if code else {}
            self.answer(status, {"__type": f"com.amazonaws.sqs#{shape}", "message": text}, **headers)

        def _send(self, request, **kwargs):
            self.requests.append((request.headers, json.loads(request.body)))
            if isinstance(self._answer, Exception):
                raise self._answer
            status, headers, content = self._answer
            return AWSResponse(request.url, status, headers, Raw(content))

    return Wire()


def test_a_receive_asks_for_what_is_used_and_reads_it_all(wire):
    wire.answer(
        200,
        {
            "Messages": [
                {
                    "MessageId": "m1",
                    "ReceiptHandle": "h1",
                    "Body": "b",
                    "Attributes": {
                        "ApproximateReceiveCount": "3",
                        "SentTimestamp": "1700000000123",
                        "MessageGroupId": "g",
                        "AWSTraceHeader": "Root=1",
                    },
                    "MessageAttributes": {
                        "a": {"DataType": "String", "StringValue": "x"},
                        "b": {"DataType": "Binary", "BinaryValue": "AAE="},
                    },
                }
            ]
        },
    )
    (one,) = wire.queue.receive(7, 20, 60)
    assert (one.message_id, one.receipt_handle, one.receive_count, one.sent_ms) == ("m1", "h1", 3, 1700000000123)
    assert (one.group_id, one.trace_header) == ("g", "Root=1")
    assert one.attributes == {"a": Attribute("String", "x"), "b": Attribute("Binary", b"\x00\x01")}
    _, sent = wire.requests[0]
    assert (sent["MaxNumberOfMessages"], sent["WaitTimeSeconds"], sent["VisibilityTimeout"]) == (7, 20, 60)


def test_an_empty_receive_has_no_messages_key(wire):
    assert wire.queue.receive(10, 1, 60) == []


def test_every_entry_of_a_batch_has_its_own_answer(wire):
    wire.answer(
        200,
        {
            "Successful": [{"Id": "1"}],
            "Failed": [{"Id": "0", "Code": "ReceiptHandleIsInvalid", "SenderFault": True, "Message": "void"}],
        },
    )
    lost, done, unnamed = wire.queue.delete(["a", "a", "c"])  # the same handle twice: entries are numbered
    assert lost == Failure("ReceiptHandleIsInvalid", "void", sender_fault=True)
    assert lost.lease_lost
    assert done is None
    assert unnamed is not None
    assert not unnamed.lease_lost
    assert [entry["Id"] for entry in wire.requests[0][1]["Entries"]] == ["0", "1", "2"]


def test_what_is_sent_carries_delay_group_trace_and_attributes(wire):
    wire.answer(200, {"Successful": [{"Id": "0"}]})
    entry = Entry("b", 5, "g", "Root=1", {"a": Attribute("String", "x"), "b": Attribute("Binary", b"\x00")})
    assert wire.queue.send([entry]) == [None]
    (sent,) = wire.requests[0][1]["Entries"]
    assert (sent["DelaySeconds"], sent["MessageGroupId"]) == (5, "g")
    assert sent["MessageSystemAttributes"]["AWSTraceHeader"]["StringValue"] == "Root=1"
    assert sent["MessageAttributes"]["a"] == {"DataType": "String", "StringValue": "x"}
    assert "BinaryValue" in sent["MessageAttributes"]["b"]


@pytest.mark.parametrize(
    ("status", "shape", "code", "kind"),
    [
        (400, "QueueDoesNotExist", "AWS.SimpleQueueService.NonExistentQueue", QueueMissing),
        (400, "QueueDoesNotExist", None, QueueMissing),
        (403, "RequestThrottled", "RequestThrottled", Throttled),
        (400, "KmsThrottled", "KMS.ThrottlingException", Throttled),
        (403, "OverLimit", "OverLimit", Throttled),
        (400, "ThrottlingException", None, Throttled),
        (429, "Whatever", None, Throttled),
        (403, "AccessDeniedException", None, AccessDenied),
        (403, "ExpiredTokenException", None, AccessDenied),
        (403, "InvalidSecurity", "InvalidSecurity", AccessDenied),
        (500, "InternalFailure", None, Unreachable),
        (503, "ServiceUnavailable", None, Unreachable),
        (400, "Other", None, QueueError),
    ],
)
def test_errors_are_told_apart_by_code_and_query_code(wire, status, shape, code, kind):
    wire.error(status, shape, code)
    with pytest.raises(QueueError) as caught:
        wire.queue.receive(1, 1, 1)
    assert type(caught.value) is kind


@pytest.mark.parametrize(
    "garbage",
    [b"[1,2]", b'{"Messages": 5}', b'{"Messages":[{"MessageId":"x"}]}', b"\xff\xfe"],
)
def test_an_answer_that_is_no_sqs_is_unreachable(wire, garbage):
    wire.answer(200, garbage)
    with pytest.raises(Unreachable):
        wire.queue.receive(1, 1, 1)


def test_a_proxys_page_with_status_200_is_no_empty_receive(wire):
    wire.answer(200, b"<html>please log in", **{"content-type": "text/html"})
    with pytest.raises(Unreachable, match="text/html"):
        wire.queue.receive(1, 1, 1)


@pytest.mark.parametrize("garbage", [b"", b"<html>bad gateway</html>", b"{"])
def test_a_broken_error_page_is_unreachable_too(wire, garbage):
    wire.answer(502, garbage)
    with pytest.raises(Unreachable):
        wire.queue.delete(["h"])


@pytest.mark.parametrize("status", [200, 500])
def test_a_batch_answer_with_odd_ids_is_unreachable(wire, status):
    wire.answer(status, {"Successful": [{"Id": "77"}]})
    with pytest.raises(Unreachable):
        wire.queue.delete(["h"])


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (EndpointConnectionError(endpoint_url=URL), Unreachable),
        (ReadTimeoutError(endpoint_url=URL), Unreachable),
        (NoCredentialsError(), AccessDenied),
    ],
)
def test_network_and_credentials_trouble(wire, error, kind):
    wire._answer = error
    with pytest.raises(kind):
        wire.queue.receive(1, 1, 1)


def test_a_failing_call_is_made_once(wire):
    """After a read time-out each SDK retry would strand another batch."""
    wire.error(503, "ServiceUnavailable")
    with pytest.raises(Unreachable):
        wire.queue.receive(1, 1, 1)
    assert len(wire.requests) == 1


def test_the_two_clients_share_a_session_and_have_their_own_time_outs(wire):
    poll, settle = wire.clients.poll.meta.config, wire.clients.settle.meta.config
    assert (poll.read_timeout, settle.read_timeout) == (30, 10)
    assert poll.connect_timeout == settle.connect_timeout == 5
    credentials = [client._get_credentials() for client in (wire.clients.poll, wire.clients.settle)]
    assert credentials[0] is credentials[1]


def test_region_and_endpoint_come_from_the_url():
    at_aws = connect(
        "https://sqs.eu-central-1.amazonaws.com/123456789012/q",
        region="",
        endpoint_url="",
        wait_seconds=1,
        polls=3,
        settles=4,
    )
    assert at_aws.poll.meta.region_name == "eu-central-1"
    assert at_aws.poll.meta.endpoint_url == "https://sqs.eu-central-1.amazonaws.com"
    assert at_aws.poll.meta.config.max_pool_connections == 3
    assert at_aws.settle.meta.config.max_pool_connections == 4
    here = connect(URL, region="", endpoint_url="", wait_seconds=1, polls=1, settles=1)
    assert here.poll.meta.endpoint_url == "http://127.0.0.1:9"


def test_a_missing_region_is_a_finding(monkeypatch):
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
    with pytest.raises(ConfigError, match="AWS_REGION"):
        connect("https://queue.amazonaws.com/1/q", region="", endpoint_url="", wait_seconds=1, polls=1, settles=1)


def test_the_redrive_policys_target_is_the_dead_letter_queue(wire):
    wire.answer(200, {"QueueUrl": "http://x/1/dead"})
    policy = json.dumps({"deadLetterTargetArn": "arn:aws:sqs:eu-west-1:1:dead", "maxReceiveCount": 15})
    assert wire.queue.dead_letter_url({"RedrivePolicy": policy}) == "http://x/1/dead"
    assert wire.requests[0][1] == {"QueueName": "dead", "QueueOwnerAWSAccountId": "1"}
    assert wire.queue.dead_letter_url({}) == ""
