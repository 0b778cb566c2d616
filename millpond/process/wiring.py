"""Wiring: a consumer for each queue of the settings, and the watchdog beside them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import gevent
import msgspec

from millpond.app.config import AllSettings, QueueSettings
from millpond.app.discovery import Handlers
from millpond.app.redrive_advice import longest_policy
from millpond.claims.claim import ClaimStore
from millpond.engine.body_remover import BodyRemover
from millpond.engine.books import Books
from millpond.engine.bucket_bodies import BucketBodies
from millpond.engine.claiming import Claiming
from millpond.engine.consumer import Consumer
from millpond.engine.handler_call import HANDLER_CODE
from millpond.engine.large_body import NO_LARGE_BODIES, LargeBodies
from millpond.engine.lease_keeper import FLUSHERS
from millpond.engine.permits import Permits
from millpond.engine.processor import Processor
from millpond.errors import ConfigError, Unreachable
from millpond.foreign.text import shown
from millpond.hub.clock import Clock
from millpond.hub.countdown import Time
from millpond.large_bodies.body_store import BodyStore
from millpond.observe import log
from millpond.observe.metrics import Metrics
from millpond.process.attribute_lookup import AttributeLookup
from millpond.process.body_buckets import open_body_store
from millpond.process.core import Core
from millpond.process.refusals import Refusals
from millpond.process.watchdog import GuardedQueue, Watchdog
from millpond.sqs.lifeline import rescue
from millpond.sqs.limits import MAX_BATCH
from millpond.sqs.queue_url import is_loopback
from millpond.sqs.sqs_queue import Sqs, SqsQueue

#: Queues are asked for their attributes side by side; the polls wait no longer for those that do not answer.
LEARN_SECONDS = 15.0


class Queues(NamedTuple):
    """The queues of one process, wired. `unanswered`: the names of those for which SQS has not answered yet.

    `closing`: what is called at the end of the drain, as each teardown() is.
    """

    consumers: Sequence[Consumer]
    refusals: Refusals
    watchdog: Watchdog | None = None
    close_local_polls: Callable[[], object] = lambda: None
    unanswered: Sequence[str] = ()
    closing: Sequence[Callable[[], object]] = ()
    permits: Permits | None = None
    processor: Processor | None = None


class Wiring:
    """Builds the consumers of one process. `urls`: the URL of each queue, by its name; `store`: of claims."""

    def __init__(
        self,
        settings: AllSettings,
        core: Core,
        handlers: Handlers,
        metrics: Metrics,
        urls: Mapping[str, str],
        store: ClaimStore | None = None,
    ) -> None:
        self._settings = settings
        self._core = core
        self._metrics = metrics
        self._urls = urls
        self._refusals = Refusals(core)
        bodies = open_body_store(settings)
        self._processor = make_processor(settings, handlers, store, core.pulse, core.clock, bodies)
        deletes = bodies is not None and settings.large_bodies.delete_after_success
        self._remover = BodyRemover(bodies, core.clock, core.spawn) if bodies is not None and deletes else None
        self._types = frozenset(handlers.routes)
        self._longest_policy = longest_policy(handlers.routes, settings.retry)
        self._succeeded = log.Allowance(settings.log.succeeded_per_second)
        prefetch = sum(queue.prefetch for queue in settings.queues.values())
        total, queues = settings.worker.concurrency + prefetch, len(settings.queues)
        worker = settings.worker
        strict = worker.priorities == "strict"
        self._permits = Permits(total, queues, core.clock, worker.max_bytes_in_flight, strict)
        self._guards: list[GuardedQueue] = []
        self._lookups: dict[str, AttributeLookup] = {}

    def wire(self, close_local_polls: Callable[[], object]) -> Queues:
        """Connect to every queue, and wait until SQS has said what it knows of them. Raises ConfigError."""
        consumers = [self._wire_queue(name, queue) for name, queue in self._settings.queues.items()]
        self._refusals.watch(consumers)
        asking = [self._core.spawn(lookup.learn) for lookup in self._lookups.values()]
        gevent.joinall(asking, timeout=LEARN_SECONDS)
        self._check_missing()
        unanswered = [
            name
            for (name, lookup), greenlet in zip(self._lookups.items(), asking, strict=True)
            if not greenlet.ready() or isinstance(lookup.error, Unreachable)
        ]
        closing = [self._remover.close] if self._remover is not None else []
        known: Any = {
            "unanswered": unanswered,
            "closing": closing,
            "permits": self._permits,
            "processor": self._processor,
        }
        return Queues(consumers, self._refusals, self._watchdog(), close_local_polls, **known)

    def _check_missing(self) -> None:
        """Raise ConfigError where no queue exists; where some do, the receives of a missing one say so."""
        missing = [
            f"[queues.{name}] url = {shown(self._urls[name])}: {shown(lookup.error)}"
            for name, lookup in self._lookups.items()
            if lookup.is_missing
        ]
        if len(missing) == len(self._urls):
            raise ConfigError(*missing)

    def _wire_queue(self, name: str, settings: QueueSettings) -> Consumer:
        sqs = connect_queue(self._settings, name, self._urls[name])
        cap = settings.concurrency + settings.prefetch if settings.concurrency else 0
        share = self._permits.share(cap, settings.weight)
        core = self._core
        consumer = Consumer(
            name,
            settings,
            sqs.queue(self._urls[name]),
            named_dead_letters(self._settings, name),
            processor=self._processor,
            books=Books(name, self._types, self._metrics, self._succeeded, core.clock),
            share=share,
            pool=core.pool,
            max_waiting=max(2 * MAX_BATCH, share.cap),
            first_receive_failed=partial(self._refusals.note, name),
            clock=core.clock,
            spawn=core.spawn,
            unread_since=core.pulse.unread_since,
            on_settled=self._remover.settled if self._remover is not None else None,
        )
        self._lookups[name] = AttributeLookup(core, sqs.queue(self._urls[name]), consumer, self._longest_policy)
        consumer.at_loopback = is_loopback(sqs.endpoint_url)
        if not settings.is_local:  # the local queue is blocked with the hub: it could not answer
            self._guard(name, consumer, sqs)
        return consumer

    def _guard(self, name: str, consumer: Consumer, sqs: Sqs) -> None:
        wanted = self._settings.sqs
        way = rescue(sqs, consumer.queue.url, wanted.region, wanted.endpoint_url)
        if way is None:
            text = "a proxy is in the way: while a handler blocks the hub, no lease of this queue is extended"
            log.event(logging.WARNING, "queue.unguarded", text, queue=name)
        else:
            self._guards.append(GuardedQueue(consumer.hand.leases, way.change_visibility, way.hand_over))

    def _watchdog(self) -> Watchdog:
        return Watchdog(
            self._core.pulse,
            self._core.clock,
            self._guards,
            beat_seconds=min(queue.beat_seconds for queue in self._settings.queues.values()),
            max_block_seconds=self._settings.worker.max_block_seconds,
            handler_code=HANDLER_CODE,
        )


def make_processor(
    settings: AllSettings,
    handlers: Handlers,
    store: ClaimStore | None,
    time: Time,
    clock: Clock,
    body_store: BodyStore | None = None,
) -> Processor:
    """The processor of all queues. `time`: of time limits; `store`: of claims; `body_store`: where large bodies are."""
    claiming = Claiming(store, clock) if store is not None else None
    bodies: LargeBodies = NO_LARGE_BODIES
    if body_store is not None:
        bodies = BucketBodies(settings.large_bodies, body_store, time, clock)
    return Processor(handlers.routes, settings.retry, time, settings.worker.threads, claiming, clock, bodies)


def connect_queue(settings: AllSettings, name: str, url: str) -> Sqs:
    """SQS where the queue of this name in the settings is, or (`url`) another that belongs to it."""
    wanted, queue = settings.sqs, settings.queues[name]
    if queue.is_local:
        wanted = msgspec.structs.replace(wanted, endpoint_url="")
    sqs = wanted.connect(url, queue.wait_seconds, polls=queue.pollers, settles=4 * FLUSHERS)
    if sqs.client != wanted.client:
        text = f"a proxy is in the way: this queue is reached by client = {sqs.client}"
        log.event(logging.INFO, "queue.proxied", text, queue=name)
    return sqs


def named_dead_letters(settings: AllSettings, name: str) -> SqsQueue | None:
    """The dead-letter queue that the settings name, in any region. (`check` reaches it the same way.)"""
    url = settings.queues[name].dead_letter_url
    return connect_queue(settings, name, url).queue(url) if url else None
