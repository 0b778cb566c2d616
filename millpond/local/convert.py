"""From an entry to a message in the queue, and from a receipt to an answer."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from hashlib import sha256
from uuid import uuid4

from millpond.local import stored as content
from millpond.local.attributes import FifoSettings, LocalQueueSettings
from millpond.local.local_poll import LocalPoll, Receipt
from millpond.local.operations import ReceivedMessage, ReceivedMessages, ReceiveMessage, SendMessage, Sent
from millpond.local.sqs_error import SqsError, invalid_parameter, invalid_value, missing_parameter
from millpond.local.stored import StoredMessage, UserAttribute

#: SQS: DelaySeconds is 0 to 900.
MAX_DELAY_SECONDS = 900
#: SenderId of every message: nobody logs in here.
SENDER_ID = "AIDALOCAL"

_ID = re.compile(r"[!-~]{1,128}")


def parcel(entry: SendMessage, settings: LocalQueueSettings, now: float) -> tuple[StoredMessage, int, Sent]:
    """The checked message, the seconds until it is visible, and the answer to its sender."""
    content.check_body(entry.message_body)
    content.check_attributes(entry.message_attributes)
    delay_seconds = settings.delay_seconds if entry.delay_seconds is None else _own_delay(entry.delay_seconds, settings)
    group_id, deduplication_id = _fifo_ids(entry, settings.fifo) if settings.fifo else (_tenant(entry), "")
    message = StoredMessage(
        str(uuid4()),
        entry.message_body,
        content.body_md5(entry.message_body),
        now,
        entry.message_attributes,
        content.attributes_md5(entry.message_attributes),
        group_id,
        deduplication_id,
        _trace_header(entry.message_system_attributes),
    )
    system_md5 = content.attributes_md5(entry.message_system_attributes)
    return message, delay_seconds, Sent(message.id, message.body_md5, message.attributes_md5, system_md5, entry.id)


def _own_delay(seconds: int, settings: LocalQueueSettings) -> int:
    """The delay of a message whose sender has set one."""
    if settings.fifo:
        if seconds:
            raise _not_of_this_type("DelaySeconds", seconds)
        return settings.delay_seconds  # 0 does not override the queue's (localstack's recordings of AWS)
    if not 0 <= seconds <= MAX_DELAY_SECONDS:
        raise invalid_value("DelaySeconds", seconds, f"DelaySeconds must be >= 0 and <= {MAX_DELAY_SECONDS}.")
    return seconds


def _tenant(entry: SendMessage) -> str | None:
    """The group id; in a standard queue it locks and orders nothing."""
    if entry.message_deduplication_id is not None:
        raise _not_of_this_type("MessageDeduplicationId", entry.message_deduplication_id)
    return None if entry.message_group_id is None else _checked_id("MessageGroupId", entry.message_group_id)


def _fifo_ids(entry: SendMessage, fifo: FifoSettings) -> tuple[str, str]:
    """The group id and the deduplication id."""
    if entry.message_group_id is None:
        raise missing_parameter("MessageGroupId")
    group_id = _checked_id("MessageGroupId", entry.message_group_id)
    if entry.message_deduplication_id is not None:
        return group_id, _checked_id("MessageDeduplicationId", entry.message_deduplication_id)
    if not fifo.content_based:
        raise _undeduplicable()
    return group_id, sha256(entry.message_body.encode()).hexdigest()


def check_fifo_batch(entries: Sequence[SendMessage], fifo: FifoSettings) -> None:
    """Raises SqsError if an entry lacks an id: then SQS refuses the whole batch (localstack's recordings of AWS)."""
    for entry in entries:
        if entry.message_deduplication_id is None and not fifo.content_based:
            raise _undeduplicable()
        if entry.message_group_id is None:  # for a single message it is another code
            raise invalid_parameter("The request must contain the parameter MessageGroupId.")


def attempt_id(request: ReceiveMessage, settings: LocalQueueSettings) -> str | None:
    """The id by which this receive can be tried again, checked."""
    if request.receive_request_attempt_id is None:
        return None
    if not settings.fifo:
        raise _not_of_this_type("ReceiveRequestAttemptId", request.receive_request_attempt_id)
    return _checked_id("ReceiveRequestAttemptId", request.receive_request_attempt_id)


def _checked_id(name: str, text: str) -> str:
    if not _ID.fullmatch(text):
        reason = f"{name} can only include alphanumeric and punctuation characters. 1 to 128 in length."
        raise invalid_value(name, text, reason)
    return text


def _not_of_this_type(name: str, value: object) -> SqsError:
    return invalid_value(name, value, "The request include parameter that is not valid for this queue type.")


def _undeduplicable() -> SqsError:
    wanted = "ContentBasedDeduplication enabled or MessageDeduplicationId provided explicitly"
    return invalid_parameter(f"The queue should either have {wanted}")


def _trace_header(attributes: Mapping[str, UserAttribute]) -> str | None:
    for name, attribute in attributes.items():
        if name != "AWSTraceHeader":
            text = f"Message system attribute name '{name}' is invalid: only AWSTraceHeader can be sent."
            raise invalid_parameter(text)
        if attribute.data_type != "String" or not attribute.string_value:
            text = "Message system attribute 'AWSTraceHeader' must contain a non-empty value of type 'String'."
            raise invalid_parameter(text)
        return attribute.string_value
    return None


def received(poll: LocalPoll, request: ReceiveMessage) -> ReceivedMessages:
    """The answer to a receive, with the attributes that were asked for."""
    system_names = frozenset(request.message_system_attribute_names or request.attribute_names)
    return ReceivedMessages([_shown(receipt, system_names, request) for receipt in poll.receipts or []])


def _shown(receipt: Receipt, system_names: frozenset[str], request: ReceiveMessage) -> ReceivedMessage:
    message = receipt.message
    attributes = _asked_for(message.attributes, request.message_attribute_names)
    whole = len(attributes) == len(message.attributes)
    return ReceivedMessage(
        message.id,
        receipt.handle,
        message.body_md5,
        message.body,
        _system_attributes(receipt, system_names) if system_names else {},
        message.attributes_md5 if whole else content.attributes_md5(attributes),
        attributes,
    )


def _system_attributes(receipt: Receipt, names: frozenset[str]) -> dict[str, str]:
    message = receipt.message
    attributes = {
        "SenderId": SENDER_ID,
        "SentTimestamp": str(int(message.sent * 1000)),
        "ApproximateReceiveCount": str(receipt.receive_count),
        "ApproximateFirstReceiveTimestamp": str(int(message.first_received * 1000)),
    }
    if message.group_id is not None:
        attributes["MessageGroupId"] = message.group_id
    if message.sequence_number:
        attributes["SequenceNumber"] = message.sequence_number
        attributes["MessageDeduplicationId"] = message.deduplication_id
    if message.trace_header is not None:
        attributes["AWSTraceHeader"] = message.trace_header
    if message.source_arn is not None:
        attributes["DeadLetterQueueSourceArn"] = message.source_arn
    return attributes if "All" in names else {name: text for name, text in attributes.items() if name in names}


def _asked_for(attributes: dict[str, UserAttribute], names: Sequence[str]) -> dict[str, UserAttribute]:
    """The attributes that `names` means: whole names, `All`, or the beginning of names and `.*`."""
    if not attributes or "All" in names or ".*" in names:
        return attributes
    beginnings = tuple(name[:-2] for name in names if name.endswith(".*"))
    return {name: a for name, a in attributes.items() if name in names or (beginnings and name.startswith(beginnings))}
