"""What can be read of an answer that is not as SQS writes it: a dearer way, each message and entry by itself."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from hashlib import sha256
from time import monotonic
from typing import Any

import msgspec

from millpond.foreign.number import MAX_DIGITS, number_within
from millpond.foreign.text import shown
from millpond.sqs.queue import Attribute, Received
from millpond.sqs.shapes import LARGEST_RECEIVE_COUNT, MAX_CODE, MAX_SENT_MS, DoneEntry, FailedEntry, Results, Value

_log = logging.getLogger("millpond")
#: What goes on is logged this often.
LOG_SECONDS = 60.0
_quiet_until = 0.0  # on the monotonic clock


def messages(body: bytes | bytearray) -> list[Received]:
    """The messages of a receive that have a receipt handle. Raises ValueError where none of them has one."""
    found = _list(_loose(body), "Messages")
    read = [message(one) for one in found if as_text(one.get("ReceiptHandle"))]
    if not read and found:
        raise ValueError(f"none of its {len(found)} messages has a receipt handle")
    if len(read) < len(found):
        _log_incomplete(len(found) - len(read), len(found), monotonic())
    return read


def _log_incomplete(missing: int, number: int, now: float) -> None:
    global _quiet_until
    if now >= _quiet_until:
        _quiet_until = now + LOG_SECONDS
        line = "%d of %d messages have no receipt handle: they come back after their visibility time-out"
        _log.warning(line, missing, number, extra={"event": "receive.incomplete"})


def message(answered: Mapping[str, Any]) -> Received:
    """One message that has a receipt handle."""
    handle, body = as_text(answered["ReceiptHandle"]), answered.get("Body")
    system = answered.get("Attributes")
    system = system if isinstance(system, dict) else {}
    attributes, flaw = _attributes(answered.get("MessageAttributes"))
    if not isinstance(body, str):
        body, flaw = json.dumps(body), "its Body in the answer of SQS is not a text"
    elif body != as_text(body):
        flaw = "its Body holds half a character (a lone surrogate)"
    return Received(
        # Two messages without an id must not look like one.
        as_text(answered.get("MessageId")) or f"unnamed-{sha256(handle.encode()).hexdigest()}",
        handle,
        as_text(body),
        number_within(system.get("ApproximateReceiveCount"), 1, LARGEST_RECEIVE_COUNT, 1),
        number_within(system.get("SentTimestamp"), 0, MAX_SENT_MS, 0),
        as_text(system.get("MessageGroupId")),
        as_text(system.get("AWSTraceHeader")),
        attributes,
        flaw,
    )


def _attributes(values: object) -> tuple[dict[str, Attribute], str]:
    attributes, flaw = {}, ""
    for name, value in values.items() if isinstance(values, dict) else ():
        try:
            one = msgspec.convert(value, Value).attribute()
            content = one.value if isinstance(one.value, bytes) else as_text(one.value)
            attributes[as_text(name)] = Attribute(as_text(one.data_type), content)
        except ValueError as error:
            flaw = f"its attribute {shown(name, MAX_CODE)} cannot be read: {shown(error)}"
    return attributes, flaw


def results(body: bytes | bytearray) -> Results:
    """The entries of a batch call that the answer names."""
    answer = _loose(body)
    successful = [DoneEntry(one["Id"]) for one in _list(answer, "Successful") if isinstance(one.get("Id"), str)]
    failed = [
        FailedEntry(one["Id"], as_text(one.get("Code")), as_text(one.get("Message")), one.get("SenderFault") is True)
        for one in _list(answer, "Failed")
        if isinstance(one.get("Id"), str)
    ]
    return Results(successful, failed)


def _loose(body: bytes | bytearray) -> dict[str, Any]:
    """The answer, by the standard library's reader, which accepts half a character."""
    answer = json.loads(body.decode("utf-8", "replace"), parse_int=_whole)
    if not isinstance(answer, dict):
        raise ValueError("the answer is not a JSON object")
    return answer


def _whole(digits: str) -> int | None:
    """A number; None for more digits than any of SQS has: int() raises at 4,300, and a float cannot hold 400."""
    return int(digits) if len(digits) <= MAX_DIGITS else None


def _list(answer: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    """A list of objects; what is not an object counts as an empty one."""
    values = answer.get(name)
    if not isinstance(values, list | None):
        raise ValueError(f"{name} is not a list")
    return [value if isinstance(value, dict) else {} for value in values or ()]


def as_text(value: object) -> str:
    """A text that UTF-8 can hold: "?" stands for half a character; "" for what is not a text."""
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else ""
