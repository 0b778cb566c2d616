"""Groups: the order of a FIFO queue among the messages in hand."""

from __future__ import annotations

from collections import deque

from millpond.engine.delivery import Delivery, DeliveryKeeper
from millpond.engine.delivery_state import ON_HOLD, SETTLING
from millpond.message import Outcome

BEHIND_FAILED = Outcome("released", reason="an earlier message of its group failed")


class Groups:
    """Messages of one group stand in line; groups stand side by side.

    1. The first of a line is started; the next one when that is settled for good (`leave`). While the first is held,
       all behind it are held too.
    2. Where the first fails, or its lease is lost, all behind it are given back: none runs before it. SQS has the
       group locked for as long as one of its messages is in flight, so they come back in order.
    """

    def __init__(self, owner: DeliveryKeeper) -> None:
        self._owner = owner
        self._lines: dict[str, deque[Delivery]] = {}

    def join(self, delivery: Delivery) -> None:
        """It has come: it is started now, or once all before it are done."""
        line = self._lines.setdefault(delivery.received.group_id, deque())
        line.append(delivery)
        if len(line) == 1:
            self._owner.make_ready(delivery)
        elif line[0].state is ON_HOLD:
            self._owner.park_behind(delivery)

    def leave(self, delivery: Delivery) -> None:
        """It is done, and SQS has confirmed it: the next one starts, unless it is being settled itself."""
        line = self._lines.get(delivery.received.group_id)
        if line is None or delivery not in line:
            return
        was_first = line[0] is delivery
        line.remove(delivery)
        if not line:
            del self._lines[delivery.received.group_id]
        elif was_first and line[0].state is not SETTLING:
            (self._owner.run_again if line[0].state is ON_HOLD else self._owner.make_ready)(line[0])

    def waiting_behind(self, delivery: Delivery) -> list[Delivery]:
        """What stands behind the first of a line; nothing behind any other."""
        line = self._lines.get(delivery.received.group_id, deque())
        return list(line)[1:] if line and line[0] is delivery else []

    def fail(self, delivery: Delivery) -> None:
        """It is not done: what is behind it goes back with it. (A held one can lose its lease anywhere in a line.)"""
        line = self._lines.get(delivery.received.group_id)
        if line is None or delivery not in line:
            return
        behind: list[Delivery] = []
        while (last := line.pop()) is not delivery:
            behind.append(last)
        if not line:
            del self._lines[delivery.received.group_id]
        for one in reversed(behind):
            self._owner.end_soon(one, BEHIND_FAILED)

    def take_waiting(self) -> list[Delivery]:
        """Take out all that is not started."""
        waiting = []
        for line in self._lines.values():
            while len(line) > 1:
                waiting.append(line.pop())
        return waiting
