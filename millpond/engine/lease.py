"""Lease: until when a message is this worker's, kept by its heartbeat. LeaseKeeper: the leases of one queue."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import msgspec

from millpond.engine.trouble import Trouble, is_denied
from millpond.hub.backoff import whole_seconds
from millpond.hub.clock import Clock, Event
from millpond.hub.countdown import Countdown
from millpond.sqs.batcher import Batcher
from millpond.sqs.entries import answers
from millpond.sqs.limits import MARGIN_SECONDS as MARGIN_SECONDS  # with lease_seconds, where the settings need both
from millpond.sqs.limits import MAX_HOLD_SECONDS, lease_seconds
from millpond.sqs.queue import Failure, Queue

#: The 12 h are counted at SQS, from a moment before our receive came back: asking past them is an error there.
HOLD_MARGIN_SECONDS = 10.0
#: In a drain, what is denied is tried for so long.
DENIED_SECONDS = 3.0
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
    5. While the hub stands still the watchdog's thread extends it. The thread marks it first, and nothing is sent for
       it from here until the mark is gone. (A beat of ours may be on its way: of two extensions the later one keeps
       the message longer, whatever their order. It is a give-back, or a delete, that none may follow.)

    `deadline` is on the keeper's clock: past it the message may be somebody else's.
    """

    _keeper: LeaseKeeper
    item: Any
    handle: str
    received_at: float
    deadline: float
    receive_count: int = 1  # of the receive that gave the handle
    state: State = "held"
    lost: bool = False
    withheld: bool = False
    marked: bool = False  # written by the watchdog's thread alone
    _kept: tuple[str, float] | None = None  # as well: the handle that it has extended, and the deadline that this gave
    _wish: int | None = None
    _asking: bool = False
    _woken: Event | None = None  # the heartbeat's bed; there is none before the first beat

    def __repr__(self) -> str:  # gevent writes it to the log where a greenlet fails: without any body
        return f"<Lease {self.state}>"

    def is_lost(self, now: float) -> bool:
        """True where the message may be somebody else's; told once to `on_lost`, by whoever notices first."""
        if now >= self.deadline and not self.lost and self.state == "held":
            self.deadline = self.known_until()
            if now >= self.deadline:
                self._lose()
        return self.lost

    def redelivered(self, handle: str, since: float, receive_count: int) -> None:
        """The same message came again while it is in hand: hold it by the new handle, which SQS has given out then."""
        self.handle = handle
        self.receive_count = receive_count
        self.received_at = since
        self.deadline = since + self._keeper.lease_seconds
        self.state, self.withheld, self._wish = "held", False, None
        if self.lost:
            self.lost = False
            self._keeper.begin([self], since)
        elif since + self._keeper.beat_seconds <= self._keeper.clock.now():
            self._stop_beating()  # the next beat may be due after the new deadline
            self.start_beating()

    def withhold(self) -> bool:
        """The delete goes now: no beat may follow it. False where it must wait, for the watchdog is at it."""
        self.withheld = True  # before the look at the mark: the thread sets that before it looks here
        if self.marked:
            self.withheld = False
            return False
        self._wish = None
        return True

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

    # The watchdog's thread. It can run between any two steps of the hub: so it only marks, and leaves word.

    def mark(self, now: float) -> tuple[str, int] | None:
        """The change that keeps this lease, where a beat is overdue; then nothing else is sent until `unmark`."""
        self.marked = True  # before the look at the rest: whoever gives back or deletes does it the other way round
        keeper, handle = self._keeper, self.handle
        overdue = now < self.known_until() < now + keeper.visibility_seconds - keeper.beat_seconds
        if overdue and self.state == "held" and not self.withheld and not self.lost:
            seconds = self._clamped(keeper.visibility_seconds)
            if seconds > 0:
                return handle, seconds
        self.marked = False
        return None

    def known_until(self) -> float:
        """The deadline, with what the thread itself has added; it leaves writing it down to the hub."""
        kept = self._kept
        return max(self.deadline, kept[1]) if kept is not None and kept[0] == self.handle else self.deadline

    def unmark(self, handle: str, until: float) -> None:
        """SQS has answered; `until`: the deadline that the extension gave, 0.0 where it did not get through in time."""
        if until:
            self._kept = (handle, until)
        self.marked = False

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
        left = self.known_until() - now
        woken.wait(max(0.0, min(self._keeper.beat_seconds, left)))
        return True

    def _beat(self) -> None:
        seconds = self._clamped(self._keeper.visibility_seconds)
        if not self.withheld and self.state == "held" and seconds > 0:
            self._ask(seconds)

    def _clamped(self, seconds: float) -> int:
        left = self.received_at + self._keeper.hold_seconds - self._keeper.clock.now()
        return whole_seconds(min(seconds, int(left)))

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
            if failure is not None and not lost and not self._keeper.gives_up(self, failure):
                return True
            item = self.item
            self._keeper.end([self])
            self._keeper.on_returned(item, failure)
        elif failure is None:
            if not self.is_lost(self._keeper.clock.now()):  # an answer past the deadline proves nothing
                self.deadline = started + seconds
        elif self.withheld or self.lost:
            return False
        elif lost:
            self._lose()
        else:
            return True  # the deadline says for how long
        return False


class LeaseKeeper:
    """The leases of one queue: their visibility time-out and beat, and the calls in which changes travel.

    `hold_seconds`: a message is not kept for longer, counted from its receive.

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
        hold_seconds: float = MAX_HOLD_SECONDS,
        on_lost: Callable[[Any], object],
        on_returned: Callable[[Any, Failure | None], object],
        on_room: Callable[[], object] = lambda: None,
        name: str = "",
    ) -> None:
        self.clock = clock
        self.spawn = spawn
        self.visibility_seconds = visibility_seconds
        self.lease_seconds = lease_seconds(visibility_seconds)
        self.beat_seconds = beat_seconds
        self.hold_seconds = min(hold_seconds, MAX_HOLD_SECONDS - HOLD_MARGIN_SECONDS)
        self.on_lost = on_lost
        self.on_returned = on_returned
        self.quiet: Countdown[Lease] = Countdown(beat_seconds, Lease.start_beating, clock)  # no beat was due yet
        self.trouble = Trouble("sqs:ChangeMessageVisibility", name, clock)
        self._drain_began: float | None = None
        self._queue = queue
        self.changes: Batcher[Lease] = Batcher(
            self._send, clock, spawn, linger_seconds=LINGER_SECONDS, flushers=flushers, limit=limit, on_room=on_room
        )

    def take(self, item: Any, handle: str, since: float, receive_count: int = 1) -> Lease:
        """The lease of a message (`item`) that SQS has handed out then; its heart beats from `begin` on."""
        return Lease(self, item, handle, since, since + self.lease_seconds, receive_count)

    def begin(self, leases: Sequence[Lease], since: float) -> None:
        """The first beat is due beat_seconds from now; at once where the messages were handed out long ago."""
        if since + self.beat_seconds > self.clock.now():
            self.quiet.add_all(leases)
            return
        for lease in leases:
            if lease._woken is None:
                lease.start_beating()

    def end(self, leases: Sequence[Lease]) -> None:
        """Their messages are settled: nothing more is sent for them."""
        for lease in leases:
            lease.state = "ended"
            lease.item = None  # which has this lease: so that neither needs the garbage collector
            lease._wish = None
            if lease._woken is not None:
                lease._stop_beating()
        self.quiet.remove_all(leases)

    def hurry(self) -> None:
        """The drain has begun: nothing lingers, and what is denied is soon given up."""
        self._drain_began = self.clock.now()
        self.changes.hurry()

    def gives_up(self, lease: Lease, failure: Failure) -> bool:
        """Whether a give-back that failed is not tried again: its message comes back with its visibility time-out."""
        now = self.clock.now()
        hopeless = is_denied(failure) and self._drain_began is not None and now - self._drain_began >= DENIED_SECONDS
        return hopeless or now >= lease.deadline

    def _send(self, leases: list[Lease]) -> list[Lease]:
        marked = [lease for lease in leases if lease.marked]
        asked = [
            (lease, lease.handle, wish)
            for lease in leases
            if lease not in marked and (wish := lease.take_wish()) is not None
        ]
        if not asked:
            return marked
        started = self.clock.now()
        changes = [(handle, seconds) for _, handle, seconds in asked]
        results = answers(self._queue.extend, changes)
        if self.trouble.since or any(results):
            self.trouble.read(self._queue.url, results, started, self.changes.count)
        return marked + [
            lease
            for (lease, handle, seconds), failure in zip(asked, results, strict=True)
            if lease.answered(handle, seconds, started, failure)
        ]
