"""Processor: one delivery -> one outcome. It never raises."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextvars import Context
from functools import partial

import msgspec

from millpond.app.config import RetrySettings
from millpond.app.envelope import Undecodable, early_seconds, unwrap
from millpond.app.retry_policy import policy_of
from millpond.app.routing import Route
from millpond.engine.claiming import Claiming
from millpond.engine.delivery import Delivery
from millpond.engine.handler_call import call_handler, call_in_thread
from millpond.engine.outcomes import CLAIMED_SUCCEEDED, RELEASED, SUCCEEDED, of_interrupt, of_raised, undecodable
from millpond.engine.raised import Raised, RaisedReader
from millpond.hub.backoff import in_upper_half, retry_seconds, whole_seconds
from millpond.hub.countdown import Countdown, Time
from millpond.hub.interruption import Interruption
from millpond.hub.threads import NoThread, NotStarted, Threads
from millpond.message import Outcome
from millpond.observe import log

#: Threads for handlers that ask for one.
THREADS = 4


class Processor:
    """Turns deliveries into outcomes.

    1. Opens the envelope, finds the handler, decodes the payload: what does not fit is a dead letter.
    2. Calls the handler in a context of its own, within its time limit (by `time`), in this greenlet or in a thread.
    3. Reads what came out, within the same time limit, since it is the user's: a return, a verdict, any exception.
    """

    def __init__(
        self,
        routes: Mapping[str, Route],
        retry: RetrySettings,
        time: Time,
        threads: int = THREADS,
        claiming: Claiming | None = None,
    ) -> None:
        self.claiming = claiming
        self._routes = routes
        mixed = any(not route.thread for route in routes.values())
        self.threads = Threads(threads, time, shared=mixed)
        limits = {
            seconds: Countdown(seconds, Delivery.exceed_limit, time)
            for seconds in {route.timeout_seconds for route in routes.values()}
        }
        self._limits = {name: limits[route.timeout_seconds] for name, route in routes.items()}
        self._retry = retry
        self._policies = {name: policy_of(route, retry) for name, route in routes.items()}
        self._reader = RaisedReader()

    def process(self, delivery: Delivery, default_type: str) -> Outcome:
        """Work on one delivery. The outcome says everything that is to be done about it.

        `default_type`: of a body that names none itself; "" where its queue has none.
        """
        received = delivery.received
        if received.flaw:
            return undecodable(received.flaw)
        try:
            envelope = unwrap(received.body, received.attributes, default_type, received.message_id)
        except Undecodable as error:
            return undecodable(str(error))
        delivery.envelope = envelope
        if envelope.not_before and (seconds := early_seconds(envelope, received, delivery.wall_time())):
            return Outcome("released", reason="its time has not come", delay_seconds=seconds)
        route = self._routes.get(envelope.event_type)
        if route is None:
            return undecodable(f"no handler for type {log.printable(envelope.event_type)!r}")
        if route.idempotent and self.claiming is not None:
            return self._handle_claimed(delivery, route, self.claiming)
        return self._handle(delivery, route)

    def _handle_claimed(self, delivery: Delivery, route: Route, claiming: Claiming) -> Outcome:
        """Call the handler if the event can be claimed; a success without more has to be written at the store, too."""
        refusal = claiming.begin(delivery)
        if refusal is not None:
            return refusal
        outcome = self._handle(delivery, route)
        return CLAIMED_SUCCEEDED if outcome is SUCCEEDED else outcome

    def _handle(self, delivery: Delivery, route: Route) -> Outcome:
        # Nothing between a handler's end and leave() may switch greenlets: an interrupt would land outside it.
        # What it raised or returned may: that is read before, and only as values of ours it goes past leave().
        raised: Raised | None = None
        limit = self._limits[route.event_type]
        slot = delivery.enter(route, None if route.thread else limit)
        outside = slot.gr_context
        slot.gr_context = Context()  # as Context.run does; its frame of C would be copied at each switch
        try:
            value = self._in_thread(delivery, route, limit) if route.thread else call_handler(route, delivery)
            if value is not None:
                raised = self._reader.read_value(route, value)
        except BaseException as error:  # sys.exit, KeyboardInterrupt, GreenletExit: all are this message's alone
            raised = self._reader.read(error)
        delivery.leave()
        slot.gr_context = outside
        if delivery.interruption is not None:
            return self._interrupted(delivery, route, delivery.interruption)
        if raised is not None:
            if raised.kind is NoThread or raised.kind is NotStarted:
                delivery.started = 0.0
            return of_raised(raised, delivery, self._policies[route.event_type])
        return Outcome("succeeded", follow_ups=delivery.follow_ups) if delivery.left_behind else SUCCEEDED

    def _in_thread(self, delivery: Delivery, route: Route, limit: Countdown[Delivery]) -> object:
        """The wait for a free one is not the handler's time."""
        call = partial(Context().run, call_in_thread, route, delivery)
        begun = self.threads.begin(call, route.where, delivery.is_last)
        delivery.start_limit(limit)
        return begun()

    def _interrupted(self, delivery: Delivery, route: Route, by: Interruption) -> Outcome:
        return of_interrupt(by.error, delivery, self._policies[route.event_type], route)

    def given_up(self, delivery: Delivery) -> Outcome:
        """The outcome of a delivery whose handler does not end, whatever is thrown into it."""
        route = self._route(delivery)
        if delivery.interruption is None or route is None:
            return RELEASED
        outcome = self._interrupted(delivery, route, delivery.interruption)
        now_at = f", now at {where}" if (where := delivery.stands_at()) else ""
        text = f"{outcome.reason}; the handler goes on in spite of interrupts{now_at}"
        return msgspec.structs.replace(outcome, reason=text)

    def where(self, delivery: Delivery) -> str:
        """The handler of a delivery, as a dead letter names it; "" where it has none."""
        route = self._route(delivery)
        return route.where if route is not None else ""

    def retry_seconds(self, delivery: Delivery, most: float = math.inf) -> int:
        """The back-off of a delivery, by its handler's policy; the longest where it has no handler."""
        route = self._route(delivery)
        if route is None:
            return whole_seconds(min(most, in_upper_half(self._retry.max_seconds)))
        policy = self._policies[route.event_type]
        used = delivery.attempts_now(policy.max_attempts).used
        return retry_seconds(used, policy.base_seconds, min(most, policy.max_seconds))

    def _route(self, delivery: Delivery) -> Route | None:
        return self._routes.get(delivery.envelope.event_type) if delivery.envelope is not None else None


def end_with_the_handler(end: Callable[[BaseException | None], object]) -> None:
    """In a child that a handler has forked: what came out of it is not read for an outcome, but ends the process."""
    setattr(RaisedReader, "read", lambda self, error: end(error))  # noqa: B010
    setattr(Delivery, "leave", lambda self: end(None))  # noqa: B010
