"""Boot: settings -> a Service that is ready to run."""

from __future__ import annotations

import gc
import json
import logging
import math
from collections.abc import Callable
from functools import partial

import gevent
import msgspec

from millpond.app import discovery
from millpond.app.config import GOOD_REDRIVE_MARGIN, AllSettings, QueueSettings
from millpond.app.discovery import Handlers
from millpond.engine.books import Books
from millpond.engine.consumer import Consumer
from millpond.engine.permits import Permits
from millpond.engine.processor import HANDLER_CODE, Processor, RetryPolicy, end_with_the_handler
from millpond.engine.settler import FLUSHERS
from millpond.errors import ConfigError, QueueError, QueueMissing
from millpond.foreign.number import number_within
from millpond.foreign.text import shown
from millpond.hub import asyncio_run, child_end, forked
from millpond.hub.backoff import call_seconds
from millpond.hub.clock import Clock, SystemClock
from millpond.hub.signals import ExitSignals
from millpond.local import LocalSqs
from millpond.observe import log
from millpond.observe.metrics import Metrics
from millpond.process.service import Service
from millpond.process.watchdog import GuardedQueue, Watchdog
from millpond.sqs.bounded import Bounded
from millpond.sqs.clients import Sqs, SqsQueue, connect
from millpond.sqs.lifeline import rescue
from millpond.sqs.limits import MAX_BATCH, MAX_BYTES
from millpond.sqs.redrive import read_redrive

#: What goes on is told this often.
TELL_SECONDS = 60.0
#: The account of the embedded SQS.
LOCAL_ARN = "arn:aws:sqs:us-east-1:000000000000"
#: Objects made before the collector looks for cycles: messages leave hardly any behind (Python's own is 700 to 2,000).
GC_ALLOCATIONS = 20_000
#: Queues are asked for their attributes side by side; the polls wait no longer for those that do not answer.
LEARN_SECONDS = 15.0
#: --until-empty believes two empty long polls, and need not wait 20 s for each.
UNTIL_EMPTY_WAIT_SECONDS = 2


def build(
    settings: AllSettings, *, until_empty: bool = False, clock: Clock | None = None, signals: ExitSignals | None = None
) -> Service:
    """Everything wired, signals installed, setup() called. Raises ConfigError.

    A signal meanwhile ends it: the service that is returned is stopping then, and has nothing in hand.
    """
    clock = clock or SystemClock()
    local = all(queue.is_local for queue in settings.queues.values())
    handlers = discovery.discover(settings.worker.handlers, settings.folder, settings.handlers, local=local)
    statsd = settings.statsd
    metrics = Metrics(statsd.host, statsd.port, statsd.prefix, settings.worker.name)
    service = Service(settings.worker.concurrency, settings.worker.drain_limit, metrics, clock)
    service.until_empty = until_empty
    service.signals = signals or service.signals
    service.install_signals()
    _own_the_hub()
    forked.install(end_with_the_handler)
    asyncio_run.install()
    service.boot(lambda: _boot(settings, service, handlers, metrics, clock))
    return service


def _boot(settings: AllSettings, service: Service, handlers: Handlers, metrics: Metrics, clock: Clock) -> None:
    for setup in handlers.setups:
        _, error = child_end.caught(setup.run)
        if error is not None:
            raise error
    service.teardowns = handlers.teardowns
    urls = _start_local(settings, service)
    _Wiring(settings, service, handlers, metrics, clock).wire(urls)
    metrics.start()
    _quiet_the_collector()


def _quiet_the_collector() -> None:
    """What the boot has loaded stays, and is not looked at again: a tenth less CPU over 10,000 messages."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_ALLOCATIONS, 20, 20)


def _own_the_hub() -> None:
    """A greenlet that a handler spawned cannot take the process down.

    gevent rethrows SystemExit and KeyboardInterrupt of any greenlet in the main one; ours stop by signal watchers.
    """
    gevent.get_hub().SYSTEM_ERROR = ()


def _start_local(settings: AllSettings, service: Service) -> dict[str, str]:
    """Start the embedded queue where a queue asks for it; the URL of each queue by its name."""
    urls = {name: queue.url for name, queue in settings.queues.items()}
    names = [name for name, queue in settings.queues.items() if queue.is_local]
    if not names:
        return urls
    server = LocalSqs(port=settings.local.port)
    try:
        server.start()
    except OSError as error:
        text = f"[local] port = {settings.local.port}: {error.strerror}; is another worker running?"
        raise ConfigError(text) from None
    service.at_drain = server.close_polls
    count = settings.retry.max_attempts + GOOD_REDRIVE_MARGIN
    for name in names:
        dead_letters = server.create_queue(f"{name}-dead", {})
        arn = f"{LOCAL_ARN}:{dead_letters.rpartition('/')[2]}"
        policy = {"deadLetterTargetArn": arn, "maxReceiveCount": count}
        urls[name] = server.create_queue(name, {"RedrivePolicy": json.dumps(policy)})
    text = f"the embedded SQS listens on {server.url}; it keeps messages in memory only"
    log.event(logging.INFO, "local.ready", text, queues=names)
    return urls


class _Wiring:
    """Builds the consumers of one service."""

    def __init__(
        self, settings: AllSettings, service: Service, handlers: Handlers, metrics: Metrics, clock: Clock
    ) -> None:
        self._settings = settings
        self._service = service
        self._metrics = metrics
        self._clock = clock
        retry = settings.retry
        policy = RetryPolicy(retry.max_attempts, retry.base_seconds, retry.max_seconds)
        self._processor = Processor(handlers.routes, policy, service.pulse, settings.worker.threads)
        self._types = frozenset(handlers.routes)
        self._succeeded = log.Allowance(settings.log.succeeded_per_second)
        prefetch = sum(queue.prefetch for queue in settings.queues.values())
        self._total = settings.worker.concurrency + prefetch
        self._permits = Permits(self._total, len(settings.queues), clock)

        self._guards: list[GuardedQueue] = []
        self._hand_overs: list[Callable[[], object]] = []
        self._asking: list[gevent.Greenlet] = []  # each learns what SQS says of one queue
        self._missing: dict[str, str] = {}  # what is wrong with each queue that does not exist

    def wire(self, urls: dict[str, str]) -> None:
        for name, queue in self._settings.queues.items():
            if self._service.stopping:
                return
            sqs = self._connect(name, queue, urls[name])
            consumer = self._consumer(name, queue, urls[name], sqs)
            self._service.consumers.append(consumer)
            if not queue.is_local:  # the embedded queue stands still with the hub: nobody could answer
                self._guard(name, consumer, sqs)
        gevent.joinall(self._asking, timeout=LEARN_SECONDS)
        if len(self._missing) == len(urls):
            raise ConfigError(*[self._missing[name] for name in urls])
        self._service.watchdog = self._watchdog()
        self._service.hand_overs = self._hand_overs

    def _guard(self, name: str, consumer: Consumer, sqs: Sqs) -> None:
        wanted = self._settings.sqs
        way = rescue(sqs, consumer.queue.url, wanted.region, wanted.endpoint_url)
        if way is None:
            text = "a proxy is in the way: while a handler blocks the hub, no lease of this queue is kept"
            log.event(logging.WARNING, "queue.unguarded", text, queue=name)
        else:
            self._guards.append(GuardedQueue(consumer.leases, way.extend))
            self._hand_overs.append(way.hand_over)

    def _watchdog(self) -> Watchdog:
        return Watchdog(
            self._service.pulse,
            self._clock,
            self._guards,
            beat_seconds=min(queue.beat_seconds for queue in self._settings.queues.values()),
            max_block_seconds=self._settings.worker.max_block_seconds,
            handler_code=HANDLER_CODE,
        )

    def _consumer(self, name: str, settings: QueueSettings, url: str, sqs: Sqs) -> Consumer:
        remote = sqs.queue(url)
        share = self._permits.share(settings.concurrency + settings.prefetch if settings.concurrency else 0)
        if self._service.until_empty:
            wait_seconds = min(settings.wait_seconds, UNTIL_EMPTY_WAIT_SECONDS)
            settings = msgspec.structs.replace(settings, wait_seconds=wait_seconds)
        consumer = Consumer(
            name,
            settings,
            Bounded(remote, self._clock),
            self._dead_letters(name, settings),
            processor=self._processor,
            books=Books(name, self._types, self._metrics, self._succeeded, self._clock),
            share=share,
            pool=self._service.pool,
            max_unsettled=max(2 * MAX_BATCH, share.cap),
            refused=partial(self._service.refused, name),
            clock=self._clock,
            spawn=self._service.spawn,
            unread_since=self._service.pulse.unread_since,
        )
        self._asking.append(self._service.spawn(self._learn, name, remote, sqs, consumer))
        return consumer

    def _dead_letters(self, name: str, settings: QueueSettings) -> Bounded | None:
        """The one that the settings name: it can be in another region or place. (`check` reaches it the same way.)"""
        url = settings.dead_letter_url
        return Bounded(self._connect(name, settings, url).queue(url), self._clock) if url else None

    def _connect(self, name: str, settings: QueueSettings, url: str) -> Sqs:
        wanted = self._settings.sqs
        sqs = connect(
            url,
            client=wanted.client,
            region=wanted.region,
            endpoint_url="" if settings.is_local else wanted.endpoint_url,
            wait_seconds=settings.wait_seconds,
            polls=settings.pollers,
            settles=4 * FLUSHERS,
        )
        if sqs.client != wanted.client:
            log.event(logging.INFO, "queue.proxied", f"a proxy is in the way: client = {sqs.client}", queue=name)
        return sqs

    def _learn(self, name: str, queue: SqsQueue, sqs: Sqs, consumer: Consumer) -> None:
        """What SQS says of the queue; what it does not say now is asked for again, until it is known."""
        unknown = _Unknown(name, self._clock)
        try:
            error = _learn(name, queue, sqs, consumer, unknown)
        except QueueMissing as missing:  # of several, the others work; its own receives tell
            self._missing[name] = f"[queues.{name}] url = {shown(queue.url)}: {shown(missing)}"
            error = missing
        if error is not None:
            self._service.spawn(self._learn_later, name, queue, sqs, consumer, unknown, error)

    def _learn_later(
        self, name: str, queue: SqsQueue, sqs: Sqs, consumer: Consumer, unknown: _Unknown, error: QueueError
    ) -> None:
        failures, last = 1, error
        while not self._service.wait(call_seconds(failures, last)):
            try:
                found = _learn(name, queue, sqs, consumer, unknown)
            except QueueMissing as missing:
                found = missing
            if found is None:
                log.event(logging.INFO, "queue.known", "its attributes are known now", queue=name)
                return
            failures, last = failures + 1, found


class _Unknown:
    """What SQS does not say of a queue: told at once, and each minute that it lasts."""

    def __init__(self, name: str, clock: Clock) -> None:
        self.clock = clock
        self._name = name
        self._what = ""
        self._told = -math.inf

    def tell(self, what: str, error: QueueError) -> None:
        now = self.clock.now()
        if what == self._what and now < self._told + TELL_SECONDS:
            return
        self._what, self._told = what, now
        text = f"{what}; until then what fails for good stays in the queue, unless dead_letter_url is set"
        log.event(logging.WARNING, "queue.unknown", f"{text}: {shown(error)}", queue=self._name, code=error.code)


def _learn(name: str, queue: SqsQueue, sqs: Sqs, consumer: Consumer, unknown: _Unknown) -> QueueError | None:
    """Tell a consumer of its queue's limits and dead letters; returns why not all of it could be found out.

    Raises QueueMissing where there is no such queue.
    """
    try:
        attributes = Bounded(queue, unknown.clock).attributes()
    except QueueMissing:
        raise
    except QueueError as error:
        unknown.tell("its attributes (redrive policy, MaximumMessageSize) cannot be read", error)
        return error
    redrive = read_redrive(attributes.get("RedrivePolicy", ""))
    max_bytes = number_within(attributes.get("MaximumMessageSize"), 1, MAX_BYTES, MAX_BYTES)
    consumer.learn(redrive.max_receive_count, max_bytes)
    if consumer.has_dead_letters:
        return None
    if not redrive.name:
        policy = shown(attributes.get("RedrivePolicy", ""))
        text = f"its redrive policy {policy} names no queue" if policy else "there is no dead-letter queue"
        log.event(logging.WARNING, "queue.no_dead_letters", f"{text}: what fails for good stays in it", queue=name)
        return None
    try:
        consumer.bury_in(Bounded(sqs.queue(queue.dead_letter_url(attributes)), unknown.clock))
    except QueueError as error:
        unknown.tell("the dead-letter queue of its redrive policy cannot be found", error)
        return error
    return None
