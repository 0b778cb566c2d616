"""What goes over the wire, as Structs: bodies of calls are made here, and bodies of answers read, for either client.

Reading raises an Exception of any kind for what is not from SQS. Where only one message, or one entry, is not as SQS
writes it, the others are read all the same: a second, dearer way that looks at each by itself.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from functools import lru_cache
from hashlib import sha256
from typing import Annotated, Any

import msgspec

from millpond.errors import QueueError
from millpond.foreign.number import MAX_DIGITS, number_within
from millpond.foreign.secrets import Unshown
from millpond.foreign.text import shown
from millpond.sqs.codes import error_kind
from millpond.sqs.limits import MAX_BATCH
from millpond.sqs.queue import (
    MISSING,
    NO_ATTRIBUTES,
    Attribute,
    Entry,
    Failure,
    Received,
)

#: How the entries of a batch are named: by number, since one message can be in it twice.
ENTRY_IDS = [str(number) for number in range(MAX_BATCH)]
#: What a receive asks for about each message: all that anybody here reads.
SYSTEM_ATTRIBUTES = ("ApproximateReceiveCount", "SentTimestamp", "MessageGroupId", "AWSTraceHeader")
_INDEX = {entry_id: index for index, entry_id in enumerate(ENTRY_IDS)}
_log = logging.getLogger("millpond")

#: Within these bounds a number of SQS can be used for anything: compared, added to a time, made a date of.
MAX_RECEIVES = 2**31 - 1
MAX_SENT_MS = 4_102_444_800_000  # the year 2100
#: Characters of an error's code, and of all that an error tells: of a provider's own words the remedy stands behind.
MAX_CODE, MAX_TOLD = 100, 1_000

_Name = Annotated[str, msgspec.Meta(min_length=1)]
_Receives = Annotated[int, msgspec.Meta(ge=1, le=MAX_RECEIVES)]
_Moment = Annotated[int, msgspec.Meta(ge=0, le=MAX_SENT_MS)]


class _Shape(Unshown, msgspec.Struct, rename="pascal", omit_defaults=True):
    """What is sent or answered, with the names that the wire has."""


class _Value(_Shape, gc=False):
    data_type: str
    string_value: str | None = None
    binary_value: bytes | None = None


class _SystemAttributes(msgspec.Struct, frozen=True, gc=False, rename="pascal"):
    approximate_receive_count: _Receives = 1
    sent_timestamp: _Moment = 0
    message_group_id: str = ""
    trace_header: str = msgspec.field(name="AWSTraceHeader", default="")


class _Message(_Shape):
    message_id: _Name
    receipt_handle: _Name
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
    kind: Any = ""
    text: Any = None
    other_text: Any = None


#: What an answer says where all went well, by the number of entries.
_ALL_DONE = [[_Done(entry_id) for entry_id in ENTRY_IDS[:entries]] for entries in range(len(ENTRY_IDS) + 1)]

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
            "AttributeNames": SYSTEM_ATTRIBUTES,  # the older name: some servers know only this one
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


def read_messages(body: bytes | bytearray) -> list[Received]:
    """Of a message that is not as SQS writes it, what can be read; where its body cannot, `flaw` says so."""
    try:
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
    except ValueError:  # msgspec's own are such
        return _salvaged_messages(body)


def read_results(entries: int, body: bytes | bytearray) -> list[Failure | None]:
    """What became of each entry. One that the answer does not name counts as failed: it may have been done.

    An answer that names an entry which was not sent is for another call: LookupError.
    """
    try:
        answer = _results.decode(body)
    except ValueError:
        answer = _salvaged_results(body)
    if answer.successful == _ALL_DONE[entries] and not answer.failed:  # nearly always
        return [None] * entries
    results: list[Failure | None] = [MISSING] * entries
    for done in answer.successful or ():
        results[_INDEX[done.id]] = None
    for failed in answer.failed or ():
        results[_INDEX[failed.id]] = Failure(
            shown(failed.code, MAX_CODE), shown(failed.message or ""), failed.sender_fault
        )
    return results


def read_attributes(body: bytes | bytearray) -> dict[str, str]:
    return _attributes.decode(body).attributes


def read_queue_url(body: bytes | bytearray) -> str:
    return _queue_url.decode(body).queue_url


def refusal(status: int, query_error: str, body: bytes | bytearray) -> QueueError:
    """The error of an answer that is not 200. `query_error`: its header x-amzn-query-error."""
    codes, text = error_names(query_error, body)
    return error_kind(frozenset(codes), status)(text or f"HTTP {status}", next(iter(codes), ""))


def error_names(query_error: str, body: bytes | bytearray) -> tuple[list[str], str]:
    """All names of the error, the one that SDKs show first; none where the answer is not from SQS. And what it says."""
    kind, text = "", ""
    try:
        error = _error.decode(body)
        kind = _text(error.kind).rpartition("#")[2].partition(":")[0]
        text = shown(error.text or error.other_text or "")
    except (ValueError, RecursionError):
        pass
    return [shown(code, MAX_CODE) for code in (query_error.partition(";")[0], kind) if code], text


def _salvaged_messages(body: bytes | bytearray) -> list[Received]:
    """Raises ValueError where none of them has a receipt handle."""
    messages = _list(_loose(body), "Messages")
    read = [_salvaged(message) for message in messages if _text(message.get("ReceiptHandle"))]
    if not read and messages:
        raise ValueError(f"no message of {len(messages)} has a receipt handle")
    if len(read) < len(messages):
        text = "%d of %d messages have no receipt handle: they are left to their visibility time-out"
        _log.warning(text, len(messages) - len(read), len(messages), extra={"event": "receive.incomplete"})
    return read


def _salvaged(message: Mapping[str, Any]) -> Received:
    handle, body = _text(message["ReceiptHandle"]), message.get("Body")
    system = message.get("Attributes")
    system = system if isinstance(system, dict) else {}
    attributes, flaw = _salvaged_attributes(message.get("MessageAttributes"))
    if not isinstance(body, str):
        body, flaw = json.dumps(body), "SQS gave it no Body that is a text"
    elif body != _text(body):
        flaw = "its Body holds half a character"
    return Received(
        # Two without an id are not one message.
        _text(message.get("MessageId")) or f"unnamed-{sha256(handle.encode()).hexdigest()}",
        handle,
        _text(body),
        number_within(system.get("ApproximateReceiveCount"), 1, MAX_RECEIVES, 1),
        number_within(system.get("SentTimestamp"), 0, MAX_SENT_MS, 0),
        _text(system.get("MessageGroupId")),
        _text(system.get("AWSTraceHeader")),
        attributes,
        flaw,
    )


def _salvaged_attributes(values: object) -> tuple[dict[str, Attribute], str]:
    attributes, flaw = {}, ""
    for name, value in values.items() if isinstance(values, dict) else ():
        try:
            one = _attribute(msgspec.convert(value, _Value))
            content = one.value if isinstance(one.value, bytes) else _text(one.value)
            attributes[_text(name)] = Attribute(_text(one.data_type), content)
        except ValueError as error:
            flaw = f"its attribute {shown(name, MAX_CODE)} cannot be read: {shown(error)}"
    return attributes, flaw


def _salvaged_results(body: bytes | bytearray) -> _Results:
    answer = _loose(body)
    successful = [_Done(one["Id"]) for one in _list(answer, "Successful") if isinstance(one.get("Id"), str)]
    failed = [
        _Failed(one["Id"], _text(one.get("Code")), _text(one.get("Message")), one.get("SenderFault") is True)
        for one in _list(answer, "Failed")
        if isinstance(one.get("Id"), str)
    ]
    return _Results(successful, failed)


def _loose(body: bytes | bytearray) -> dict[str, Any]:
    """An answer by the standard library's reader, which takes half a character."""
    answer = json.loads(body.decode("utf-8", "replace"), parse_int=_whole)
    if not isinstance(answer, dict):
        raise ValueError("the answer is no JSON object")
    return answer


def _whole(digits: str) -> int | None:
    """None for more digits than any number of SQS has: int() raises at 4,300, and a float cannot hold 400."""
    return int(digits) if len(digits) <= MAX_DIGITS else None


def _list(answer: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    """What a list of objects holds; what is no object in it is one that says nothing."""
    values = answer.get(name)
    if not isinstance(values, list | None):
        raise ValueError(f"{name} is no list")
    return [value if isinstance(value, dict) else {} for value in values or ()]


def _text(value: object) -> str:
    """A text that UTF-8 can hold: "?" stands for half a character. What is no text is ""."""
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else ""


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
