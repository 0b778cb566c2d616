"""LocalPoll: one receive, and the receipts that answer it."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from millpond.local.stored import StoredMessage


class Receipt(msgspec.Struct, frozen=True):
    """A message as one receive brings it, with the receipt handle and the count of this receive."""

    message: StoredMessage
    handle: str
    receive_count: int


class LocalPoll:
    """One receive: answered at once, or waiting in its queue's line. `visibility_seconds`: None for the queue's own.

    `attempt_id`: a FIFO queue gives the same messages to a receive with the same one.
    """

    def __init__(
        self, max_messages: int, visibility_seconds: int | None, wait_seconds: int, attempt_id: str | None = None
    ) -> None:
        self.max_messages = max_messages
        self.visibility_seconds = visibility_seconds
        self.wait_seconds = wait_seconds
        self.attempt_id = attempt_id
        self.receipts: list[Receipt] | None = None
        self.on_answer: Callable[[], object] | None = None

    def answer(self, receipts: list[Receipt]) -> None:
        """Give it its messages. Called once, by the queue."""
        self.receipts = receipts
        if self.on_answer:
            self.on_answer()
