"""Makes the requests to SQS: a Struct or a dict each, which becomes JSON or the parameters of boto3."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import msgspec

from millpond.foreign.trace import describe
from millpond.sqs.queue import Attribute, Entry, Failure
from millpond.sqs.shapes import ENTRY_IDS, BatchCall, DeleteEntry, ExtendEntry, SendEntry, Value

#: What a receive asks for about each message: what we read.
SYSTEM_ATTRIBUTES = ("ApproximateReceiveCount", "SentTimestamp", "MessageGroupId", "AWSTraceHeader")

Request = BatchCall | dict[str, Any]
#: The JSON of a request. Raises ValueError, TypeError or OverflowError for what JSON cannot hold (`unwritable`).
as_json = msgspec.json.Encoder().encode


def as_parameters(request: Request) -> dict[str, Any]:
    """What boto3 takes for a request: binary values stay bytes, which it encodes itself. Raises what `as_json` does."""
    as_json(request)  # finds half a character, which botocore would escape
    parameters: dict[str, Any] = msgspec.to_builtins(request, builtin_types=(bytes,))
    return parameters


@lru_cache(maxsize=32)
def receive(url: str, max_messages: int, wait_seconds: int, visibility_seconds: int, attempt_id: str) -> dict[str, Any]:
    attempt = {"ReceiveRequestAttemptId": attempt_id} if attempt_id else {}
    return {
        "QueueUrl": url,
        "MaxNumberOfMessages": max_messages,
        "WaitTimeSeconds": wait_seconds,
        "VisibilityTimeout": visibility_seconds,
        "MessageSystemAttributeNames": SYSTEM_ATTRIBUTES,
        "AttributeNames": SYSTEM_ATTRIBUTES,  # the older name: some servers know only this one
        "MessageAttributeNames": ["All"],
        **attempt,
    }


def delete(url: str, receipt_handles: Sequence[str]) -> BatchCall:
    return BatchCall(url, list(map(DeleteEntry, ENTRY_IDS, receipt_handles)))


def change_visibility(url: str, changes: Sequence[tuple[str, int]]) -> BatchCall:
    return BatchCall(url, [ExtendEntry(one, *change) for one, change in zip(ENTRY_IDS, changes, strict=False)])


def send(url: str, entries: Sequence[Entry]) -> BatchCall:
    return BatchCall(url, list(map(_sent, ENTRY_IDS, entries)))


def attributes(url: str) -> dict[str, Any]:
    return {"QueueUrl": url, "AttributeNames": ["All"]}


def queue_url(account: str, name: str) -> dict[str, Any]:
    return {"QueueName": name, "QueueOwnerAWSAccountId": account}


def unwritable(entry: Entry) -> Failure | None:
    """Why an entry cannot be sent (it holds half a character, or a value that is not a text); None where it can."""
    try:
        as_json(send("", [entry]))
    except (ValueError, TypeError, OverflowError) as error:
        return Failure("InvalidMessageContents", describe(error), sender_fault=True)
    return None


def _sent(entry_id: str, entry: Entry) -> SendEntry:
    system = {"AWSTraceHeader": Value("String", entry.trace_header)} if entry.trace_header else {}
    user = {name: _value(attribute) for name, attribute in entry.attributes.items()} if entry.attributes else {}
    return SendEntry(entry_id, entry.body, entry.delay_seconds, entry.group_id, entry.dedup_id, user, system)


def _value(attribute: Attribute) -> Value:
    value = attribute.value
    if isinstance(value, bytes):
        return Value(attribute.data_type, binary_value=value)
    return Value(attribute.data_type, string_value=value)
