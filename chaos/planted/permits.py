"""Bugs of permits: what is held is no longer bounded by them, or some are lost."""

from __future__ import annotations

from typing import Any

from chaos.planted.bug import mutant
from millpond.engine.ask import Asks
from millpond.engine.consumer import Consumer
from millpond.engine.delivery import Delivery
from millpond.engine.endings import Endings
from millpond.engine.in_hand import InHand


@mutant("permits first: a poll asks for no more than it has permits for", (Asks, "make"))
def asks_for_ten(original: Any) -> Any:
    return lambda self, permits, now: original(self, 10, now)


@mutant("a permit comes back when the outcome is queued, not before", (Consumer, "accept"), (Endings, "_settle_swarm"))
def permit_back_on_arrival(original: Any) -> Any:
    def accept(self: Consumer, messages: list[Any], latest: float) -> None:
        original(self, messages, latest)
        self._share.release(len(messages))

    def settle_swarm(self: Endings) -> None:
        self._ended = 0
        original(self)

    return accept if original.__name__ == "accept" else settle_swarm


@mutant(
    "a permit comes back only while settling keeps up: what waits to be settled is bounded",
    (Endings, "has_room"),
)
def permit_back_though_full(original: Any) -> Any:
    def has_room(self: Endings) -> None:
        owed, self._owed = self._owed, 0
        self._share.release(owed)

    return has_room


@mutant("a redelivered message gives its permit back", (InHand, "_redelivered"))
def permit_of_twin_lost(original: Any) -> Any:
    def redelivered(self: InHand, twin: Delivery, received: Any, since: float) -> None:
        original(self, twin, received, since)
        self._share.take(1)
        self._share.polled(asked=1, got=1)

    return redelivered
