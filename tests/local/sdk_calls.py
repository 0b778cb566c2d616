"""Calls by boto3, shortened."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

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
