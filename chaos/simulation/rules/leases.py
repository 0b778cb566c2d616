"""A lease is kept until SQS has confirmed what ends it."""

from __future__ import annotations

import math

from chaos.simulation.lives import Life, SentEntry, Tale
from chaos.simulation.rules.rule import EPSILON, HOLD_SECONDS, PAUSE_SECONDS, SLACK_SECONDS, Findings, rule
from millpond.engine.settler import GIVE_UP_SECONDS
from millpond.sqs.codes import LEASE_LOST_CODES


@rule
def lease_is_kept(tale: Tale) -> Findings:
    """Until a message is over, no long time passes without a change that keeps or returns it; its delete aside."""
    longest = tale.plan.visibility / 3 + PAUSE_SECONDS + SLACK_SECONDS
    for life in tale.lives:
        end = min(life.over, life.lost_at, tale.gone_at(life.worker), tale.events[-1].at, life.got + HOLD_SECONDS)
        since = max(life.got, life.renewed)  # before it came again, its lease may have been lost
        reached = _held_until(tale, life, since)
        for sent, ended, until_then in [
            *sorted(_reach(ask, tale.plan.visibility) for ask in life.changes()),
            (end, end, end),
        ]:
            until = min(sent, end)
            if until - since > longest + tale.still(life.worker, since, until) + _deleting(life, since, until):
                yield since, life.message, f"nothing keeps {life.key} for more than {longest:.1f} s"
                break
            since = max(since, ended)
            if until_then >= reached:
                break  # no further beat would make it longer


def _reach(ask: SentEntry, visibility: int) -> tuple[float, float, float]:
    """When it was sent and answered, and until when it keeps the message. A clamped one reaches the end of the hold,
    which counts from before a slow answer to the receive."""
    slow = 8.0 if (ask.seconds or 0) < visibility else 0.0
    return ask.sent, ask.ended, ask.sent + (ask.seconds or 0) + slow if ask.done else 0.0


def _held_until(tale: Tale, life: Life, since: float) -> float:
    """When it is kept no longer, at the least: counted from its receive, in whole seconds."""
    unread = tale.still(life.worker, since - 60.0, since)
    return since - unread + min(HOLD_SECONDS, tale.plan.max_hold) - 2.0


def _deleting(life: Life, since: float, until: float) -> float:
    """Seconds of these in which its own delete was on its way: no beat may go then."""
    deletes = [(max(since, ask.sent), min(until, ask.ended)) for ask in life.asks if ask.name == "delete"]
    return sum(max(0.0, end - begin) for begin, end in deletes)


@rule
def finished_is_confirmed(tale: Tale) -> Findings:
    """A delivery is over once SQS has confirmed its delete, or its change; lost only where the lease was."""
    for life in tale.lives:
        if life.over == math.inf or not life.settled:
            continue
        asks = [ask for ask in life.asks if ask.ended <= life.over]
        if life.how == "lease_lost":
            confirmed = life.over >= life.lost_at - EPSILON or any(ask.failure in LEASE_LOST_CODES for ask in asks)
        elif life.how in ("retried", "released"):
            confirmed = any(
                ask.name == "change_visibility" and ask.done and ask.sent >= life.settled[-1].at for ask in asks
            )
        else:
            confirmed = any(ask.name == "delete" and ask.done for ask in asks) or _was_given_up(life)
        if not confirmed:
            yield life.over, life.message, f"{life.key} ends as {life.how!r}, which nothing has confirmed"


def _was_given_up(life: Life) -> bool:
    """Abandoned, after all the time that a delete, a copy or a back-off is tried for."""
    settled = life.settled[-1]
    if life.how in ("succeeded", "discarded", "dead_lettered"):
        return False
    given_back = settled.name in ("retried", "released")
    return life.over >= (life.lost_at if given_back else settled.at + GIVE_UP_SECONDS) - EPSILON
