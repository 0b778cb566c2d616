"""One time for the whole world, and a clock for each process in it: one can be stopped, or stand still for a while."""

from __future__ import annotations

import heapq
from collections.abc import Callable

import gevent

from tests.virtual import VirtualClock, VirtualTimer, settle

#: More timers at one moment than this: somebody waits for no time, again and again.
MAX_AT_ONCE = 20_000


class OwnedTimer(VirtualTimer):
    """A timer of one process; of the world itself where there is no owner."""

    __slots__ = ("owner",)

    def __init__(self, call: Callable[[], object], world: WorldClock, owner: ProcessClock | None) -> None:
        super().__init__(call, owner or world)
        self.owner = owner


class WorldClock(VirtualClock):
    """Moves from one timer to the next. `together`: what is due at one moment runs in one turn of the hub, as libev
    does it; else greenlets run in between, as they do where the moments differ by a little."""

    def __init__(self, together: bool = False) -> None:
        super().__init__()
        self._together = together
        self._at_once = 0

    def timer(self, seconds: float, call: Callable[[], object], owner: ProcessClock | None = None) -> VirtualTimer:
        timer = OwnedTimer(call, self, owner)
        heapq.heappush(self._timers, (self._now + max(0.0, seconds), next(self._order), timer))
        return timer

    def step(self) -> bool:
        """On to the next timer, and run what it wakes. False: there is none."""
        timer = None
        while timer is None:
            if not self._timers:
                return False
            timer = self._pop()
        self._ring(timer)
        while self._together and self._timers and self._timers[0][0] <= self._now:
            if (timer := self._pop()) is not None:
                self._ring(timer)
        settle()
        return True

    def _ring(self, timer: OwnedTimer) -> None:
        gevent.get_hub().loop.run_callback(timer.ring)

    def _pop(self) -> OwnedTimer | None:
        """The next one; None where it was cancelled, its owner is dead, or stands still."""
        when, _, timer = heapq.heappop(self._timers)
        owner = timer.owner  # type: ignore[attr-defined]
        if timer.call is None or (owner is not None and owner.dead):
            return None
        if owner is not None and owner.still_until > when:  # the order of what is due is kept
            heapq.heappush(self._timers, (owner.still_until, next(self._order), timer))
            return None
        self._at_once = self._at_once + 1 if when <= self._now else 0
        if self._at_once > MAX_AT_ONCE:
            raise RuntimeError("time stands still: somebody waits for no time, again and again")
        self._now = max(self._now, when)
        return timer  # type: ignore[return-value]


class ProcessClock(VirtualClock):
    """One process's millpond.hub.clock.Clock. Nothing of it rings once it is `dead`, or before `still_until`."""

    def __init__(self, world: WorldClock) -> None:
        self._world = world
        self.now = world.now
        self.time = world.time
        self.on_error = world.on_error
        self.dead = False
        self.still_until = 0.0
        self._still_since = 0.0

    def timer(self, seconds: float, call: Callable[[], object]) -> VirtualTimer:
        return self._world.timer(seconds, call, self)

    def soon(self, call: Callable[[], object]) -> None:
        if not self.dead:
            gevent.get_hub().loop.run_callback(self.run, call)

    def stand_still(self, seconds: float) -> None:
        """What SIGSTOP does, or a suspended laptop, or a handler that computes."""
        now = self.now()
        if now > self.still_until:
            self._still_since = now
        self.still_until = max(self.still_until, now + seconds)

    def unread_since(self, now: float) -> float:
        """What is read now may have waited since then: as millpond.hub.pulse finds it, without its many timers."""
        return self._still_since if self._still_since <= now <= self.still_until else now
