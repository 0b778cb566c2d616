"""StoredMessage: what a producer sent and what SQS adds to it; its limits, its size and its MD5s."""

from __future__ import annotations

import re
from collections.abc import Mapping
from hashlib import md5

import msgspec

from millpond.local.sqs_error import SqsError, invalid_parameter, missing_parameter

#: Bytes of one message, and of one batch together: body and user attributes (SQS since 2025-08).
MAX_BYTES = 1_048_576
#: User attributes of one message, and characters of a name or a type.
MAX_ATTRIBUTES = 10
MAX_NAME_CHARACTERS = 256

# SQS takes what XML 1.0 takes, no other control characters and no noncharacters.
_FORBIDDEN = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_NAME = re.compile(r"(?!\.)(?!.*\.\.)(?!(?i:aws|amazon)\.)[\w.-]{1,256}(?<!\.)")
_TYPE = re.compile(r"(String|Number|Binary)(\.[\w.-]+)?")
# Each text can be read in one way only, or a million digits and a letter would take hours.
_NUMBER = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]{1,3})?")


class UserAttribute(msgspec.Struct, frozen=True, rename="pascal", omit_defaults=True):
    """One user attribute, as it also travels: a `string_value` (String, Number) or a `binary_value`."""

    data_type: str = ""
    string_value: str | None = None
    binary_value: bytes | None = None

    @property
    def value(self) -> bytes:
        """The value as bytes; empty if there is none."""
        return self.binary_value or (self.string_value or "").encode()


class StoredMessage(msgspec.Struct, eq=False, gc=False):  # no cycle runs through it; tracked, sends cost a fifth more
    """One message in a queue. Times are seconds since 1970; `key` is its number in the queue that holds it."""

    id: str
    body: str
    body_md5: str
    sent: float
    attributes: dict[str, UserAttribute] = {}
    attributes_md5: str = ""
    group_id: str | None = None
    deduplication_id: str = ""  # only in a FIFO queue, as is the sequence number
    trace_header: str | None = None
    source_arn: str | None = None  # the queue it was dead-lettered from
    sequence_number: str = ""  # 20 digits
    key: int = 0
    receive_count: int = 0
    receives_before: int = 0  # how many of these were in the queues that it was dead-lettered from
    received: float = 0.0
    first_received: float = 0.0


def body_md5(body: str) -> str:
    """MD5OfMessageBody."""
    return md5(body.encode(), usedforsecurity=False).hexdigest()


def attributes_md5(attributes: Mapping[str, UserAttribute]) -> str:
    """MD5OfMessageAttributes, "" for none. Names are sorted; a length precedes each part, a kind each value."""
    if not attributes:
        return ""
    digest = md5(usedforsecurity=False)
    for name in sorted(attributes):
        attribute = attributes[name]
        kind = b"\x01" if attribute.binary_value is None else b"\x02"
        parts = [_measured(name.encode()), _measured(attribute.data_type.encode()), kind, _measured(attribute.value)]
        digest.update(b"".join(parts))
    return digest.hexdigest()


def _measured(part: bytes) -> bytes:
    return len(part).to_bytes(4, "big") + part


def size_bytes(body: str, attributes: Mapping[str, UserAttribute]) -> int:
    """The bytes that count toward MAX_BYTES: the body, and name, type and value of each user attribute."""
    size = len(body) if body.isascii() else len(body.encode())
    for name, attribute in attributes.items():
        size += len(name.encode()) + len(attribute.data_type.encode()) + len(attribute.value)
    return size


def check_body(body: str) -> None:
    """Raises SqsError for a body that is empty or has a character that SQS does not take."""
    if not body:
        raise missing_parameter("MessageBody")
    if _FORBIDDEN.search(body):
        raise SqsError(
            "InvalidMessageContents",
            "Invalid characters found. Valid unicode characters are #x9 | #xA | #xD | #x20 to #xD7FF | "
            "#xE000 to #xFFFD | #x10000 to #x10FFFF",
        )


def check_attributes(attributes: Mapping[str, UserAttribute]) -> None:
    """Raises SqsError for user attributes that SQS refuses."""
    if len(attributes) > MAX_ATTRIBUTES:
        raise invalid_parameter(
            f"Number of message attributes [{len(attributes)}] exceeds the allowed maximum [{MAX_ATTRIBUTES}]."
        )
    for name, attribute in attributes.items():
        _check_attribute(name, attribute)


def _check_attribute(name: str, attribute: UserAttribute) -> None:
    kind = _TYPE.fullmatch(attribute.data_type)
    if not _NAME.fullmatch(name):
        rule = "1 to 256 letters, digits, '_', '-' and '.', no '.' at either end or twice in a row"
        text = f"The message attribute name '{name}' is invalid: {rule}, and no 'AWS.' or 'Amazon.' before it."
    elif not kind or len(attribute.data_type) > MAX_NAME_CHARACTERS:
        text = f"The type '{attribute.data_type}' of message (user) attribute '{name}' is invalid. "
        text += "The set of supported type prefixes is Binary, Number, and String."
    elif (attribute.binary_value is None) != (kind[1] != "Binary") or not attribute.value:
        text = f"Message (user) attribute '{name}' must contain a non-empty value of type '{attribute.data_type}'."
    elif kind[1] == "Number" and not _NUMBER.fullmatch(attribute.string_value or ""):
        text = f"Can't cast the value of message (user) attribute '{name}' to a number."
    elif attribute.string_value is not None and _FORBIDDEN.search(attribute.string_value):
        text = f"Message (user) attribute '{name}' has invalid characters in its value."
    else:
        return
    raise invalid_parameter(text)
