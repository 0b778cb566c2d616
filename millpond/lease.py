"""Lease: until when a message is this worker's, kept by its heartbeat. LeaseKeeper: the leases of one queue."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import msgspec

from millpond.backoff import whole_seconds
from millpond.batch import Batcher
from millpond.clock import Clock, Event
from millpond.countdown import Countdown
from millpond.queue import MAX_HOLD_SECONDS, Failure, Queue, answers

#: An answer may have been on its way this long: the lease counts as shorter by it (a quarter of it at the most).
MARGIN_SECONDS = 1.0
#: The 12 h are counted at SQS, from a moment before our receive came back: asking past them is an error there.
HOLD_MARGIN_SECONDS = 10.0
#: Changes linger this long to travel ten to a call; with beats at a third of the visibility time-out there is time.
LINGER_SECONDS = 0.05

State = Literal["held", "returning", "ended"]


class Lease(msgspec.Struct, eq=False):
    """One message's visibility, and the only writer of it.

    1. Its heartbeat greenlet starts when the first beat is due: short work never pays for one.
    2. At most one change is on its way; the newest wish waits for its answer. So a beat never overwrites a back-off
       (it did in 23 of 60 trial runs without this rule).
    3. `give_back` makes unsent beats void; the lease ends when that change, or the delete, is confirmed.
    4. It keeps its own deadline: on a standard queue SQS answers 200 to an extension that came too late.

    `deadline` is on the keeper's clock: past it the message may be somebody else's.
    """

    _keeper: LeaseKeeper
    item: Any
    handle: str
    received_at: float
    deadline: float
    state: State = "held"
    lost: bool = False
    withheld: bool = False
    _wish: int | None = None
    _asking: bool = False
    _woken: Event | None = None  # the heartbeat's bed; there is none before the first beat

    def __repr__(self) -> str:  # gevent writes it to the log where a greenlet fails: without any body
        return f"<Lease {self.state}>"

    def is_lost(self, now: float) -> bool:
        """True where the message may be somebody else's; told once to `on_lost`, by whoever notices first."""
        if now >= self.deadline and not self.lost and self.state == "held":
            self._lose()
        return self.lost

    def take_over(self, handle: str) -> None:
        """The same message came again while it is in hand: hold it by the new handle."""
        now = self._keeper.clock.now()
        self.handle = handle
        self.received_at = now
        self.deadline = now + self._keeper.lease_seconds
        self.state, self.withheld, self._wish = "held", False, None
        if self.lost:
            self.lost = False
            self._keeper.quiet.add(self, now)

    def withhold(self) -> str:
        """The delete is on its way, by the handle that is returned: no beat may follow it."""
        self.withheld = True
        self._wish = None
        return self.handle

    def resume(self) -> None:
        """The delete failed: beat on, at once where a beat was missed."""
        self.withheld = False
        keeper = self._keeper
        was_missed = self.deadline - keeper.clock.now() < keeper.visibility_seconds - keeper.beat_seconds
        if was_missed and not self.lost:
            self._beat()

    def give_back(self, seconds: float) -> None:
        """Visible again in so many seconds (clamped to what is left of 12 h); `on_returned` hears of it."""
        self.state = "returning"
        self._stop_beating()
        self._ask(self._clamped(seconds))

    def end(self) -> None:
        """The message is settled: nothing more is sent for it."""
        self.state = "ended"
        self.item = None  # which has this lease: so that neither needs the garbage collector
        self._wish = None
        if self._woken is None:
            self._keeper.quiet.remove(self)
        else:
            self._stop_beating()

    # The heartbeat

    def start_beating(self) -> None:
        """The first beat is due."""
        self._woken = self._keeper.clock.event()
        self._keeper.spawn(self._beats, self._woken)

    def _beats(self, woken: Event) -> None:
        while self._beat_step(woken):
            pass

    def _beat_step(self, woken: Event) -> bool:
        now = self._keeper.clock.now()
        if woken is not self._woken or self.is_lost(now):
            return False
        self._beat()
        left = self.deadline - now
        woken.wait(max(0.0, min(self._keeper.beat_seconds, left)))
        return True

    def _beat(self) -> None:
        seconds = self._clamped(self._keeper.visibility_seconds)
        if not self.withheld and self.state == "held" and seconds > 0:
            self._ask(seconds)

    def _clamped(self, seconds: float) -> int:
        left = self.received_at + MAX_HOLD_SECONDS - HOLD_MARGIN_SECONDS - self._keeper.clock.now()
        return whole_seconds(max(0.0, min(seconds, int(left))))

    def _stop_beating(self) -> None:
        if self._woken is None:
            self._keeper.quiet.remove(self)
        else:
            self._woken.set()
            self._woken = None

    def _lose(self) -> None:
        self.lost = True
        self._wish = None
        self._stop_beating()
        self._keeper.on_lost(self.item)

    # One writer

    def _ask(self, seconds: int) -> None:
        self._wish = seconds
        if not self._asking:
            self._asking = True
            self._keeper.changes.put(self)

    def take_wish(self) -> int | None:
        """The seconds to send now; None where the wish became void while it waited."""
        wish, self._wish = self._wish, None
        if wish is None:
            self._asking = False
        return wish

    def answered(self, handle: str, seconds: int, started: float, failure: Failure | None) -> bool:
        """Take the answer to a change that was sent at `started`. True: it failed, send again after a pause."""
        # Ours to read unless the message is settled, came again with a new handle, or is about to be given back.
        current = handle == self.handle and (self.state == "held" or self._wish is None)
        again = current and self.state != "ended" and self._took(seconds, started, failure)
        if again and self._wish is None:
            self._wish = seconds
        elif not again and self._wish is not None:
            self._keeper.changes.put(self)
        self._asking = self._wish is not None
        return again

    def _took(self, seconds: int, started: float, failure: Failure | None) -> bool:
        lost = failure is not None and failure.lease_lost
        if self.state == "returning":
            if failure is not None and not lost and self._keeper.clock.now() < self.deadline:
                return True
            item = self.item
            self.end()
            self._keeper.on_returned(item, failure)
        elif self.withheld or self.lost:
            return False
        elif failure is None:
            self.deadline = started + seconds
        elif lost:
            self._lose()
        else:
            return True  # the deadline says for how long
        return False


class LeaseKeeper:
    """The leases of one queue: their visibility time-out and beat, and the calls in which changes travel.

    `on_lost` hears of each lease that is lost, `on_returned` of each that was given back, or could not be (why); both
    are given the lease's item, and must not block.
    """

    def __init__(
        self,
        queue: Queue,
        clock: Clock,
        spawn: Callable[..., Any],
        *,
        visibility_seconds: int,
        beat_seconds: float,
        flushers: int,
        limit: int,
        on_lost: Callable[[Any], object],
        on_returned: Callable[[Any, Failure | None], object],
        on_room: Callable[[], object] = lambda: None,
    ) -> None:
        self.clock = clock
        self.spawn = spawn
        self.visibility_seconds = visibility_seconds
        self.lease_seconds = visibility_seconds - min(MARGIN_SECONDS, visibility_seconds / 4)
        self.beat_seconds = beat_seconds
        self.on_lost = on_lost
        self.on_returned = on_returned
        self.quiet: Countdown[Lease] = Countdown(beat_seconds, Lease.start_beating, clock)  # no beat was due yet
        self._queue = queue
        self.changes: Batcher[Lease] = Batcher(
            self._send, clock, spawn, linger_seconds=LINGER_SECONDS, flushers=flushers, limit=limit, on_room=on_room
        )

    def take(self, item: Any, handle: str, now: float) -> Lease:
        """The lease of a message (`item`) that was received just now."""
        lease = Lease(self, item, handle, now, now + self.lease_seconds)
        self.quiet.add(lease, now)
        return lease

    def _send(self, leases: list[Lease]) -> list[Lease]:
        asked = [(lease, lease.handle, wish) for lease in leases if (wish := lease.take_wish()) is not None]
        if not asked:
            return []
        started = self.clock.now()
        changes = [(handle, seconds) for _, handle, seconds in asked]
        results = answers(lambda: self._queue.extend(changes), len(changes))
        return [
            lease
            for (lease, handle, seconds), failure in zip(asked, results, strict=True)
            if lease.answered(handle, seconds, started, failure)
        ]
