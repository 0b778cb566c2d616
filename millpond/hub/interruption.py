"""Interruption: what is thrown into a handler, again and again until it ends or is given up as stuck."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from millpond.errors import Interrupt
from millpond.hub.clock import Clock, Timer

#: A handler that is still inside after an interrupt gets it again this often.
REPEAT_SECONDS = 1.0
#: After this number of interrupts it is stuck, and its slot is written off.
MAX_INTERRUPTS = 10


class Interruption:
    """The interruption of one run of a handler, which is in `greenlet`.

    Whoever makes it calls `throw` once, in the hub, and `end` when the handler is out.


    `error` is what interrupted it. It is never thrown itself: its traceback would hold the delivery in memory.
    """

    def __init__(
        self, greenlet: Any, kind: Callable[[], Interrupt], clock: Clock, give_up: Callable[[], object]
    ) -> None:
        self.error = kind()
        self._greenlet = greenlet
        self._kind = kind
        self._clock = clock
        self._give_up = give_up
        self._times = 0
        self._timer: Timer | None = None

    def throw(self) -> None:
        """Throw it now, in the hub; the handler is inside."""
        self._times += 1
        if self._times > MAX_INTERRUPTS:
            self._give_up()
            return
        self._timer = self._clock.timer(REPEAT_SECONDS, self.throw)
        self._greenlet.throw(self._kind())

    def end(self) -> None:
        """Throw nothing more: the handler is out."""
        if self._timer is not None:
            self._timer.cancel()
        self._greenlet = self._give_up = None  # type: ignore[assignment]
