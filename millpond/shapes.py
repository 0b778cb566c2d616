"""What goes over the wire, as Structs: bodies of calls are made here, and bodies of answers read.

Reading raises ValueError (msgspec's own are such) or LookupError for what is not from SQS.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache

import msgspec

from millpond.queue import (
    ENTRY_IDS,
    MISSING,
    NO_ATTRIBUTES,
    SYSTEM_ATTRIBUTES,
    Attribute,
    Entry,
    Failure,
    Received,
)

_INDEX = {entry_id: index for index, entry_id in enumerate(ENTRY_IDS)}


class _Shape(msgspec.Struct, rename="pascal", omit_defaults=True):
    """What is sent or answered, with the names that the wire has."""


class _Value(_Shape, gc=False):
    data_type: str
    string_value: str | None = None
    binary_value: bytes | None = None


class _SystemAttributes(msgspec.Struct, frozen=True, gc=False, rename="pascal"):
    approximate_receive_count: int = 1
    sent_timestamp: int = 0
    message_group_id: str = ""
    trace_header: str = msgspec.field(name="AWSTraceHeader", default="")


class _Message(_Shape):
    message_id: str
    receipt_handle: str
    body: str
    attributes: _SystemAttributes = _SystemAttributes()
    message_attributes: dict[str, _Value] | None = None


class _Messages(_Shape):
    messages: list[_Message] | None = None


class _Handle(_Shape, gc=False):
    id: str
    receipt_handle: str


class _Change(_Shape, gc=False):
    id: str
    receipt_handle: str
    visibility_timeout: int


class _Sent(_Shape):
    id: str
    message_body: str
    delay_seconds: int = 0
    message_group_id: str = ""
    message_deduplication_id: str = ""
    message_attributes: dict[str, _Value] = {}
    message_system_attributes: dict[str, _Value] = {}


class _Batch(_Shape):
    queue_url: str
    entries: list[_Handle] | list[_Change] | list[_Sent]


class _Done(_Shape, gc=False):
    id: str


class _Failed(_Shape, gc=False):
    id: str
    code: str = ""
    message: str | None = None
    sender_fault: bool = False


class _Results(_Shape):
    successful: list[_Done] | None = None
    failed: list[_Failed] | None = None


class _Attributes(_Shape):
    attributes: dict[str, str]


class _QueueUrl(_Shape):
    queue_url: str


class _Error(msgspec.Struct, rename={"kind": "__type", "text": "message", "other_text": "Message"}):
    kind: str = ""
    text: str | None = None
    other_text: str | None = None


_encode = msgspec.json.Encoder().encode
_messages = msgspec.json.Decoder(_Messages, strict=False)  # numbers come as texts
_results = msgspec.json.Decoder(_Results)
_attributes = msgspec.json.Decoder(_Attributes)
_queue_url = msgspec.json.Decoder(_QueueUrl)
_error = msgspec.json.Decoder(_Error)


@lru_cache(maxsize=32)
def receive_body(
    url: str, max_messages: int, wait_seconds: int, visibility_seconds: int, attempt_id: str = ""
) -> bytes:
    attempt = {"ReceiveRequestAttemptId": attempt_id} if attempt_id else {}
    return _encode(
        {
            "QueueUrl": url,
            "MaxNumberOfMessages": max_messages,
            "WaitTimeSeconds": wait_seconds,
            "VisibilityTimeout": visibility_seconds,
            "MessageSystemAttributeNames": SYSTEM_ATTRIBUTES,
            "MessageAttributeNames": ["All"],
            **attempt,
        }
    )


def delete_body(url: str, receipt_handles: Sequence[str]) -> bytes:
    return _encode(_Batch(url, list(map(_Handle, ENTRY_IDS, receipt_handles))))


def extend_body(url: str, changes: Sequence[tuple[str, int]]) -> bytes:
    entries = [_Change(one, handle, seconds) for one, (handle, seconds) in zip(ENTRY_IDS, changes, strict=False)]
    return _encode(_Batch(url, entries))


def send_body(url: str, entries: Sequence[Entry]) -> bytes:
    return _encode(_Batch(url, list(map(_sent, ENTRY_IDS, entries))))


def attributes_body(url: str) -> bytes:
    return _encode({"QueueUrl": url, "AttributeNames": ["All"]})


def queue_url_body(account: str, name: str) -> bytes:
    return _encode({"QueueName": name, "QueueOwnerAWSAccountId": account})


def read_messages(body: bytes) -> list[Received]:
    return [
        Received(
            message.message_id,
            message.receipt_handle,
            message.body,
            (system := message.attributes).approximate_receive_count,
            system.sent_timestamp,
            system.message_group_id,
            system.trace_header,
            _user_attributes(message.message_attributes) if message.message_attributes else NO_ATTRIBUTES,
        )
        for message in _messages.decode(body).messages or ()
    ]


def read_results(entries: int, body: bytes) -> list[Failure | None]:
    """What became of each entry. One that the answer does not name counts as failed: it may have been done."""
    answer = _results.decode(body)
    results: list[Failure | None] = [MISSING] * entries
    for done in answer.successful or ():
        results[_INDEX[done.id]] = None
    for failed in answer.failed or ():
        results[_INDEX[failed.id]] = Failure(failed.code, failed.message or "", failed.sender_fault)
    return results


def read_attributes(body: bytes) -> dict[str, str]:
    return _attributes.decode(body).attributes


def read_queue_url(body: bytes) -> str:
    return _queue_url.decode(body).queue_url


def read_error(body: bytes) -> tuple[str, str]:
    """The name of the error's shape, and what it says; "" for what it does not tell."""
    error = _error.decode(body)
    return error.kind.rpartition("#")[2].partition(":")[0], error.text or error.other_text or ""


def _user_attributes(values: Mapping[str, _Value]) -> dict[str, Attribute]:
    return {name: _attribute(value) for name, value in values.items()}


def _attribute(value: _Value) -> Attribute:
    content = value.string_value if value.binary_value is None else value.binary_value
    if content is None:
        raise ValueError("a message attribute has no value")
    return Attribute(value.data_type, content)


def _sent(entry_id: str, entry: Entry) -> _Sent:
    system = {"AWSTraceHeader": _Value("String", entry.trace_header)} if entry.trace_header else {}
    user = {name: _value(attribute) for name, attribute in entry.attributes.items()} if entry.attributes else {}
    return _Sent(entry_id, entry.body, entry.delay_seconds, entry.group_id, entry.dedup_id, user, system)


def _value(attribute: Attribute) -> _Value:
    value = attribute.value
    if isinstance(value, bytes):
        return _Value(attribute.data_type, binary_value=value)
    return _Value(attribute.data_type, string_value=value)
