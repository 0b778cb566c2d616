"""Reads the answers of SQS, and its refusals, for either client.

Reading raises an Exception of any kind for what is not from SQS. Where one message or entry is not as SQS writes it,
`salvage.py` still reads the others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from millpond.errors import QueueError
from millpond.foreign.text import shown
from millpond.sqs import salvage
from millpond.sqs.codes import error_kind
from millpond.sqs.queue import MISSING, NO_ATTRIBUTES, Attribute, Failure, Received
from millpond.sqs.shapes import (
    ENTRY_IDS,
    MAX_CODE,
    AnsweredError,
    AnsweredMessage,
    AnsweredUrl,
    Attributes,
    DoneEntry,
    Messages,
    MessagesApart,
    Results,
    Value,
)

_INDEX = {entry_id: index for index, entry_id in enumerate(ENTRY_IDS)}
#: What an answer says where every entry was done, by the number of entries.
_ALL_DONE = [[DoneEntry(entry_id) for entry_id in ENTRY_IDS[:entries]] for entries in range(len(ENTRY_IDS) + 1)]

#: The messages of a shorter answer are not counted: 100 that came alone, of this size, are 0.8 MiB.
SHORT_BYTES = 8_192
#: Nor are those of a longer one that take no more than this on average.
UNCOUNTED_BYTES = 4_096
#: A longer answer is read message by message: as texts all of it can take four times as much memory at once. It takes
#: twice as long, so others are not.
LONG_BYTES = 2 * 1024 * 1024

_messages = msgspec.json.Decoder(Messages, strict=False)  # numbers come as texts
_apart = msgspec.json.Decoder(MessagesApart)
_message = msgspec.json.Decoder(AnsweredMessage, strict=False)
_results = msgspec.json.Decoder(Results)
_attributes = msgspec.json.Decoder(Attributes)
_queue_url = msgspec.json.Decoder(AnsweredUrl)
_error = msgspec.json.Decoder(AnsweredError)


def read_messages(body: bytes | bytearray) -> list[Received]:
    """The messages of a receive. Where one is not as SQS writes it, what can be read of it; `flaw` names the rest."""
    if len(body) > SHORT_BYTES:
        return _counted(body)
    try:
        return _read(_messages.decode(body).messages)
    except ValueError:  # what msgspec raises
        return salvage.messages(body)


def _counted(body: bytes | bytearray) -> list[Received]:
    """The messages of an answer that is not short: with their sizes where they are large, kept as Received says."""
    try:
        if len(body) > LONG_BYTES:
            apart = _apart.decode(body).messages or ()
            return [_kept(message, len(one)) for one in apart for message in _read([_message.decode(one)])]
        messages = _read(_messages.decode(body).messages)
    except ValueError:
        messages = salvage.messages(body)
    if len(body) <= UNCOUNTED_BYTES * len(messages):
        return messages
    messages = [_kept(message) for message in messages]
    around = max(0, len(body) - sum(message.size for message in messages)) // max(1, len(messages))
    return [msgspec.structs.replace(message, size=message.size + around) for message in messages]


def _read(messages: Sequence[AnsweredMessage] | None) -> list[Received]:
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
        for message in messages or ()
    ]


def _kept(message: Received, size: int = 0) -> Received:
    """The same as it stays in memory, with its size (0: that of its body)."""
    text = message.text
    content = text if text.isascii() else text.encode()
    return msgspec.structs.replace(message, body=content, size=size or len(content))


def read_results(entries: int, body: bytes | bytearray) -> list[Failure | None]:
    """The result of each entry. One that the answer does not name counts as failed (MISSING): it may have been done.

    Raises LookupError where the answer names an entry that was not sent: it is for another call.
    """
    try:
        answer = _results.decode(body)
    except ValueError:
        answer = salvage.results(body)
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


def error_of(status: int, query_error: str, body: bytes | bytearray) -> QueueError:
    """The error for an answer that is not 200. `query_error`: its header x-amzn-query-error."""
    codes, text = error_names(query_error, body)
    return error_kind(frozenset(codes), status)(text or f"HTTP {status}", next(iter(codes), ""))


def error_names(query_error: str, body: bytes | bytearray) -> tuple[list[str], str]:
    """The codes of the error, first the one that SDKs show (none: the answer is not from SQS), and its text."""
    kind, text = "", ""
    try:
        error = _error.decode(body)
        kind = salvage.as_text(error.kind).rpartition("#")[2].partition(":")[0]
        text = shown(error.text or error.other_text or "")
    except (ValueError, RecursionError):
        pass
    return [shown(code, MAX_CODE) for code in (query_error.partition(";")[0], kind) if code], text


def _user_attributes(values: Mapping[str, Value]) -> dict[str, Attribute]:
    return {name: value.attribute() for name, value in values.items()}
