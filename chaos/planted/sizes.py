"""Bugs of what is counted in bytes."""

from __future__ import annotations

from typing import Any

from chaos.planted.bug import mutant
from millpond.engine.in_hand import InHand
from millpond.engine.permits import Share


@mutant("a redelivered message is counted in bytes once", (InHand, "_drop"))
def bytes_of_twin_stay(original: Any) -> Any:
    def drop(self: InHand, received: Any) -> None:
        self._books.count_redelivery()
        self._share.release()

    return drop


@mutant("what is settled is not counted in bytes any more", (Share, "settled"))
def bytes_of_settled_stay(original: Any) -> Any:
    return lambda self, size: None
