"""LambdaFunction: booted once, called with each batch."""

from __future__ import annotations

import logging
from typing import Protocol

import gevent

from millpond.app import discovery
from millpond.app.config import AllSettings
from millpond.app.discovery import Handlers
from millpond.app.redrive_advice import longest_policy
from millpond.claims.claim import ClaimStore
from millpond.engine.books import Books
from millpond.engine.processor import Processor
from millpond.errors import ConfigError
from millpond.foreign import spans
from millpond.foreign.text import shown
from millpond.hub.clock import SystemClock
from millpond.hub.signals import ExitSignals
from millpond.invocations.event import EventError, EventRecord, messages_of, read_records, source_of
from millpond.invocations.event_source import EventSource, named_by
from millpond.invocations.invocation import Invocation
from millpond.observe import log
from millpond.observe.screen import counted
from millpond.process import boot
from millpond.process.attribute_lookup import AttributeLookup
from millpond.process.body_buckets import open_body_store
from millpond.process.claim_store import check_store, open_store
from millpond.process.core import Core
from millpond.process.process_metrics import ProcessMetrics
from millpond.process.wiring import make_processor

#: Queues are asked for their attributes side by side, for this long: Lambda gives the whole boot 10 s.
ASK_SECONDS = 5.0
#: Before a batch a queue that has not answered is asked again for this long: a dead letter needs its place.
ASK_AGAIN_SECONDS = 1.0
#: Of the function's time this is kept for the answer's way to Lambda.
ANSWER_WAY_SECONDS = 0.2

#: Spans are sent before the process is frozen, where that takes no longer than this.
SPANS_SECONDS = 1.0

ItemFailures = dict[str, list[dict[str, str]]]


class LambdaContext(Protocol):
    """What Lambda hands to a function beside the event."""

    aws_request_id: str

    def get_remaining_time_in_millis(self) -> int: ...


class LambdaFunction:
    """The handlers of these settings, behind an SQS event source mapping. Raises ConfigError where they cannot work.

    Called with an event, it answers with `batchItemFailures`. It raises EventError, before anything has begun, where
    not every record could be answered for: then Lambda brings all of them again.
    """

    def __init__(self, settings: AllSettings) -> None:
        self._settings = settings
        self._clock = SystemClock()
        self._handlers = discovery.handlers_of(settings)
        self._metrics = ProcessMetrics(settings).metrics
        self._core = Core(settings.worker.concurrency, settings.worker.drain_limit, self._clock, ExitSignals())
        boot.prepare_process()
        boot.set_up(self._handlers)
        self._store = _claim_store(settings, self._handlers)
        self._bodies = open_body_store(settings)
        self._processor = self._make_processor()
        types, succeeded = frozenset(self._handlers.routes), log.Allowance(settings.log.succeeded_per_second)
        self._sources = {
            name: EventSource(name, settings, Books(name, types, self._metrics, succeeded, self._clock), self._clock)
            for name in settings.queues
        }
        self._lookups = {name: self._lookup(source) for name, source in self._sources.items()}
        self._ask()
        boot.quiet_the_collector()
        log.event(logging.INFO, "lambda.ready", "waiting for batches of messages", queues=list(self._sources))

    def _make_processor(self) -> Processor:
        return make_processor(self._settings, self._handlers, self._store, self._clock, self._clock, self._bodies)

    def _lookup(self, source: EventSource) -> AttributeLookup:
        return AttributeLookup(
            self._core, source.queue, source, longest_policy(self._handlers.routes, self._settings.retry)
        )

    def _ask(self) -> None:
        """Learn what SQS says of each queue. What it does not answer in time is asked for again before each batch."""
        asking = [gevent.spawn(lookup.ask) for lookup in self._lookups.values()]
        gevent.joinall(asking, timeout=ASK_SECONDS)
        gevent.killall(asking)
        missing = {name: lookup.error for name, lookup in self._lookups.items() if lookup.is_missing}
        if len(missing) == len(self._lookups):
            raise ConfigError(*(f"{self._place_of(name)}: {shown(error)}" for name, error in missing.items()))
        for name, error in missing.items():  # the batches of the others are no worse for it
            code = error.code if error is not None else ""
            text = f"{self._place_of(name)}: {shown(error)}; the other queues are worked on"
            log.event(logging.WARNING, "queue.unknown", text, queue=name, code=code)

    def _place_of(self, name: str) -> str:
        return f"[queues.{name}] url = {shown(self._sources[name].url)}"

    def __call__(self, event: object, context: LambdaContext) -> ItemFailures:
        began = self._clock.now()
        seconds = context.get_remaining_time_in_millis() / 1000 - ANSWER_WAY_SECONDS
        try:
            records = read_records(event)
            if not records:
                return {"batchItemFailures": []}
            source = self._source(source_of(records))
        except EventError as error:
            log.event(logging.CRITICAL, "lambda.refused", f"no message of this event begins: {error}")
            raise
        done = self._run(source, records, seconds)
        _flush_spans(seconds - (self._clock.now() - began))
        failed = [one for one in dict.fromkeys(record.message_id for record in records) if one not in done]
        self._log_answer(source, context, len(records), len(failed), self._clock.now() - began)
        with gevent.Timeout(max(0.0, seconds - (self._clock.now() - began)), False):  # an address may be asked for
            self._metrics.flush()
        return {"batchItemFailures": [{"itemIdentifier": one} for one in failed]}

    def _source(self, arn: str) -> EventSource:
        source = named_by(arn, self._sources)
        if source is None:
            where = shown(arn) or "a queue that the event does not name"
            raise EventError(f"its messages come from {where}, and no url of [queues.<name>] is that queue's: add it")
        return source

    def _run(self, source: EventSource, records: list[EventRecord], seconds: float) -> set[str]:
        """Work on the batch, and give the ids of what is done."""
        messages = messages_of(records, source.settings.is_fifo)
        if number := sum(record.received is None for record in records):
            without = counted(number, "record")
            text = f"{without} of the event without a receipt handle: Lambda brings that again"
            log.event(logging.WARNING, "lambda.incomplete", text, queue=source.name)
        if not messages:
            return set()
        seconds -= self._ask_again(self._lookups[source.name], seconds)
        size = min(source.settings.concurrency or self._settings.worker.concurrency, self._settings.worker.concurrency)
        deletes_bodies = self._settings.large_bodies.delete_after_success
        to_delete = self._bodies if deletes_bodies else None
        invocation = Invocation(source, self._processor, messages, size, seconds, to_delete)
        self._clock.on_error = invocation.crash
        done = invocation.run()
        if invocation.crashed:  # its gates may count messages that are not there any more
            self._processor = self._make_processor()
        return done

    def _ask_again(self, lookup: AttributeLookup, seconds_left: float) -> float:
        """Ask for what is not known of a queue; how long that took. Beside a short batch no answer would come."""
        began = self._clock.now()
        if lookup.error is not None:
            asking = gevent.spawn(lookup.ask)
            asking.join(min(ASK_AGAIN_SECONDS, seconds_left / 10))
            asking.kill()
        return self._clock.now() - began

    def _log_answer(
        self, source: EventSource, context: LambdaContext, records: int, failed: int, seconds: float
    ) -> None:
        are = "is" if records == 1 else "are"
        again = f"; {counted(failed, 'message')} will come again" if failed else ""
        log.event(
            logging.INFO,
            "lambda.answered",
            f"{source.name}: {records - failed} of {counted(records, 'record')} {are} done{again}",
            queue=source.name,
            records=records,
            failures=failed,
            seconds=round(seconds, 3),
            request_id=context.aws_request_id,
        )
        source.books.log_left_out()


def _flush_spans(seconds_left: float) -> None:
    """Let no span wait for the next invocation, which may never come."""
    if seconds_left > 0:
        gevent.with_timeout(min(SPANS_SECONDS, seconds_left), spans.flush, timeout_value=None)


def _claim_store(settings: AllSettings, handlers: Handlers) -> ClaimStore | None:
    store = open_store(settings, handlers.routes)
    if store is not None:
        check_store(store)
    return store
