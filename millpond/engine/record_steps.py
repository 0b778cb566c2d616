"""Record steps: a message of several records, one call of a handler for each, in their order; all are done, or none."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import thread_time
from typing import NamedTuple

import msgspec

from millpond.app.envelope import Envelope, Unwrapped
from millpond.engine.delivery import Delivery
from millpond.engine.delivery_state import SETTLING
from millpond.engine.desk import Desk
from millpond.engine.handler_call import only_decode
from millpond.engine.outcomes import FAILURES, LEASE_LOST, RELEASED, SUCCEEDED
from millpond.hub.pool import LET_OTHERS_SECONDS, TURN_SECONDS
from millpond.message import FollowUp, Outcome


class Step(NamedTuple):
    """One record, and the desk of its type."""

    record: Unwrapped
    desk: Desk


def handle_records(
    delivery: Delivery, whole: Envelope, steps: Sequence[Step], handle: Callable[[Delivery, Desk], Outcome]
) -> Outcome:
    """The outcome of a message whose records are handled one after another, each within its own time limit.

    No handler is called before all payloads fit. A record that is discarded is done; any other outcome than success
    ends the message: it is retried, or a dead letter, as a whole. So does a lease that was lost meanwhile: other
    workers may have begun with the message.
    """
    clock, started, turn_ends = delivery.clock, 0.0, thread_time() + TURN_SECONDS
    outcomes: list[Outcome] = []
    try:
        for number, step in enumerate([*map(_only_decoding, steps), *steps]):
            if thread_time() >= turn_ends:
                delivery.is_asking = True
                clock.sleep(LET_OTHERS_SECONDS)
                if not delivery.stop_asking():
                    return RELEASED
                turn_ends = thread_time() + TURN_SECONDS
            if delivery.state is SETTLING:  # its slot was written off meanwhile
                return RELEASED
            if delivery.lease.is_lost(clock.now()):
                return LEASE_LOST
            delivery.envelope, delivery.record_desk, delivery.left_behind = step.record, step.desk, None
            outcome = handle(delivery, step.desk)
            started = started or delivery.started
            if outcome.name not in ("succeeded", "discarded"):
                return _of_one(outcome, number % len(steps), steps, outcomes)
            outcomes.append(outcome)
    finally:
        delivery.envelope, delivery.record_desk, delivery.started = whole, None, started
    return _of_all(outcomes[len(steps) :])


def _only_decoding(step: Step) -> Step:
    """The same, with a handler that does nothing: its payload is decoded, under the handler's own limits."""
    route = msgspec.structs.replace(step.desk.route, call=only_decode, takes_message=False, around=None)
    return step._replace(desk=msgspec.structs.replace(step.desk, route=route))


def _of_one(outcome: Outcome, index: int, steps: Sequence[Step], before: Sequence[Outcome]) -> Outcome:
    """The outcome of the message where this is the one of a record."""
    if outcome.cause in FAILURES:
        desk, which = steps[index].desk, f"record {index + 1} of {len(steps)}"
        if desk is not steps[0].desk:  # a dead letter names the handler of the first
            which = f"{which} ({desk.route.where})"
        reason = f"{which}: {outcome.reason}" if outcome.reason else which
        outcome = msgspec.structs.replace(outcome, reason=reason)
    if outcome.cause == "rejected":
        outcome = msgspec.structs.replace(outcome, follow_ups=_follow_ups([*before, outcome]))
    if steps[index].desk is not steps[0].desk:  # the gate is the first one's: it learns nothing from another's server
        cause = "waiting" if outcome.cause in ("unavailable", "too_fast") else outcome.cause
        outcome = msgspec.structs.replace(outcome, cause=cause, other_side=False)
    return outcome


def _of_all(outcomes: Sequence[Outcome]) -> Outcome:
    follow_ups = _follow_ups(outcomes)
    if all(outcome.name == "discarded" for outcome in outcomes):
        return msgspec.structs.replace(outcomes[0], follow_ups=follow_ups)
    return Outcome("succeeded", follow_ups=follow_ups) if follow_ups else SUCCEEDED


def _follow_ups(outcomes: Sequence[Outcome]) -> tuple[FollowUp, ...]:
    return tuple(follow_up for outcome in outcomes for follow_up in outcome.follow_ups)
