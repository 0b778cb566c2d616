"""A worker whose queues are never empty: consumers that share permits and slots, on a clock that the test moves."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import gevent
import msgspec

from millpond.app.config import RetrySettings
from millpond.app.routing import Route
from millpond.engine.books import Books
from millpond.engine.consumer import Consumer
from millpond.engine.permits import Permits
from millpond.engine.processor import Processor
from millpond.hub.pool import Pool
from millpond.observe import log
from millpond.observe.metrics import Metrics
from millpond.sqs.queue import Received
from tests.limited import Limited
from tests.rig import queue_settings
from tests.virtual import VirtualClock

BODY = '{"event_type": "nap", "payload": null}'


class Bottomless:
    """A queue that always has ten messages more. Each call takes the seconds that `round_trip` gives."""

    def __init__(self, name: str, clock: VirtualClock, round_trip: Callable[[str], float]) -> None:
        self.url = f"http://queue.test/000000000000/{name}"
        self.received = 0
        self._clock = clock
        self._round_trip = round_trip

    def receive(self, most: int, wait_seconds: int, visibility_seconds: int, attempt_id: str = "") -> list[Received]:
        self._clock.sleep(self._round_trip("receive"))
        first, self.received = self.received, self.received + most
        ids = [f"m{number}" for number in range(first, self.received)]
        return [Received(one, f"{one}#1", BODY, 1, 1, "", "", {}) for one in ids]

    def delete(self, receipt_handles: Sequence[str]) -> list[None]:
        self._clock.sleep(self._round_trip("delete"))
        return [None] * len(receipt_handles)


class Saturated:
    """One queue for each weight; the handlers of all take `work` seconds, round trips `receive` and `delete`, each
    with this much jitter."""

    def __init__(
        self,
        *weights: float,
        concurrency: int,
        work: float,
        receive: float,
        delete: float = 0.01,
        jitter: float = 0.5,
        seed: int = 1,
        pollers: int = 4,
    ) -> None:
        self.clock = VirtualClock()
        chance = random.Random(seed)

        def about(seconds: float) -> float:
            return seconds * chance.uniform(1 - jitter, 1 + jitter)

        def nap(payload: None) -> None:
            self.clock.sleep(about(work))

        self.pool: Pool[Any] = Pool(concurrency, self._crashed)
        self.pool._wake_later = self.pool._wake_soon  # type: ignore[method-assign]  # there are no real timers here
        self.crashes: list[BaseException] = []
        self.clock.on_error = self.crashes.append
        permits = Permits(concurrency, len(weights), self.clock)
        routes = {"nap": Route("nap", "tests.nap", msgspec.json.decode, nap, 60.0, takes_message=False)}
        processor = Processor(routes, RetrySettings(3, 2, 900), self.clock, 4)
        self.consumers = []
        for index, weight in enumerate(weights):
            queue = Bottomless(f"q{index}", self.clock, lambda name: about(receive if name == "receive" else delete))
            share = permits.share(0, weight)
            self.consumers.append(
                Consumer(
                    f"q{index}",
                    queue_settings(pollers=pollers, visibility_seconds=300),
                    Limited(queue, self.clock),
                    None,
                    processor=processor,
                    books=Books(f"q{index}", routes, Metrics(), log.Allowance(0), self.clock),
                    share=share,
                    pool=self.pool,
                    max_waiting=max(20, share.cap),
                    first_receive_failed=self.crashes.append,
                    clock=self.clock,
                    spawn=self._spawn,
                )
            )
        for consumer in self.consumers:
            consumer.pollers.start()

    def _spawn(self, function: Callable[..., object], *args: Any) -> gevent.Greenlet:
        greenlet = gevent.spawn(function, *args)
        greenlet.link_exception(self._crashed)
        return greenlet

    def _crashed(self, greenlet: gevent.Greenlet) -> None:
        self.crashes.append(greenlet.exception)

    def done(self) -> list[int]:
        return [consumer.books.succeeded_of({"nap"}) for consumer in self.consumers]

    def advance_until(self, number: int) -> list[int]:
        """What is done of each queue, once at least so many messages more are done in all."""
        before = self.done()
        while sum(self.done()) - sum(before) < number:
            self.clock.advance(0.5)
        assert not self.crashes
        return [now - then for now, then in zip(self.done(), before, strict=True)]
