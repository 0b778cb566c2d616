"""Bugs of interrupts: one that lands outside its handler, or does not count."""

from __future__ import annotations

from typing import Any

from chaos.planted.bug import mutant
from millpond.engine.consumer import Consumer
from millpond.engine.delivery import Delivery
from millpond.engine.delivery_state import INTERRUPTED, RUNNING
from millpond.hub.interruption import Interruption


@mutant("an interrupt lands inside the handler, or nowhere", (Delivery, "interrupt"))
def interrupts_after_the_end(original: Any) -> Any:
    def interrupt(self: Delivery, kind: Any) -> None:
        if self.greenlet is not None and self.interruption is None:
            self.state = RUNNING
        original(self, kind)

    return interrupt


@mutant("the hub looks, in the step of the throw, whether the handler still runs", (Delivery, "interrupt"))
def throws_without_a_look(original: Any) -> Any:
    def interrupt(self: Delivery, kind: Any) -> None:
        slot = self.greenlet
        if self.state is RUNNING:
            self.state = INTERRUPTED
            self.interruption = Interruption(slot, kind, self._clock, lambda: None)
            self._clock.timer(0.02, self.interruption.throw)

    return interrupt


@mutant("the drain interrupts handlers, not slots: what they have finished is settled", (Consumer, "interrupt"))
def interrupts_slots(original: Any) -> Any:
    def interrupt(self: Any, kind: Any) -> None:
        for slot in list(self.worker.pool._slots):
            self._clock.soon(lambda slot=slot: slot.throw(kind()))

    return interrupt


@mutant("what was interrupted is not acknowledged", (Delivery, "leave"))
def interrupted_is_done(original: Any) -> Any:
    def leave(self: Delivery) -> None:
        original(self)
        self.interruption = None

    return leave
