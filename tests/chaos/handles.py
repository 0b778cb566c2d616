"""Handles: which message a receipt handle stands for, read from the answers and requests that pass."""

from __future__ import annotations

import re
from collections.abc import Sequence

import msgspec

#: A message's number, and which receive of it.
Number = tuple[int, int]
#: Where the receive is not known: a copy for the dead-letter queue.
ANY_ATTEMPT = -1

_N = re.compile(r'"n": ?([0-9]+)')


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


class _Batch(msgspec.Struct, rename="pascal"):
    entries: list[_Entry] = []


_messages = msgspec.json.Decoder(_Messages)
_batch = msgspec.json.Decoder(_Batch)


class Handles:
    """The receipt handles of messages in flight."""

    def __init__(self) -> None:
        self._numbers: dict[str, Number] = {}

    def received(self, body: bytes) -> list[str]:
        """Take in the answer of a receive; its handles."""
        handles = []
        for message in _messages.decode(body).messages:
            number = _N.search(message.body)
            if number:
                self._numbers[message.receipt_handle] = int(number[1]), int(message.attributes.count)
                handles.append(message.receipt_handle)
        return handles

    def numbers(self, handles: Sequence[str]) -> list[Number]:
        """Of those that are known."""
        return [self._numbers[handle] for handle in handles if handle in self._numbers]

    def asked(self, body: bytes) -> list[Number]:
        """The messages that a request of a batch is about."""
        entries = _batch.decode(body).entries
        numbers = self.numbers([entry.receipt_handle for entry in entries])
        for entry in entries:
            if number := _N.search(entry.message_body):
                numbers.append((int(number[1]), ANY_ATTEMPT))
        return numbers

    def deleted(self, body: bytes) -> None:
        """These were deleted: nothing more comes for them."""
        for entry in _batch.decode(body).entries:
            self._numbers.pop(entry.receipt_handle, None)
