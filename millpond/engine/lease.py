"""Lease: until when a message is this worker's, and the only writer of its visibility."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import msgspec

from millpond.engine.lease_state import DELETING, ENDED, HELD, LETTING_GO, LOST, LeaseState
from millpond.hub.backoff import whole_seconds
from millpond.hub.clock import Clock, Event
from millpond.hub.countdown import Countdown
from millpond.sqs.batcher import Batcher
from millpond.sqs.limits import MAX_HOLD_SECONDS
from millpond.sqs.queue import Failure

#: The 12 h are counted at SQS, from a moment before our receive came back: asking past them is an error there.
HOLD_MARGIN_SECONDS = 10.0
LIMIT_SECONDS = MAX_HOLD_SECONDS - HOLD_MARGIN_SECONDS


class LeaseOwner(Protocol):
    """Who holds the items of the leases: the consumer. No method may block."""

    def lease_lost(self, item: Any) -> object:
        """Called once for each loss: another worker may have the message from now on."""

    def lease_extended(self, item: Any) -> object:
        """A beat is confirmed, or SQS delivered the message again: the deadline is a later one now."""

    def let_go_ended(self, item: Any, failure: Failure | None) -> object:
        """The lease has ended: its message is visible again, or (`failure`) could not be let go."""

    def has_room(self) -> object:
        """Fewer calls wait than `max_waiting` again."""


class LeaseTerms(msgspec.Struct, eq=False):
    """What the leases of one queue have in common; their LeaseKeeper makes it."""

    owner: LeaseOwner
    clock: Clock
    spawn: Callable[..., Any]
    visibility_seconds: int
    lease_seconds: float  # after a receive: less than the visibility, since the answer was on its way
    beat_seconds: float
    hold_seconds: float  # a message is not kept for longer, counted from its receive
    before_first_beat: Countdown[Lease]  # no beat was due yet
    changes: Batcher[Change]


class Change(msgspec.Struct, eq=False):
    """The one change of a lease's visibility that waits or is on its way.

    `seconds`: the newest wish, which waits for the answer to the one before it; None where none waits, or it is void.
    """

    lease: Lease
    seconds: int | None

    def take(self) -> tuple[str, int] | None:
        """The handle and seconds to send now; None where the wish became void while it waited."""
        lease, seconds, self.seconds = self.lease, self.seconds, None
        if seconds is None or lease.state is ENDED or (lease.state is HELD and not lease.gains(seconds)):
            lease.change = None
            return None
        return lease.handle, seconds

    def answered(self, handle: str, seconds: int, started: float, failure: Failure | None) -> bool:
        """Take the answer to what was sent at `started`. True: it failed, send it again after a pause."""
        if self._concerns(handle) and self.lease.read(seconds, started, failure):
            if self.seconds is None:
                self.seconds = seconds
            return True
        if self.seconds is None:
            self.lease.change = None
        else:
            self.lease.terms.changes.put(self)
        return False

    def _concerns(self, handle: str) -> bool:
        """Whether the answer says anything of the lease: it is held by that handle, and no let-go waits behind."""
        lease = self.lease
        if lease.state is ENDED or handle != lease.handle:
            return False
        return lease.state is not LETTING_GO or self.seconds is None


class Lease(msgspec.Struct, eq=False):
    """The belief that one message is this worker's, until `deadline`. Its rules, each with its test:

    1. Its heartbeat greenlet starts when the first beat is due: short work never pays for one
       (`test_short_work_pays_for_no_heartbeat`).
    2. At most one change is on its way; the newest wish waits for its answer. So a beat never overwrites a back-off: it
       did in 23 of 60 trial runs (`test_a_back_off_is_never_overwritten_by_the_beat_before_it`).
    3. `let_go` makes unsent beats void (`test_a_beat_that_waits_to_be_sent_becomes_the_back_off`); the lease ends
       when that change, or the delete, is confirmed (`test_giving_back_is_tried_again_until_it_is_confirmed`).
    4. It keeps its own deadline: on a standard queue SQS answers 200 to an extension that came too late
       (`test_a_lease_ends_before_sqs_says_so_and_is_told_once`).
    5. While the hub stands still the watchdog's thread extends it. The thread marks it first, and nothing is sent for
       it from here until the mark is gone. (A beat of ours may be on its way already. That does no harm: of two
       extensions the later one keeps the message longer, in whatever order they arrive. But no extension may follow a
       let-go or a delete.)
       (`test_between_any_two_lines_either_the_thread_has_the_lease_or_the_hub`.)
    """

    terms: LeaseTerms
    item: Any
    handle: str
    held_since: float
    deadline: float
    receive_count: int = 1  # of the receive that gave the handle
    state: LeaseState = HELD
    change: Change | None = None  # that waits or is on its way
    marked: bool = False  # written by the watchdog's thread alone
    _rescued: tuple[str, float] | None = None  # also by that thread: the handle it extended, the resulting deadline
    heartbeat_stop: Event | None = None  # ends the heartbeat greenlet; None before the first beat and after the last

    def __repr__(self) -> str:  # gevent writes it to the log where a greenlet fails: without any body
        return f"<Lease {self.state.value}>"

    def is_lost(self, now: float) -> bool:
        """Whether another worker may have the message; whoever notices it first calls the owner."""
        if now >= self.deadline and (self.state is HELD or self.state is DELETING):
            self.deadline = self.known_until()
            if now >= self.deadline:
                self._lose()
        return self.state is LOST

    def _lose(self) -> None:
        self.state = LOST
        self._void_change()
        self.stop_beating()
        self.terms.owner.lease_lost(self.item)

    def redelivered(self, handle: str, since: float, receive_count: int) -> None:
        """SQS delivered the message again, at `since`, while it is in hand: go on by the new handle."""
        self.handle = handle
        self.receive_count = receive_count
        self.held_since = since
        self.deadline = since + self.terms.lease_seconds
        self._void_change()
        was_lost = self.state is LOST
        self.state = HELD  # last: the thread marks no lease that has half of the old
        if since + self.terms.beat_seconds <= self.terms.clock.now():
            self.stop_beating()  # the next beat may be due after the new deadline
            self.start_beating()
        elif was_lost:
            self.terms.before_first_beat.add(self)
        self.terms.owner.lease_extended(self.item)

    def withhold(self) -> bool:
        """The delete goes now: no beat may follow it. False where it must wait: the watchdog is extending the lease."""
        if self.state is HELD:
            self.state = DELETING  # before the look at the mark: the thread sets that before it looks here
        if self.marked:
            self._hold_on()
            return False
        if self.change is not None:
            self.change.seconds = None
        return True

    def resume(self) -> None:
        """The delete failed: beat on, at once where a beat was missed."""
        self._hold_on()
        terms = self.terms
        if self.deadline - terms.clock.now() < terms.visibility_seconds - terms.beat_seconds:
            self._beat()

    def _hold_on(self) -> None:
        if self.state is DELETING:
            self.state = HELD

    def let_go(self, seconds: float) -> None:
        """Make the message visible again in `seconds`, clamped to what is left of 12 h; then the owner is called."""
        self.state = LETTING_GO  # before the keeper looks at the mark: the thread sets that before it looks here
        self.stop_beating()
        self._ask(self._clamped(seconds, LIMIT_SECONDS))  # it is kept no longer: max_hold_seconds bounds no back-off

    # The watchdog's thread. It can run between any two steps of the hub: so it only marks, and leaves a note.

    def mark(self, now: float) -> tuple[str, int] | None:
        """The change that keeps this lease, where a beat is overdue; then nothing else is sent until `unmark`."""
        self.marked = True  # before the look at the rest: whoever lets go or deletes does it the other way round
        terms, handle = self.terms, self.handle
        overdue = now < self.known_until() < now + terms.visibility_seconds - terms.beat_seconds
        if overdue and self.state is HELD:
            seconds = self._clamped(terms.visibility_seconds, terms.hold_seconds)
            if self.gains(seconds):
                return handle, seconds
        self.marked = False
        return None

    def known_until(self) -> float:
        """The deadline, with what the thread itself has added; it leaves writing it down to the hub."""
        rescued = self._rescued
        if rescued is not None and rescued[0] == self.handle:
            return max(self.deadline, rescued[1])
        return self.deadline

    def unmark(self, handle: str, until: float) -> None:
        """SQS has answered; `until`: the deadline that the extension gave, 0.0 where it did not get through in time."""
        if until:
            self._rescued = (handle, until)
        self.marked = False

    # The heartbeat

    def start_beating(self) -> None:
        """The first beat is due."""
        self.heartbeat_stop = self.terms.clock.event()
        self.terms.spawn(self._beats, self.heartbeat_stop)

    def _beats(self, stopped: Event) -> None:
        while self._beat_step(stopped):
            pass

    def _beat_step(self, stopped: Event) -> bool:
        now = self.terms.clock.now()
        if stopped.is_set() or self.is_lost(now):
            return False
        self._beat()
        stopped.wait(max(0.0, min(self.terms.beat_seconds, self.known_until() - now)))
        return True

    def _beat(self) -> None:
        seconds = self._clamped(self.terms.visibility_seconds, self.terms.hold_seconds)
        if self.state is HELD and self.gains(seconds):
            self._ask(seconds)

    def gains(self, seconds: int) -> bool:
        """Whether an extension sent now outlasts the lease: the last one, of whole seconds, would shorten it."""
        return self.terms.clock.now() + seconds > self.known_until()

    def _clamped(self, seconds: float, longest_seconds: float) -> int:
        left = self.held_since + longest_seconds - self.terms.clock.now()
        return whole_seconds(min(seconds, int(left)))

    def stop_beating(self) -> None:
        """End the beats: the lease is lost, about to be let go, or over."""
        if self.heartbeat_stop is None:
            self.terms.before_first_beat.remove(self)
        else:
            self.heartbeat_stop.set()
            self.heartbeat_stop = None

    # One writer

    def _ask(self, seconds: int) -> None:
        if self.change is not None:
            self.change.seconds = seconds
        else:
            self.change = Change(self, seconds)
            self.terms.changes.put(self.change)

    def _void_change(self) -> None:
        if self.change is not None:
            self.change.seconds = None

    def read(self, seconds: int, started: float, failure: Failure | None) -> bool:
        """Take what an answer says of this lease. True: it failed, and is to be sent again."""
        if self.state is LETTING_GO:
            if failure is not None and not failure.lease_lost:
                return True
            self.end_letting_go(failure)
        elif failure is None:
            if not self.is_lost(self.terms.clock.now()):  # an answer past the deadline proves nothing
                self.deadline = started + seconds
                self.terms.owner.lease_extended(self.item)
        elif self.state is HELD:
            if not failure.lease_lost:
                return True  # the deadline says for how long
            self._lose()
        return False

    def end_letting_go(self, failure: Failure | None) -> None:
        """SQS has confirmed it; or (`failure`) it is not tried any more."""
        item = self.item
        end_all([self])
        self.terms.owner.let_go_ended(item, failure)


def end_all(leases: Sequence[Lease]) -> list[Any]:
    """Their messages are settled, or given up: nothing more is sent. Gives the items of those that were lost."""
    lost = []
    for lease in leases:
        if lease.state is LOST:
            lost.append(lease.item)
        lease.state = ENDED
        lease.item = None  # which has this lease: so that neither needs the garbage collector
        if lease.heartbeat_stop is not None:
            lease.stop_beating()
    return lost
