"""The attributes of a queue, as boto3 sees them: on millpond.local, and on moto where that is like AWS."""

from __future__ import annotations

from typing import Any

import pytest

from tests.local.sdk_calls import attributes, error_of, moto_differs


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
