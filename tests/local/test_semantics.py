"""SQS as boto3 sees it: the same cases on millpond.local and, where it does what AWS does, on moto."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Any

import gevent
import pytest
from botocore.exceptions import ClientError

NewQueue = Callable[..., str]
moto_differs = pytest.mark.moto_differs


def error_of(call: Callable[..., Any], **arguments: Any) -> dict[str, Any]:
    with pytest.raises(ClientError) as caught:
        call(**arguments)
    return {**caught.value.response["Error"], "status": caught.value.response["ResponseMetadata"]["HTTPStatusCode"]}


def receive(sqs: Any, queue_url: str, **arguments: Any) -> list[dict[str, Any]]:
    return sqs.receive_message(QueueUrl=queue_url, **arguments).get("Messages", [])


def receive_one(sqs: Any, queue_url: str, **arguments: Any) -> dict[str, Any]:
    return receive(sqs, queue_url, WaitTimeSeconds=5, **arguments)[0]


def attributes(sqs: Any, queue_url: str, *names: str) -> dict[str, str]:
    return sqs.get_queue_attributes(QueueUrl=queue_url, AttributeNames=list(names or ["All"]))["Attributes"]


def text(value: str, data_type: str = "String") -> dict[str, str]:
    return {"DataType": data_type, "StringValue": value}


# Queues


def test_creating_a_queue_twice_gives_the_same_url(sqs: Any, name: str) -> None:
    url = sqs.create_queue(QueueName=name, Attributes={"VisibilityTimeout": "69"})["QueueUrl"]
    assert url.endswith(f"/{name}")
    assert sqs.create_queue(QueueName=name)["QueueUrl"] == url
    assert sqs.create_queue(QueueName=name, Attributes={"VisibilityTimeout": "69"})["QueueUrl"] == url
    assert sqs.get_queue_url(QueueName=name)["QueueUrl"] == url


def test_creating_a_queue_with_other_attributes_is_refused(sqs: Any, name: str) -> None:
    sqs.create_queue(QueueName=name, Attributes={"DelaySeconds": "1"})
    error = error_of(sqs.create_queue, QueueName=name, Attributes={"DelaySeconds": "2"})
    assert error["Code"] == "QueueAlreadyExists"


@moto_differs("another text")
def test_the_refusal_names_the_attribute_that_differs(sqs: Any, name: str) -> None:
    sqs.create_queue(QueueName=name, Attributes={"DelaySeconds": "1"})
    error = error_of(sqs.create_queue, QueueName=name, Attributes={"DelaySeconds": "2"})
    assert error["QueryErrorCode"] == "QueueNameExists"
    assert error["Message"] == (
        "A queue already exists with the same name and a different value for attribute DelaySeconds"
    )


@pytest.mark.parametrize("wrong", ["with/slash", "with space", "x" * 81, "ünicode"])
def test_a_name_that_no_queue_can_have_is_refused(sqs: Any, wrong: str) -> None:
    assert error_of(sqs.create_queue, QueueName=wrong)["Code"] == "InvalidParameterValue"


def test_a_queue_that_is_not_there_is_an_error_of_every_call(sqs: Any, queue_url: str) -> None:
    url = f"{queue_url}-missing"
    calls = [
        error_of(sqs.get_queue_url, QueueName="missing"),
        error_of(sqs.send_message, QueueUrl=url, MessageBody="a"),
        error_of(sqs.receive_message, QueueUrl=url),
        error_of(sqs.delete_message, QueueUrl=url, ReceiptHandle="h"),
        error_of(sqs.get_queue_attributes, QueueUrl=url, AttributeNames=["All"]),
    ]
    for error in calls:
        assert error["Code"] == "AWS.SimpleQueueService.NonExistentQueue"
        assert error["QueryErrorCode"] == "QueueDoesNotExist"
        assert error["status"] == 400
    with pytest.raises(sqs.exceptions.QueueDoesNotExist):
        sqs.purge_queue(QueueUrl=url)


def test_a_queue_can_be_named_instead_of_its_url(sqs: Any, queue_url: str, name: str) -> None:
    sqs.send_message(QueueUrl=name, MessageBody="a")
    assert receive(sqs, queue_url)[0]["Body"] == "a"


def test_queues_are_listed_by_the_beginning_of_their_names(sqs: Any, name: str) -> None:
    urls = [sqs.create_queue(QueueName=f"{name}-listed-{n}")["QueueUrl"] for n in range(3)]
    assert sorted(sqs.list_queues(QueueNamePrefix=f"{name}-listed")["QueueUrls"]) == urls
    assert "QueueUrls" not in sqs.list_queues(QueueNamePrefix=f"{name}-none")


@moto_differs("it pages in another order")
def test_a_long_list_comes_in_pages(sqs: Any, name: str) -> None:
    urls = [sqs.create_queue(QueueName=f"{name}-{n}")["QueueUrl"] for n in range(4)]
    pages = sqs.get_paginator("list_queues").paginate(QueueNamePrefix=f"{name}-", PaginationConfig={"PageSize": 2})
    assert [page["QueueUrls"] for page in pages] == [urls[:2], urls[2:]]
    assert error_of(sqs.list_queues, MaxResults=1001)["Code"] == "InvalidParameterValue"


def test_a_deleted_queue_is_gone_with_its_messages(sqs: Any, name: str) -> None:
    url = sqs.create_queue(QueueName=name)["QueueUrl"]
    sqs.send_message(QueueUrl=url, MessageBody="a")
    sqs.delete_queue(QueueUrl=url)
    assert error_of(sqs.receive_message, QueueUrl=url)["QueryErrorCode"] == "QueueDoesNotExist"
    sqs.create_queue(QueueName=name)
    assert receive(sqs, url) == []


@moto_differs("its times have fractions")
def test_a_new_queue_shows_the_attributes_that_aws_shows(sqs: Any, queue_url: str, name: str) -> None:
    shown = attributes(sqs, queue_url)
    assert shown.pop("QueueArn").endswith(f":{name}")
    assert shown.pop("CreatedTimestamp").isdecimal()
    assert shown.pop("LastModifiedTimestamp").isdecimal()
    assert shown == {
        "ApproximateNumberOfMessages": "0",
        "ApproximateNumberOfMessagesDelayed": "0",
        "ApproximateNumberOfMessagesNotVisible": "0",
        "DelaySeconds": "0",
        "MaximumMessageSize": "1048576",
        "MessageRetentionPeriod": "345600",
        "ReceiveMessageWaitTimeSeconds": "0",
        "VisibilityTimeout": "30",
    }


def test_attributes_can_be_set_and_asked_for_by_name(sqs: Any, queue_url: str) -> None:
    sqs.set_queue_attributes(QueueUrl=queue_url, Attributes={"VisibilityTimeout": "69", "DelaySeconds": "7"})
    assert attributes(sqs, queue_url, "VisibilityTimeout", "DelaySeconds") == {
        "VisibilityTimeout": "69",
        "DelaySeconds": "7",
    }
    assert "Attributes" not in sqs.get_queue_attributes(QueueUrl=queue_url)
    error = error_of(sqs.get_queue_attributes, QueueUrl=queue_url, AttributeNames=["Colour"])
    assert (error["Code"], error["Message"]) == ("InvalidAttributeName", "Unknown Attribute Colour.")


@moto_differs("it takes any number")
@pytest.mark.parametrize(
    ("attribute", "value"),
    [
        ("DelaySeconds", "901"),
        ("MaximumMessageSize", "1023"),
        ("MaximumMessageSize", "1048577"),
        ("MessageRetentionPeriod", "59"),
        ("MessageRetentionPeriod", "1209601"),
        ("ReceiveMessageWaitTimeSeconds", "21"),
        ("VisibilityTimeout", "43201"),
        ("VisibilityTimeout", "-1"),
        ("VisibilityTimeout", "soon"),
    ],
)
def test_an_attribute_out_of_its_range_is_refused(sqs: Any, queue_url: str, attribute: str, value: str) -> None:
    error = error_of(sqs.set_queue_attributes, QueueUrl=queue_url, Attributes={attribute: value})
    assert (error["Code"], error["Message"]) == (
        "InvalidAttributeValue",
        f"Invalid value for the parameter {attribute}.",
    )


@moto_differs("it takes any attribute")
def test_an_attribute_that_a_standard_queue_does_not_have_is_refused(sqs: Any, queue_url: str) -> None:
    for attribute in ("ContentBasedDeduplication", "Colour"):
        error = error_of(sqs.set_queue_attributes, QueueUrl=queue_url, Attributes={attribute: "false"})
        assert (error["Code"], error["Message"]) == ("InvalidAttributeName", f"Unknown Attribute {attribute}.")


def test_attributes_without_effect_here_are_kept_and_shown(sqs: Any, queue_url: str) -> None:
    sqs.set_queue_attributes(QueueUrl=queue_url, Attributes={"KmsMasterKeyId": "key", "SqsManagedSseEnabled": "false"})
    assert attributes(sqs, queue_url, "KmsMasterKeyId") == {"KmsMasterKeyId": "key"}
    sqs.set_queue_attributes(QueueUrl=queue_url, Attributes={"KmsMasterKeyId": ""})
    assert "KmsMasterKeyId" not in attributes(sqs, queue_url)


# Sending and receiving


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


# Receipt handles


def test_each_receive_gives_a_handle_of_its_own(sqs: Any, queue_url: str) -> None:
    sqs.send_message(QueueUrl=queue_url, MessageBody="a")
    first, second = (receive_one(sqs, queue_url, VisibilityTimeout=0)["ReceiptHandle"] for _ in range(2))
    assert first != second


def test_an_expired_handle_deletes_if_nobody_received_the_message_since(sqs: Any, queue_url: str) -> None:
    sqs.send_message(QueueUrl=queue_url, MessageBody="a")
    handle = receive_one(sqs, queue_url, VisibilityTimeout=0)["ReceiptHandle"]
    sqs.delete_message(QueueUrl=queue_url, ReceiptHandle=handle)
    assert attributes(sqs, queue_url)["ApproximateNumberOfMessages"] == "0"
    sqs.delete_message(QueueUrl=queue_url, ReceiptHandle=handle)


@moto_differs("any old handle still deletes and extends")
def test_an_old_handle_neither_deletes_nor_extends(sqs: Any, queue_url: str) -> None:
    sqs.send_message(QueueUrl=queue_url, MessageBody="a")
    old = receive_one(sqs, queue_url, VisibilityTimeout=0)["ReceiptHandle"]
    new = receive_one(sqs, queue_url)["ReceiptHandle"]
    sqs.delete_message(QueueUrl=queue_url, ReceiptHandle=old)
    error = error_of(sqs.change_message_visibility, QueueUrl=queue_url, ReceiptHandle=old, VisibilityTimeout=60)
    assert (error["Code"], error["QueryErrorCode"]) == ("InvalidParameterValue", "InvalidParameterValueException")
    assert error["Message"] == (
        f"Value {old} for parameter ReceiptHandle is invalid. Reason: Message does not exist or is not available for "
        "visibility timeout change."
    )
    entries = [
        {"Id": "old", "ReceiptHandle": old, "VisibilityTimeout": 60},
        {"Id": "new", "ReceiptHandle": new, "VisibilityTimeout": 60},
        {"Id": "far", "ReceiptHandle": new, "VisibilityTimeout": 43_201},
        {"Id": "garbage", "ReceiptHandle": "garbage", "VisibilityTimeout": 60},
    ]
    answer = sqs.change_message_visibility_batch(QueueUrl=queue_url, Entries=entries)
    assert [entry["Id"] for entry in answer["Successful"]] == ["new"]
    assert [(entry["Id"], entry["Code"], entry["SenderFault"]) for entry in answer["Failed"]] == [
        ("old", "InvalidParameterValue", True),
        ("far", "InvalidParameterValue", True),
        ("garbage", "ReceiptHandleIsInvalid", True),
    ]
    assert attributes(sqs, queue_url)["ApproximateNumberOfMessagesNotVisible"] == "1"


def test_the_twelve_hours_are_an_error_not_a_clamp(sqs: Any, queue_url: str) -> None:
    sqs.send_message(QueueUrl=queue_url, MessageBody="a")
    handle = receive_one(sqs, queue_url)["ReceiptHandle"]
    error = error_of(sqs.change_message_visibility, QueueUrl=queue_url, ReceiptHandle=handle, VisibilityTimeout=43_200)
    assert error["Code"] == "InvalidParameterValue"
    assert error["Message"] == (
        "Value 43200 for parameter VisibilityTimeout is invalid. Reason: Total VisibilityTimeout for the message is "
        "beyond the limit [43200 seconds]"
    )


@moto_differs("ReceiptHandleIsInvalid")
def test_the_visibility_of_a_deleted_message_cannot_be_changed(sqs: Any, queue_url: str) -> None:
    sqs.send_message(QueueUrl=queue_url, MessageBody="a")
    handle = receive_one(sqs, queue_url)["ReceiptHandle"]
    sqs.delete_message(QueueUrl=queue_url, ReceiptHandle=handle)
    error = error_of(sqs.change_message_visibility, QueueUrl=queue_url, ReceiptHandle=handle, VisibilityTimeout=60)
    assert error["Code"] == "InvalidParameterValue"


@moto_differs("another text and status")
def test_a_made_up_handle_is_refused(sqs: Any, queue_url: str) -> None:
    errors = [
        error_of(sqs.delete_message, QueueUrl=queue_url, ReceiptHandle="garbage"),
        error_of(sqs.change_message_visibility, QueueUrl=queue_url, ReceiptHandle="garbage", VisibilityTimeout=1),
    ]
    for error in errors:
        assert error["Code"] == error["QueryErrorCode"] == "ReceiptHandleIsInvalid"
        assert error["Message"] == 'The input receipt handle "garbage" is not a valid receipt handle.'
        assert error["status"] == 404


def test_a_visibility_of_zero_gives_the_message_back_at_once(sqs: Any, queue_url: str) -> None:
    sqs.send_message(QueueUrl=queue_url, MessageBody="a")
    handle = receive_one(sqs, queue_url)["ReceiptHandle"]
    poll = gevent.spawn(receive, sqs, queue_url, WaitTimeSeconds=20)
    sqs.change_message_visibility(QueueUrl=queue_url, ReceiptHandle=handle, VisibilityTimeout=0)
    assert [message["Body"] for message in poll.get(timeout=10)] == ["a"]


# Batches


def batch_calls(sqs: Any, queue_url: str) -> list[Callable[[list[str]], Any]]:
    def send(ids: list[str]) -> Any:
        return sqs.send_message_batch(QueueUrl=queue_url, Entries=[{"Id": i, "MessageBody": "m"} for i in ids])

    def delete(ids: list[str]) -> Any:
        return sqs.delete_message_batch(QueueUrl=queue_url, Entries=[{"Id": i, "ReceiptHandle": "h"} for i in ids])

    def change(ids: list[str]) -> Any:
        entries = [{"Id": i, "ReceiptHandle": "h", "VisibilityTimeout": 1} for i in ids]
        return sqs.change_message_visibility_batch(QueueUrl=queue_url, Entries=entries)

    return [send, delete, change]


@moto_differs("only some of its batch calls check")
@pytest.mark.parametrize(
    ("ids", "name", "message"),
    [
        ([str(n) for n in range(11)], "TooManyEntriesInBatchRequest", "are 10. You have sent 11."),
        ([], "EmptyBatchRequest", "There should be at least one"),
        (["a", "b", "a"], "BatchEntryIdsNotDistinct", "Id a repeated."),
        (["a", "b:c"], "InvalidBatchEntryId", "A batch entry id can only contain"),
        (["a", ""], "InvalidBatchEntryId", "It can be at most 80 letters long."),
        (["x" * 81], "InvalidBatchEntryId", "It can be at most 80 letters long."),
    ],
    ids=["eleven", "none", "twice", "colon", "empty", "long"],
)
def test_a_batch_that_is_wrong_as_a_whole_is_refused(
    sqs: Any, queue_url: str, ids: list[str], name: str, message: str
) -> None:
    for call in batch_calls(sqs, queue_url):
        error = error_of(call, ids=ids)
        assert (error["Code"], error["QueryErrorCode"]) == (f"AWS.SimpleQueueService.{name}", name)
        assert message in error["Message"]
    assert receive(sqs, queue_url) == []


def test_a_batch_deletes_what_it_can_and_names_the_rest(sqs: Any, queue_url: str) -> None:
    sqs.send_message_batch(QueueUrl=queue_url, Entries=[{"Id": str(n), "MessageBody": "m"} for n in range(3)])
    handles = [message["ReceiptHandle"] for message in receive(sqs, queue_url, MaxNumberOfMessages=10)]
    entries = [{"Id": f"e{n}", "ReceiptHandle": handle} for n, handle in enumerate([*handles, "garbage"])]
    answer = sqs.delete_message_batch(QueueUrl=queue_url, Entries=entries)
    assert [entry["Id"] for entry in answer["Successful"]] == ["e0", "e1", "e2"]
    assert [(entry["Id"], entry["Code"], entry["SenderFault"]) for entry in answer["Failed"]] == [
        ("e3", "ReceiptHandleIsInvalid", True)
    ]
    again = sqs.delete_message_batch(QueueUrl=queue_url, Entries=entries[:3])
    assert (len(again["Successful"]), again.get("Failed", [])) == (3, [])


def test_a_sent_batch_answers_each_entry_with_its_md5s(sqs: Any, queue_url: str) -> None:
    entries = [
        {"Id": "plain", "MessageBody": "msg"},
        {"Id": "dressed", "MessageBody": "msg", "MessageAttributes": {"Foo": text("Bar")}, "DelaySeconds": 900},
    ]
    plain, dressed = sqs.send_message_batch(QueueUrl=queue_url, Entries=entries)["Successful"]
    assert (plain["Id"], dressed["Id"]) == ("plain", "dressed")
    assert plain["MD5OfMessageBody"] == dressed["MD5OfMessageBody"] == "6e2baaf3b97dbeef01c0043275f9a0e7"
    assert dressed["MD5OfMessageAttributes"] == "ae7155c6026991b6d54b11589678bf9c"
    assert [message["MessageId"] for message in receive(sqs, queue_url)] == [plain["MessageId"]]


def test_one_mebibyte_is_a_message_and_one_byte_more_is_not(sqs: Any, queue_url: str) -> None:
    sqs.send_message(QueueUrl=queue_url, MessageBody="a" * 1_048_576)
    error = error_of(sqs.send_message, QueueUrl=queue_url, MessageBody="a" * 1_048_577)
    assert error["Code"] == "InvalidParameterValue"
    assert error["Message"] == (
        "One or more parameters are invalid. Reason: Message must be shorter than 1048576 bytes."
    )


@moto_differs("it counts characters, and no attributes")
def test_bytes_and_attributes_count_to_the_size(sqs: Any, new_queue: NewQueue) -> None:
    url = new_queue(MaximumMessageSize="1024")
    user_attributes = {"k": text("x")}  # 1 + 6 + 1 bytes
    sqs.send_message(QueueUrl=url, MessageBody="ä" * 508, MessageAttributes=user_attributes)
    error = error_of(sqs.send_message, QueueUrl=url, MessageBody="ä" * 508 + "a", MessageAttributes=user_attributes)
    assert "Message must be shorter than 1024 bytes." in error["Message"]


@moto_differs("it looks at no single entry")
def test_an_entry_over_the_queues_size_fails_alone(sqs: Any, new_queue: NewQueue) -> None:
    url = new_queue(MaximumMessageSize="1024")
    entries = [{"Id": "fits", "MessageBody": "a" * 1024}, {"Id": "big", "MessageBody": "a" * 1025}]
    answer = sqs.send_message_batch(QueueUrl=url, Entries=entries)
    assert [entry["Id"] for entry in answer["Successful"]] == ["fits"]
    assert answer["Failed"] == [
        {
            "Id": "big",
            "Code": "InvalidParameterValue",
            "SenderFault": True,
            "Message": "One or more parameters cannot be validated. Reason: Message must be shorter than 1024 bytes.",
        }
    ]


def test_a_batch_over_one_mebibyte_together_is_refused(sqs: Any, queue_url: str) -> None:
    entries = [{"Id": "a", "MessageBody": "a" * 1_048_576}, {"Id": "b", "MessageBody": "b"}]
    error = error_of(sqs.send_message_batch, QueueUrl=queue_url, Entries=entries)
    assert error["Code"].endswith("BatchRequestTooLong")
    assert error["Message"] == "Batch requests cannot be longer than 1048576 bytes. You have sent 1048577 bytes."
    assert attributes(sqs, queue_url)["ApproximateNumberOfMessages"] == "0"


# Dead letters, purge


def redrive(sqs: Any, dead_url: str, count: object) -> str:
    return json.dumps({"deadLetterTargetArn": attributes(sqs, dead_url)["QueueArn"], "maxReceiveCount": count})


def test_a_dead_letter_keeps_what_it_was(sqs: Any, new_queue: NewQueue) -> None:
    dead_url = new_queue()
    url = new_queue(RedrivePolicy=redrive(sqs, dead_url, 2), VisibilityTimeout="0")
    system = {"AWSTraceHeader": text("Root=1")}
    sqs.send_message(
        QueueUrl=url, MessageBody="m", MessageAttributes={"Foo": text("Bar")}, MessageSystemAttributes=system
    )
    everything = {"MessageSystemAttributeNames": ["All"], "MessageAttributeNames": ["All"]}
    before = [receive(sqs, url, **everything)[0] for _ in range(2)][-1]
    assert receive(sqs, url) == []
    letter = receive_one(sqs, dead_url, **everything)
    for key in ("MessageId", "Body", "MD5OfBody", "MessageAttributes", "MD5OfMessageAttributes"):
        assert letter[key] == before[key]
    for key in ("SentTimestamp", "AWSTraceHeader", "ApproximateFirstReceiveTimestamp", "SenderId"):
        assert letter["Attributes"][key] == before["Attributes"][key]
    assert letter["Attributes"]["ApproximateReceiveCount"] == "3"


@moto_differs("no DeadLetterQueueSourceArn")
def test_a_dead_letter_names_the_queue_it_comes_from(sqs: Any, new_queue: NewQueue) -> None:
    dead_url = new_queue()
    url = new_queue(RedrivePolicy=redrive(sqs, dead_url, 1), VisibilityTimeout="0")
    sqs.send_message(QueueUrl=url, MessageBody="m")
    receive(sqs, url)
    receive(sqs, url)
    letter = receive_one(sqs, dead_url, MessageSystemAttributeNames=["DeadLetterQueueSourceArn"])
    assert letter["Attributes"] == {"DeadLetterQueueSourceArn": attributes(sqs, url)["QueueArn"]}


def test_a_redrive_policy_is_shown_found_and_taken_away(sqs: Any, new_queue: NewQueue) -> None:
    dead_url = new_queue()
    url = new_queue(RedrivePolicy=redrive(sqs, dead_url, "42"))
    shown = json.loads(attributes(sqs, url)["RedrivePolicy"])
    assert shown == {"deadLetterTargetArn": attributes(sqs, dead_url)["QueueArn"], "maxReceiveCount": 42}
    assert sqs.list_dead_letter_source_queues(QueueUrl=dead_url)["queueUrls"] == [url]
    assert sqs.list_dead_letter_source_queues(QueueUrl=url)["queueUrls"] == []
    sqs.set_queue_attributes(QueueUrl=url, Attributes={"RedrivePolicy": ""})
    assert "RedrivePolicy" not in attributes(sqs, url)


@moto_differs("another code for most of these")
@pytest.mark.parametrize(
    ("policy", "reason"),
    [
        ("no json", "not a valid JSON map"),
        ("[]", "not a valid JSON map"),
        ('{"maxReceiveCount": 3}', "mandatory attribute: deadLetterTargetArn"),
        ('{"deadLetterTargetArn": "ARN"}', "mandatory attribute: maxReceiveCount"),
        ('{"deadLetterTargetArn": "dummy", "maxReceiveCount": 3}', "Invalid value for deadLetterTargetArn"),
        ('{"deadLetterTargetArn": "ARN-missing", "maxReceiveCount": 3}', "Dead letter target does not exist"),
        ('{"deadLetterTargetArn": "ARN", "maxReceiveCount": 0}', "valid values are from 1 to 1000"),
        ('{"deadLetterTargetArn": "ARN", "maxReceiveCount": "1001"}', "valid values are from 1 to 1000"),
        ('{"deadLetterTargetArn": "ARN", "maxReceiveCount": "many"}', "valid values are from 1 to 1000"),
    ],
)
def test_a_wrong_redrive_policy_is_refused_and_changes_nothing(
    sqs: Any, queue_url: str, name: str, policy: str, reason: str
) -> None:
    policy = policy.replace("ARN", attributes(sqs, queue_url)["QueueArn"])
    changes = {"RedrivePolicy": policy, "DelaySeconds": "5"}
    errors = [
        error_of(sqs.set_queue_attributes, QueueUrl=queue_url, Attributes=changes),
        error_of(sqs.create_queue, QueueName=f"{name}-new", Attributes=changes),
    ]
    for error in errors:
        assert error["Code"] == "InvalidParameterValue"
        assert reason in error["Message"]
    assert attributes(sqs, queue_url)["DelaySeconds"] == "0"
    assert error_of(sqs.get_queue_url, QueueName=f"{name}-new")["QueryErrorCode"] == "QueueDoesNotExist"


@moto_differs("they vanish")
def test_a_queue_whose_dead_letter_queue_was_deleted_keeps_its_messages(sqs: Any, new_queue: NewQueue) -> None:
    dead_url = new_queue()
    url = new_queue(RedrivePolicy=redrive(sqs, dead_url, 1), VisibilityTimeout="0")
    sqs.delete_queue(QueueUrl=dead_url)
    sqs.send_message(QueueUrl=url, MessageBody="m")
    assert [len(receive(sqs, url)) for _ in range(3)] == [1, 1, 1]


def test_a_second_purge_within_a_minute_is_refused(sqs: Any, queue_url: str, name: str) -> None:
    sqs.send_message(QueueUrl=queue_url, MessageBody="m")
    sqs.purge_queue(QueueUrl=queue_url)
    assert receive(sqs, queue_url) == []
    error = error_of(sqs.purge_queue, QueueUrl=queue_url)
    assert (error["Code"], error["status"]) == ("AWS.SimpleQueueService.PurgeQueueInProgress", 403)
    assert error["Message"] == f"Only one PurgeQueue operation on {name} is allowed every 60 seconds."
