"""Invocation: one batch of records, from the event to what of it is done."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import gevent
import msgspec

from millpond.app.config import QueueSettings
from millpond.engine.body_remover import BodyRemover
from millpond.engine.consumer import Consumer
from millpond.engine.delivery import Delivery
from millpond.engine.permits import Permits
from millpond.engine.processor import Processor
from millpond.foreign.trace import describe, traceback_of
from millpond.hub.backoff import whole_seconds
from millpond.hub.clock import Event
from millpond.hub.pool import Pool, watch
from millpond.invocations.done_bodies import DoneBodies
from millpond.invocations.event_source import EventSource
from millpond.invocations.records_queue import RecordsQueue
from millpond.large_bodies.body_store import BodyStore
from millpond.observe import log
from millpond.process.drain import give_back_running, reserve_seconds
from millpond.process.report import log_what_is_unsettled
from millpond.sqs.limits import MAX_BATCH
from millpond.sqs.queue import Received

#: What may not begin yet (a rate, a breaker) waits this long at the most: each second of a function is paid for.
HOLD_SECONDS = 10
#: Handlers that began at once are timed out this long before all others are given back, which is no failure: they have
#: had the time of the function, and the next invocation would have no more for them.
SOONER_SECONDS = 0.1
#: A lease is believed in for longer than the function can run: it is never lost, and no beat is due.
LEASE_MARGIN_SECONDS = 2
#: What is held is looked at when its time is surely over.
SWEEP_SLACK_SECONDS = 0.01
#: What of the engine still waits at the end has this long to end.
CLOSE_SECONDS = 0.1


class Invocation:
    """The engine of one batch. Nothing of it is left behind: the environment is frozen until the next invocation.

    1. Each record becomes a delivery, as if it had been received here; handlers run side by side in the pool.
    2. What may not begin yet is held for HOLD_SECONDS at the most, and then given back with a delay.
    3. Before the function's time is over handlers that run are interrupted, and their messages given back.
    4. `done` has the ids of the messages that are settled for good; all others are to be reported as failed.

    5. Bodies in S3 that are to be deleted after a success are, in `body_store`: see DoneBodies.

    `seconds`: until the answer must be on its way.
    """

    def __init__(
        self,
        source: EventSource,
        processor: Processor,
        messages: Sequence[Received],
        size: int,
        seconds: float,
        body_store: BodyStore | None = None,
    ) -> None:
        self.crashed = False
        self._source = source
        self._clock = clock = source.clock
        self._began = clock.now()
        self._deadline = self._began + seconds
        self._cut_at = self._deadline - reserve_seconds(seconds)
        self._processor = processor
        self._messages = list(messages)
        self._queue = RecordsQueue(source.url, source.sqs, {one.receipt_handle: one.message_id for one in messages})
        self._pool: Pool[Delivery] = Pool(size, self._greenlet_died)
        self._greenlets: list[gevent.Greenlet] = []
        self._closed = False
        self._over: Event = clock.event()  # a part of the engine has failed
        self._bodies: DoneBodies | None = None
        if body_store is not None:
            self._bodies = DoneBodies(self._queue, BodyRemover(body_store, clock, self.spawn))
        self._consumer = self._make_consumer(_for_seconds(source.settings, seconds))

    def _make_consumer(self, settings: QueueSettings) -> Consumer:
        source = self._source
        permits = Permits(len(self._messages), 1, self._clock, source.max_bytes_in_flight)
        consumer = Consumer(
            source.name,
            settings,
            self._queue,
            source.dead_letters,
            processor=self._processor,
            books=source.books,
            share=permits.share(0),
            pool=self._pool,
            max_waiting=2 * MAX_BATCH + len(self._messages),
            first_receive_failed=lambda error: None,
            clock=self._clock,
            spawn=self.spawn,
            on_settled=self._bodies.settled if self._bodies is not None else None,
        )
        consumer.learn(source.max_receive_count, source.max_bytes)
        consumer.hand.seen = source.seen
        return consumer

    def run(self) -> set[str]:
        """Work on the batch, and give the ids of what is done."""
        try:
            self._work()
        except BaseException as error:  # a gevent.Timeout that setup() has left running, too
            self.crash(error)
        with suppress(gevent.Timeout):  # so it can here, once: what is left then is closed all the same
            self._close()
            return self._queue.done
        self._close()
        return self._queue.done

    def _work(self) -> None:
        self._processor.begin_invocation(self._cut_at - self._began - SOONER_SECONDS)
        self._consumer.accept_last(self._messages)
        self._wait(min(self._clock.now() + HOLD_SECONDS + SWEEP_SLACK_SECONDS, self._cut_at))
        self._consumer.hold.sweep()
        self._wait(self._cut_at)
        if self._consumer.in_hand and not self.crashed:
            self._cut_off()
        if self._bodies is not None:
            deleting = gevent.spawn(self._bodies.delete)
            self._greenlets.append(deleting)
            deleting.join(max(0.0, self._deadline - self._clock.now()))

    def _wait(self, until: float) -> None:
        """Until nothing is in hand, but no longer than that."""
        seconds = max(0.0, until - self._clock.now())
        gevent.wait([self._consumer.hand.idle, self._over], timeout=seconds, count=1)

    def _cut_off(self) -> None:
        text = (
            f"{self._source.name}: the function's time is over, and {self._consumer.in_hand} of its messages are given "
            "back: raise its timeout, or lower the batch size of its event source mapping"
        )
        log.event(logging.WARNING, "lambda.cut_off", text, queue=self._source.name, in_hand=self._consumer.in_hand)
        self._hold_back()
        give_back_running([self._consumer], self._deadline - self._clock.now(), self._clock)

    # The end

    def _close(self) -> None:
        """Let nothing run on: what is not settled by now is reported as failed, whatever its call would still give."""
        self._closed = True
        if self.crashed:
            with suppress(Exception):  # the part that has failed may be in the way
                self._hold_back()
        self._pool.close(0.0)
        self._pool.end(CLOSE_SECONDS)  # one may still ask S3, or the store of claims: its handler must not begin
        gevent.killall(self._greenlets, block=False)
        gevent.joinall(self._greenlets, timeout=CLOSE_SECONDS)  # with a time-out of its own, killall would raise
        log_what_is_unsettled(self._consumer, "the function answered")

    def _hold_back(self) -> None:
        """Let no message begin any more: one may stand in a line behind one that ends now."""
        self._consumer.drain(self._deadline)
        for work, delivery in self._pool.take_ready():
            work(delivery)  # a consumer that drains holds it back

    def spawn(self, function: Callable[..., object], *args: Any) -> gevent.Greenlet | None:
        """Start a greenlet of the engine: it ends with the invocation."""
        if self._closed:  # a timer that rings in a later invocation
            return None
        greenlet = gevent.spawn(function, *args)
        watch(greenlet, self._greenlet_died)
        self._greenlets.append(greenlet)
        return greenlet

    def _greenlet_died(self, greenlet: gevent.Greenlet) -> None:
        self.crash(greenlet.exception or greenlet.value)

    def crash(self, error: BaseException) -> None:
        """A part of the engine failed: what is done by now is done, and the rest of the batch comes again."""
        if self._closed:
            return
        text = f"a part of the engine failed, and what is not done of the batch comes again: {describe(error)}"
        log.event(logging.CRITICAL, "lambda.crashed", text, traceback=traceback_of(error))
        self.crashed = True
        self._over.set()


def _for_seconds(settings: QueueSettings, seconds: float) -> QueueSettings:
    """The settings of a queue for an invocation that lasts this long."""
    visibility = whole_seconds(seconds) + LEASE_MARGIN_SECONDS
    hold = min(HOLD_SECONDS, int(seconds - reserve_seconds(seconds)))
    return msgspec.structs.replace(
        settings,
        visibility_seconds=visibility,
        heartbeat_seconds=float(visibility),
        max_hold_seconds=visibility + hold,
    )
