"""Hold: the messages of one queue that are in hand and wait until they may begin."""

from __future__ import annotations

import logging
from collections import Counter
from typing import NamedTuple

from millpond.app.config import QueueSettings
from millpond.engine.delivery import Delivery, DeliveryKeeper, Line
from millpond.engine.delivery_state import ON_HOLD, WAITING
from millpond.engine.gate import MAX_HELD, no_room
from millpond.engine.groups import Groups
from millpond.engine.intake import Intake
from millpond.engine.permits import Share
from millpond.hub.clock import Clock, Timer
from millpond.observe import log

#: A held message waits this long at the least, whatever its handler asks for: less would be a hot loop.
LEAST_WAIT_SECONDS = 0.1


class HeldPlace(NamedTuple):
    """What a held message waits for: its turn in a line, its own time (a timer), or the one before it in its group."""

    line: Line | None = None
    timer: Timer | None = None


class Hold:
    """The held messages of one queue.

    1. A held message keeps its lease and its beats, and gives its permit back; it takes one again when it begins, or
       ends. Those behind it in its group are held with it.
    2. A line that is full stops receiving (see Intake). What comes all the same finds room for as much as the open
       polls can bring. At its last receive a message is held in any case: given back, it would be a dead letter.
    3. Large messages that are held take half of max_bytes_in_flight at most (see QueueBytes).
    4. None is held for longer than max_hold_seconds.
    """

    def __init__(
        self,
        queue: str,
        settings: QueueSettings,
        share: Share,
        intake: Intake,
        groups: Groups | None,
        clock: Clock,
        owner: DeliveryKeeper,
    ) -> None:
        self._queue = queue
        # Begun later, a message could not be held for a whole visibility time-out.
        self._hold_seconds = settings.max_hold_seconds - settings.visibility_seconds
        self._sweep_seconds = settings.beat_seconds
        self._share = share
        self._intake = intake
        self._groups = groups
        self._clock = clock
        self._owner = owner
        self._held: dict[Delivery, HeldPlace] = {}
        self._lines: Counter[Line] = Counter()
        self._sweeping: Timer | None = None
        self._closed = False  # the drain has begun
        self._lines_of_log = log.Allowance(1 / 60)

    @property
    def number(self) -> int:
        """How many messages are held."""
        return len(self._held)

    # In

    def join(self, delivery: Delivery, line: Line) -> bool:
        """Hold it for its turn in this line. False: there is no room for it."""
        if self._closed:
            return False
        if is_new := not (delivery.started or delivery.was_held):
            self._intake.count_held()
        has_room = self._has_room(line, delivery) or self._owner.is_last(delivery)
        if has_room and self.can_hold(delivery):
            self._park(delivery, HeldPlace(line))
            self._lines[line] += 1
        is_full = self._lines[line] >= line.bound or self.number >= MAX_HELD or self._is_too_large(delivery)
        if is_new and is_full and self._held:  # what is held makes it wide again, as it leaves
            self._intake.full(line, in_any_case=self.number >= 2 * MAX_HELD)
        if not has_room:
            self._log_full(line)
        return delivery in self._held

    def _log_full(self, line: Line) -> None:
        """Log once a minute that messages find no room, and why they wait."""
        if self._lines_of_log.take(self._clock.now()):
            text = f"{self.number:,} messages are held, and more are given back with a delay: {line.reason}"
            log.event(logging.INFO, "queue.full", text, queue=self._queue)

    def _has_room(self, line: Line, delivery: Delivery) -> bool:
        """Beyond its bound a line has room for what may come until receiving has stopped; in bytes there is none."""
        more = self._share.cap
        has_place = self._lines[line] < line.bound + more and self.number < MAX_HELD + more
        return has_place and not self._is_too_large(delivery)

    def _is_too_large(self, delivery: Delivery) -> bool:
        """Whether it would take memory that messages at work need."""
        return bool(delivery.received.size) and self._share.bytes.is_held_full

    def wait(self, delivery: Delivery, seconds: float) -> bool:
        """Hold it until its own time has come. False: it cannot be held for so long, or there is no room for it."""
        has_room = self.number < MAX_HELD and not self._is_too_large(delivery)
        has_room = has_room or self._owner.is_last(delivery)
        if not (has_room and self.can_hold(delivery, seconds)):
            return False
        timer = self._clock.timer(max(LEAST_WAIT_SECONDS, seconds), lambda: self._owner.run_again(delivery))
        self._park(delivery, HeldPlace(timer=timer))
        return True

    def can_hold(self, delivery: Delivery, seconds: float = 0.0) -> bool:
        """Whether its lease can be kept for so long, and then for as long as a handler may take."""
        now = self._clock.now()
        return not self._closed and now + seconds < self._held_until(delivery) and not delivery.lease.is_lost(now)

    def _held_until(self, delivery: Delivery) -> float:
        return delivery.lease.held_since + self._hold_seconds

    def park_behind(self, delivery: Delivery) -> None:
        """Hold it behind a message of its group that is held."""
        self._intake.count_held()
        self._park(delivery, HeldPlace())
        if self.number >= MAX_HELD:
            self._intake.full(None)

    def _park(self, delivery: Delivery, place: HeldPlace) -> None:
        delivery.state = ON_HOLD
        delivery.was_held = True
        self._held[delivery] = place
        self._share.park()
        self._share.bytes.hold(delivery.received.size)
        if self._sweeping is None:
            self._sweeping = self._clock.timer(self._sweep_seconds, self.sweep)
        for behind in self._groups.waiting_behind(delivery) if self._groups is not None else ():
            if behind.state is WAITING:
                self._park(behind, HeldPlace())

    # Out

    def take(self, delivery: Delivery) -> None:
        """Take it out: it begins, or ends. It has a permit again, even where none is free."""
        line, timer = self._held.pop(delivery)
        delivery.state = WAITING
        delivery.begin_anew()
        self._share.unpark()
        self._share.bytes.hold(-delivery.received.size)
        if timer is not None:
            timer.cancel()
        if line is not None:
            line.leave_line(delivery)
            self._lines[line] -= 1
        if self._is_half_empty(line) and self._share.bytes.is_held_half_empty:
            self._intake.widen()

    def _is_half_empty(self, line: Line | None) -> bool:
        return 2 * self.number <= MAX_HELD if line is None else 2 * self._lines[line] <= line.bound

    def take_all(self) -> list[Delivery]:
        """Take all out, and hold nothing from now on: the drain begins."""
        self._closed = True
        held = list(self._held)
        for delivery in held:
            self.take(delivery)
        return held

    def sweep(self) -> None:
        """Give back what cannot be held for longer."""
        now, self._sweeping = self._clock.now(), None
        late = [delivery for delivery in self._held if now >= self._held_until(delivery)]
        for delivery in late:
            line = self._held[delivery].line
            reason = line.reason if line is not None else "the one before it in its group"
            self.take(delivery)
            self._owner.end_soon(delivery, no_room(delivery, f"it cannot be held for longer: {reason}"))
            if self._groups is not None:  # or it would start as the one before it is done
                self._groups.fail(delivery)
        if self._held:
            self._sweeping = self._clock.timer(self._sweep_seconds, self.sweep)
