"""SQS's FIFO queues as boto3 sees them: the same cases on millpond.local and, where it does what AWS does, on moto."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Any

import gevent
import pytest

from tests.local.sdk_calls import attributes, error_of, moto_differs, receive, receive_one

NewQueue = Callable[..., str]
BY_CONTENT = {"ContentBasedDeduplication": "true"}
NOT_OF_THIS_TYPE = "The request include parameter that is not valid for this queue type."


@pytest.fixture
def fifo_url(new_fifo_queue: NewQueue) -> str:
    return new_fifo_queue(**BY_CONTENT)


def send(sqs: Any, queue_url: str, *bodies: str, **arguments: str) -> list[dict[str, Any]]:
    """The group of each message is the first letter of its body."""
    return [
        sqs.send_message(QueueUrl=queue_url, MessageBody=body, **{"MessageGroupId": body[:1], **arguments})
        for body in bodies
    ]


def bodies(messages: list[dict[str, Any]]) -> list[str]:
    return [message["Body"] for message in messages]


# Queues


def test_a_new_fifo_queue_shows_what_it_is(sqs: Any, new_fifo_queue: NewQueue) -> None:
    url = new_fifo_queue()
    shown = attributes(sqs, url)
    assert url.endswith(".fifo")
    assert shown["QueueArn"].endswith(".fifo")
    assert {name: shown[name] for name in shown if "Fifo" in name or "Dedup" in name} == {
        "FifoQueue": "true",
        "ContentBasedDeduplication": "false",
        "DeduplicationScope": "queue",
        "FifoThroughputLimit": "perQueue",
    }


def test_a_standard_queue_shows_nothing_of_it(sqs: Any, queue_url: str) -> None:
    assert not [name for name in attributes(sqs, queue_url) if "Fifo" in name or "Dedup" in name]


@pytest.mark.parametrize(
    ("name", "asked"),
    [("jobs", {"FifoQueue": "true"}), ("x" * 76 + ".fifo", {"FifoQueue": "true"}), (".fifo", {"FifoQueue": "true"})],
)
@moto_differs("another text")
def test_a_name_that_no_fifo_queue_can_have_is_refused(sqs: Any, name: str, asked: dict[str, str]) -> None:
    error = error_of(sqs.create_queue, QueueName=name, Attributes=asked)
    assert error["Code"] == "InvalidParameterValue"
    assert "must end with .fifo suffix and be 1 to 80 in length" in error["Message"]


@moto_differs("it makes a queue")
@pytest.mark.parametrize("asked", [{}, {"FifoQueue": "false"}])
def test_a_fifo_name_without_the_attribute_is_refused(sqs: Any, asked: dict[str, str]) -> None:
    error = error_of(sqs.create_queue, QueueName="jobs.fifo", Attributes=asked)
    assert error["Code"] == "InvalidParameterValue"
    assert error["Message"].endswith("a name with .fifo needs the attribute FifoQueue=true")


def test_a_name_of_80_characters_is_allowed(sqs: Any, name: str) -> None:
    whole = f"{name}{'x' * (75 - len(name))}.fifo"
    assert sqs.create_queue(QueueName=whole, Attributes={"FifoQueue": "true"})["QueueUrl"].endswith(whole)


@moto_differs("it takes them")
@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("FifoQueue", "Unknown Attribute FifoQueue."),
        ("ContentBasedDeduplication", "Unknown Attribute ContentBasedDeduplication."),
        ("DeduplicationScope", "You can specify the DeduplicationScope only when FifoQueue is set to true."),
        ("FifoThroughputLimit", "You can specify the FifoThroughputLimit only when FifoQueue is set to true."),
    ],
)
def test_a_standard_queue_takes_none_of_the_attributes(sqs: Any, queue_url: str, name: str, text: str) -> None:
    error = error_of(sqs.set_queue_attributes, QueueUrl=queue_url, Attributes={name: "true"})
    assert (error["Code"], error["Message"]) == ("InvalidAttributeName", text)
    if name != "FifoQueue":
        assert error_of(sqs.create_queue, QueueName="new", Attributes={name: "true"})["Message"] == text


@moto_differs("it takes any value")
@pytest.mark.parametrize(
    "wrong",
    [
        {"FifoQueue": "false"},
        {"ContentBasedDeduplication": "maybe"},
        {"DeduplicationScope": "messagegroup"},
        {"FifoThroughputLimit": "perMessageGroupId"},
    ],
)
def test_a_wrong_value_is_refused(sqs: Any, fifo_url: str, wrong: dict[str, str]) -> None:
    before = attributes(sqs, fifo_url)
    error = error_of(sqs.set_queue_attributes, QueueUrl=fifo_url, Attributes=wrong)
    assert error["Code"] == "InvalidAttributeValue"
    assert error["Message"].startswith(f"Invalid value for the parameter {next(iter(wrong))}.")
    assert attributes(sqs, fifo_url) == before


def test_high_throughput_can_be_set(sqs: Any, fifo_url: str) -> None:
    both = {"DeduplicationScope": "messageGroup", "FifoThroughputLimit": "perMessageGroupId"}
    sqs.set_queue_attributes(QueueUrl=fifo_url, Attributes={**both, "FifoQueue": "true"})
    assert attributes(sqs, fifo_url, *both) == both


@moto_differs("it looks only at a FIFO queue's")
def test_a_dead_letter_queue_is_of_the_same_type(sqs: Any, fifo_url: str, queue_url: str) -> None:
    for source, target in ((fifo_url, queue_url), (queue_url, fifo_url)):
        policy = {"deadLetterTargetArn": attributes(sqs, target)["QueueArn"], "maxReceiveCount": 2}
        error = error_of(sqs.set_queue_attributes, QueueUrl=source, Attributes={"RedrivePolicy": json.dumps(policy)})
        assert error["Code"] == "InvalidParameterValue"
        assert error["Message"].endswith("Dead-letter queue must be same type of queue as the source.")


# Sending


@moto_differs("its sequence numbers are no longer than the clock says")
def test_a_message_comes_with_what_fifo_adds(sqs: Any, fifo_url: str) -> None:
    first, second = send(sqs, fifo_url, "a1", "a2")
    assert len(first["SequenceNumber"]) == 20
    assert first["SequenceNumber"] < second["SequenceNumber"]
    got = receive_one(sqs, fifo_url, MessageSystemAttributeNames=["All"])
    assert (
        got["Attributes"].items()
        >= {
            "MessageGroupId": "a",
            "MessageDeduplicationId": hashlib.sha256(b"a1").hexdigest(),
            "SequenceNumber": first["SequenceNumber"],
        }.items()
    )


def test_an_id_of_the_senders_own_overrides_the_content(sqs: Any, fifo_url: str) -> None:
    send(sqs, fifo_url, "a1", MessageDeduplicationId="mine")
    got = receive_one(sqs, fifo_url, MessageSystemAttributeNames=["MessageDeduplicationId", "MessageGroupId"])
    assert got["Attributes"] == {"MessageDeduplicationId": "mine", "MessageGroupId": "a"}


def test_the_group_is_required(sqs: Any, fifo_url: str) -> None:
    error = error_of(sqs.send_message, QueueUrl=fifo_url, MessageBody="m")
    assert (error["Code"], error["Message"]) == (
        "MissingParameter",
        "The request must contain the parameter MessageGroupId.",
    )


NEITHER = "The queue should either have ContentBasedDeduplication enabled or MessageDeduplicationId provided explicitly"


def test_the_deduplication_id_is_required_where_the_content_is_none(sqs: Any, new_fifo_queue: NewQueue) -> None:
    url = new_fifo_queue()
    error = error_of(sqs.send_message, QueueUrl=url, MessageBody="m", MessageGroupId="g")
    assert error["Code"] == "InvalidParameterValue"
    assert error["Message"].startswith(NEITHER)


@moto_differs("MissingParameter for the group")
@pytest.mark.parametrize(
    ("lacking", "text"),
    [
        ({"MessageGroupId": "g"}, NEITHER),
        ({"MessageDeduplicationId": "d"}, "The request must contain the parameter MessageGroupId."),
    ],
)
def test_an_entry_without_its_ids_fails_the_batch_as_a_whole(
    sqs: Any, new_fifo_queue: NewQueue, lacking: dict[str, str], text: str
) -> None:
    url = new_fifo_queue()
    whole = {"Id": "whole", "MessageBody": "m", "MessageGroupId": "g", "MessageDeduplicationId": "whole"}
    error = error_of(sqs.send_message_batch, QueueUrl=url, Entries=[whole, {"Id": "x", "MessageBody": "m", **lacking}])
    assert (error["Code"], error["Message"]) == ("InvalidParameterValue", text)
    assert receive(sqs, url) == []


@moto_differs("it takes most of these")
@pytest.mark.parametrize("wrong", ["", "a" * 129, "group 123", "ä"])
@pytest.mark.parametrize("name", ["MessageGroupId", "MessageDeduplicationId"])
def test_an_id_that_sqs_does_not_take_is_refused(sqs: Any, fifo_url: str, name: str, wrong: str) -> None:
    ids = {"MessageGroupId": "g", "MessageDeduplicationId": "d", name: wrong}
    error = error_of(sqs.send_message, QueueUrl=fifo_url, MessageBody="m", **ids)
    assert error["Code"] == "InvalidParameterValue"
    assert error["Message"] == (
        f"Value {wrong} for parameter {name} is invalid. Reason: {name} can only include alphanumeric and punctuation "
        "characters. 1 to 128 in length."
    )


def test_ids_of_128_characters_of_every_kind_are_taken(sqs: Any, fifo_url: str) -> None:
    every = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~aZ09"
    send(sqs, fifo_url, "m", MessageGroupId=every, MessageDeduplicationId="d" * 128)
    assert bodies(receive(sqs, fifo_url)) == ["m"]


def test_a_delay_of_its_own_is_refused(sqs: Any, fifo_url: str) -> None:
    error = error_of(sqs.send_message, QueueUrl=fifo_url, MessageBody="m", MessageGroupId="g", DelaySeconds=2)
    assert error["Code"] == "InvalidParameterValue"
    assert error["Message"] == f"Value 2 for parameter DelaySeconds is invalid. Reason: {NOT_OF_THIS_TYPE}"


@moto_differs("its zero overrides the queue's delay")
def test_the_queues_delay_counts_and_zero_does_not_override_it(sqs: Any, new_fifo_queue: NewQueue) -> None:
    url = new_fifo_queue(DelaySeconds="1", **BY_CONTENT)
    sqs.send_message(QueueUrl=url, MessageBody="a1", MessageGroupId="a", DelaySeconds=0)
    send(sqs, url, "a2")
    assert attributes(sqs, url)["ApproximateNumberOfMessagesDelayed"] == "2"
    assert bodies(receive(sqs, url, WaitTimeSeconds=5, MaxNumberOfMessages=10))[:1] == ["a1"]


# Deduplication


@moto_differs("a duplicate has an id of its own")
def test_a_duplicate_is_taken_and_not_delivered(sqs: Any, fifo_url: str) -> None:
    sent = send(sqs, fifo_url, "a1", "a1", "b1")
    assert sent[0]["MessageId"] == sent[1]["MessageId"] != sent[2]["MessageId"]
    assert sent[0]["MD5OfMessageBody"] == sent[1]["MD5OfMessageBody"]
    assert bodies(receive(sqs, fifo_url, MaxNumberOfMessages=10)) == ["a1", "b1"]


@moto_differs("it forgets what was deleted")
def test_a_duplicate_of_what_was_deleted_is_one_too(sqs: Any, fifo_url: str) -> None:
    first = send(sqs, fifo_url, "a1")[0]
    sqs.delete_message(QueueUrl=fifo_url, ReceiptHandle=receive_one(sqs, fifo_url)["ReceiptHandle"])
    second = send(sqs, fifo_url, "a1", MessageGroupId="another")[0]
    assert (first["MessageId"], first["SequenceNumber"]) == (second["MessageId"], second["SequenceNumber"])
    assert receive(sqs, fifo_url) == []


@moto_differs("the scope is always the queue")
def test_in_the_scope_of_a_group_each_group_has_originals_of_its_own(sqs: Any, new_fifo_queue: NewQueue) -> None:
    url = new_fifo_queue(DeduplicationScope="messageGroup", **BY_CONTENT)
    for group in ("a", "b", "a"):
        send(sqs, url, "same", MessageGroupId=group)
    assert bodies(receive(sqs, url, MaxNumberOfMessages=10)) == ["same", "same"]


@moto_differs("it knows no duplicates within a batch, and no purge of them")
def test_a_batch_answers_each_entry_with_its_sequence_number_and_a_purge_forgets_them(sqs: Any, fifo_url: str) -> None:
    entries = [{"Id": str(n), "MessageBody": f"a{n % 2}", "MessageGroupId": "a"} for n in range(3)]
    sent = sqs.send_message_batch(QueueUrl=fifo_url, Entries=entries)["Successful"]
    assert sent[0]["SequenceNumber"] == sent[2]["SequenceNumber"] < sent[1]["SequenceNumber"]
    assert sent[0]["MessageId"] == sent[2]["MessageId"]
    sqs.purge_queue(QueueUrl=fifo_url)
    send(sqs, fifo_url, "a0")
    assert bodies(receive(sqs, fifo_url)) == ["a0"]


# Receiving


def test_a_group_is_locked_while_one_of_its_messages_is_in_flight(sqs: Any, fifo_url: str) -> None:
    send(sqs, fifo_url, "a1", "a2", "b1")
    first = receive_one(sqs, fifo_url)
    assert first["Body"] == "a1"
    assert bodies(receive(sqs, fifo_url, MaxNumberOfMessages=10)) == ["b1"]
    sqs.delete_message(QueueUrl=fifo_url, ReceiptHandle=first["ReceiptHandle"])
    assert bodies(receive(sqs, fifo_url, MaxNumberOfMessages=10)) == ["a2"]


def test_a_message_that_is_given_back_keeps_its_place(sqs: Any, fifo_url: str) -> None:
    send(sqs, fifo_url, "a1", "a2")
    first = receive_one(sqs, fifo_url)
    sqs.change_message_visibility(QueueUrl=fifo_url, ReceiptHandle=first["ReceiptHandle"], VisibilityTimeout=0)
    assert bodies(receive(sqs, fifo_url, MaxNumberOfMessages=10)) == ["a1", "a2"]


@moto_differs("it does not sort by group")
def test_a_receive_is_filled_from_one_group_first(sqs: Any, fifo_url: str) -> None:
    send(sqs, fifo_url, "a1", "b1", "a2", "a3")
    assert bodies(receive(sqs, fifo_url, MaxNumberOfMessages=10)) == ["a1", "a2", "a3", "b1"]


@moto_differs("it locks the whole group")
def test_a_message_in_flight_holds_back_those_behind_it_and_none_before_it(sqs: Any, fifo_url: str) -> None:
    send(sqs, fifo_url, "a1", "a2", "b1")
    handle = receive(sqs, fifo_url, MaxNumberOfMessages=2)[0]["ReceiptHandle"]
    sqs.change_message_visibility(QueueUrl=fifo_url, ReceiptHandle=handle, VisibilityTimeout=0)
    assert bodies(receive(sqs, fifo_url, MaxNumberOfMessages=3)) == ["b1", "a1"]  # in this order on AWS, too


@moto_differs("it spins, and does not wake")
def test_a_long_poll_wakes_when_a_delete_lets_the_group_go_on(sqs: Any, fifo_url: str) -> None:
    send(sqs, fifo_url, "a1", "a2")
    handle = receive_one(sqs, fifo_url)["ReceiptHandle"]
    poll = gevent.spawn(receive, sqs, fifo_url, WaitTimeSeconds=20)
    sqs.delete_message(QueueUrl=fifo_url, ReceiptHandle=handle)
    assert bodies(poll.get(timeout=10)) == ["a2"]


# Receipt handles


@moto_differs("any old handle still deletes and extends")
def test_an_expired_handle_neither_deletes_nor_extends(sqs: Any, fifo_url: str) -> None:
    send(sqs, fifo_url, "a1", "b1")
    expired, held = (receive_one(sqs, fifo_url, VisibilityTimeout=seconds)["ReceiptHandle"] for seconds in (0, 30))
    error = error_of(sqs.delete_message, QueueUrl=fifo_url, ReceiptHandle=expired)
    text = f"Value {expired} for parameter ReceiptHandle is invalid. Reason: The receipt handle has expired."
    assert (error["Code"], error["QueryErrorCode"]) == ("InvalidParameterValue", "InvalidParameterValueException")
    assert error["Message"] == text
    changing = error_of(sqs.change_message_visibility, QueueUrl=fifo_url, ReceiptHandle=expired, VisibilityTimeout=30)
    assert changing["Code"] == "InvalidParameterValue"
    assert changing["Message"].endswith("Message does not exist or is not available for visibility timeout change.")
    entries = [{"Id": "expired", "ReceiptHandle": expired}, {"Id": "held", "ReceiptHandle": held}]
    answer = sqs.delete_message_batch(QueueUrl=fifo_url, Entries=entries)
    assert [entry["Id"] for entry in answer["Successful"]] == ["held"]
    assert answer["Failed"] == [
        {"Id": "expired", "Code": "ReceiptHandleIsInvalid", "SenderFault": True, "Message": text}
    ]
    assert bodies(receive(sqs, fifo_url)) == ["a1"]


# Receives that are tried again


@moto_differs("it ignores the id")
def test_an_attempt_brings_the_same_messages_with_the_same_handles(sqs: Any, fifo_url: str) -> None:
    send(sqs, fifo_url, "a1", "a2", "b1")
    ask = {"ReceiveRequestAttemptId": "try-1", "MessageSystemAttributeNames": ["ApproximateReceiveCount"]}
    first, again = (receive(sqs, fifo_url, MaxNumberOfMessages=2, **ask) for _ in range(2))
    assert first == again
    assert [message["Attributes"]["ApproximateReceiveCount"] for message in again] == ["1", "1"]
    sqs.delete_message(QueueUrl=fifo_url, ReceiptHandle=first[0]["ReceiptHandle"])
    error = error_of(sqs.receive_message, QueueUrl=fifo_url, ReceiveRequestAttemptId="try-1")
    assert (error["Code"], error["Message"]) == (
        "InvalidParameterValue",
        "Value try-1 for parameter ReceiveRequestAttemptId is invalid. Reason: The receiveRequestAttemptId is not "
        "valid anymore since the receive call is not retryable.",
    )


@moto_differs("it ignores the id")
def test_an_attempt_id_is_checked_and_for_fifo_queues(sqs: Any, fifo_url: str, queue_url: str) -> None:
    error = error_of(sqs.receive_message, QueueUrl=queue_url, ReceiveRequestAttemptId="a")
    assert error["Message"] == f"Value a for parameter ReceiveRequestAttemptId is invalid. Reason: {NOT_OF_THIS_TYPE}"
    for wrong in ("", "a b", "a" * 129):
        error = error_of(sqs.receive_message, QueueUrl=fifo_url, ReceiveRequestAttemptId=wrong)
        assert "ReceiveRequestAttemptId can only include alphanumeric" in error["Message"]


# Dead letters


@moto_differs("the old deduplication id, and no DeadLetterQueueSourceArn")
def test_a_dead_letter_keeps_its_group_and_gets_its_own_id_for_deduplication(
    sqs: Any, new_fifo_queue: NewQueue
) -> None:
    dead_url = new_fifo_queue(**BY_CONTENT)
    policy = json.dumps({"deadLetterTargetArn": attributes(sqs, dead_url)["QueueArn"], "maxReceiveCount": 1})
    url = new_fifo_queue(RedrivePolicy=policy, **BY_CONTENT)
    send(sqs, url, "a1", "a2")
    receive_one(sqs, url, VisibilityTimeout=0)
    assert bodies(receive(sqs, url)) == ["a2"]
    letter = receive_one(sqs, dead_url, MessageSystemAttributeNames=["All"])
    assert letter["Attributes"]["MessageDeduplicationId"] == letter["MessageId"]
    assert letter["Attributes"]["MessageGroupId"] == "a"
    assert letter["Attributes"]["ApproximateReceiveCount"] == "2"
    assert letter["Attributes"]["DeadLetterQueueSourceArn"] == attributes(sqs, url)["QueueArn"]
