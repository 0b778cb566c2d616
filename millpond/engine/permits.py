"""Permits: what the process may hold, shared by its queues; what cannot be held is never fetched."""

from __future__ import annotations

from millpond.app.worker_settings import MAX_BYTES_IN_FLIGHT
from millpond.engine.bytes_in_hand import BytesInHand
from millpond.hub.clock import Clock, Event, Timer

#: A receive on a busy queue waits this long for more permits, so that it does not fetch messages one by one.
FILL_SECONDS = 0.05
#: A queue that had to wait for permits counts as hungry for this long: a busy one waits, takes, and waits again.
HUNGRY_SECONDS = 1.0
#: While a queue is hungry, a poll of a quiet queue waits this long for its turn at the most.
QUIET_WAIT_SECONDS = 10.0


class Permits:
    """The process's permits, shared by its queues: concurrency + prefetch in all.

    A message that is held has given its permit back. When it begins it takes one, though none may be free: `free` is
    below zero then, and no receive begins until enough are done.

    1. Of the queues that wait, the one that holds least for its weight is served first. While it is hungry the others
       leave a twentieth free for it. So of two busy queues with the same weight each has half, even where the handlers
       of one are slow. (If the first to ask were served first, the slow one would end up with nearly all.)
    2. Where the weights differ, each busy queue has its part of all permits, by its weight. Past that it takes only
       what the hungry ones do not lack. `strict`: the heaviest is served first, whatever it holds, and while it is
       hungry no lighter one is, but for one receive in QUIET_WAIT_SECONDS: none starves.
    3. One queue cannot hold them all: a tenth is kept for the others, or one whose handlers or deletes hang would stop
       them too. Its open polls hold half of all at the most.
    4. The polls of quiet queues come last, for each holds its permit as long as a long poll takes. While a queue is
       hungry they have that tenth together and take turns in it, by shorter waits; none waits longer than
       QUIET_WAIT_SECONDS.
       (Of a hundred quiet queues each then asks once in ten seconds, else once in twenty.)
    """

    def __init__(
        self, total: int, queues: int, clock: Clock, max_bytes: int = MAX_BYTES_IN_FLIGHT, strict: bool = False
    ) -> None:
        self.clock = clock
        self.bytes = BytesInHand(max_bytes, queues, clock)
        self.free = total
        self.queues = queues
        self.polls_most = total // min(queues, 2)
        self._reserve = max(1, total // 10) if queues > 1 else 0
        self._total = total
        self.strict = strict
        self._shares: list[Share] = []
        self._spare = total // 20
        self._most = total - self._reserve
        self._least: int  # permits that the most modest waiter waits for
        self._waiters: list[Waiter] = []
        self._quiet_waiters: list[Waiter] = []
        self._quiet = 0  # permits with open polls of quiet queues
        self._hungry: dict[Share, float] = {}  # those that had to wait, and until when they count as hungry

    def share(self, cap: int, weight: float = 1.0) -> Share:
        """One queue's access. `cap`: the most it may hold; 0 for no cap of its own."""
        share = Share(self, min(cap or self._most, self._most), weight)
        self._shares.append(share)
        return share

    def wait(self, waiter: Waiter) -> None:
        """Queue up, and return when served or dismissed."""
        (self._quiet_waiters if waiter.quiet else self._waiters).append(waiter)
        self.grant()
        if not waiter.served.is_set():
            if self.free > 0 or self.queues > 1:  # whose turn it is, of several, is looked at then too
                waiter.be_patient()
            waiter.wait()

    def dismiss(self, share: Share) -> None:
        """Let those who wait for this share go without permits."""
        for waiter in (*self._waiters, *self._quiet_waiters):
            waiter.dismissed = waiter.dismissed or waiter.share is share
        self.grant()

    def put(self, number: int) -> None:
        before = self.free
        self.free += number
        if self._waiters or self._quiet_waiters:
            if self.free >= self._least:
                self.grant()
            if self.free > 0 >= before:  # else they are patient already
                for waiter in self._waiters:
                    waiter.be_patient()

    def wake(self) -> None:
        """Look again who may go: it is not permits that have come back."""
        if self._waiters or self._quiet_waiters:
            self.grant()

    def grant(self) -> None:
        if self.queues > 1:
            self._grant_in_turn(self.clock.now())
        else:
            self._serve(self._waiters)
        self._least = min((waiter.enough for waiter in self._waiters), default=1)
        if self._quiet_waiters and self._quiet < self._reserve:
            self._least = 1

    def _serve(self, waiters: list[Waiter]) -> None:
        for waiter in list(waiters):
            if waiter.dismissed or waiter.enough <= self.free:
                most = self._room_beside_others(waiter.share) if self._hungry else self.free
                if (waiter.enough <= most or waiter.dismissed) and waiter.try_serve(most):
                    self._waiters.remove(waiter)

    # Several queues

    def _grant_in_turn(self, now: float) -> None:
        self._hungry = {share: until for share, until in self._hungry.items() if until > now}
        self._look([waiter for waiter in self._quiet_waiters if now - waiter.since >= QUIET_WAIT_SECONDS], self.free)
        if self.strict:
            self._serve_overdue(now)
        self._serve(sorted(self._waiters, key=lambda waiter: self._turn(waiter.share)))
        for waiter in self._waiters:
            own_cap = waiter.share.cap < self._most and waiter.share.held >= waiter.share.cap
            if waiter.enough > self.free and not own_cap:
                self._hungry[waiter.share] = now + HUNGRY_SECONDS
        self._look(self._quiet_waiters, self._reserve - self._quiet if self._hungry else self.free)

    def _serve_overdue(self, now: float) -> None:
        for waiter in [waiter for waiter in self._waiters if now - waiter.since >= QUIET_WAIT_SECONDS]:
            if self.free > 0 and waiter.try_serve(self.free):
                self._waiters.remove(waiter)

    def _turn(self, share: Share) -> tuple[float, float]:
        """Where it stands in line: the least is served first."""
        return -share.weight if self.strict else 0.0, share.held / share.weight

    def _room_beside_others(self, share: Share) -> int:
        """How many of the free permits a queue may take, while others are hungry."""
        others = [other for other in self._hungry if other is not share]
        if self.strict:
            return 0 if any(other.weight > share.weight and other.held < other.cap for other in others) else self.free
        if not self.is_weighted:
            spares = any(other.held < share.held for other in others)
            return self.free - self._spare if spares else self.free
        lacking = sum(max(0, self.part(other) - other.held) for other in others)
        return max(self.free - lacking, min(self.free, self.part(share) - share.held))

    @property
    def is_weighted(self) -> bool:
        """Whether each busy queue has a part of its own."""
        return not self.strict and len({one.weight for one in self._shares}) > 1

    def part(self, share: Share) -> int:
        """What a queue has of all permits while those that are busy now stay so, by its weight; 1 at the least."""
        busy = [one for one in self._shares if one.held > one.polling or one in self._hungry]
        weights = sum(one.weight for one in busy if one is not share) + share.weight
        return min(share.cap, max(1, round(self._total * share.weight / weights)))

    def _look(self, waiters: list[Waiter], number: int) -> None:
        """Begin up to `number` polls of quiet queues."""
        for waiter in list(waiters):
            if ((number > 0 and self.free > 0) or waiter.dismissed) and waiter.try_serve(self.free):
                number -= 1
                self._quiet += waiter.granted
                self._quiet_waiters.remove(waiter)

    def looked(self, number: int) -> None:
        """A poll of a quiet queue is over: it is another's turn."""
        self._quiet -= number
        self._least = 1

    def look_seconds(self, most: int) -> int:
        """How long a poll of a quiet queue is to wait: `most`, less where many take turns."""
        looking = self._quiet + len(self._quiet_waiters)
        if not self._hungry or looking <= self._reserve:
            return most
        return max(1, min(most, int(QUIET_WAIT_SECONDS * self._reserve / looking)))


class Share:
    """One queue's permits: `polling` are with its open polls, `held` in all.

    `weight` may change at any time; it counts from the next permit on.
    """

    def __init__(self, permits: Permits, cap: int, weight: float = 1.0) -> None:
        self.permits = permits
        self.weight = weight
        self.alone = permits.queues == 1  # whatever it holds takes nothing from anybody
        self.cap = cap
        self.polling = 0
        self.held = 0
        self.bytes = permits.bytes.of_queue(self)

    def room(self) -> int:
        """How many permits a poll of this queue could take now."""
        room = min(self.permits.free, self.cap - self.held, self.permits.polls_most - self.polling)
        return min(room, self.bytes.room()) if self.bytes.mean and room > 0 else room

    def acquire(self, want: int, patient: bool, quiet: bool = False) -> int:
        """Block until there is a permit for a poll; 0 where it was dismissed.

        `patient`: rather wait a moment for a quarter of the permits than go with one. `quiet`: rather wait long.
        """
        enough = min(want, self._enough()) if patient else 1
        waiter = Waiter(self, want, enough, quiet, self.permits.clock)
        self.permits.wait(waiter)
        return waiter.granted

    def _enough(self) -> int:
        """A quarter of what its polls may hold, and no more than its part by weight: the others leave no more for it.

        With 4 of 40 places a queue waited for 5 at each receive until its patience ended: of all messages it had 6 %
        instead of 10 (handlers of 5 ms, receives of 10).
        """
        enough = max(1, min(self.cap, self.permits.polls_most) // 4)
        return min(enough, self.permits.part(self)) if self.permits.is_weighted else enough

    def take(self, number: int) -> None:
        """Permits go to an open poll."""
        self.permits.free -= number
        self.held += number
        self.polling += number

    def polled(self, asked: int, got: int, quiet: bool = False) -> None:
        """The poll is over: what it did not bring goes back; the rest stays held, a permit a message."""
        self.polling -= asked
        if quiet:
            self.permits.looked(asked)
        self.release(asked - got)

    def settled(self, size: int) -> None:
        """Messages of this size are not in hand any more: receives may wait for their memory."""
        self.bytes.remove(size)
        self.permits.wake()

    def release(self, number: int = 1) -> None:
        self.held -= number
        self.permits.put(number)

    def park(self) -> None:
        """A message of this queue is held: its permit goes back."""
        self.release()

    def unpark(self) -> None:
        """It begins, or ends: it takes a permit, even where none is free."""
        self.held += 1
        self.permits.free -= 1

    def dismiss(self) -> None:
        """Wake the pollers of this queue that wait for permits, without any."""
        self.permits.dismiss(self)


class Waiter:
    """A poll that waits for permits: at least `enough`, or any once its patience has ended."""

    def __init__(self, share: Share, want: int, enough: int, quiet: bool, clock: Clock) -> None:
        self.share = share
        self._want = want
        self.enough = enough
        self.quiet = quiet
        self.since = clock.now()
        self.granted = 0
        self.dismissed = False
        self.served: Event = clock.event()
        self._clock = clock
        self._patience: Timer | None = None

    def wait(self) -> None:
        if self.quiet or self.share.permits.strict:
            while not self.served.wait(HUNGRY_SECONDS):  # nobody may be hungry any more, or its turn has come
                self.share.permits.grant()
        else:
            self.served.wait()
        if self._patience is not None:
            self._patience.cancel()

    def be_patient(self) -> None:
        """There are permits, if too few: any is enough once it has waited for a moment in all.

        While there are none this has no timer: at 10 messages at once there is one waiter for each receive, and a timer
        that rings for nothing wakes the process up.
        """
        if self._patience is None and not self.quiet:
            left = self.since + FILL_SECONDS - self._clock.now()
            self._patience = self._clock.timer(max(0.0, left), self._lose_patience)

    def _lose_patience(self) -> None:
        self.enough = 1
        self.share.permits.grant()

    def try_serve(self, most: int) -> bool:
        """Take what there is, `most` at the most, where that is enough."""
        room = min(most, self.share.room())
        if room < self.enough and not self.dismissed:
            return False
        if not self.dismissed:
            self.granted = min(self._want, room)
            self.share.take(self.granted)
        self.served.set()
        return True
