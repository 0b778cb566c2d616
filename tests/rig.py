"""One consumer, wired as boot.py does it, around a fake queue."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import gevent
import msgspec

from millpond.app.config import QueueSettings, RetrySettings
from millpond.app.envelope import EnvelopeKind
from millpond.app.large_body_settings import LargeBodySettings
from millpond.app.routing import Route
from millpond.app.worker_settings import MAX_BYTES_IN_FLIGHT
from millpond.claims.claim import ClaimStore
from millpond.engine.body_remover import BodyRemover
from millpond.engine.books import Books
from millpond.engine.bucket_bodies import BucketBodies
from millpond.engine.claiming import Claiming
from millpond.engine.consumer import Consumer
from millpond.engine.intake import Intake
from millpond.engine.large_body import NO_LARGE_BODIES
from millpond.engine.permits import Permits
from millpond.engine.poller import Pollers
from millpond.engine.processor import Processor
from millpond.hub.pool import Pool
from millpond.large_bodies.body_store import BodyStore
from millpond.observe import log
from millpond.observe.metrics import Metrics
from millpond.sqs.limits import MAX_BYTES
from millpond.sqs.queue import Received
from tests.fakes import FakeQueue
from tests.limited import Limited
from tests.virtual import VirtualClock


def queue_settings(fifo: bool = False, **keys: Any) -> QueueSettings:
    """[queues.q], with these keys; the URL tells whether it is a FIFO queue."""
    return QueueSettings(url=f"http://queue.test/000000000000/q{'.fifo' if fifo else ''}", **keys)


class Polling:
    """The pollers of one queue, and what they brought. Of the permits another queue has `taken`."""

    name = "q"

    def __init__(
        self,
        clock: Any,
        queue: FakeQueue | None = None,
        *,
        permits: int = 1_000,
        taken: int = 0,
        fifo: bool = False,
        **settings: Any,
    ) -> None:
        self.clock = clock
        self.queue = queue or FakeQueue(clock)
        self.delivered: list[Received] = []
        self.failures: list[tuple[Exception, int, bool]] = []
        self.may_any_begin, self.holds = True, False
        self.permits = Permits(permits, 1, clock)
        self.other = self.permits.share(0)
        self.other.take(taken)
        self.other.polled(taken, taken)
        share = self.permits.share(0)
        keys = queue_settings(fifo, **{"visibility_seconds": 30} | settings)
        self.intake = Intake(self, share, clock)
        self.pollers = Pollers(self.queue, keys, share, clock, gevent.spawn, self.intake, self)

    def accept(self, messages: list[Received], latest: float, earliest: float) -> None:
        self.delivered += messages
        for _ in messages if self.holds else ():
            self.intake.count_held()

    def taken(self) -> int:
        return len(self.delivered)

    def may_begin_beside(self, line: Any) -> bool:
        return self.may_any_begin

    def begun_beside(self, line: Any) -> int:
        return len(self.delivered)

    def narrow(self) -> None:
        """As where a line is full, and whatever comes is held."""
        self.intake.full(None, in_any_case=True)

    def receive_failed(self, error: Exception, in_a_row: int) -> None:
        self.failures.append((error, in_a_row, self.pollers.ever_received))

    def receives_work(self) -> None:
        pass


class Rig:
    """`ended` has (message id, outcome) of every delivery that is over; a greenlet that dies fails the test."""

    def __init__(
        self,
        clock: Any,
        handlers: dict[str, Callable[..., object]],
        *,
        concurrency: int = 10,
        prefetch: int = 0,
        timeout: float = 60.0,
        wait_seconds: int = 20,
        visibility_seconds: int = 30,
        dead_letters: bool = True,
        max_attempts: int = 3,
        pollers: int = 4,
        max_receive_count: int = 0,
        queue: FakeQueue | None = None,
        fifo: bool = False,
        threads: int = 4,
        hold_seconds: int = 43_200,
        finishes: bool = False,
        takes_message: bool = True,
        back_off: tuple[float, float] = (2, 900),
        metrics: Metrics | None = None,
        store: ClaimStore | None = None,
        thread: bool = False,
        max_bytes: int = MAX_BYTES_IN_FLIGHT,
        options: dict[str, dict[str, Any]] | None = None,
        envelope: EnvelopeKind = "auto",
        event_type: str = "",
        bodies: BodyStore | None = None,
        large_bodies: LargeBodySettings = LargeBodySettings(),  # noqa: B008  it is frozen
    ) -> None:
        self.clock = clock
        self.queue = queue or FakeQueue(clock)
        self.dead = FakeQueue(clock) if dead_letters else None
        self.queue.max_receive_count, self.queue.dead = max_receive_count, self.dead
        self.ended: list[tuple[str, Any]] = []
        self.crashes: list[BaseException] = []
        clock.on_error = self.crashes.append
        self.first_failures: list[Exception] = []
        routes = {
            name: Route(
                name,
                f"tests.{name}",
                msgspec.json.decode,
                function,
                timeout,
                on_lease_lost="finish" if finishes else "interrupt",
                takes_message=takes_message,
                idempotent=store is not None and name != "plain",
                thread=thread,
                **(options or {}).get(name, {}),
            )
            for name, function in handlers.items()
        }
        self.pool: Pool[Any] = Pool(concurrency, self._crashed)
        if isinstance(clock, VirtualClock):  # no greenlet runs for long there, and nobody would await a real timer
            self.pool._wake_later = self.pool._wake_soon  # type: ignore[method-assign]
        self.permits = Permits(concurrency + prefetch, 1, clock, max_bytes)
        claiming = Claiming(store, clock) if store is not None else None
        retry = RetrySettings(max_attempts, *back_off)
        large = BucketBodies(large_bodies, bodies, clock, clock) if bodies is not None else NO_LARGE_BODIES
        self.processor = Processor(routes, retry, clock, threads, claiming, large_bodies=large)
        self.remover = BodyRemover(bodies, clock, self.spawn) if bodies and large_bodies.delete_after_success else None
        metrics = metrics or Metrics()
        books = Books("q", routes, metrics, log.Allowance(0), clock)
        self.consumer = Consumer(
            "q",
            queue_settings(
                fifo,
                wait_seconds=wait_seconds,
                visibility_seconds=visibility_seconds,
                pollers=pollers,
                max_hold_seconds=hold_seconds,
                envelope=envelope,
                event_type=event_type,
            ),
            Limited(self.queue, clock),
            Limited(self.dead, clock) if self.dead else None,
            processor=self.processor,
            books=books,
            share=self.permits.share(0),
            pool=self.pool,
            max_waiting=max(20, concurrency),
            first_receive_failed=self.first_failures.append,
            clock=clock,
            spawn=self.spawn,
            on_settled=self.remover.settled if self.remover else None,
        )
        self.consumer.learn(max_receive_count, MAX_BYTES)
        self.books = books
        finish = books.finish

        def finished(deliveries: Any) -> None:
            self.ended += [(delivery.received.message_id, delivery.outcome) for delivery in deliveries]
            finish(deliveries)

        books.finish = finished  # type: ignore[method-assign]

    def spawn(self, function: Callable[..., object], *args: Any) -> gevent.Greenlet:
        greenlet = gevent.spawn(function, *args)
        greenlet.link_exception(self._crashed)
        return greenlet

    def _crashed(self, greenlet: gevent.Greenlet) -> None:
        self.crashes.append(greenlet.exception)

    def put(self, event_type: str, payload: Any = None, number: int = 1, **more: Any) -> list[str]:
        return self.queue.put(json.dumps({"event_type": event_type, "payload": payload}), number, **more)

    def reroute(self, event_type: str, **changes: Any) -> None:
        """Change the route of a type."""
        desk = self.processor._desks[event_type]
        route = msgspec.structs.replace(desk.route, **changes)
        self.processor._desks[event_type] = msgspec.structs.replace(desk, route=route)

    def letters(self) -> list[str]:
        """The reasons of the dead letters; "" where it has none, since SQS itself has moved it."""
        attributes = [one.entry.attributes for one in self.dead.messages.values()] if self.dead is not None else []
        return [json.loads(one["millpond"].value)["reason"] if "millpond" in one else "" for one in attributes]

    def outcomes(self) -> dict[str, str]:
        return {message_id: outcome.name for message_id, outcome in self.ended}
