"""Consumer: one queue, from the long poll to the last delete."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

from millpond.app.config import QueueSettings
from millpond.app.opener import Opener
from millpond.engine.books import Books
from millpond.engine.delivery import Delivery, DeliveryKeeper, Line
from millpond.engine.endings import Endings
from millpond.engine.groups import Groups
from millpond.engine.held_back import HOLDING, WORKING, HeldBack
from millpond.engine.hold import Hold
from millpond.engine.intake import Intake, Traffic
from millpond.engine.last_receive import LastReceive
from millpond.engine.outcomes import LEASE_LOST, RELEASED
from millpond.engine.permits import Share
from millpond.engine.poller import Pollers, Receiver
from millpond.engine.processor import Processor
from millpond.engine.settler import Settler
from millpond.engine.trouble import ReceiveTrouble
from millpond.errors import Interrupt, QueueError
from millpond.hub.clock import Clock
from millpond.hub.pool import Pool
from millpond.message import Outcome
from millpond.sqs.limits import MAX_BYTES
from millpond.sqs.queue import Received
from millpond.sqs.sqs_queue import SqsQueue

#: Of fewer messages the rate of requests says nothing: most of them are polls that came back empty.
LEAST_FOR_RATE = 100


def _nothing() -> None:
    """Nobody asks."""


class Consumer(DeliveryKeeper, Receiver, Traffic):
    """One queue, wired.

    1. What the pollers bring becomes deliveries: leased, and put on the ready list (`submit`).
    2. A slot of the pool calls `work`: the processor's outcome is queued for settling (see Endings).
    3. On a FIFO queue a message waits until those of its group before it are done, and goes back where one is not.
    4. `drain` stops receiving; what is not started is held back, and given back by `give_back_held`.

    `unread_since` is the one of Pulse. `max_waiting` bounds what may wait to be settled. `first_receive_failed` gets
    the error of each receive that fails before any has come back. `on_settled` gets what is settled; it must not block.
    """

    def __init__(
        self,
        name: str,
        settings: QueueSettings,
        queue: SqsQueue,
        dead_letters: SqsQueue | None,
        *,
        processor: Processor,
        books: Books,
        share: Share,
        pool: Pool[Delivery],
        max_waiting: int,
        first_receive_failed: Callable[[QueueError], object],
        clock: Clock,
        spawn: Callable[..., Any],
        unread_since: Callable[[float], float] = lambda now: now,
        on_settled: Callable[[list[Delivery]], object] | None = None,
    ) -> None:
        self.name = name
        self.in_memory = settings.is_local  # what is in it ends with the process
        self.at_loopback = False  # at an emulator on this machine
        self.books = books
        self.on_busy: Callable[[], object] = _nothing  # called before the first message is in hand
        self.ready = 0  # deliveries that no slot has taken yet
        self.queue = queue
        self.gates, self.desks = processor.gates, processor.desks  # of all types of the process
        self.url = queue.url
        self.max_bytes = MAX_BYTES  # of one message that the queue takes
        self._settings = settings
        self._dead_letters = dead_letters
        self._processor = processor
        self._opener = Opener(settings.event_type, settings.envelope, processor.follows_pointers)
        self._share = share
        self._pool = pool
        self._first_receive_failed = first_receive_failed
        self._clock = clock
        self._unread_since = unread_since
        self._receiving = ReceiveTrouble(name, clock)
        self._groups = Groups(self) if settings.is_fifo else None
        self._spawn = spawn
        intake = Intake(self, share, clock)
        self.hold = Hold(name, settings, share, intake, self._groups, clock, self)
        self._last_receive = LastReceive(name, self.hold, clock)
        self.pollers = Pollers(queue, settings, share, clock, spawn, intake, self)
        self._held_back = held = HeldBack(self.pollers, self, clock)
        settler = partial(
            Settler, name, settings, queue, dead_letters, processor, books, held, max_waiting, clock, spawn
        )
        self.endings = Endings(
            settler, self, books, share, self.hold, self._last_receive, held, self._groups, clock, on_settled
        )
        self.hand, self._settler = self.endings.hand, self.endings.settler

    # What SQS says of the queue: known at the boot, or later

    def learn(self, max_receive_count: int, max_bytes: int) -> None:
        """After how many receives SQS moves a message itself (0: never, or unknown), and the largest that it takes."""
        self._last_receive.max_receive_count = max_receive_count
        self.max_bytes = max_bytes

    @property
    def has_dead_letters(self) -> bool:
        return self._dead_letters is not None

    @property
    def dead_letters(self) -> SqsQueue | None:
        """Its dead-letter queue, once it is known."""
        return self._dead_letters

    def send_dead_letters_to(self, dead_letters: SqsQueue) -> None:
        self._dead_letters = self._settler.sender.dead_letters = dead_letters

    # Receive

    def accept(self, messages: list[Received], latest: float = math.inf, earliest: float = -math.inf) -> None:
        """Take what a receive brought; a permit is held for each.

        SQS has handed them out between `earliest` and `latest`. An answer can have waited to be read, while the process
        was stopped or the hub stood still: its messages may be another worker's by now. One that was asked for after
        that is new: a worker that woke up lost 227 messages in 30 ms, as fast as it could receive them.
        """
        if not self.hand.number:
            self.on_busy()
        since = min(self._unread_since(self._clock.now()), latest)
        self._let_in(self.hand.take(messages, max(since, earliest)))

    def accept_last(self, messages: list[Received]) -> None:
        """Take the messages of an invocation, which were received elsewhere: no others follow them."""
        self._share.take(len(messages))
        self._share.polled(len(messages), len(messages))
        self._settler.nothing_follows()
        self.accept(messages, earliest=self._clock.now())

    def _let_in(self, deliveries: list[Delivery]) -> None:
        if self._held_back.state is not WORKING:
            self._held_back.add(*deliveries)
        elif self._groups is not None:
            for delivery in deliveries:
                self._groups.join(delivery)
        else:
            self.make_ready(*deliveries)

    def make_ready(self, *deliveries: Delivery) -> None:
        self.ready += len(deliveries)
        self._pool.submit(self.work, deliveries)

    def give_back(self, delivery: Delivery) -> None:
        outcome = Outcome(
            "released",
            reason="its handler from an earlier delivery is still ending",
            delay_seconds=max(1, round(self._settings.beat_seconds)),  # 0 would be a hot loop through SQS
        )
        self.end_soon(delivery, outcome)

    def receive_failed(self, error: QueueError, in_a_row: int) -> None:
        self.books.count("receive_failed")
        self._receiving.failed(self.queue.url, error, in_a_row)
        if not self.pollers.ever_received:
            self._first_receive_failed(error)

    def receives_work(self) -> None:
        self._receiving.works(self.queue.url)

    # Work

    def work(self, delivery: Delivery) -> None:
        """Take one delivery to its outcome, in a slot of the pool."""
        self.ready -= 1
        if self._held_back.state is not WORKING:
            self._held_back.add(delivery)
        elif delivery.lease.is_lost(self._clock.now()):
            self.endings.end(delivery, LEASE_LOST)
        else:
            self.endings.end(delivery, self._processor.process(delivery, self._opener))

    def stuck(self, delivery: Delivery) -> None:
        """In the hub: the handler swallows its interrupts. Its slot is written off, the message goes on without it."""
        slot = delivery.greenlet
        delivery.leave()
        self._pool.write_off(slot)
        self.books.count("stuck")
        self.end_soon(delivery, self._processor.given_up(delivery))

    def end_soon(self, delivery: Delivery, outcome: Outcome) -> None:
        self._spawn(self.endings.end, delivery, outcome)

    # What may not begin yet

    def is_last(self, delivery: Delivery) -> bool:
        return self._last_receive.includes(delivery)

    def hold_in_line(self, delivery: Delivery, line: Line) -> bool:
        return self.hold.join(delivery, line)

    def park_behind(self, delivery: Delivery) -> None:
        self.hold.park_behind(delivery)

    def run_again(self, delivery: Delivery) -> None:
        self.hold.take(delivery)
        if self.hand.deliveries.setdefault(delivery.received.message_id, delivery) is not delivery:
            self.give_back(delivery)
        else:
            self.make_ready(delivery)

    def number_inside(self, line: Line) -> int:
        return sum(one.desk is not None and one.desk.gate is line and one.is_inside() for one in self.hand)

    def take_bytes(self, size: int) -> bool:
        return self._share.bytes.take(size)

    def leave_bytes(self, size: int) -> None:
        self._share.settled(size)

    def taken(self) -> int:
        return self.books.received - self.ready

    def may_begin_beside(self, line: Line | None) -> bool:
        return bool(self._open_beside(line))

    def begun_beside(self, line: Line | None) -> int:
        types = self._open_beside(line)
        at_work = sum(one.started > 0 and one.desk.gate.event_type in types for one in self.hand)
        return self.books.succeeded_of(types) + at_work

    def _open_beside(self, line: Line | None) -> set[str]:
        """The types whose breaker is closed, but for this line's."""
        return {gate.event_type for gate in self.gates if gate is not line and not gate.is_shut}

    @property
    def in_hand(self) -> int:
        """Messages received and not yet settled."""
        return self.hand.number

    @property
    def share(self) -> Share:
        """Its permits."""
        return self._share

    @property
    def under_way(self) -> dict[str, int]:
        """What waits to be settled, or is on its way to SQS: deletes, changes of visibility, sends."""
        return self._settler.under_way

    @property
    def requests(self) -> int:
        """Calls to SQS so far, those too that failed on their way: it bills each that reaches it."""
        return self.queue.calls + (self._dead_letters.calls if self._dead_letters is not None else 0)

    @property
    def requests_per_1000(self) -> float:
        """Requests for a thousand messages received, since the start; 0.0 where they are too few to say it of."""
        received = self.books.received
        return round(1000 * self.requests / received, 1) if received >= LEAST_FOR_RATE else 0.0

    # Drain

    def drain(self, deadline: float) -> None:
        """Receive no more; the calls that are still to be made end by the deadline."""
        self._held_back.state = HOLDING
        self.pollers.stop()
        self._settler.hurry()
        self._processor.threads.drain()
        waiting = self._groups.take_waiting() if self._groups is not None else []
        self._held_back.add(*dict.fromkeys([*self.hold.take_all(), *waiting]))
        for queue in filter(None, (self.queue, self._dead_letters)):
            queue.limit_calls(deadline - self._clock.now())

    def give_back_held(self) -> None:
        """Give back what was not started, and from now on all that an open poll still brings."""
        for delivery in self._held_back.take_all():
            self.endings.end(delivery, RELEASED)

    def interrupt(self, kind: Callable[[], Interrupt]) -> None:
        """Throw into each handler that runs; what waits for the store of claims or for its body goes back."""
        for delivery in self.hand:
            if delivery.stop_asking():  # its answer may come before the outcome does
                self.end_soon(delivery, RELEASED)
            delivery.interrupt(kind)

    def write_off_running(self) -> None:
        """The drain is over: what is still inside a handler is given back in its name."""
        for delivery in self.hand:
            if delivery.is_inside():
                self.stuck(delivery)
