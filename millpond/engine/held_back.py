"""HeldBack: what was received and not started when the drain began."""

from __future__ import annotations

import math
from enum import Enum

from millpond.engine.delivery import Delivery, DeliveryKeeper
from millpond.engine.outcomes import RELEASED
from millpond.engine.poller import Pollers
from millpond.hub.clock import Clock


class DrainState(Enum):
    """How far the drain of a queue is.

    | from | to | when |
    |---|---|---|
    | WORKING | HOLDING | the drain begins: what is not started is held back |
    | HOLDING | EMPTYING | no open poll of ours could receive it again, or there is no more time: it goes back |
    """

    WORKING = "working"
    HOLDING = "holding"
    EMPTYING = "emptying"


WORKING, HOLDING, EMPTYING = DrainState


class HeldBack:
    """The deliveries that are held back in a drain. In EMPTYING what comes later goes back at once."""

    def __init__(self, pollers: Pollers, owner: DeliveryKeeper, clock: Clock) -> None:
        self.state = WORKING
        self._pollers = pollers
        self._owner = owner
        self._clock = clock
        self._held: list[Delivery] = []

    def add(self, *deliveries: Delivery) -> None:
        """Hold them back, or give them back."""
        if self.state is not EMPTYING:
            self._held += deliveries
            return
        for delivery in deliveries:
            self._owner.end_soon(delivery, RELEASED)

    def take_all(self) -> list[Delivery]:
        """Take out all that is held: from now on whatever comes goes back."""
        self.state = EMPTYING
        held, self._held = self._held, []
        return held

    def hidden_seconds(self) -> int:
        """How long a poll of ours, left open behind us, could still take what we give back now."""
        if self.state is WORKING or not (until := self._pollers.open_until()):
            return 0
        return math.ceil(until - self._clock.now()) + 1
