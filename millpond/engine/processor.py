"""Processor: one delivery -> one outcome. It never raises."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextvars import Context
from functools import partial

import msgspec

from millpond.app.config import RetrySettings
from millpond.app.envelope import Envelope, Pointer, Undecodable, early_seconds
from millpond.app.opener import Opener
from millpond.app.retry_policy import policy_of
from millpond.app.routing import Route, name_of_route
from millpond.engine.claiming import Claiming
from millpond.engine.delivery import Delivery
from millpond.engine.desk import Desk
from millpond.engine.gate import Gate
from millpond.engine.handler_call import call_in_thread
from millpond.engine.large_body import NO_LARGE_BODIES, LargeBodies
from millpond.engine.outcomes import (
    CLAIMED_SUCCEEDED,
    RELEASED,
    SUCCEEDED,
    of_interrupt,
    of_raised,
    undecodable,
    without_handler,
)
from millpond.engine.raised import Raised, RaisedReader
from millpond.engine.record_steps import Step, handle_records
from millpond.engine.traced_call import handler_call, logged_call
from millpond.hub.backoff import in_upper_half, retry_seconds, whole_seconds
from millpond.hub.countdown import Countdown, Time
from millpond.hub.interruption import Interruption
from millpond.hub.threads import NoThread, NotStarted, Threads
from millpond.message import Outcome
from millpond.observe import log

#: Threads for handlers that ask for one.
THREADS = 4
#: Of a queue that says nothing of its bodies.
OPENER = Opener()


class Processor:
    """Turns deliveries into outcomes.

    1. Opens the envelope, finds the handler, decodes the payload: what does not fit is a dead letter.
    2. Calls the handler in a context of its own, within its time limit (by `time`), in this greenlet or in a thread.
    3. Reads what came out, within the same time limit, since it is the user's: a return, a verdict, any exception.

    `clock`: of the gates, where that is another than `time`: the one of the deliveries.
    """

    def __init__(
        self,
        routes: Mapping[str, Route],
        retry: RetrySettings,
        time: Time,
        threads: int = THREADS,
        claiming: Claiming | None = None,
        clock: Time | None = None,
        large_bodies: LargeBodies = NO_LARGE_BODIES,
    ) -> None:
        self.claiming = claiming
        self._large_bodies = large_bodies
        self.follows_pointers = large_bodies is not NO_LARGE_BODIES
        mixed = any(not route.thread for route in routes.values())
        self.threads = Threads(threads, time, shared=mixed)
        limits = {
            seconds: Countdown(seconds, Delivery.exceed_limit, time)
            for seconds in {route.timeout_seconds for route in routes.values()}
        }
        self._retry = retry
        self._time = time
        self._desks = {
            name: Desk(
                route,
                limits[route.timeout_seconds],
                policy_of(route, retry),
                Gate(route, clock or time),
                claiming if route.idempotent else None,
            )
            for name, route in routes.items()
        }
        self.gates = [desk.gate for desk in self._desks.values()]
        self._reader = RaisedReader()
        self._plain_call = handler_call()
        self.log_starts(log.is_debug)

    def log_starts(self, wanted: bool) -> None:
        """Whether each message that begins has a debug line. Where it has none, none costs anything."""
        self._call = logged_call(self._plain_call) if wanted else self._plain_call

    @property
    def desks(self) -> list[Desk]:
        """Of all types."""
        return list(self._desks.values())

    def begin_invocation(self, most_seconds: float) -> None:
        """An invocation of a Lambda function begins: none of its handlers has longer than this."""
        self.threads.resume()
        limits: dict[float, Countdown[Delivery]] = {}
        for name, desk in self._desks.items():
            seconds = min(desk.route.timeout_seconds, most_seconds)
            limit = limits.setdefault(seconds, Countdown(seconds, Delivery.exceed_limit, self._time))
            self._desks[name] = msgspec.structs.replace(desk, limit=limit)

    def process(self, delivery: Delivery, opener: Opener = OPENER) -> Outcome:
        """Work on one delivery. The outcome says everything that is to be done about it.

        `opener`: of the bodies of its queue.
        """
        envelope = delivery.envelope
        if envelope is None:  # else it was held
            received = delivery.received
            if received.flaw:
                return undecodable(received.flaw)
            try:
                envelope = opener.open(received)
            except Undecodable as error:
                return undecodable(str(error))
            delivery.envelope = envelope
            if envelope.not_before and (seconds := early_seconds(envelope, received, delivery.clock.time())):
                return Outcome("released", reason="its time has not come", delay_seconds=seconds)
        if envelope.records:
            return self._process_records(delivery, envelope)
        desk = self._desks.get(envelope.event_type)
        if desk is None:
            if isinstance(envelope, Pointer):
                return self._follow(delivery, envelope)
            desk = self._desk_of(envelope.event_type)
            if desk is None:
                return without_handler(envelope)
        delivery.desk = desk
        if desk.gate.watches and (outcome := desk.gate.admit(delivery)) is not None:
            return outcome
        if desk.claiming is not None:
            return self._handle_claimed(delivery, desk, desk.claiming)
        return self._handle(delivery, desk)

    def _follow(self, delivery: Delivery, pointer: Pointer) -> Outcome:
        """Fetch the body that stands in S3, and go on with what is in it."""
        fetched = self._large_bodies.fetch(delivery, pointer)
        if isinstance(fetched, Outcome):
            return fetched
        try:
            delivery.envelope = pointer.opened(fetched)
        except Undecodable as error:
            return undecodable(str(error))
        return self.process(delivery)

    def _process_records(self, delivery: Delivery, whole: Envelope) -> Outcome:
        """Work on a message of several records: it stands at the gate of the first one's type, and has one claim."""
        desks = [self._desk_of(record.event_type) for record in whole.records]
        missing = [record for record, desk in zip(whole.records, desks, strict=True) if desk is None]
        if missing:
            return without_handler(missing[0])
        steps = [Step(record, desk) for record, desk in zip(whole.records, desks, strict=True) if desk is not None]
        delivery.desk = first = steps[0].desk
        if first.gate.watches and (outcome := first.gate.admit(delivery)) is not None:
            return outcome
        claiming = next((step.desk.claiming for step in steps if step.desk.claiming is not None), None)
        if claiming is not None and (refusal := claiming.begin(delivery)) is not None:
            return refusal
        outcome = handle_records(delivery, whole, steps, self._handle)
        return CLAIMED_SUCCEEDED if claiming is not None and outcome is SUCCEEDED else outcome

    def _handle_claimed(self, delivery: Delivery, desk: Desk, claiming: Claiming) -> Outcome:
        """Call the handler if the event can be claimed; a success without more has to be written at the store, too."""
        refusal = claiming.begin(delivery)
        if refusal is not None:
            return refusal
        outcome = self._handle(delivery, desk)
        return CLAIMED_SUCCEEDED if outcome is SUCCEEDED else outcome

    def _handle(self, delivery: Delivery, desk: Desk) -> Outcome:
        # Nothing between a handler's end and leave() may switch greenlets: an interrupt would land outside it.
        # What it raised or returned may: that is read before, and only as values of ours it goes past leave().
        raised: Raised | None = None
        route = desk.route
        slot = delivery.enter(None if route.thread else desk.limit)
        outside = slot.gr_context
        slot.gr_context = Context()  # as Context.run does; its frame of C would be copied at each switch
        try:
            value = self._in_thread(delivery, desk) if route.thread else self._call(route, delivery)
            if value is not None:
                raised = self._reader.read_value(route, value)
        except BaseException as error:  # sys.exit, KeyboardInterrupt, GreenletExit: all are this message's alone
            raised = self._reader.read(error)
        delivery.leave()
        slot.gr_context = outside
        if delivery.interruption is not None:
            return self._interrupted(delivery, desk, delivery.interruption)
        if raised is not None:
            if raised.kind is NoThread or raised.kind is NotStarted:
                delivery.started = 0.0
            return of_raised(raised, delivery, desk.policy)
        return Outcome("succeeded", follow_ups=delivery.follow_ups) if delivery.left_behind else SUCCEEDED

    def _in_thread(self, delivery: Delivery, desk: Desk) -> object:
        """The wait for a free one is not the handler's time."""
        call = partial(Context().run, call_in_thread, self._call, desk.route, delivery)
        begun = self.threads.begin(call, desk.route.where, delivery.is_last)
        delivery.start_limit(desk.limit)
        return begun()

    def _interrupted(self, delivery: Delivery, desk: Desk, by: Interruption) -> Outcome:
        return of_interrupt(by.error, delivery, desk.policy, desk.route)

    def given_up(self, delivery: Delivery) -> Outcome:
        """The outcome of a delivery whose handler does not end, whatever is thrown into it."""
        if delivery.interruption is None or delivery.desk is None:
            return RELEASED
        outcome = self._interrupted(delivery, delivery.desk, delivery.interruption)
        if outcome.cause == "unavailable":  # its claim has lapsed: held, it would begin beside itself
            outcome = Outcome("lease_lost", "claim_lost", outcome.reason)
        now_at = f", now at {where}" if (where := delivery.stands_at()) else ""
        text = f"{outcome.reason}; the handler goes on in spite of interrupts{now_at}"
        return msgspec.structs.replace(outcome, reason=text, other_side=False)  # it must not run beside itself

    def where(self, delivery: Delivery) -> str:
        """The handler of a delivery, as a dead letter names it; "" where it has none."""
        desk = self._desk(delivery)
        return desk.route.where if desk is not None else ""

    def retry_seconds(self, delivery: Delivery, most: float = math.inf) -> int:
        """The back-off of a delivery, by its handler's policy; the longest where it has no handler."""
        desk = self._desk(delivery)
        if desk is None:
            return whole_seconds(min(most, in_upper_half(self._retry.max_seconds)))
        policy = desk.policy
        used = delivery.attempts_now(policy.max_attempts).used
        return retry_seconds(used, policy.base_seconds, min(most, policy.max_seconds))

    def _desk(self, delivery: Delivery) -> Desk | None:
        return self._desk_of(delivery.envelope.event_type) if delivery.envelope is not None else None

    def _desk_of(self, event_type: str) -> Desk | None:
        """The desk of a type, or of the longest prefix of it that has a handler."""
        name = name_of_route(event_type, self._desks)
        return self._desks[name] if name is not None else None


def end_with_the_handler(end: Callable[[BaseException | None], object]) -> None:
    """In a child that a handler has forked: what came out of it is not read for an outcome, but ends the process."""
    setattr(RaisedReader, "read", lambda self, error: end(error))  # noqa: B010
    setattr(Delivery, "leave", lambda self: end(None))  # noqa: B010
