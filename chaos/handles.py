"""Handles: which message a receipt handle stands for, read from the answers and requests that pass."""

from __future__ import annotations

import re
from base64 import b64decode
from collections.abc import Sequence
from contextlib import suppress

import msgspec

#: A message's number, and which receive of it.
Number = tuple[int, int]
#: Where the receive is not known: a copy for the dead-letter queue.
ANY_ATTEMPT = -1

_N = re.compile(r"""["']n["']: ?([0-9]+)""")  # in JSON, or in Python's notation inside it


class _System(msgspec.Struct, frozen=True, gc=False):
    count: str = msgspec.field(name="ApproximateReceiveCount", default="0")


class _Message(msgspec.Struct, rename="pascal"):
    receipt_handle: str
    body: str
    attributes: _System = _System()


class _Messages(msgspec.Struct, rename="pascal"):
    messages: list[_Message] = []


class _Entry(msgspec.Struct, rename="pascal", gc=False):
    receipt_handle: str = ""
    message_body: str = ""


class _Call(_Entry, rename="pascal"):
    """Of a batch, or about one message."""

    entries: list[_Entry] = []


_messages = msgspec.json.Decoder(_Messages)
_call = msgspec.json.Decoder(_Call)


def number_of(body: str) -> int | None:
    """The number of the message with this body, which some programs write in base64."""
    found = _N.search(body)
    if found is None:
        with suppress(ValueError):
            found = _N.search(b64decode(body, validate=True).decode())
    return int(found[1]) if found else None


def _entries(body: bytes) -> Sequence[_Entry]:
    call = _call.decode(body)
    return call.entries or [call]


class Handles:
    """The receipt handles of messages in flight."""

    def __init__(self) -> None:
        self._numbers: dict[str, Number] = {}

    def received(self, body: bytes) -> list[str]:
        """Take in the answer of a receive; its handles."""
        handles = []
        for message in _messages.decode(body).messages:
            number = number_of(message.body)
            if number is not None:
                self._numbers[message.receipt_handle] = number, int(message.attributes.count)
                handles.append(message.receipt_handle)
        return handles

    def numbers(self, handles: Sequence[str]) -> list[Number]:
        """Of those that are known."""
        return [self._numbers[handle] for handle in handles if handle in self._numbers]

    def asked(self, body: bytes) -> list[Number]:
        """The messages that a request is about."""
        entries = _entries(body)
        numbers = self.numbers([entry.receipt_handle for entry in entries])
        for entry in entries:
            if (number := number_of(entry.message_body)) is not None:
                numbers.append((number, ANY_ATTEMPT))
        return numbers

    def deleted(self, body: bytes) -> None:
        """These were deleted: nothing more comes for them."""
        for entry in _entries(body):
            self._numbers.pop(entry.receipt_handle, None)
