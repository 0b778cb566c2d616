"""Permits: what the process may hold, shared by its queues; what cannot be held is never fetched."""

from __future__ import annotations

from collections import deque

from millpond.clock import Clock, Event

#: A receive on a busy queue waits this long for more permits, so that it does not fetch messages one by one.
PATIENCE_SECONDS = 0.05


class Permits:
    """The process's permits, shared by its queues: concurrency + prefetch in all.

    Whoever waits is served in order. What one queue's open polls can hold is bounded by its even share, so that a
    quiet queue's twenty-second poll does not starve a busy one; and one queue cannot hold them all: a tenth is kept
    for the others, or one whose handlers or deletes hang would stop them too.
    """

    def __init__(self, total: int, queues: int, clock: Clock) -> None:
        self.clock = clock
        self.free = total
        self.even_share = max(1, total // queues)
        others = queues - 1
        self._least = 0  # permits that the most modest waiter waits for
        self._most = total - others * max(1, total // (10 * others)) if others else total
        self._waiters: deque[Waiter] = deque()

    def share(self, cap: int) -> Share:
        """One queue's access. `cap`: the most it may hold; 0 for no cap of its own."""
        return Share(self, min(cap or self._most, self._most))

    def wait(self, waiter: Waiter) -> None:
        """Queue up behind those who wait already, and return when served or dismissed."""
        self._waiters.append(waiter)
        self.grant()
        if not waiter.served.is_set():
            waiter.wait()

    def put(self, number: int) -> None:
        """So many permits come back."""
        self.free += number
        if self._waiters and self.free >= self._least:
            self.grant()

    def grant(self) -> None:
        """Serve everybody who can be served now, first come first."""
        for waiter in list(self._waiters):
            if (waiter.enough <= self.free or waiter.dismissed) and waiter.try_serve():
                self._waiters.remove(waiter)
        self._least = min((waiter.enough for waiter in self._waiters), default=0)


class Share:
    """One queue's permits: `polling` are with its open polls, `held` in all."""

    def __init__(self, permits: Permits, cap: int) -> None:
        self._permits = permits
        self.cap = cap
        self.polling = 0
        self.held = 0

    def room(self) -> int:
        """How many permits a poll of this queue could take now."""
        return min(self._permits.free, self.cap - self.held, self._permits.even_share - self.polling)

    def waiter(self, want: int, patient: bool) -> Waiter:
        """`patient`: rather wait a moment for a quarter of the permits than go with one."""
        enough = min(want, max(1, min(self.cap, self._permits.even_share) // 4)) if patient else 1
        return Waiter(self, want, enough, self._permits.clock)

    def acquire(self, waiter: Waiter) -> int:
        """Block until there is a permit for a poll; 0 where the waiter was dismissed."""
        self._permits.wait(waiter)
        return waiter.granted

    def take(self, number: int) -> None:
        """Permits go to an open poll."""
        self._permits.free -= number
        self.held += number
        self.polling += number

    def polled(self, asked: int, got: int) -> None:
        """The poll is over: what it did not bring goes back; the rest stays held, a permit a message."""
        self.polling -= asked
        self.release(asked - got)

    def release(self, number: int = 1) -> None:
        """Permits come back."""
        self.held -= number
        self._permits.put(number)

    def dismiss(self, waiter: Waiter) -> None:
        """Stop waiting: the queue is drained."""
        waiter.dismissed = True
        self._permits.grant()

    def grant(self) -> None:
        """A waiter's patience has ended."""
        self._permits.grant()


class Waiter:
    """A poll that waits for permits: at least `enough`, or any once its patience has ended."""

    def __init__(self, share: Share, want: int, enough: int, clock: Clock) -> None:
        self._share = share
        self._want = want
        self.enough = enough
        self.granted = 0
        self.dismissed = False
        self.served: Event = clock.event()
        self._clock = clock

    def wait(self) -> None:
        """Block until served or dismissed."""
        patience = self._clock.timer(PATIENCE_SECONDS, self._lose_patience)
        self.served.wait()
        patience.cancel()

    def _lose_patience(self) -> None:
        self.enough = 1
        self._share.grant()

    def try_serve(self) -> bool:
        """Take what there is, where that is enough."""
        room = self._share.room()
        if room < self.enough and not self.dismissed:
            return False
        if not self.dismissed:
            self.granted = min(self._want, room)
            self._share.take(self.granted)
        self.served.set()
        return True
