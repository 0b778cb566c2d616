"""Messages and receives as boto3 sees them: on millpond.local, and on moto where that is like AWS."""

from __future__ import annotations

import hashlib
from typing import Any

import gevent
import pytest

from tests.local.sdk_calls import NewQueue, attributes, error_of, moto_differs, receive, receive_one, text


def test_a_message_comes_with_its_md5_and_the_system_attributes_that_were_asked_for(sqs: Any, queue_url: str) -> None:
    sent = sqs.send_message(QueueUrl=queue_url, MessageBody="msg")
    assert sent["MD5OfMessageBody"] == "6e2baaf3b97dbeef01c0043275f9a0e7"  # recorded from AWS
    assert "MD5OfMessageAttributes" not in sent
    bare = receive_one(sqs, queue_url, VisibilityTimeout=0)
    assert bare.keys() == {"MessageId", "ReceiptHandle", "MD5OfBody", "Body"}
    assert (bare["MessageId"], bare["Body"], bare["MD5OfBody"]) == (sent["MessageId"], "msg", sent["MD5OfMessageBody"])
    one = receive_one(sqs, queue_url, VisibilityTimeout=0, MessageSystemAttributeNames=["ApproximateReceiveCount"])
    assert one["Attributes"] == {"ApproximateReceiveCount": "2"}
    every = receive_one(sqs, queue_url, VisibilityTimeout=0, MessageSystemAttributeNames=["All"])["Attributes"]
    assert every["ApproximateReceiveCount"] == "3"
    assert int(every["SentTimestamp"]) <= int(every["ApproximateFirstReceiveTimestamp"])
    assert every.keys() == {
        "SenderId",
        "SentTimestamp",
        "ApproximateReceiveCount",
        "ApproximateFirstReceiveTimestamp",
    }
    old_name = receive_one(sqs, queue_url, AttributeNames=["SentTimestamp"])
    assert old_name["Attributes"] == {"SentTimestamp": every["SentTimestamp"]}


BOUQUET = {"Help.Me": text("Me"), "General": text("Kenobi"), "Hello": text("There")}


def test_the_md5_of_attributes_is_the_one_that_aws_gave(sqs: Any, queue_url: str) -> None:
    trace = b"traceparent\x1e00-774062d6c37081a5a0b9b5b88e30627c-2d2482211f6489da-01"
    recorded = {
        "4c360f3fdafd970e05fae2f149d997f5": BOUQUET,
        "ae7155c6026991b6d54b11589678bf9c": {"Foo": text("Bar")},
        "8cbe4db156db8a94db8b801b7addb984": {"attr1": {"DataType": "Binary", "BinaryValue": trace}},
    }
    for md5, user_attributes in recorded.items():
        sent = sqs.send_message(QueueUrl=queue_url, MessageBody="msg", MessageAttributes=user_attributes)
        assert sent["MD5OfMessageAttributes"] == md5
        got = receive_one(sqs, queue_url, MessageAttributeNames=["All"])
        assert (got["MessageAttributes"], got["MD5OfMessageAttributes"]) == (user_attributes, md5)


@pytest.mark.parametrize(
    ("names", "found", "md5"),
    [
        (["All"], {"General", "Hello", "Help.Me"}, "4c360f3fdafd970e05fae2f149d997f5"),
        ([".*"], {"General", "Hello", "Help.Me"}, "4c360f3fdafd970e05fae2f149d997f5"),
        (["Hel.*"], {"Hello", "Help.Me"}, "83fee93c1bcd8b9a5a923ffacdc636c7"),
        (["Hello", "General"], {"General", "Hello"}, "fca026605781cb4126a1e9044df24232"),
        (["Hello", "None"], {"Hello"}, "a311262e065454b75da111d535b8dacd"),
    ],
)
def test_attributes_come_by_name_or_beginning_with_an_md5_of_their_own(
    sqs: Any, queue_url: str, names: list[str], found: set[str], md5: str
) -> None:
    sqs.send_message(QueueUrl=queue_url, MessageBody="msg", MessageAttributes=BOUQUET)
    got = receive_one(sqs, queue_url, MessageAttributeNames=names)
    assert got["MessageAttributes"].keys() == found
    assert got["MD5OfMessageAttributes"] == md5


def test_attributes_that_are_not_asked_for_or_not_there_do_not_come(sqs: Any, queue_url: str) -> None:
    sqs.send_message(QueueUrl=queue_url, MessageBody="msg", MessageAttributes=BOUQUET)
    for names in ([], ["None"]):
        got = receive_one(sqs, queue_url, MessageAttributeNames=names, VisibilityTimeout=0)
        assert "MessageAttributes" not in got
        assert "MD5OfMessageAttributes" not in got


@pytest.mark.parametrize(
    "wrong",
    [
        {f"a{n}": text("1") for n in range(11)},
        {".a": text("1")},
        {"a.": text("1")},
        {"a..b": text("1")},
        {"AWS.a": text("1")},
        {"amazon.a": text("1")},
        {"a!": text("1")},
        {"a" * 257: text("1")},
        {"a": text("1", "Text")},
        {"a": text("1", "")},
        {"a": text("")},
        {"a": text("\x08")},
        {"a": {"DataType": "String"}},
        {"a": {"DataType": "String", "BinaryValue": b"1"}},
        {"a": {"DataType": "Binary", "BinaryValue": b""}},
        {"a": text("1", "Binary")},
        {"a": text("one", "Number")},
    ],
    ids=lambda wrong: str(wrong)[:40],
)
@moto_differs("it takes most of these")
def test_user_attributes_that_sqs_does_not_take_are_refused(sqs: Any, queue_url: str, wrong: dict[str, Any]) -> None:
    error = error_of(sqs.send_message, QueueUrl=queue_url, MessageBody="m", MessageAttributes=wrong)
    assert error["Code"] == "InvalidParameterValue"


def test_user_attributes_of_every_type_come_back_as_they_were_sent(sqs: Any, queue_url: str) -> None:
    sent = {
        "text": text("ä\t\U0001f600"),
        "typed": text("x", "String.json"),
        "number": text("-1.5e3", "Number"),
        "whole": text("1614717034367", "Number.long"),
        "bytes": {"DataType": "Binary.gzip", "BinaryValue": bytes(range(256))},
    }
    sqs.send_message(QueueUrl=queue_url, MessageBody="m", MessageAttributes=sent)
    assert receive_one(sqs, queue_url, MessageAttributeNames=["All"])["MessageAttributes"] == sent


@pytest.mark.parametrize("body", ["a\tb\r\nc", "ä ß \ue000 \ufffd", "\U0001f600 \U0010ffff", '{"a": "\\u0000"}'])
def test_what_xml_takes_is_a_body(sqs: Any, queue_url: str, body: str) -> None:
    sent = sqs.send_message(QueueUrl=queue_url, MessageBody=body)
    assert sent["MD5OfMessageBody"] == hashlib.md5(body.encode()).hexdigest()
    assert receive_one(sqs, queue_url)["Body"] == body


@moto_differs("it takes any character")
@pytest.mark.parametrize("body", ["\x00", "a\x08", "\x1f", "\ufffe", "\uffff"])
def test_a_character_that_xml_does_not_take_is_refused(sqs: Any, queue_url: str, body: str) -> None:
    error = error_of(sqs.send_message, QueueUrl=queue_url, MessageBody=body)
    assert error["Code"] == error["QueryErrorCode"] == "InvalidMessageContents"
    batch = sqs.send_message_batch(
        QueueUrl=queue_url, Entries=[{"Id": "a", "MessageBody": "fine"}, {"Id": "b", "MessageBody": body}]
    )
    assert [entry["Id"] for entry in batch["Successful"]] == ["a"]
    assert [(entry["Id"], entry["Code"], entry["SenderFault"]) for entry in batch["Failed"]] == [
        ("b", "InvalidMessageContents", True)
    ]


@moto_differs("InvalidParameterValue")
def test_an_empty_body_is_refused(sqs: Any, queue_url: str) -> None:
    error = error_of(sqs.send_message, QueueUrl=queue_url, MessageBody="")
    assert (error["Code"], error["QueryErrorCode"]) == ("MissingParameter", "MissingRequiredParameterException")
    assert error["Message"] == "The request must contain the parameter MessageBody."


def test_the_trace_header_travels_beside_the_message_and_has_an_md5_of_its_own(sqs: Any, queue_url: str) -> None:
    header = "Root=1-5759e988-bd862e3fe1be46a994272793;Parent=53995c3f42cd8ad8;Sampled=1"
    sqs.send_message(QueueUrl=queue_url, MessageBody="m", MessageSystemAttributes={"AWSTraceHeader": text(header)})
    got = receive_one(sqs, queue_url, MessageSystemAttributeNames=["AWSTraceHeader"])
    assert got["Attributes"] == {"AWSTraceHeader": header}


@moto_differs("no MD5OfMessageSystemAttributes")
def test_the_trace_header_has_the_md5_that_aws_gave_and_does_not_count_to_the_size(sqs: Any, queue_url: str) -> None:
    header = "Root=1-5759e988-bd862e3fe1be46a994272793;Parent=53995c3f42cd8ad8;Sampled=1"
    sent = sqs.send_message(
        QueueUrl=queue_url, MessageBody="m" * 1_048_576, MessageSystemAttributes={"AWSTraceHeader": text(header)}
    )
    assert sent["MD5OfMessageSystemAttributes"] == "5ae4d5d7636402d80f4eb6d213245a88"
    assert "MD5OfMessageAttributes" not in sent
    for wrong in ({"Colour": text("red")}, {"AWSTraceHeader": text("1", "Number")}):
        error = error_of(sqs.send_message, QueueUrl=queue_url, MessageBody="m", MessageSystemAttributes=wrong)
        assert error["Code"] == "InvalidParameterValue"


def test_a_group_on_a_standard_queue_is_a_tenant_and_locks_nothing(sqs: Any, queue_url: str) -> None:
    for _ in range(2):
        sqs.send_message(QueueUrl=queue_url, MessageBody="m", MessageGroupId="tenant-1")
    for _ in range(2):
        got = receive_one(sqs, queue_url, MessageSystemAttributeNames=["MessageGroupId"])
        assert got["Attributes"] == {"MessageGroupId": "tenant-1"}


@moto_differs("it takes any group")
@pytest.mark.parametrize("group", ["", "a" * 129, "group 123"])
def test_a_group_that_sqs_does_not_take_is_refused(sqs: Any, queue_url: str, group: str) -> None:
    error = error_of(sqs.send_message, QueueUrl=queue_url, MessageBody="m", MessageGroupId=group)
    assert error["Message"] == (
        f"Value {group} for parameter MessageGroupId is invalid. Reason: MessageGroupId can only include "
        "alphanumeric and punctuation characters. 1 to 128 in length."
    )


@moto_differs("it takes it")
def test_a_deduplication_id_is_for_fifo_queues(sqs: Any, queue_url: str) -> None:
    error = error_of(sqs.send_message, QueueUrl=queue_url, MessageBody="m", MessageDeduplicationId="d")
    assert "not valid for this queue type" in error["Message"]


def test_a_delay_hides_a_message_and_overrides_the_queues_own(sqs: Any, new_queue: NewQueue) -> None:
    url = new_queue(DelaySeconds="600")
    sqs.send_message(QueueUrl=url, MessageBody="late")
    sqs.send_message(QueueUrl=url, MessageBody="now", DelaySeconds=0)
    assert [message["Body"] for message in receive(sqs, url, MaxNumberOfMessages=10)] == ["now"]
    counts = attributes(sqs, url)
    assert (counts["ApproximateNumberOfMessages"], counts["ApproximateNumberOfMessagesDelayed"]) == ("0", "1")
    assert error_of(sqs.send_message, QueueUrl=url, MessageBody="m", DelaySeconds=901)["Message"] == (
        "Value 901 for parameter DelaySeconds is invalid. Reason: DelaySeconds must be >= 0 and <= 900."
    )


@moto_differs("another text")
@pytest.mark.parametrize(
    ("parameter", "value", "reason"),
    [
        ("MaxNumberOfMessages", 0, "Must be between 1 and 10, if provided."),
        ("MaxNumberOfMessages", 11, "Must be between 1 and 10, if provided."),
        ("WaitTimeSeconds", 21, "Must be >= 0 and <= 20, if provided."),
        ("WaitTimeSeconds", -1, "Must be >= 0 and <= 20, if provided."),
    ],
)
def test_a_receive_out_of_range_is_refused(sqs: Any, queue_url: str, parameter: str, value: int, reason: str) -> None:
    error = error_of(sqs.receive_message, QueueUrl=queue_url, **{parameter: value})
    assert error["Code"] == "InvalidParameterValue"
    assert error["Message"] == f"Value {value} for parameter {parameter} is invalid. Reason: {reason}"


@moto_differs("another text")
def test_a_visibility_out_of_range_is_refused(sqs: Any, queue_url: str) -> None:
    expected = "Value 43201 for parameter VisibilityTimeout is invalid. Reason: Must be >= 0 and <= 43200, if provided."
    assert error_of(sqs.receive_message, QueueUrl=queue_url, VisibilityTimeout=43201)["Message"] == expected
    sqs.send_message(QueueUrl=queue_url, MessageBody="m")
    handle = receive_one(sqs, queue_url)["ReceiptHandle"]
    error = error_of(sqs.change_message_visibility, QueueUrl=queue_url, ReceiptHandle=handle, VisibilityTimeout=43201)
    assert error["Message"] == expected


def test_a_receive_brings_ten_messages_at_the_most_and_an_empty_one_has_no_messages(sqs: Any, queue_url: str) -> None:
    entries = [{"Id": str(n), "MessageBody": f"body {n}"} for n in range(10)]
    sqs.send_message_batch(QueueUrl=queue_url, Entries=entries)
    sqs.send_message(QueueUrl=queue_url, MessageBody="body 10")
    found = [receive(sqs, queue_url, MaxNumberOfMessages=10) for _ in range(2)]
    assert [len(messages) for messages in found] == [10, 1]
    assert {message["Body"] for messages in found for message in messages} == {f"body {n}" for n in range(11)}
    assert "Messages" not in sqs.receive_message(QueueUrl=queue_url)
    counts = attributes(sqs, queue_url)
    assert (counts["ApproximateNumberOfMessages"], counts["ApproximateNumberOfMessagesNotVisible"]) == ("0", "11")


def test_a_long_poll_returns_as_soon_as_a_message_comes(sqs: Any, queue_url: str) -> None:
    poll = gevent.spawn(receive, sqs, queue_url, WaitTimeSeconds=20, MaxNumberOfMessages=10)
    sqs.send_message(QueueUrl=queue_url, MessageBody="a")
    assert [message["Body"] for message in poll.get(timeout=10)] == ["a"]


def test_a_long_poll_by_the_queues_own_setting_gets_what_its_timeout_gives_back(sqs: Any, new_queue: NewQueue) -> None:
    url = new_queue(ReceiveMessageWaitTimeSeconds="20", VisibilityTimeout="1")
    sqs.send_message(QueueUrl=url, MessageBody="a")
    assert receive(sqs, url)[0]["Body"] == "a"
    again = receive(sqs, url, MessageSystemAttributeNames=["ApproximateReceiveCount"])[0]
    assert again["Attributes"] == {"ApproximateReceiveCount": "2"}


def test_a_long_poll_gets_a_delayed_message_when_its_delay_is_over(sqs: Any, queue_url: str) -> None:
    sqs.send_message(QueueUrl=queue_url, MessageBody="a", DelaySeconds=1)
    assert receive_one(sqs, queue_url)["Body"] == "a"


def test_a_long_poll_on_an_empty_queue_ends_after_its_seconds_and_takes_nothing_later(sqs: Any, queue_url: str) -> None:
    assert receive(sqs, queue_url, WaitTimeSeconds=1) == []
    sqs.send_message(QueueUrl=queue_url, MessageBody="a")
    assert [message["Body"] for message in receive(sqs, queue_url)] == ["a"]
