"""LocalQueueSettings: the attributes of a queue that its owner sets, checked."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from millpond.local.sqs_error import SqsError, invalid_value
from millpond.local.stored import MAX_BYTES

#: The account and the region in the ARN of every queue.
ACCOUNT_ID = "000000000000"
REGION = "us-east-1"
#: How the name of a FIFO queue ends, and of no other.
FIFO_SUFFIX = ".fifo"

_ARN = re.compile(rf"arn:[\w-]+:sqs:[\w-]+:{ACCOUNT_ID}:([\w-]{{1,80}}(?:\.fifo)?)")
_MAX_RECEIVE_COUNT = 1000


class RedrivePolicy(msgspec.Struct, frozen=True):
    """A message that was received `max_receive_count` times goes to the queue `target` at its next receive."""

    target_arn: str
    max_receive_count: int

    @property
    def target(self) -> str:
        """The name of the dead-letter queue."""
        return self.target_arn.rpartition(":")[2]


class FifoSettings(msgspec.Struct, frozen=True):
    """What only a FIFO queue has. `content_based`: the body's SHA-256 is the deduplication id, if there is no other."""

    content_based: bool = False
    deduplicates_by_group: bool = False
    limited_by_group: bool = False  # no effect: nothing is throttled here


class LocalQueueSettings(msgspec.Struct, frozen=True):
    """What the owner has set; `inert` attributes are shown and have no effect; `fifo` is None for a standard queue."""

    delay_seconds: int = 0
    max_message_bytes: int = MAX_BYTES
    retention_seconds: int = 345_600
    wait_seconds: int = 0
    visibility_seconds: int = 30
    redrive: RedrivePolicy | None = None
    fifo: FifoSettings | None = None
    inert: Mapping[str, str] = {}


# Attribute: the field, the least and the greatest value (CreateQueue in the API reference).
_NUMBERS = {
    "DelaySeconds": ("delay_seconds", 0, 900),
    "MaximumMessageSize": ("max_message_bytes", 1024, MAX_BYTES),
    "MessageRetentionPeriod": ("retention_seconds", 60, 1_209_600),
    "ReceiveMessageWaitTimeSeconds": ("wait_seconds", 0, 20),
    "VisibilityTimeout": ("visibility_seconds", 0, 43_200),
}
_INERT = frozenset({"KmsDataKeyReusePeriodSeconds", "KmsMasterKeyId", "Policy", "RedriveAllowPolicy"}) | {
    "SqsManagedSseEnabled"
}
# Attribute: the field of FifoSettings, and the texts for False and True.
_FIFO = {
    "ContentBasedDeduplication": ("content_based", ("false", "true")),
    "DeduplicationScope": ("deduplicates_by_group", ("queue", "messageGroup")),
    "FifoThroughputLimit": ("limited_by_group", ("perQueue", "perMessageGroupId")),
}
# For two of these AWS says more than that a standard queue does not know them.
_NOT_FIFO = {
    name: f"You can specify the {name} only when FifoQueue is set to true."
    for name in ("DeduplicationScope", "FifoThroughputLimit")
}

#: Every attribute that can be set.
SETTABLE = frozenset(_NUMBERS) | frozenset(_FIFO) | _INERT | {"FifoQueue", "RedrivePolicy"}


def arn(name: str) -> str:
    """The Amazon resource name of a queue here."""
    return f"arn:aws:sqs:{REGION}:{ACCOUNT_ID}:{name}"


def queue_name(queue_arn: str) -> str:
    """The name in the ARN of a queue of this account, "" if it is no such ARN."""
    found = _ARN.fullmatch(queue_arn)
    return found[1] if found else ""


def parse(attributes: Mapping[str, str], base: LocalQueueSettings) -> LocalQueueSettings:
    """`base` with these attributes set; an empty text removes a policy. Raises SqsError for a wrong value."""
    changes: dict[str, Any] = {"fifo": _fifo(attributes, base.fifo)}
    inert = dict(base.inert)
    for name, text in attributes.items():
        if name in _NUMBERS:
            field, least, greatest = _NUMBERS[name]
            changes[field] = _number(name, text, least, greatest)
        elif name == "RedrivePolicy":
            changes["redrive"] = _redrive(text)
        elif name in _INERT:
            inert[name] = text
        elif name not in _FIFO and name != "FifoQueue":
            raise SqsError("InvalidAttributeName", f"Unknown Attribute {name}.")
    changes["inert"] = {name: text for name, text in inert.items() if text}
    return msgspec.structs.replace(base, **changes)


def as_attributes(settings: LocalQueueSettings) -> dict[str, str]:
    """The settings as GetQueueAttributes shows them."""
    shown = {name: str(getattr(settings, field)) for name, (field, _, _) in _NUMBERS.items()}
    if settings.redrive:
        policy = {
            "deadLetterTargetArn": settings.redrive.target_arn,
            "maxReceiveCount": settings.redrive.max_receive_count,
        }
        shown["RedrivePolicy"] = msgspec.json.encode(policy).decode()
    if settings.fifo:
        shown["FifoQueue"] = "true"
        shown |= {name: texts[getattr(settings.fifo, field)] for name, (field, texts) in _FIFO.items()}
    return {**shown, **settings.inert}


def _number(name: str, text: str, least: int, greatest: int) -> int:
    if not re.fullmatch(r"[0-9]{1,9}", text) or not least <= int(text) <= greatest:
        raise SqsError("InvalidAttributeValue", f"Invalid value for the parameter {name}.")
    return int(text)


def _fifo(attributes: Mapping[str, str], base: FifoSettings | None) -> FifoSettings | None:
    """`base` with the attributes set that only a FIFO queue has; it is None for a standard queue."""
    changes: dict[str, bool] = {}
    for name in attributes.keys() & {*_FIFO, "FifoQueue"}:
        if base is None:
            raise SqsError("InvalidAttributeName", _NOT_FIFO.get(name, f"Unknown Attribute {name}."))
        if name != "FifoQueue":
            field, texts = _FIFO[name]
            changes[field] = _flag(name, attributes[name], texts)
        elif attributes[name].lower() != "true":
            text = "Invalid value for the parameter FifoQueue. Reason: Modifying queue type is not supported."
            raise SqsError("InvalidAttributeValue", text)
    fifo = msgspec.structs.replace(base, **changes) if base else None
    if fifo and fifo.limited_by_group and not fifo.deduplicates_by_group:
        reason = "perMessageGroupId is allowed only where DeduplicationScope is messageGroup."
        text = f"Invalid value for the parameter FifoThroughputLimit. Reason: {reason}"
        raise SqsError("InvalidAttributeValue", text)
    return fifo


def _flag(name: str, text: str, texts: tuple[str, str]) -> bool:
    spelled = text.lower() if texts[1] == "true" else text  # AWS takes True, too
    if spelled not in texts:
        raise SqsError("InvalidAttributeValue", f"Invalid value for the parameter {name}.")
    return spelled == texts[1]


class _Policy(msgspec.Struct):
    target: str | None = msgspec.field(name="deadLetterTargetArn", default=None)
    count: int | str | None = msgspec.field(name="maxReceiveCount", default=None)


def _redrive(text: str) -> RedrivePolicy | None:
    if text in ("", "{}"):
        return None

    def invalid(reason: str) -> SqsError:
        return invalid_value("RedrivePolicy", text, reason)

    try:
        policy = msgspec.json.decode(text, type=_Policy)
    except (ValueError, RecursionError) as error:  # msgspec's errors are ValueErrors
        raise invalid("Redrive policy is not a valid JSON map.") from error
    if policy.target is None or policy.count is None:
        absent = "deadLetterTargetArn" if policy.target is None else "maxReceiveCount"
        raise invalid(f"Redrive policy does not contain mandatory attribute: {absent}.")
    if not _ARN.fullmatch(policy.target):
        raise invalid("Invalid value for deadLetterTargetArn.")
    count = str(policy.count)
    if not re.fullmatch(r"[0-9]{1,4}", count) or not 1 <= int(count) <= _MAX_RECEIVE_COUNT:
        allowed = f"valid values are from 1 to {_MAX_RECEIVE_COUNT} both inclusive"
        raise invalid(f"Invalid value for maxReceiveCount: {count}, {allowed}.")
    return RedrivePolicy(policy.target, int(count))
