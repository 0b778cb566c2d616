"""Countdown: one timer for many things that each fall due the same time after they began."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from typing import Generic, Protocol, TypeVar

from millpond.hub.clock import Timer

Item = TypeVar("Item", bound=Hashable)


class Time(Protocol):
    """What a countdown needs of a Clock."""

    def now(self) -> float: ...

    def timer(self, seconds: float, call: Callable[[], object]) -> Timer: ...


class Countdown(Generic[Item]):
    """Calls `due` with each item that is still in after `seconds`; in the hub, so `due` must not block.

    Most messages are done long before their first beat and their time limit: a timer of its own for each of the two
    costs 1.6 us a message, an entry here 0.2. Who began first is due first, so only the first one needs a timer.
    """

    def __init__(self, seconds: float, due: Callable[[Item], object], clock: Time) -> None:
        self.seconds = seconds
        self._now = clock.now
        self._due = due
        self._clock = clock
        self._due_at: dict[Item, float] = {}
        self._timer: Timer | None = None

    def add(self, item: Item) -> None:
        """Begin to count for this item, which must not be in already."""
        self._due_at[item] = self._now() + self.seconds
        if self._timer is None:
            self._timer = self._clock.timer(self.seconds, self._ring)

    def add_all(self, items: Iterable[Item]) -> None:
        """Begin to count for each of these."""
        self._due_at.update(dict.fromkeys(items, self._now() + self.seconds))
        if self._timer is None and self._due_at:
            self._timer = self._clock.timer(self.seconds, self._ring)

    def left(self, item: Item) -> float:
        """Seconds until this item is due; 0.0 where it is not in."""
        return max(0.0, self._due_at.get(item, 0.0) - self._now())

    def remove(self, item: Item) -> None:
        """Stop counting for this item; it may have been due already."""
        self._due_at.pop(item, None)
        if not self._due_at:
            self._stop_timer()

    def remove_all(self, items: Iterable[Item]) -> None:
        """Stop counting for several."""
        for item in items:
            self._due_at.pop(item, None)
        if not self._due_at:
            self._stop_timer()

    def _stop_timer(self) -> None:
        """Cancel the timer, which would wake the process up for nothing."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _ring(self) -> None:
        now = self._now()
        try:
            while (first := next(iter(self._due_at), None)) is not None and self._due_at[first] <= now:
                del self._due_at[first]
                self._due(first)
        finally:  # one item's error is its own; the others are due all the same
            self._set_timer()

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        first = next(iter(self._due_at.values()), None)
        self._timer = None if first is None else self._clock.timer(_rest(first - self._now()), self._ring)


def _rest(seconds: float) -> float:
    """Seconds for a timer: a millisecond at least, or with a clock that stands still (Pulse) it would never end."""
    return seconds if seconds > 1e-6 else 0.001
