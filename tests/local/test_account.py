"""Queues, handles, dead letters, purges as boto3 sees them: on millpond.local, and on moto where that is like AWS."""

from __future__ import annotations

import json
from typing import Any

import gevent
import pytest

from tests.local.sdk_calls import NewQueue, attributes, error_of, moto_differs, receive, receive_one, text


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
