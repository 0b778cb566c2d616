"""Bugs of polls and the drain."""

from __future__ import annotations

from typing import Any

from chaos.planted.bug import mutant
from millpond.engine.consumer import Consumer
from millpond.engine.held_back import HeldBack
from millpond.engine.poller import Pollers


@mutant("no receive begins after the drain", (Pollers, "stop"))
def polls_on(original: Any) -> Any:
    return lambda self: self._clock.timer(3.0, lambda: original(self)) and None


@mutant(
    "what was not started goes back once the queue's own polls have ended",
    (Consumer, "drain"),
    (HeldBack, "hidden_seconds"),
)
def gives_back_into_own_poll(original: Any) -> Any:
    def drain(self: Consumer, deadline: float) -> None:
        original(self, deadline)
        self.give_back_held()

    return drain if original.__name__ == "drain" else lambda self: 0


@mutant("a receive that fails never ends the last poll", (Pollers, "_back_off"))
def failed_polls_leave(original: Any) -> Any:
    def back_off(self: Pollers, *given: Any) -> bool:
        original(self, *given)
        return False

    return back_off
