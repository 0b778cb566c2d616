"""One process: a consumer wired as the boot does it, with a pool and a drain; it can crash."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import gevent
import msgspec

from chaos.simulation.clock import ProcessClock, WorldClock
from chaos.simulation.history import History
from chaos.simulation.link import Link, Network
from chaos.simulation.plan import Plan, Script
from chaos.simulation.sqs import LARGE_BYTES, LetterBox, SimulatedQueue
from millpond.app.config import QueueSettings, RetrySettings
from millpond.app.handler_options import Breaker
from millpond.app.routing import Route
from millpond.engine.books import Books
from millpond.engine.claiming import Claiming
from millpond.engine.consumer import Consumer
from millpond.engine.delivery import Delivery
from millpond.engine.hold import Hold
from millpond.engine.in_hand import InHand
from millpond.engine.outcomes import VISIBLE_AGAIN
from millpond.engine.permits import Permits
from millpond.engine.processor import Processor
from millpond.errors import Discard, Interrupt, Reject, Retry, Stopped, Unavailable
from millpond.hub.pool import Pool
from millpond.message import Message, Outcome
from millpond.observe import log
from millpond.observe.metrics import Metrics
from millpond.process.drain import reserve_seconds
from millpond.sqs.queue import Received
from tests.limited import Limited

#: Back-offs stay below every visibility time-out that a plan can have.
LONGEST_BACK_OFF = 5
#: A stuck handler swallows every interrupt: no script does, so that "runs twice at once" can be told.
RETRY = (1, LONGEST_BACK_OFF)
#: Probes are waited for less long than some handlers run.
BREAKER = Breaker(probe_seconds=0.5, max_probe_seconds=4.0, probe_limit_seconds=3.0)
#: Four large messages at once, and a part of a fifth.
MAX_BYTES = 4 * LARGE_BYTES + 1


class RecordedConsumer(Consumer):
    """A consumer that writes down what it takes."""

    worker: Worker

    def accept(self, messages: list[Received], *more: Any) -> None:
        super().accept(messages, *more)
        self.worker.record_hold()

    def give_back(self, delivery: Delivery) -> None:
        received = delivery.received
        self.worker.record("got", received.message_id, received.receipt_handle, "refused")
        super().give_back(delivery)


class RecordedHand(InHand):
    """What is in hand, and writes down what it takes."""

    worker: Worker

    def _deliver(self, received: Received, *more: Any) -> Delivery:
        self._record(received, "new")
        return super()._deliver(received, *more)

    def _redelivered(self, delivery: Delivery, received: Received, *more: Any) -> None:
        self._record(received, "redelivered")
        super()._redelivered(delivery, received, *more)

    def _record(self, received: Received, how: str) -> None:
        self.worker.record("got", received.message_id, received.receipt_handle, how)


class RecordedHold(Hold):
    """What is held, and writes down what comes and goes."""

    worker: Worker

    def _park(self, delivery: Delivery, *more: Any) -> None:
        self.worker.record("held", delivery.received.message_id, delivery.received.receipt_handle)
        super()._park(delivery, *more)

    def take(self, delivery: Delivery) -> None:
        super().take(delivery)
        self.worker.record("freed", delivery.received.message_id, delivery.received.receipt_handle)


class Worker:
    """A process. `over`: it has ended, by a drain or a crash."""

    def __init__(
        self,
        name: str,
        plan: Plan,
        world: WorldClock,
        history: History,
        queue: SimulatedQueue,
        letters: LetterBox,
        network: Network,
    ) -> None:
        self.name = name
        self.plan = plan
        self.clock = ProcessClock(world)
        self.clock.on_error = lambda error: self.record("core_error", value=repr(error))
        self.history = history
        self.over = False
        self.draining = False
        self._network = network
        self._runs: Counter[str] = Counter()  # of each handle: what is held runs again
        self._greenlets: list[gevent.Greenlet] = []
        self.pool: Pool[Delivery] = Pool(plan.concurrency, self._crashed)
        self.permits = Permits(plan.permits, 1, self.clock, MAX_BYTES)
        self.share = self.permits.share(0)
        self.consumer = self._consumer(Link(name, queue, network, self.clock), Link(name, letters, network, self.clock))
        self._record_settling()

    # Wiring

    def _consumer(self, link: Link, letters: Link) -> RecordedConsumer:
        plan, clock = self.plan, self.clock
        routes = {"work": self._route()}
        self.books = Books("q", routes, Metrics(), log.Allowance(0), clock)
        consumer = RecordedConsumer(
            "q",
            self._settings(),
            Limited(link, clock),
            Limited(letters, clock),
            processor=Processor(routes, RetrySettings(plan.max_attempts, *RETRY), clock, claiming=self._claiming()),
            books=self.books,
            share=self.share,
            pool=self.pool,
            max_waiting=plan.limit,
            first_receive_failed=lambda error: None,
            clock=clock,
            spawn=self.spawn,
            unread_since=clock.unread_since,
        )
        consumer.hand.__class__ = RecordedHand
        consumer.hold.__class__ = RecordedHold
        consumer.worker = consumer.hand.worker = consumer.hold.worker = self  # type: ignore[attr-defined]
        return consumer

    def _route(self) -> Route:
        plan = self.plan
        return Route(
            "work",
            "simulated.work",
            msgspec.json.decode,
            self._handle,
            plan.timeout,
            concurrency=plan.at_once,
            breaker=BREAKER,
        )

    def _claiming(self) -> Claiming | None:
        """Where its handler is idempotent."""
        return None

    def _settings(self) -> QueueSettings:
        plan = self.plan
        url = "http://queue.test/000000000000/q" + ".fifo" * plan.fifo
        return QueueSettings(
            url,
            wait_seconds=plan.wait_seconds,
            visibility_seconds=plan.visibility,
            pollers=plan.pollers,
            max_hold_seconds=plan.max_hold,
        )

    def _record_settling(self) -> None:
        """Write down what settler and books are told."""
        settler, books = self.consumer._settler, self.books
        settle, finish, abandon = settler.settle, books.finish, books.abandon

        def record_settle(deliveries: Sequence[Delivery], outcome: Outcome) -> None:
            hidden = self.consumer._held_back.hidden_seconds() if outcome.name in VISIBLE_AGAIN else 0
            delay = max(outcome.delay_seconds, hidden)
            value = (outcome.name, delay, outcome.cause, len(outcome.follow_ups))
            for delivery in deliveries:
                self._record_delivery("settle", delivery, value)
            settle(deliveries, outcome)

        def record_finish(deliveries: Sequence[Delivery]) -> None:
            for delivery in deliveries:
                self._record_delivery("finished", delivery, delivery.outcome.name)
            finish(deliveries)

        def record_abandon(delivery: Delivery, error: str) -> None:
            self._record_delivery("abandoned", delivery, error)
            abandon(delivery, error)

        settler.settle = record_settle  # type: ignore[method-assign]
        books.finish = record_finish  # type: ignore[method-assign]
        books.abandon = record_abandon  # type: ignore[method-assign]

    def spawn(self, function: Callable[..., object], *args: Any) -> gevent.Greenlet | None:
        if self.clock.dead:
            return None
        greenlet = gevent.spawn(function, *args)
        greenlet.link_exception(self._crashed)
        self._greenlets.append(greenlet)
        return greenlet

    # History

    def record(self, what: str, message: str = "", handle: str = "", value: Any = None) -> None:
        """A dead process leaves no trace."""
        if not self.clock.dead:
            self.history.add(what, self.name, message, handle, value=value)

    def _record_delivery(self, what: str, delivery: Delivery, value: Any) -> None:
        self.record(what, delivery.received.message_id, delivery.received.receipt_handle, value)

    def record_hold(self) -> None:
        """What the books say now: permits, deliveries, and the sums of the books."""
        books, consumer = self.books, self.consumer
        ended = sum(books.outcomes.values()) + books.abandoned
        sums = (books.received, ended, consumer.in_hand)
        self.record("hold", value=(self.permits.free, self.share.held, self.share.polling, sums))
        self.record("bytes", value=self.permits.bytes.number)

    def _crashed(self, greenlet: gevent.Greenlet) -> None:
        self.record("core_error", value=repr(greenlet.exception))

    # Life

    def start(self) -> None:
        self.record("boot")
        self.consumer.pollers.start()

    def crash(self) -> None:
        """Power off: nothing of it goes on, and nothing that it has begun is finished."""
        if not self.over:
            self.record("crash")
            self.remove()

    def remove(self) -> None:
        """End everything that is left of it; it leaves no trace from here on."""
        self.over = self.clock.dead = True
        self.pool.take_ready()
        self.pool._closed = True
        slots = list(self.pool._slots)
        gevent.killall([one for one in self._greenlets + slots if not one.ready()], block=False)
        self._greenlets.clear()

    def drain(self) -> None:
        if not self.draining and not self.over:
            self.draining = True
            deadline = self.clock.now() + self.plan.drain_seconds
            self.record("drain", value=deadline)
            self.spawn(self._drain, deadline)

    def _drain(self, deadline: float) -> None:
        """As the service does it."""
        consumer, now = self.consumer, self.clock.now
        consumer.drain(deadline)
        for work, delivery in self.pool.take_ready():
            work(delivery)
        settled = self.clock.event()
        self.spawn(self._settle, settled)
        reserve = reserve_seconds(self.plan.drain_seconds)
        if not settled.wait(max(0.0, deadline - reserve - now())):
            consumer.interrupt(Stopped)
            consumer.give_back_held()
            left = max(0.0, min(deadline - now(), reserve))
            consumer.hand.idle.wait(left / 2)
            consumer.write_off_running()
            consumer.hand.idle.wait(max(0.0, left / 2 - 0.1))
        self.clock.sleep(0.0)  # permits come back in the hub's next turn
        self.record_hold()
        self.record("drained", value=consumer.in_hand)
        self.over = True

    def _settle(self, settled: Any) -> None:
        self.consumer.pollers.ended.wait()
        self.consumer.give_back_held()
        self.consumer.hand.idle.wait()
        settled.set()

    # Handlers

    def _handle(self, payload: Any, message: Message) -> None:
        """The one handler: does what the plan says, and writes down what befalls it."""
        handle = f"{message.id}#{message.attempt}"
        self._runs[handle] += 1
        script = self.plan.script(message.id, message.attempt, self._runs[handle])
        self.record("start", message.id, handle)
        result = "gone"
        try:
            result = self._perform(script, message, handle)
        finally:
            if not isinstance(error := sys.exception(), Interrupt | None):
                result = type(error).__name__
            self.record("end", message.id, handle, result)

    def _perform(self, script: Script, message: Message, handle: str) -> str:
        if script.blocks:
            self.record("still", value=script.blocks)
            self.clock.stand_still(script.blocks)
        until = self.clock.now() + script.seconds
        swallows = script.swallows
        while (left := until - self.clock.now()) > 0:
            try:
                self.clock.sleep(left)
            except BaseException as error:
                if self.clock.dead:
                    raise
                self.record("thrown", message.id, handle, type(error).__name__)
                if not swallows:
                    raise
                swallows -= 1
        self._conclude(script, message)
        return "done"

    def _conclude(self, script: Script, message: Message) -> None:
        is_job = "/" in message.event_id
        if self.plan.is_down(self.clock.now()):
            raise Unavailable("simulated outage")
        match script.result:
            case "fail":
                raise ValueError("simulated")
            case "retry":
                raise Retry("simulated", after=script.after)
            case "reject":
                raise Reject("simulated")
            case "discard":
                raise Discard("simulated")
            case "unavailable":
                raise Unavailable("simulated", after=script.after)
            case "follow" if not is_job:
                message.follow_up("more")
                message.follow_up("bad", reject="simulated" if script.after > 2 else None)
