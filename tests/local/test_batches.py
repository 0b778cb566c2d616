"""Batch calls and sizes, as boto3 sees them: on millpond.local, and on moto where that is like AWS."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.local.sdk_calls import NewQueue, attributes, error_of, moto_differs, receive, text


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
