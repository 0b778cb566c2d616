"""Processor: one delivery -> one outcome. It never raises."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from contextvars import Context
from functools import partial
from typing import Any, NamedTuple, cast

import msgspec

from millpond.app.envelope import Undecodable, early_seconds, unwrap
from millpond.app.payload_errors import payload_error
from millpond.app.routing import Around, Route
from millpond.engine.delivery import Delivery
from millpond.errors import (
    Discard,
    Interrupt,
    LeaseLost,
    MillpondError,
    Reject,
    Retry,
    Stopped,
    Unavailable,
)
from millpond.foreign.text import shown, type_name
from millpond.foreign.trace import describe, raised_at, traceback_of
from millpond.hub.backoff import retry_seconds, whole_seconds
from millpond.hub.countdown import Countdown, Time
from millpond.hub.threads import NoThread, NotStarted, Threads
from millpond.message import Cause, Message, Outcome
from millpond.observe import log
from millpond.sqs.limits import MAX_HOLD_SECONDS

SUCCEEDED = Outcome("succeeded")
LEASE_LOST = Outcome("lease_lost")
RELEASED = Outcome("released", reason="the worker shuts down")
#: The same, where its handler has not begun: it can wait until no poll of ours would fetch it again.
NOT_STARTED = Outcome("released", reason="the worker shuts down")
#: How long a type of message that cannot work now waits, where Unavailable does not say.
UNAVAILABLE_SECONDS = 60
#: For how long a message is put off that no thread was free for: the first time, and at the most.
PUT_OFF_SECONDS, MAX_PUT_OFF_SECONDS = 30.0, 900.0
VERDICTS = (Retry, Reject, Discard, Unavailable)
#: Threads for handlers that ask for one.
THREADS = 4
#: Tracebacks are logged the first time only; so many different ones are remembered.
MAX_SEEN = 1_000


class RetryPolicy(msgspec.Struct, frozen=True):
    """[retry], which a handler's own max_attempts and backoff override."""

    max_attempts: int = 5
    base_seconds: float = 2.0
    max_seconds: float = 900.0

    def for_route(self, route: Route) -> RetryPolicy:
        base, longest = route.backoff or (self.base_seconds, self.max_seconds)
        return RetryPolicy(route.max_attempts or self.max_attempts, base, longest)


class Said(NamedTuple):
    """What came out of a handler, in values of our own: nothing of the user's is asked again."""

    kind: type[MillpondError] | None = None  # a verdict, or a payload that does not fit; None: any other error
    reason: str = ""
    after: int | None = None
    error: str = ""
    trace: str = ""


#: What was raised can be read in no way at all, or an interrupt came while it was read.
UNREADABLE = Said(error="its error cannot be read")


class Processor:
    """Turns deliveries into outcomes.

    1. Opens the envelope, finds the handler, decodes the payload: what does not fit is a dead letter.
    2. Calls the handler in a context of its own, within its time limit (by `time`), in this greenlet or in a thread.
    3. Reads what came out, within the same time limit, since it is the user's: a return, a verdict, any exception.
    """

    def __init__(self, routes: Mapping[str, Route], retry: RetryPolicy, time: Time, threads: int = THREADS) -> None:
        self._routes = routes
        mixed = any(not route.thread for route in routes.values())
        self.threads = Threads(threads, time, shared=mixed)
        limits = {
            seconds: Countdown(seconds, Delivery.exceed_limit, time)
            for seconds in {route.timeout_seconds for route in routes.values()}
        }
        self._limits = {name: limits[route.timeout_seconds] for name, route in routes.items()}
        self._retry = retry
        self._policies = {name: retry.for_route(route) for name, route in routes.items()}
        self._seen_tracebacks: set[tuple[str | int, ...]] = set()
        self._seen_values: set[str] = set()

    def process(self, delivery: Delivery, default_type: str) -> Outcome:
        """Work on one delivery. The outcome says everything that is to be done about it.

        `default_type`: of a body that names none itself; "" where its queue has no such.
        """
        received = delivery.received
        if received.flaw:
            return _undecodable(received.flaw)
        try:
            envelope = unwrap(received.body, received.attributes, default_type, received.message_id)
        except Undecodable as error:
            return _undecodable(str(error))
        delivery.envelope = envelope
        if envelope.not_before and (seconds := early_seconds(envelope, received, delivery.wall_time())):
            return Outcome("released", reason="its time has not come", delay_seconds=seconds)
        route = self._routes.get(envelope.event_type)
        if route is None:
            return _undecodable(f"no handler for type {log.printable(envelope.event_type)!r}")
        return self._handle(delivery, route)

    def _handle(self, delivery: Delivery, route: Route) -> Outcome:
        # Nothing between a handler's end and leave() may switch greenlets: an interrupt would land outside it.
        # What it raised or returned may: that is read before, and only as values of ours it goes past leave().
        said: Said | None = None
        limit = self._limits[route.event_type]
        slot = delivery.enter(route.finishes, None if route.thread else limit)
        outside = slot.gr_context
        slot.gr_context = Context()  # as Context.run does; its frame of C would be copied at each switch
        try:
            value = self._in_thread(delivery, route, limit) if route.thread else _call(route, delivery)
            if value is not None:
                said = self._read_value(route, value)
        except BaseException as error:  # sys.exit, KeyboardInterrupt, GreenletExit: all are this message's alone
            said = self._hear(error)
        delivery.leave()
        slot.gr_context = outside
        if delivery.interruption is not None:
            return self._interrupted(delivery, delivery.interruption.error)
        if said is not None:
            return self._raised(delivery, said)
        return Outcome("succeeded", follow_ups=delivery.follow_ups) if delivery.jobs else SUCCEEDED

    def _in_thread(self, delivery: Delivery, route: Route, limit: Countdown[Delivery]) -> object:
        """The wait for a free one is not the handler's time."""
        call = partial(Context().run, _call, route, delivery)
        begun = self.threads.begin(call, route.where, delivery.is_last)
        delivery.start_limit(limit)
        return begun()

    def _read_value(self, route: Route, value: object) -> Said | None:
        """`return Retry(...)`: surely a raise was meant. Any other value is told of once, and ignored."""
        if issubclass(type(value), BaseException):
            return self._hear(cast("BaseException", value))
        if route.where not in self._seen_values:
            self._seen_values.add(route.where)
            name = type_name(value)
            article = "an" if name.startswith(tuple("aeiou")) else "a"
            text = f"{route.where} returned {article} {name}, which is ignored: a handler returns None"
            log.event(logging.WARNING, "handler.returned", f"{text}. False is not a failure here: raise.")
        return None

    def _hear(self, error: BaseException) -> Said:
        """What it says. Never raises: its type is asked by issubclass, since a `__class__` can raise, or lie."""
        try:
            return self._read(error, type(error))
        except BaseException:
            return UNREADABLE

    def _read(self, error: Any, kind: type) -> Said:
        if issubclass(kind, _PayloadError):
            return Said(_PayloadError, error.reason)
        if kind is NoThread or kind is NotStarted:
            return Said(kind, str(error))
        verdict = next((verdict for verdict in VERDICTS if issubclass(kind, verdict)), None)
        if verdict is not None:
            return Said(verdict, shown(_asked(error, "reason", "")), _seconds(_asked(error, "after", None)))
        return Said(None, "", None, describe(error), self._first_trace(error))

    def given_up(self, delivery: Delivery) -> Outcome:
        """The outcome of a delivery whose handler does not end, whatever is thrown into it."""
        if delivery.interruption is None:
            return RELEASED
        outcome = self._interrupted(delivery, delivery.interruption.error)
        return msgspec.structs.replace(outcome, reason=f"{outcome.reason}; the handler goes on in spite of interrupts")

    def where(self, delivery: Delivery) -> str:
        """The handler of a delivery, as a dead letter names it; "" where it has none."""
        route = self._routes.get(delivery.envelope.event_type) if delivery.envelope is not None else None
        return route.where if route is not None else ""

    def _raised(self, delivery: Delivery, said: Said) -> Outcome:
        if said.kind is _PayloadError:
            return _undecodable(said.reason)
        if said.kind is Retry:
            return self.failed(delivery, "failed", said.reason, after=said.after)
        if said.kind is Reject:
            return Outcome("dead_lettered", "rejected", said.reason, follow_ups=delivery.follow_ups)
        if said.kind is Discard:
            return Outcome("discarded", "", said.reason, follow_ups=delivery.follow_ups)
        if said.kind is Unavailable:
            seconds = UNAVAILABLE_SECONDS if said.after is None else max(1, said.after)  # 0 would be a hot loop
            return Outcome("retried", "unavailable", said.reason, delay_seconds=seconds)
        if said.kind is NoThread or said.kind is NotStarted:
            return self._not_begun(delivery, said)
        return self.failed(delivery, "failed", "", said.error, trace=said.trace)

    def _not_begun(self, delivery: Delivery, said: Said) -> Outcome:
        delivery.started = 0.0
        if said.kind is NotStarted:
            return NOT_STARTED
        seconds = retry_seconds(delivery.received.receive_count, PUT_OFF_SECONDS, MAX_PUT_OFF_SECONDS)
        return Outcome("retried", "no_thread", said.reason, delay_seconds=max(round(PUT_OFF_SECONDS / 2), seconds))

    def _interrupted(self, delivery: Delivery, interrupt: Interrupt) -> Outcome:
        match interrupt:
            case Stopped():
                return RELEASED
            case LeaseLost():
                return LEASE_LOST
        route = self._routes.get(delivery.envelope.event_type) if delivery.envelope is not None else None
        runs_on = "; its thread runs on" if route is not None and route.thread else ""
        return self.failed(delivery, "timed_out", f"the handler ran past its time limit{runs_on}")

    def failed(
        self,
        delivery: Delivery,
        cause: Cause,
        reason: str,
        error: str = "",
        after: int | None = None,
        trace: str = "",
    ) -> Outcome:
        """A failure: retried, or a dead letter where its attempts are used up.

        SQS counts receives. Those known to be no failures (it was put off, it went back behind another of its group,
        a server behind it was down) are no attempts.
        """
        if delivery.received.receive_count - delivery.spared_receives >= self._policy(delivery).max_attempts:
            reason = _used_up(delivery, reason)
            return Outcome("dead_lettered", cause, reason, error, traceback=trace)
        seconds = self.retry_seconds(delivery) if after is None else after
        return Outcome("retried", cause, reason, error, seconds, traceback=trace)

    def retry_seconds(self, delivery: Delivery) -> int:
        """The back-off of a delivery, by its handler's policy; the longest where it has no handler."""
        policy = self._policy(delivery)
        if not self.where(delivery):
            return whole_seconds(policy.max_seconds)
        return retry_seconds(delivery.received.receive_count, policy.base_seconds, policy.max_seconds)

    def _policy(self, delivery: Delivery) -> RetryPolicy:
        event_type = delivery.envelope.event_type if delivery.envelope is not None else ""
        return self._policies.get(event_type, self._retry)

    def _first_trace(self, error: BaseException) -> str:
        place = raised_at(error)
        where = (type_name(error), *place) if place[0] else ()
        if where in self._seen_tracebacks or len(self._seen_tracebacks) >= MAX_SEEN:
            return ""
        self._seen_tracebacks.add(where)
        return traceback_of(error)


class _PayloadError(MillpondError):
    """A payload that does not become what its handler takes."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def _call(route: Route, delivery: Delivery) -> object:
    log.delivery.set(delivery)
    envelope: Any = delivery.envelope
    try:
        payload = route.decode(envelope.payload)
    except Interrupt:
        raise
    except BaseException as error:  # the user's own types decode themselves: anything can come out
        raise _PayloadError(payload_error(error, envelope.payload, envelope.path)) from None
    if route.around is not None:
        return _call_around(route.around, route, payload, delivery.message())
    return route.call(payload, delivery.message()) if route.takes_message else route.call(payload)


#: The function below which every handler runs: the watchdog looks for it in a stack.
HANDLER_CODE = _call.__code__


def end_with_the_handler(end: Callable[[BaseException | None], object]) -> None:
    """In a child that a handler has forked: what came out of it is not read for an outcome, but ends the process."""
    setattr(Processor, "_hear", lambda self, error: end(error))  # noqa: B010
    setattr(Delivery, "leave", lambda self: end(None))  # noqa: B010


def _call_around(around: Around, route: Route, payload: Any, message: Message) -> object:
    """The context manager sees what the handler raises, and cannot change it."""
    raised: BaseException | None = None
    value: object = None
    over = False
    try:
        with around(message):
            try:
                value = route.call(payload, message) if route.takes_message else route.call(payload)
            except BaseException as error:
                raised = error
                raise
            finally:
                over = True
    except BaseException as error:
        if not over:
            raise
        if error is not raised:
            log.event(logging.WARNING, "around.failed", f"{route.where}: @around raised {describe(error)}")
    if raised is not None:
        try:
            raise raised
        finally:
            raised = None  # its traceback has this frame: the message would stay for the garbage collector
    return value


def _used_up(delivery: Delivery, reason: str) -> str:
    received, spared = delivery.received, delivery.spared_receives
    if not spared and not received.group_id:
        return f"{reason or 'every attempt failed'} (attempt {received.receive_count})"
    # Other workers may have given it back too: nobody knows how often it ran there.
    count = f"received {received.receive_count} times, run {received.receive_count - spared} times at most"
    return f"{reason or 'its last attempt failed'} ({count})"


def _undecodable(reason: str) -> Outcome:
    return Outcome("dead_lettered", "undecodable", reason)


def _asked(verdict: object, name: str, otherwise: object) -> object:
    """An attribute of a verdict; `otherwise` where there is none, or where a property of a user's own raises."""
    try:
        return getattr(verdict, name, otherwise)
    except Interrupt:
        raise
    except BaseException:
        return otherwise


def _seconds(after: Any) -> int | None:
    """The whole seconds that a verdict asks for; None where it names none, or no number of seconds."""
    if issubclass(type(after), int):
        after = int.__int__(after)  # as a number of Python's own: the methods of an Enum's or a user's may do anything
    elif not issubclass(type(after), float) or not math.isfinite(after := float.__float__(after)):
        return None
    return whole_seconds(min(MAX_HOLD_SECONDS, after))
