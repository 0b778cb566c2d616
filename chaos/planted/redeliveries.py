"""Bugs of a message that is redelivered while it is in hand."""

from __future__ import annotations

from typing import Any

from chaos.planted.bug import mutant
from millpond.engine.consumer import Consumer
from millpond.engine.lease import Lease


@mutant("a message in hand that is redelivered goes on by its lease", (Consumer, "accept"))
def twins_run_side_by_side(original: Any) -> Any:
    def accept(self: Consumer, messages: list[Any], latest: float) -> None:
        for received in messages:
            self.hand.deliveries.pop(received.message_id, None)
        original(self, messages, latest)

    return accept


@mutant("a message in hand that is redelivered goes on with the new handle", (Lease, "redelivered"))
def twin_keeps_old_handle(original: Any) -> Any:
    def redelivered(self: Lease, handle: str, since: float, receive_count: int) -> None:
        before = self.handle
        original(self, handle, since, receive_count)
        self.handle = before

    return redelivered


@mutant("an answer that was long on its way renews nothing: its handle is dead", (Consumer, "accept"))
def old_handle_counts(original: Any) -> Any:
    def accept(self: Consumer, messages: list[Any], *more: Any) -> None:
        for received in messages:
            if (twin := self.hand.deliveries.get(received.message_id)) is not None:
                twin.lease.receive_count = 0
        original(self, messages, *more)

    return accept
