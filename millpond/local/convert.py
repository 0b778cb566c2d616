"""Between the wire and the queue: an entry becomes a message, a delivery becomes an answer."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from uuid import uuid4

from millpond.local import message as content
from millpond.local.errors import invalid_parameter, invalid_value
from millpond.local.message import Message, UserAttribute
from millpond.local.queue import Delivery, Poll
from millpond.local.settings import Settings
from millpond.local.wire import Received, ReceivedMessage, ReceiveMessage, SendMessage, Sent

#: SQS: DelaySeconds is 0 to 900.
MAX_DELAY_SECONDS = 900
#: SenderId of every message: nobody signs in here.
SENDER_ID = "AIDALOCAL"

_GROUP_ID = re.compile(r"[!-~]{1,128}")


def parcel(entry: SendMessage, settings: Settings, now: float) -> tuple[Message, int, Sent]:
    """The checked message, the seconds until it is visible, and what its sender is told."""
    content.check_body(entry.message_body)
    content.check_attributes(entry.message_attributes)
    delay_seconds = settings.delay_seconds if entry.delay_seconds is None else entry.delay_seconds
    if not 0 <= delay_seconds <= MAX_DELAY_SECONDS:
        reason = f"DelaySeconds must be >= 0 and <= {MAX_DELAY_SECONDS}."
        raise invalid_value("DelaySeconds", delay_seconds, reason)
    message = Message(
        str(uuid4()),
        entry.message_body,
        content.body_md5(entry.message_body),
        now,
        entry.message_attributes,
        content.attributes_md5(entry.message_attributes),
        _group_id(entry),
        _trace_header(entry.message_system_attributes),
    )
    system_md5 = content.attributes_md5(entry.message_system_attributes)
    return message, delay_seconds, Sent(message.id, message.body_md5, message.attributes_md5, system_md5, entry.id)


def _group_id(entry: SendMessage) -> str | None:
    if entry.message_deduplication_id is not None:
        reason = "The request include parameter that is not valid for this queue type."
        raise invalid_value("MessageDeduplicationId", entry.message_deduplication_id, reason)
    group_id = entry.message_group_id
    if group_id is not None and not _GROUP_ID.fullmatch(group_id):
        reason = "MessageGroupId can only include alphanumeric and punctuation characters. 1 to 128 in length."
        raise invalid_value("MessageGroupId", group_id, reason)
    return group_id


def _trace_header(attributes: Mapping[str, UserAttribute]) -> str | None:
    for name, attribute in attributes.items():
        if name != "AWSTraceHeader":
            raise invalid_parameter(
                f"Message system attribute name '{name}' is invalid: only AWSTraceHeader can be sent."
            )
        if attribute.data_type != "String" or not attribute.string_value:
            raise invalid_parameter(
                "Message system attribute 'AWSTraceHeader' must contain a non-empty value of type 'String'."
            )
        return attribute.string_value
    return None


def received(poll: Poll, request: ReceiveMessage) -> Received:
    """The answer to a poll that is answered, with the attributes that were asked for."""
    system_names = frozenset(request.message_system_attribute_names or request.attribute_names)
    return Received([_shown(delivery, system_names, request) for delivery in poll.deliveries or []])


def _shown(delivery: Delivery, system_names: frozenset[str], request: ReceiveMessage) -> ReceivedMessage:
    message = delivery.message
    attributes = _asked_for(message.attributes, request.message_attribute_names)
    whole = len(attributes) == len(message.attributes)
    return ReceivedMessage(
        message.id,
        delivery.receipt_handle,
        message.body_md5,
        message.body,
        _system_attributes(delivery, system_names) if system_names else {},
        message.attributes_md5 if whole else content.attributes_md5(attributes),
        attributes,
    )


def _system_attributes(delivery: Delivery, names: frozenset[str]) -> dict[str, str]:
    message = delivery.message
    attributes = {
        "SenderId": SENDER_ID,
        "SentTimestamp": str(int(message.sent * 1000)),
        "ApproximateReceiveCount": str(delivery.receive_count),
        "ApproximateFirstReceiveTimestamp": str(int(message.first_received * 1000)),
    }
    if message.group_id is not None:
        attributes["MessageGroupId"] = message.group_id
    if message.trace_header is not None:
        attributes["AWSTraceHeader"] = message.trace_header
    if message.source_arn is not None:
        attributes["DeadLetterQueueSourceArn"] = message.source_arn
    return attributes if "All" in names else {name: text for name, text in attributes.items() if name in names}


def _asked_for(attributes: dict[str, UserAttribute], names: Sequence[str]) -> dict[str, UserAttribute]:
    """`names`: whole names, `All`, or the beginning of names and `.*`."""
    if not attributes or "All" in names or ".*" in names:
        return attributes
    beginnings = tuple(name[:-2] for name in names if name.endswith(".*"))
    return {name: a for name, a in attributes.items() if name in names or (beginnings and name.startswith(beginnings))}
