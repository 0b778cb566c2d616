"""What SQS answers over a real socket, and what the engine hears: the same by either client."""

from __future__ import annotations

import json
import socket
import time
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Any

import gevent
import pytest

from millpond.errors import AccessDenied, QueueError, QueueMissing, Throttled, Unanswered, Unreachable
from millpond.message import Message
from millpond.producer import Producer
from millpond.sqs import clients
from millpond.sqs.clients import connect
from millpond.sqs.queue import Attribute, Entry, Failure
from millpond.sqs.redrive import read_redrive
from tests.http_server import HANG_UP, Server, sqs_answer
from tests.smtp_server import make_certificate

CLIENTS = ["wire", "boto3"]
EMPTY = {"Messages": []}
DEEP = b'{"Messages": ' + b"[" * 10_000 + b"]" * 10_000 + b"}"


@pytest.fixture(autouse=True)
def _bounded():
    with gevent.Timeout(30):
        yield


@pytest.fixture(autouse=True)
def _keys(monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    for name in ("AWS_SESSION_TOKEN", "AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "AWS_ENDPOINT_URL", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)


class Wire:
    """A queue on a server that plays a script. `answer` and `error` add to it; `sent` has what was asked."""

    def __init__(self, client: str, tls: Any = None) -> None:
        self.server = Server(tls)
        self.url = f"{self.server.url}/1/q"
        self.sqs = connect(self.url, client=client, region="eu-west-1", wait_seconds=1, polls=2, settles=2)
        self.queue = self.sqs.queue(self.url)

    def answer(self, body: Any, status: str = "200 OK", **headers: str) -> None:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        fields = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
        self.server.script.append(sqs_answer(content, status.encode(), fields.encode()))

    def error(self, status: int, shape: str, code: str | None = None, text: str = "because", **headers: str) -> None:
        if code:
            headers["x-amzn-query-error"] = f"{code};Sender"
        self.answer({"__type": f"com.amazonaws.sqs#{shape}", "message": text}, f"{status} x", **headers)

    @property
    def heads(self) -> list[dict[str, str]]:
        heads = [wire.partition(b"\r\n\r\n")[0].decode().split("\r\n")[1:] for wire in self.server.requests]
        return [{name.lower(): value for name, _, value in (line.partition(": ") for line in head)} for head in heads]

    @property
    def sent(self) -> list[Any]:
        return [json.loads(wire.partition(b"\r\n\r\n")[2]) for wire in self.server.requests]


@pytest.fixture(params=CLIENTS)
def wire(request):
    wire = Wire(request.param)
    yield wire
    wire.server.close()


@pytest.fixture
def ours():
    wire = Wire("wire")
    yield wire
    wire.server.close()


# --- calls


def test_a_receive_asks_for_what_is_used_and_reads_it_all(wire):
    message = {
        "MessageId": "m1",
        "ReceiptHandle": "h1",
        "MD5OfBody": "x",
        "Body": 'b "\u00e4\u20ac\U0001f600',
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
    wire.answer({"Messages": [message, {"MessageId": "m2", "ReceiptHandle": "h2", "Body": ""}]})
    names = ["ApproximateReceiveCount", "SentTimestamp", "MessageGroupId", "AWSTraceHeader"]
    one, plain = wire.queue.receive(7, 1, 60)
    assert (one.message_id, one.receipt_handle, one.receive_count, one.sent_ms) == ("m1", "h1", 3, 1700000000123)
    assert (one.body, one.group_id, one.trace_header) == ('b "\u00e4\u20ac\U0001f600', "g", "Root=1")
    assert one.attributes == {"a": Attribute("String", "x"), "b": Attribute("Binary", b"\x00\x01")}
    assert (plain.body, plain.receive_count, plain.sent_ms, plain.group_id) == ("", 1, 0, "")
    assert plain.attributes == {}
    assert wire.sent == [
        {
            "QueueUrl": wire.url,
            "MaxNumberOfMessages": 7,
            "WaitTimeSeconds": 1,
            "VisibilityTimeout": 60,
            "MessageSystemAttributeNames": names,
            "AttributeNames": names,  # the older name, all that some servers know
            "MessageAttributeNames": ["All"],
        }
    ]
    [head] = wire.heads
    assert (head["x-amz-target"], head["content-type"]) == ("AmazonSQS.ReceiveMessage", "application/x-amz-json-1.0")
    assert head["x-amzn-query-mode"] == "true"
    assert head["authorization"].startswith("AWS4-HMAC-SHA256 Credential=test/")


@pytest.mark.parametrize("character", ['"', "\U0001f600"], ids=["quotes", "emoji"])
def test_ten_of_the_largest_messages_are_received(wire, character):
    """Over 20 MiB of JSON where each byte of them is a quote: more than any limit that looks generous."""
    body = character * (1_048_576 // len(character.encode()))
    one = {"MessageId": "m", "ReceiptHandle": "h", "Body": body}
    wire.answer({"Messages": [one | {"MessageId": f"m{number}"} for number in range(10)]})
    received = wire.queue.receive(10, 1, 60)
    assert [message.message_id for message in received] == [f"m{number}" for number in range(10)]
    assert all(message.text == body and not message.flaw for message in received)


@pytest.mark.parametrize("body", [{}, EMPTY, {"Messages": None}])
def test_an_empty_receive_has_no_messages_key(wire, body):
    wire.answer(body)
    assert wire.queue.receive(10, 1, 60) == []


BAD_ENTRIES = [
    Entry("\ud800"),
    Entry("a", group_id="\ud800"),
    Entry("a", dedup_id="\udfff"),
    Entry("a", trace_header="\ud800"),
    Entry("a", attributes={"\ud800": Attribute("String", "x")}),
    Entry("a", attributes={"a": Attribute("\ud800", "x")}),
    Entry("a", attributes={"a": Attribute("String", "\ud800")}),
    Entry(object()),  # type: ignore[arg-type]
    Entry("a", attributes={"a": Attribute("String", {1}.__iter__())}),  # type: ignore[arg-type]
]


@pytest.mark.parametrize("bad", BAD_ENTRIES, ids=range(len(BAD_ENTRIES)))
@pytest.mark.parametrize("at", [0, 4, 9])
def test_an_entry_that_cannot_be_written_fails_alone_and_its_nine_neighbours_are_sent(wire, bad, at):
    entries = [Entry(f"\u20ac {number}") for number in range(9)]
    entries.insert(at, bad)
    wire.answer({"Successful": [{"Id": str(index)} for index in range(9)]})
    results = wire.queue.send(entries)
    failure = results.pop(at)
    assert (failure.code, failure.sender_fault) == ("InvalidMessageContents", True)
    assert results == [None] * 9
    assert [entry["MessageBody"] for entry in wire.sent[0]["Entries"]] == [f"\u20ac {number}" for number in range(9)]


def test_a_batch_in_which_nothing_can_be_written_is_not_sent(wire):
    assert [failure.sender_fault for failure in wire.queue.send([Entry("\ud800")] * 2)] == [True, True]
    assert wire.sent == []


@pytest.mark.parametrize("code", ["InvalidMessageContents", "AWS.SimpleQueueService.BatchRequestTooLong"])
def test_where_sqs_refuses_a_batch_for_what_one_entry_holds_each_is_sent_alone(wire, code):
    done = {"Successful": [{"Id": "0"}]}
    wire.error(400, "InvalidMessageContents", code, text="no such character")
    wire.answer(done)
    wire.error(400, "InvalidMessageContents", code, text="no such character")
    wire.error(503, "ServiceUnavailable")
    wire.answer(done)
    first, bad, lost, last = wire.queue.send([Entry(body) for body in ("1", "\x01", "3", "4")])
    assert first is last is None
    assert (bad.code, bad.sender_fault) == (code, True)
    assert "no such character" in bad.text
    assert not lost.sender_fault  # it may be tried again
    bodies = [[entry["MessageBody"] for entry in sent["Entries"]] for sent in wire.sent]
    assert bodies == [["1", "\x01", "3", "4"], ["1"], ["\x01"], ["3"], ["4"]]


def test_a_batch_that_is_refused_for_no_fault_of_an_entry_is_not_taken_apart(wire):
    wire.error(400, "KmsDisabled", "KMS.DisabledException")
    with pytest.raises(QueueError, match="because"):
        wire.queue.send([Entry("1"), Entry("2")])
    assert len(wire.sent) == 1


def test_every_entry_of_a_batch_has_its_own_answer(wire):
    failed = {"Id": "0", "Code": "ReceiptHandleIsInvalid", "SenderFault": True, "Message": "void"}
    wire.answer({"Successful": [{"Id": "1"}], "Failed": [failed]})
    lost, done, unnamed = wire.queue.delete(["a", "a", 'c"\\'])  # the same handle twice: entries are numbered
    assert lost == Failure("ReceiptHandleIsInvalid", "void", sender_fault=True)
    assert lost.lease_lost
    assert done is None
    assert unnamed == Failure("Missing", "the answer does not name it")
    assert not unnamed.lease_lost
    handles = [{"Id": str(index), "ReceiptHandle": handle} for index, handle in enumerate(["a", "a", 'c"\\'])]
    assert wire.sent == [{"QueueUrl": wire.url, "Entries": handles}]
    assert wire.heads[0]["x-amz-target"] == "AmazonSQS.DeleteMessageBatch"


def test_an_extension_can_be_a_give_back(wire):
    wire.answer({"Successful": [{"Id": str(index)} for index in range(10)]})
    changes = [(f"h{index}", 0 if index else 43_200) for index in range(10)]
    assert wire.queue.change_visibility(changes) == [None] * 10
    assert [(entry["ReceiptHandle"], entry["VisibilityTimeout"]) for entry in wire.sent[0]["Entries"]] == changes
    assert wire.heads[0]["x-amz-target"] == "AmazonSQS.ChangeMessageVisibilityBatch"


def test_what_is_sent_carries_delay_group_trace_and_attributes(wire):
    wire.answer({"Successful": [{"Id": "1", "MessageId": "m", "MD5OfMessageBody": "x"}, {"Id": "0"}]})
    attributes = {"a": Attribute("String", "x"), "b": Attribute("Binary", b"\x00")}
    assert wire.queue.send([Entry("\u20ac", 5, "g", "Root=1", attributes), Entry("plain")]) == [None, None]
    full, plain = wire.sent[0]["Entries"]
    assert full == {
        "Id": "0",
        "MessageBody": "\u20ac",
        "DelaySeconds": 5,
        "MessageGroupId": "g",
        "MessageSystemAttributes": {"AWSTraceHeader": {"DataType": "String", "StringValue": "Root=1"}},
        "MessageAttributes": {
            "a": {"DataType": "String", "StringValue": "x"},
            "b": {"DataType": "Binary", "BinaryValue": "AA=="},
        },
    }
    assert plain == {"Id": "1", "MessageBody": "plain"}


def test_attributes_are_texts(wire):
    wire.answer({"Attributes": {"FifoQueue": "true", "ApproximateNumberOfMessages": "3"}})
    assert wire.queue.attributes() == {"FifoQueue": "true", "ApproximateNumberOfMessages": "3"}
    assert wire.sent == [{"QueueUrl": wire.url, "AttributeNames": ["All"]}]


def test_the_redrive_policys_target_is_the_dead_letter_queue(wire):
    wire.answer({"QueueUrl": "http://x/1/dead"})
    policy = json.dumps({"deadLetterTargetArn": "arn:aws:sqs:eu-west-1:1:dead", "maxReceiveCount": 15})
    assert wire.queue.dead_letters(read_redrive({"RedrivePolicy": policy})).url == "http://x/1/dead"
    assert wire.sent == [{"QueueName": "dead", "QueueOwnerAWSAccountId": "1"}]
    assert wire.queue.dead_letters(read_redrive({})) is None
    assert wire.queue.dead_letters(read_redrive({"RedrivePolicy": "nonsense"})) is None


def test_the_queues_of_one_endpoint_share_its_connections(wire):
    for name in ("a", "b", "a"):
        wire.answer({"Successful": [{"Id": "0"}]})
        assert wire.sqs.queue(f"{wire.server.url}/1/{name}").delete(["h"]) == [None]
    assert [sent["QueueUrl"][-1] for sent in wire.sent] == ["a", "b", "a"]
    assert wire.server.connections == 1


# --- refusals


@pytest.mark.parametrize(
    ("status", "shape", "code", "kind"),
    [
        (400, "QueueDoesNotExist", "AWS.SimpleQueueService.NonExistentQueue", QueueMissing),
        (400, "QueueDoesNotExist", None, QueueMissing),
        (404, "InvalidAddress", "InvalidAddress", QueueMissing),
        (403, "RequestThrottled", "RequestThrottled", Throttled),
        (400, "KmsThrottled", "KMS.ThrottlingException", Throttled),
        (403, "OverLimit", "OverLimit", Throttled),
        (400, "ThrottlingException", None, Throttled),
        (429, "Whatever", None, Throttled),
        (403, "AccessDeniedException", None, AccessDenied),
        (403, "ExpiredTokenException", None, AccessDenied),
        (403, "InvalidSecurity", "InvalidSecurity", AccessDenied),
        (403, "InvalidSignatureException", None, AccessDenied),
        (403, "RequestExpired", None, AccessDenied),
        (500, "InternalFailure", None, Unanswered),
        (503, "ServiceUnavailable", None, Unreachable),
        (400, "Other", None, QueueError),
        (400, "Other", "Another", QueueError),
    ],
)
def test_errors_are_told_apart_by_code_and_query_code(wire, status, shape, code, kind):
    wire.error(status, shape, code)
    with pytest.raises(QueueError, match=r"ReceiveMessage: .*because") as caught:
        wire.queue.receive(1, 1, 1)
    assert type(caught.value) is kind
    assert caught.value.code == (code or shape)
    assert len(wire.sent) == 1  # an SDK's retry would strand another batch


def test_an_error_can_spell_its_message_with_a_capital(wire):
    wire.answer({"__type": "AccessDeniedException", "Message": "not for you"}, "403 x")
    with pytest.raises(AccessDenied, match="not for you"):
        wire.queue.delete(["h"])


@pytest.mark.parametrize(
    "garbage",
    [
        b"",
        b"{",
        b"[1,2]",
        b"null",
        b"\xff\xfe",
        b'{"Messages": 5}',
        b'{"Messages": [5]}',
        b'{"Messages": [{"MessageId": "x"}]}',
        b'{"Messages": [{"MessageId": "x", "ReceiptHandle": "h", "Body": 5, "Attributes": {}}',
        b'{"Messages": [[]]}',
        b'{"Messages": [{"MessageId": "x", "ReceiptHandle": null}, null]}',
        DEEP,
        b'{"Messages": [{"MessageId": "x", "ReceiptHandle": "h", "Body": ' + DEEP + b"}]}",
        DEEP[:10_000],
    ],
)
def test_an_answer_that_is_no_sqs_is_unreachable(wire, garbage):
    wire.answer(garbage)
    with pytest.raises(Unreachable, match="ReceiveMessage: "):
        wire.queue.receive(1, 1, 1)


@pytest.mark.parametrize("body", [b"<html>please log in", b"{}", b'{"error": "please log in"}'])
def test_a_proxys_page_with_status_200_is_no_empty_receive(wire, body):
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: %d\r\n\r\n"
    wire.server.script.append(head % len(body) + body)
    with pytest.raises(Unreachable, match="text/html"):
        wire.queue.receive(1, 1, 1)


@pytest.mark.parametrize(
    ("status", "content_type", "body"),
    [
        ("504 Gateway Time-out", "text/html", b"<html>504 Gateway Time-out</html>"),
        ("502 Bad Gateway", "text/html", b""),
        ("500 x", "application/x-amz-json-1.0", b'{"__type": "com.amazonaws.sqs#InternalFailure", "message": "oops"}'),
        ("200 OK", "text/html", b"<html>"),
        ("200 OK", "application/x-amz-json-1.0", b"{"),
    ],
)
def test_an_answer_that_does_not_say_whether_it_was_done_is_none(wire, status, content_type, body):
    """A proxy that waits no longer for SQS says 504: SQS may take the message a moment later all the same."""
    head = f"HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}\r\n\r\n"
    wire.server.script.append(head.encode() + body)
    with pytest.raises(Unanswered):
        wire.queue.send([Entry("body")])


@pytest.mark.parametrize("status", ["301 x", "400 x", "403 x", "404 x", "502 x"])
@pytest.mark.parametrize("garbage", [b"", b"<html>bad gateway</html>", b"{", b"[]", b"{}"])
def test_a_refusal_that_is_no_sqs_is_unreachable_too(wire, status, garbage):
    wire.answer(garbage, status)
    with pytest.raises(Unreachable):
        wire.queue.delete(["h"])


def test_a_proxy_that_says_429_is_throttling(wire):
    wire.answer(b"<html>slow down</html>", "429 x")
    with pytest.raises(Throttled):
        wire.queue.delete(["h"])


# --- one message, or one entry, that is not as SQS writes it


def messages(*odd: Any) -> dict[str, Any]:
    """An answer of ten, these among them."""
    good = [
        {
            "MessageId": f"m{n}",
            "ReceiptHandle": f"h{n}",
            "Body": f"b{n}",
            "Attributes": {"ApproximateReceiveCount": "2"},
        }
        for n in range(10 - len(odd))
    ]
    return {"Messages": [*good[:4], *odd, *good[4:]]}


NO_TEXT = "its Body in the answer of SQS is not a text"


@pytest.mark.parametrize(
    ("change", "flaw"),
    [
        ({"Body": None}, NO_TEXT),
        ({"Body": 5}, NO_TEXT),
        ({"Body": {"a": 1}}, NO_TEXT),
        ({"Body": "half \ud800"}, "half a character"),
        ({"MessageAttributes": {"a": {"DataType": "String"}}}, "its attribute a cannot be read"),
        ({"MessageAttributes": {"a": {"DataType": "Binary", "BinaryValue": "!"}}}, "its attribute a cannot be read"),
        ({"MessageAttributes": {"a": 5}}, "its attribute a cannot be read"),
        ({"MessageAttributes": {"a": {"DataType": 5, "StringValue": None}}}, "its attribute a cannot be read"),
        ({"MessageAttributes": [1]}, ""),
        ({"MessageId": None}, ""),
        ({"MessageId": ""}, ""),
        ({"Attributes": None}, ""),
        ({"Attributes": "x"}, ""),
        ({"Attributes": {"MessageGroupId": {}, "AWSTraceHeader": [None]}}, ""),
    ],
)
def test_a_message_that_is_not_as_sqs_writes_it_costs_its_nine_neighbours_nothing(wire, change, flaw):
    wire.answer(messages({"MessageId": "odd", "ReceiptHandle": "h", "Body": "b", **change}))
    received = wire.queue.receive(10, 1, 60)
    odd = received.pop(4)
    assert [one.body for one in received] == [f"b{n}" for n in range(9)]
    assert {(one.receive_count, one.flaw) for one in received} == {(2, "")}
    assert flaw in odd.flaw
    assert bool(odd.flaw) == bool(flaw)
    assert odd.receipt_handle == "h"
    assert odd.message_id
    assert (odd.receive_count, odd.sent_ms, odd.group_id, odd.trace_header) == (1, 0, "", "")
    json.dumps([odd.body, odd.flaw], ensure_ascii=False).encode()  # fit for a dead letter


@pytest.mark.parametrize("odd", [{"ReceiptHandle": "h"}, {}], ids=["without a body", "without a handle"])
def test_the_neighbours_of_an_odd_message_are_read_as_without_it(wire, odd):
    attributes = {
        "text \u20ac": {"DataType": "String.x", "StringValue": "\U0001f600"},
        "bytes": {"DataType": "Binary", "BinaryValue": "AAH/"},
        "empty": {"DataType": "String", "StringValue": ""},
    }
    names = {"MessageId": "m \u20ac", "ReceiptHandle": "h/+=", "Body": 'b "\\ \u0000 \U0001f600'}
    system = {"ApproximateReceiveCount": "3", "SentTimestamp": "1700000000123", "MessageGroupId": "g"}
    good = names | {"Attributes": system | {"AWSTraceHeader": "Root=1"}, "MessageAttributes": attributes}
    plain = {"MessageId": "m2", "ReceiptHandle": "h2", "Body": "b2"}
    wire.answer({"Messages": [good, plain]})
    alone = wire.queue.receive(10, 1, 60)
    wire.answer({"Messages": [good, odd, plain]})
    received = wire.queue.receive(10, 1, 60)
    assert [received[0], received[-1]] == alone
    assert alone[0].attributes["bytes"] == Attribute("Binary", b"\x00\x01\xff")


def test_a_message_without_a_body_is_a_dead_letter_that_can_be_sent(wire):
    wire.answer(messages({"MessageId": "odd", "ReceiptHandle": "h"}))
    odd = wire.queue.receive(10, 1, 60)[4]
    assert (odd.body, odd.flaw) == ("null", NO_TEXT)  # SQS takes no empty one


def test_messages_without_an_id_are_not_taken_for_one(wire):
    wire.answer(messages({"ReceiptHandle": "x", "Body": "1"}, {"MessageId": "", "ReceiptHandle": "y", "Body": "2"}))
    assert len({one.message_id for one in wire.queue.receive(10, 1, 60)}) == 10


@pytest.mark.parametrize("odd", [{"MessageId": "x", "Body": "b"}, {"ReceiptHandle": "", "Body": "b"}, None, 5, [], "x"])
def test_a_message_without_a_handle_is_told_once_a_minute_and_its_neighbours_are_delivered(
    wire, odd, caplog, monkeypatch
):
    monkeypatch.setattr("millpond.sqs.salvage._quiet_until", 0.0)
    for _ in range(3):
        wire.answer(messages(odd))
        assert [one.body for one in wire.queue.receive(10, 1, 60)] == [f"b{n}" for n in range(9)]
    [told] = caplog.messages
    assert told == "1 of 10 messages have no receipt handle: they come back after their visibility time-out"


DIGITS = "9" * 400


@pytest.mark.parametrize(
    ("number", "count"),
    [
        *((odd, 1) for odd in (DIGITS, int(DIGITS), "9" * 5000, "-3", "0", None, "2.5", 2.5, "NaN", float("nan"))),
        *((odd, 1) for odd in ("", "x", True, [], {})),
        *((good, int(good)) for good in ("7", 7, 2**31 - 1)),
    ],
    ids=lambda value: str(value)[:20],
)
def test_a_number_that_cannot_be_one_is_as_if_it_were_absent(wire, number, count):
    system = {"ApproximateReceiveCount": number, "SentTimestamp": "1700000000123", "MessageGroupId": "g"}
    message = {"MessageId": "x", "ReceiptHandle": "h", "Body": "b"}
    wire.answer({"Messages": [message | {"Attributes": system}]})
    [one] = wire.queue.receive(1, 1, 60)
    assert (one.receive_count, one.sent_ms, one.group_id, one.flaw) == (count, 1700000000123, "g", "")
    wire.answer({"Messages": [message | {"Attributes": {"ApproximateReceiveCount": "3", "SentTimestamp": number}}]})
    [one] = wire.queue.receive(1, 1, 60)
    assert (one.receive_count, one.flaw) == (3, "")
    assert one.sent_ms in (0, number, 7)
    Message("m", "e", "t", "q", "b", _sent_ms=one.sent_ms).sent_at  # noqa: B018  a date


def test_an_entry_whose_result_is_not_as_sqs_writes_it_costs_its_neighbours_nothing(wire):
    done = [{"Id": "0"}, {"Id": 5}, {}, None, {"Id": "1", "MessageId": 7}]
    odd = [{"Id": "2", "Code": None, "Message": {"a": 1}, "SenderFault": "no"}, 5]
    wire.answer({"Successful": done, "Failed": odd})
    first, second, third, unnamed = wire.queue.delete(["a", "b", "c", "d"])
    assert first is second is None
    assert third == Failure("", "")
    assert unnamed.code == "Missing"


def test_an_entry_that_is_named_as_done_and_as_failed_is_failed(wire):
    wire.answer({"Successful": [{"Id": "0"}, {"Id": "0"}], "Failed": [{"Id": "0", "Code": "InternalError"}]})
    assert wire.queue.delete(["a"]) == [Failure("InternalError")]


@pytest.mark.parametrize("results", [{"Successful": 5}, {"Failed": {}}, [], None])
def test_results_that_are_none_are_unreachable(wire, results):
    wire.answer(results)
    with pytest.raises(Unreachable, match="DeleteMessageBatch: "):
        wire.queue.delete(["a"])


@pytest.mark.parametrize("attributes", [{}, {"Attributes": None}, {"Attributes": {"a": 5}}, []])
def test_attributes_that_are_none_are_unreachable(wire, attributes):
    wire.answer(attributes)
    with pytest.raises(Unreachable, match="GetQueueAttributes: "):
        wire.queue.attributes()


@pytest.mark.parametrize("status", [400, 403, 500])
@pytest.mark.parametrize(
    "content",
    [
        DEEP,
        {"__type": 5, "message": None},
        {"__type": "a", "message": {"b": [1]}},
        {"__type": None, "Message": 5},
        None,
    ],
)
def test_a_refusal_that_is_not_as_sqs_writes_it_is_a_queue_error(wire, status, content):
    wire.answer(content, f"{status} x")
    with pytest.raises(QueueError, match="DeleteMessageBatch: "):
        wire.queue.delete(["h"])


def test_a_refusal_whose_body_cannot_be_read_is_told_apart_by_its_head(wire):
    wire.answer(DEEP, "400 x", x_amzn_query_error="AWS.SimpleQueueService.NonExistentQueue;Sender")
    with pytest.raises(QueueMissing) as caught:
        wire.queue.delete(["h"])
    assert caught.value.code == "AWS.SimpleQueueService.NonExistentQueue"


def test_what_an_endpoint_says_is_one_short_line_without_escapes(wire):
    text = "\x1b[2J\n" + "x" * 1_000_000
    wire.answer({"__type": f"a#{text}", "message": text}, "400 x", x_amzn_query_error="y" * 50_000)
    with pytest.raises(QueueError) as caught:
        wire.queue.delete(["h"])
    assert len(f"{caught.value} {caught.value.code}") < 1_500
    assert f"{caught.value} {caught.value.code}".isprintable()
    wire.answer({"Failed": [{"Id": "0", "Code": text, "Message": text}]})
    [failure] = wire.queue.delete(["h"])
    assert len(failure.code + failure.text) < 1_500
    assert (failure.code + failure.text).isprintable()
    wire.server.script.append(sqs_answer(b"{}").replace(b"application/x-amz-json-1.0", b"text/" + b"\x9b[2J" * 9_000))
    with pytest.raises(Unreachable) as unreachable:
        wire.queue.delete(["h"])
    assert len(str(unreachable.value)) < 1_500
    assert str(unreachable.value).isprintable()


@pytest.mark.parametrize("odd", ["77", "1", "-1", "", "0x0"])
@pytest.mark.parametrize("status", ["200 OK", "500 x"])
def test_a_batch_answer_with_odd_ids_is_unreachable(wire, status, odd):
    wire.answer({"Successful": [{"Id": odd}]}, status)
    with pytest.raises(Unreachable):
        wire.queue.delete(["h"])


@pytest.mark.parametrize("answer", [DEEP, b"[]", b'{"Successful": [{"Id": "9"}]}', b'{"Failed": 5}', b"\xff"])
def test_a_producer_hears_of_any_answer_that_is_none_as_a_queue_error(wire, monkeypatch, answer):
    monkeypatch.setenv("SQS_CLIENT", wire.sqs.client)
    monkeypatch.setattr("millpond.producer.call_back_off_seconds", lambda failures, error: 0.0)
    for _ in range(10):
        wire.answer(answer)
    with pytest.raises(QueueError, match="SendMessageBatch"):
        Producer(wire.url, region="eu-west-1").send("a", 1)


# --- the way


def test_a_server_that_hangs_up_in_the_middle_is_unreachable_and_is_not_asked_again(wire):
    answer = sqs_answer(b'{"Messages": []}')
    for at in (0, 10, len(answer) - 1):
        wire.server.script.append([answer[:at], HANG_UP])
        with pytest.raises(Unreachable, match="ReceiveMessage: "):
            wire.queue.receive(1, 1, 1)
    assert len(wire.sent) == 3
    wire.answer(EMPTY)
    assert wire.queue.receive(1, 1, 1) == []


def test_a_connection_that_was_closed_while_it_was_idle_is_noticed_before_it_is_used(wire):
    wire.answer(EMPTY)
    wire.queue.receive(1, 1, 1)
    for sock in list(wire.server.open):
        sock.shutdown(socket.SHUT_RDWR)
    wire.server.wait_until_open(0)
    gevent.sleep(0.01)
    wire.answer(EMPTY)
    assert wire.queue.receive(1, 1, 1) == []


def test_nobody_listens(wire):
    wire.server.close()
    with pytest.raises(Unreachable, match="ReceiveMessage: "):
        wire.queue.receive(1, 1, 1)


def test_a_call_without_credentials_is_denied(monkeypatch, wire):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    url = "https://sqs.eu-west-1.amazonaws.com/1/q"
    sqs = connect(url, client=wire.sqs.client, wait_seconds=1, polls=1, settles=1)
    with pytest.raises(AccessDenied, match=r"ReceiveMessage: .*set AWS_ACCESS_KEY_ID"):
        sqs.queue(url).receive(1, 1, 1)


def test_a_proxy_is_spoken_to_by_boto3(monkeypatch):
    proxy = Server()
    for name in ("NO_PROXY", "no_proxy", "http_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HTTP_PROXY", proxy.url)
    url = "http://sqs.internal.example/1/q"
    sqs = connect(url, client="wire", region="eu-west-1", wait_seconds=1, polls=1, settles=1)
    proxy.script.append(sqs_answer(b"{}"))
    assert sqs.queue(url).receive(1, 1, 1) == []
    assert proxy.requests[0].startswith(b"POST http://sqs.internal.example/ HTTP/1.1\r\n")
    assert sqs.client == "boto3"
    proxy.close()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    return make_certificate(tmp_path_factory.mktemp("certificate"))


@pytest.mark.parametrize("client", CLIENTS)
def test_over_tls_the_servers_certificate_is_checked_with_the_ca_bundle(certificate, monkeypatch, client):
    monkeypatch.setenv("AWS_CA_BUNDLE", str(certificate.pem))
    trusting = Wire(client, certificate.server_context())
    for _ in range(3):
        trusting.answer(EMPTY)
        assert trusting.queue.receive(1, 1, 1) == []
    assert trusting.server.connections == 1
    monkeypatch.delenv("AWS_CA_BUNDLE")
    careful = Wire(client, certificate.server_context())
    with pytest.raises(Unreachable, match="CERTIFICATE_VERIFY_FAILED"):
        careful.queue.receive(1, 1, 1)
    assert careful.sent == []
    for wire in (trusting, careful):
        wire.server.close()


# --- what ours does beyond: a call is sent twice only where SQS has refused its signature


def seconds_of(date: str) -> float:
    return datetime.strptime(date, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC).timestamp()


def http_date(seconds: float) -> str:
    return format_datetime(datetime.fromtimestamp(seconds, UTC), usegmt=True)


@pytest.mark.parametrize(
    ("shape", "text"),
    [
        ("InvalidSignatureException", "Signature expired: 20261122T000000Z is now earlier than 20261122T010000Z"),
        ("InvalidSignatureException", "Signature not yet current: 20261122T020000Z is still later than ..."),
        ("RequestExpired", "Request has expired"),
        ("RequestTimeTooSkewed", "The difference is too large"),
    ],
)
@pytest.mark.parametrize("hours", [-5, 5])
def test_a_wrong_clock_is_set_by_the_servers_and_the_call_is_signed_again(ours, shape, text, hours):
    server_time = time.time() + hours * 3600
    ours.error(403, shape, text=text, date=http_date(server_time))
    ours.answer(EMPTY)
    assert ours.queue.receive(1, 1, 1) == []
    ours.answer({"Successful": [{"Id": "0"}]})
    assert ours.queue.delete(["h"]) == [None]
    first, second, third = (seconds_of(head["x-amz-date"]) for head in ours.heads)
    assert abs(first - time.time()) < 30
    assert abs(second - server_time) < 30
    assert abs(third - server_time) < 30  # the next call knows
    assert ours.sent[0] == ours.sent[1]


def test_a_clock_that_is_still_wrong_then_is_told(ours):
    for _ in range(2):
        ours.error(403, "RequestExpired", text="Request has expired", date=http_date(0))
    with pytest.raises(AccessDenied, match="Request has expired"):
        ours.queue.receive(1, 1, 1)
    assert len(ours.sent) == 2


NO_TIMES = [
    "",
    "yesterday",
    "Thu, 31 Dec 9999 23:59:59 GMT",
    "Sun, 22 Nov 2026 00:00:00 +" + "9" * 20,
    "Sun, 22 Nov 2026 00:00:00 -9999",
    "Sun, 99 Nov 2026 00:00:00 GMT",
    "Sun, 22 Nov " + "2" * 500 + " 00:00:00 GMT",
    "Wed, 31 Dec 1969 23:59:59 GMT",
    "Fri, 01 Jan 2100 00:00:01 GMT",
    "\xff",
]


def test_a_date_without_a_zone_is_utc(ours, monkeypatch):
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        ours.error(403, "RequestExpired", date="Sun, 22 Nov 2026 00:00:00 -0000")
        ours.answer(EMPTY)
        assert ours.queue.receive(1, 1, 1) == []
    finally:
        monkeypatch.undo()
        time.tzset()
    assert ours.heads[1]["x-amz-date"].startswith("20261122T0000")


def test_a_time_that_did_not_help_is_not_kept(ours):
    """A proxy's clock, or a lie, would spoil every call after it."""
    for _ in range(2):
        ours.error(403, "RequestExpired", date=http_date(4_000_000_000))
    with pytest.raises(AccessDenied):
        ours.queue.receive(1, 1, 1)
    ours.answer({"Successful": [{"Id": "0"}]})
    ours.queue.delete(["h"])
    assert [head["x-amz-date"][:4] for head in ours.heads[:2]] != ["2096", "2096"]
    assert abs(seconds_of(ours.heads[2]["x-amz-date"]) - time.time()) < 30


@pytest.mark.parametrize("headers", [{}, *({"date": date} for date in NO_TIMES)])
def test_without_the_servers_time_there_is_no_second_try(ours, headers):
    ours.error(403, "RequestExpired", **headers)
    with pytest.raises(AccessDenied):
        ours.queue.receive(1, 1, 1)
    assert len(ours.sent) == 1


def test_a_wrong_secret_is_not_tried_twice(ours):
    text, date = "The request signature we calculated does not match", http_date(time.time())
    ours.error(403, "InvalidSignatureException", text=text, date=date)
    with pytest.raises(AccessDenied):
        ours.queue.receive(1, 1, 1)
    assert len(ours.sent) == 1


@pytest.mark.parametrize("shape", ["ExpiredTokenException", "ExpiredToken"])
def test_an_expired_token_is_renewed_and_the_call_is_sent_again(ours, monkeypatch, shape):
    ours.answer(EMPTY)
    ours.queue.receive(1, 1, 1)
    ours.error(403, shape)
    ours.answer(EMPTY)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "fresh")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "token")
    assert ours.queue.receive(1, 1, 1) == []
    keys = [head["authorization"].split("Credential=")[1].partition("/")[0] for head in ours.heads]
    assert keys == ["test", "test", "fresh"]
    assert [head.get("x-amz-security-token") for head in ours.heads] == [None, None, "token"]


def test_a_token_that_is_expired_all_the_same_is_not_tried_twice(ours):
    ours.error(403, "ExpiredTokenException")
    with pytest.raises(AccessDenied):
        ours.queue.receive(1, 1, 1)
    assert len(ours.sent) == 1


def test_a_receive_is_signed_once_a_second_and_a_delete_by_its_own_handles(ours, monkeypatch):
    now = [1_795_305_599.2]
    monkeypatch.setattr("millpond.sqs.signed_calls.time", lambda: now[0])
    for at in (0.0, 0.5, 0.9):
        now[0] = 1_795_305_599.2 + at
        ours.answer(EMPTY)
        ours.queue.receive(1, 1, 1)
    assert [head["x-amz-date"] for head in ours.heads] == ["20261121T235959Z"] * 2 + ["20261122T000000Z"]
    signatures = [head["authorization"] for head in ours.heads]
    assert signatures[0] == signatures[1] != signatures[2]
    for handle in "ab":
        ours.answer({"Successful": [{"Id": "0"}]})
        ours.queue.delete([handle])
    assert ours.heads[3]["authorization"] != ours.heads[4]["authorization"]


def test_where_there_is_no_poll_as_on_windows_the_client_is_boto3(monkeypatch):
    monkeypatch.setattr(clients, "HAS_POLL", False)
    monkeypatch.delenv("SQS_CLIENT", raising=False)
    url = "http://127.0.0.1:9/000000000000/emails"
    assert type(connect(url, wait_seconds=1, polls=1, settles=1, region="eu-west-1")).__name__ == "BotoSqs"
