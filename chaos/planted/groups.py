"""Bugs of FIFO groups: one runs before the one ahead of it is deleted."""

from __future__ import annotations

from typing import Any

from chaos.planted.bug import mutant
from millpond.engine.delivery import Delivery
from millpond.engine.endings import Endings
from millpond.engine.groups import Groups
from millpond.message import Outcome


@mutant("the next of a group starts once the delete is confirmed", (Endings, "end"))
def next_starts_early(original: Any) -> Any:
    def end(self: Endings, delivery: Delivery, outcome: Outcome) -> None:
        original(self, delivery, outcome)
        if self._groups is not None and outcome.name == "succeeded":
            self._groups.leave(delivery)

    return end


@mutant("where one fails, none behind it runs", (Groups, "fail"))
def failure_lets_others_run(original: Any) -> Any:
    return lambda self, delivery: self.leave(delivery)


@mutant("a group stands in line at all", (Groups, "join"))
def groups_run_at_once(original: Any) -> Any:
    return lambda self, delivery: self._owner.make_ready(delivery)
