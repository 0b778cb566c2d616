"""Observer: takes snapshots of its process. It only reads, and keeps nothing of a message."""

from __future__ import annotations

import heapq
import logging
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import attrgetter

from millpond import __version__
from millpond.engine.consumer import Consumer
from millpond.engine.delivery import Delivery
from millpond.engine.desk import Desk
from millpond.engine.receiving import QUIET
from millpond.foreign.body_text import body_line
from millpond.foreign.text import shown
from millpond.observe import log
from millpond.observe.last_hour import LastHour, MinuteSummary
from millpond.process.core import Core
from millpond.process.failure_groups import FailureGroups
from millpond.process.memory_limit import resident_bytes
from millpond.process.snapshot import (
    QueueDepth,
    QueueSnapshot,
    RunningSnapshot,
    Snapshot,
    TypeSnapshot,
    WorkerSnapshot,
    WorkerState,
)
from millpond.process.wiring import Queues

#: Handlers that are named one by one: where one stands costs 10 us, and a worker can have 120,000.
MAX_RUNNING = 100
#: Groups of failures, the last one first.
MAX_FAILING = 10
#: Characters of a body that is shown beside a handler that runs.
MAX_BODY_LINE = 200
_STARTED = attrgetter("started")


def _nothing() -> None:
    """Nobody asks SQS."""


class Observer:
    """Takes snapshots from what the engine has anyway. Before `queues` are set, the process is booting.

    `depths`: what SQS said last of each queue, by its name; whoever asks SQS puts it there.
    """

    def __init__(self, core: Core, name: str) -> None:
        self.queues: Queues | None = None
        self.depths: dict[str, QueueDepth] = {}
        self.on_look: Callable[[], object] = _nothing  # a person wants a snapshot: what is too old is asked for anew
        self.hour: LastHour | None = None  # what is known of percentiles and rates
        self.failures: FailureGroups | None = None
        self._core = core
        self._name = name
        self._started = core.clock.time()

    def take(self, most_running: int = MAX_RUNNING, bodies: bool = False, failures: bool = False) -> Snapshot:
        """The process now, with at most this many of the handlers that run; `bodies`: with a line of what they have.

        `failures`: with what has failed last.
        """
        clock, consumers = self._core.clock, self.queues.consumers if self.queues is not None else ()
        now, wall_time = clock.now(), clock.time()
        running = self._running()
        return Snapshot(
            taken=wall_time,
            worker=self._worker(),
            queues=[queue_of(consumer, now, wall_time, self.depths.get(consumer.name)) for consumer in consumers],
            types=types_of(consumers, running, now, self.hour.minutes if self.hour is not None else {}),
            running=[running_of(one, now, bodies) for one in heapq.nsmallest(most_running, running, key=_STARTED)],
            running_number=len(running),
            failures=self.failures.since(0)[: -MAX_FAILING - 1 : -1] if failures and self.failures is not None else [],
        )

    def now(self) -> float:
        """The moment on the clock by which deliveries count."""
        return self._core.clock.now()

    def longest_running(self) -> list[Delivery]:
        """The deliveries that are inside their handlers: those that have been for longest, MAX_RUNNING at most."""
        return heapq.nsmallest(MAX_RUNNING, self._running(), key=_STARTED)

    def _running(self) -> list[Delivery]:
        consumers = self.queues.consumers if self.queues is not None else ()
        return [one for consumer in consumers for one in consumer.hand if one.is_inside()]

    @property
    def state(self) -> WorkerState:
        if self._core.stopping:
            return "draining"
        if self.queues is None:
            return "booting"
        return "quiet" if all(one.pollers.receiving.state is QUIET for one in self.queues.consumers) else "running"

    def _worker(self) -> WorkerSnapshot:
        core, queues = self._core, self.queues
        permits = queues.permits if queues is not None else None
        watchdog = queues.watchdog if queues is not None else None
        return WorkerSnapshot(
            name=self._name,
            version=__version__,
            pid=os.getpid(),
            started=self._started,
            uptime_seconds=round(core.clock.now() - core.started, 1),
            state=self.state,
            why=core.why,
            slots_busy=core.pool.busy,
            slots=core.pool.size,
            permits_free=permits.free if permits is not None else 0,
            in_hand=sum(consumer.in_hand for consumer in queues.consumers) if queues is not None else 0,
            memory_bytes=resident_bytes(),
            bytes_in_hand=permits.bytes.number if permits is not None else 0,
            max_bytes_in_hand=permits.bytes.most if permits is not None else 0,
            hub_blocked=watchdog.hub_blocked if watchdog is not None else 0,
            leases_rescued=watchdog.leases_rescued if watchdog is not None else 0,
            stuck=core.pool.written_off,
            minute=self.hour.minute if self.hour is not None else None,
            log_level=logging.getLevelName(logging.getLogger().level).lower(),
        )


def queue_of(consumer: Consumer, now: float, wall_time: float, depth: QueueDepth | None) -> QueueSnapshot:
    """One queue as its consumer sees it."""
    books, pollers, deliveries = consumer.books, consumer.pollers, list(consumer.hand)
    oldest = min((delivery.received_time for delivery in deliveries), default=wall_time)
    last = now - pollers.received_at if pollers.ever_received else None
    return QueueSnapshot(
        name=consumer.name,
        url=shown(consumer.url),
        state=pollers.receiving.state.value,
        in_hand=consumer.in_hand,
        ready=consumer.ready,
        held=consumer.hold.number,
        oldest_in_hand_seconds=round(max(0.0, wall_time - oldest), 1),
        polls_open=pollers.open_number,
        pollers=pollers.active,
        last_receive_seconds=None if last is None else round(last, 1),
        failing_receives=pollers.failures,
        intake=pollers.intake.state.value,
        weight=consumer.share.weight,
        received=books.received,
        outcomes=dict(books.outcomes),
        causes=dict(books.causes),
        redelivered=books.redelivered,
        abandoned=books.abandoned,
        requests=consumer.requests,
        requests_per_1000=consumer.requests_per_1000,
        leases=dict(Counter(delivery.lease.state.value for delivery in deliveries)),
        under_way=consumer.under_way,
        depth=depth,
        rightly_silent=pollers.is_rightly_silent,
    )


def types_of(
    consumers: Sequence[Consumer], running: list[Delivery], now: float, minutes: Mapping[str, MinuteSummary]
) -> list[TypeSnapshot]:
    """Every type that has a handler, over all queues."""
    at_work = Counter(one.desk.route.event_type for one in running if one.desk is not None)
    outcomes = added(consumer.books.outcomes_by_type() for consumer in consumers)
    causes = added(consumer.books.causes_by_type() for consumer in consumers)
    desks = consumers[0].desks if consumers else ()
    return [type_of(desk, at_work, outcomes, causes, minutes, now) for desk in desks]


def added(counts: Iterable[Mapping[str, Counter[str]]]) -> dict[str, Counter[str]]:
    """The sums, by type."""
    sums: dict[str, Counter[str]] = {}
    for one in counts:
        for kind, numbers in one.items():
            sums.setdefault(kind, Counter()).update(numbers)
    return sums


def type_of(
    desk: Desk,
    at_work: Mapping[str, int],
    outcomes: Mapping[str, Counter[str]],
    causes: Mapping[str, Counter[str]],
    minutes: Mapping[str, MinuteSummary],
    now: float,
) -> TypeSnapshot:
    """One type, by its desk."""
    gate, event_type = desk.gate, desk.route.event_type
    return TypeSnapshot(
        event_type=event_type,
        handler=desk.route.where,
        running=at_work.get(event_type, 0),
        held=len(gate.line),
        rate=round(gate.rate_now, 3),
        concurrency=gate.concurrency,
        breaker=gate.breaker.state.value,
        breaker_reason=log.printable(gate.reason) if gate.is_shut else "",
        breaker_seconds=round(gate.breaker.seconds_left(now), 1),
        outcomes=dict(outcomes.get(event_type, {})),
        causes=dict(causes.get(event_type, {})),
        minute=minutes.get(event_type),
    )


def running_of(delivery: Delivery, now: float, bodies: bool = False) -> RunningSnapshot:
    """A message inside its handler."""
    known = delivery.identity()
    return RunningSnapshot(
        event_type=str(known["type"]),
        event_id=str(known["event_id"]),
        message_id=str(known["message_id"]),
        queue=delivery.owner.name,
        attempt=delivery.received.receive_count,
        seconds=round(max(0.0, now - delivery.started), 3),
        limit_seconds=delivery.limit_seconds,
        lease_seconds_left=round(max(0.0, delivery.lease.known_until() - now), 1),
        interrupted=delivery.interruption is not None,
        stands_at=delivery.stands_at(),
        body=body_line(delivery.received.body, MAX_BODY_LINE) if bodies else "",
    )
