"""Outcomes: what came out of a handler -> what is to be done with its message. Nothing here has a state."""

from __future__ import annotations

import msgspec

from millpond.app.config import RetrySettings
from millpond.app.envelope import S3_TEST_EVENT, Envelope, Unwrapped
from millpond.app.routing import Route
from millpond.engine.attempts import Attempts
from millpond.engine.delivery import Delivery
from millpond.engine.handler_call import PayloadError
from millpond.engine.own_claim import ClaimLapsed, ClaimLost
from millpond.engine.raised import Raised
from millpond.errors import (
    UNAVAILABLE_SECONDS,
    Discard,
    Interrupt,
    LeaseLost,
    MillpondError,
    Reject,
    Retry,
    Stopped,
    TooFast,
    Unavailable,
    Wait,
)
from millpond.hub.backoff import put_off_seconds, retry_seconds, whole_seconds
from millpond.hub.threads import NoThread
from millpond.message import Cause, Outcome
from millpond.observe import log

#: Causes that use up an attempt.
FAILURES = frozenset({"failed", "timed_out", "rejected", "undecodable"})
#: Verdicts after which a message waits, which is no failure, and their causes.
WAITS: dict[type[MillpondError], Cause] = {Unavailable: "unavailable", TooFast: "too_fast", Wait: "waiting"}
#: Outcomes after which a message is gone from its queue.
DONE = frozenset({"succeeded", "discarded", "dead_lettered"})
#: Outcomes after which it is visible again.
VISIBLE_AGAIN = frozenset({"retried", "released"})

SUCCEEDED = Outcome("succeeded")
#: The same, where a claim is to be completed before the message is deleted: no other object is SUCCEEDED.
CLAIMED_SUCCEEDED = Outcome("succeeded")
LEASE_LOST = Outcome("lease_lost")
#: The same, of a message that was held: no other object is LEASE_LOST.
LOST_ON_HOLD = Outcome("lease_lost")
RELEASED = Outcome("released", reason="the worker shuts down")
#: The same, where its handler has not begun: it can wait until no poll of ours would fetch it again.
NOT_STARTED = Outcome("released", reason="the worker shuts down")


def undecodable(reason: str) -> Outcome:
    """The outcome of a message that no handler can be called with."""
    return Outcome("dead_lettered", "undecodable", reason)


def without_handler(envelope: Envelope) -> Outcome:
    """The outcome of a message whose type has no handler."""
    if envelope.event_type == S3_TEST_EVENT and isinstance(envelope, Unwrapped):
        return Outcome("discarded", "test_event", "S3 tests whether it can reach this queue")
    return undecodable(f"no handler for type {log.printable(envelope.event_type)!r}")


def unavailable(reason: str) -> Outcome:
    """The outcome of a message that waits for the store of claims, or for its body in S3."""
    return Outcome("retried", "unavailable", reason, delay_seconds=UNAVAILABLE_SECONDS, other_side=True)


def of_raised(raised: Raised, delivery: Delivery, policy: RetrySettings) -> Outcome:
    """The outcome of a delivery whose handler raised."""
    kind, reason = raised.kind, raised.reason
    if kind is None:
        return _failed(
            delivery, policy, "failed", "", raised.error, traceback=raised.traceback, other_side=raised.other_side
        )
    if kind is Retry:
        return _failed(delivery, policy, "failed", reason, after=raised.after, other_side=raised.other_side)
    if kind is Reject:
        return Outcome("dead_lettered", "rejected", reason, follow_ups=delivery.follow_ups)
    if kind is Discard:
        return Outcome("discarded", "", reason, follow_ups=delivery.follow_ups)
    if kind in WAITS:
        return _waits(raised, WAITS[kind], delivery)
    if kind is PayloadError:
        return undecodable(reason)
    if kind is NoThread:
        seconds = put_off_seconds(delivery.received.receive_count)
        return Outcome("retried", "no_thread", reason, delay_seconds=seconds)
    return NOT_STARTED


def joined(reason: str, count: str) -> str:
    """A reason, with what the counts say; a reason without a text is its counts."""
    return f"{reason} ({count})" if reason else count


def attempts_of(delivery: Delivery, outcome: Outcome) -> Attempts | None:
    """The attempts of a delivery that ended as a failure; None where it did not, though its handler has failed: what
    fails while the other side is down is no failure."""
    return delivery.attempts if outcome.cause in FAILURES else None


def of_interrupt(interrupt: Interrupt, delivery: Delivery, policy: RetrySettings, route: Route) -> Outcome:
    """The outcome of a delivery whose handler was interrupted, whatever it raised or returned after it."""
    match interrupt:
        case Stopped():
            return _cut_short(RELEASED, delivery)
        case ClaimLapsed() if not route.thread:  # its thread runs on: held, it would begin beside itself
            return unavailable(str(interrupt))
        case ClaimLapsed() | ClaimLost():
            return _cut_short(Outcome("lease_lost", "claim_lost", str(interrupt)), delivery)
        case LeaseLost():
            return _cut_short(LEASE_LOST, delivery)
    stood = f"; it stood at {delivery.stood_at}" if delivery.stood_at else ""
    runs_on = "; its thread runs on" if route.thread else ""
    limit = delivery.limit_seconds or route.timeout_seconds
    left = ", all that the function has left" if limit < route.timeout_seconds else ""
    reason = f"the handler ran past its time limit of {round(limit, 1):g} s{left}{stood}{runs_on}"
    return _failed(delivery, policy, "timed_out", reason, other_side=True)


def _cut_short(outcome: Outcome, delivery: Delivery) -> Outcome:
    """The outcome, with the place at which the handler stood."""
    if not delivery.stood_at:
        return outcome
    stood = f"its handler was interrupted at {delivery.stood_at}"
    return msgspec.structs.replace(outcome, reason=f"{outcome.reason}; {stood}" if outcome.reason else stood)


def _waits(raised: Raised, cause: Cause, delivery: Delivery) -> Outcome:
    """No failure: its message waits, in hand where there is room for it, or else in its queue."""
    if raised.after is not None:
        seconds = max(1, whole_seconds(raised.after))  # 0 would be a hot loop
    elif cause == "unavailable":
        seconds = UNAVAILABLE_SECONDS
    else:
        seconds = put_off_seconds(delivery.received.receive_count)
    return Outcome(
        "retried", cause, raised.reason, delay_seconds=seconds, other_side=raised.other_side, asked_seconds=raised.after
    )


def refused_too_often(delivery: Delivery, policy: RetrySettings, outcome: Outcome) -> Outcome:
    """A failure: the other side goes on to ask for fewer for this message alone."""
    reason = joined(outcome.reason, "refused again and again, while others of its type get through")
    return _failed(delivery, policy, "failed", reason)


def _failed(
    delivery: Delivery,
    policy: RetrySettings,
    cause: Cause,
    reason: str,
    error: str = "",
    after: float | None = None,
    traceback: str = "",
    other_side: bool = False,
) -> Outcome:
    """A failure: retried, or a dead letter where its attempts are used up.

    SQS counts receives. Those known to be no failures (it was put off, it went back behind another of its group,
    a server behind it was down) are no attempts.
    """
    delivery.attempts = attempts = delivery.attempts_now(policy.max_attempts)
    used = attempts.used
    if used >= policy.max_attempts:
        reason = joined(reason, f"{attempts}; max_attempts = {policy.max_attempts}")
        return Outcome("dead_lettered", cause, reason, error, traceback=traceback, other_side=other_side)
    seconds = retry_seconds(used, policy.base_seconds, policy.max_seconds) if after is None else whole_seconds(after)
    return Outcome("retried", cause, reason, error, seconds, traceback=traceback, other_side=other_side)
