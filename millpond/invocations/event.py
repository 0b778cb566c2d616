"""The event that an SQS event source mapping calls a Lambda function with: its records, as messages."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from millpond.errors import MillpondError
from millpond.foreign.text import shown
from millpond.sqs import salvage
from millpond.sqs.queue import Received


class EventError(MillpondError):
    """Nothing of the event may begin: it is not from SQS, or one of its records could not be reported as failed."""


class EventRecord(NamedTuple):
    """One record. `source`: the ARN of its queue, "" where it names none. `received` is None without receipt handle."""

    message_id: str
    source: str
    received: Received | None


def read_records(event: object) -> list[EventRecord]:
    """The records of an event. What is wrong with one message alone is its `flaw`. Raises EventError."""
    records = event.get("Records") if isinstance(event, dict) else None
    if not isinstance(records, list):
        kind = f"has the keys {shown(', '.join(map(str, event)))}" if isinstance(event, dict) else "is no object"
        raise EventError(f"an SQS event source mapping sends an object with Records; this event {kind}")
    return [_record(index, one) for index, one in enumerate(records)]


def source_of(records: list[EventRecord]) -> str:
    """The ARN of the queue that all of them are from; "" where they name none. Raises EventError."""
    sources = {record.source for record in records}
    if len(sources) != 1:
        raise EventError(f"the records of one event come from one queue, and these come from {shown(sorted(sources))}")
    return sources.pop()


def messages_of(records: list[EventRecord], is_fifo: bool) -> list[Received]:
    """Those that can begin. A record without receipt handle cannot: on a FIFO queue all behind it wait for it, as its
    group cannot be known for sure."""
    can_begin = itertools.takewhile(lambda one: one.received is not None, records) if is_fifo else records
    return [record.received for record in can_begin if record.received is not None]


def _record(index: int, record: object) -> EventRecord:
    if not isinstance(record, dict):
        raise EventError(f"record {index} of the event is no object")
    service = record.get("eventSource", record.get("EventSource", "aws:sqs"))
    if service != "aws:sqs":
        raise EventError(f"record {index} comes from {shown(service)}: send its events to a queue, and map that to it")
    message_id, source = record.get("messageId"), record.get("eventSourceARN")
    if not isinstance(message_id, str) or not message_id:
        raise EventError(f"record {index} has no messageId: if it failed, nothing could say so")
    return EventRecord(message_id, source if isinstance(source, str) else "", _received(message_id, record))


def _received(message_id: str, record: Mapping[str, Any]) -> Received | None:
    handle = record.get("receiptHandle")
    if not isinstance(handle, str) or not handle:
        return None
    return salvage.message(
        {
            "MessageId": message_id,
            "ReceiptHandle": handle,
            "Body": record.get("body"),
            "Attributes": record.get("attributes"),
            "MessageAttributes": {name: _value(one) for name, one in _items(record.get("messageAttributes"))},
        }
    )


def _items(values: object) -> Iterable[tuple[Any, Any]]:
    return values.items() if isinstance(values, dict) else ()


def _value(value: object) -> object:
    """A message attribute as the API has it: an event has the same names with a small letter, and empty lists."""
    if not isinstance(value, dict):
        return value
    return {f"{str(name)[:1].upper()}{str(name)[1:]}": one for name, one in value.items() if one is not None}
