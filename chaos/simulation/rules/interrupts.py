"""What is thrown into a handler, and what becomes of a handler that has ended."""

from __future__ import annotations

import math

from chaos.simulation.lives import Life, Tale
from chaos.simulation.rules.rule import EPSILON, SLACK_SECONDS, Findings, rule


@rule
def interrupts_have_a_cause(tale: Tale) -> Findings:
    """What is thrown into a handler is meant for its delivery."""
    for life in tale.lives:
        for at, kind in life.thrown[:1]:
            if not _has_cause(tale, life, at, kind):
                yield at, life.message, f"{kind} thrown into {life.key} for no reason"


def _has_cause(tale: Tale, life: Life, at: float, kind: str) -> bool:
    match kind:
        case "TimeLimitExceeded":
            return at >= life.start + tale.plan.timeout - EPSILON
        case "LeaseLost":
            return at >= life.lost_at - EPSILON
        case "Stopped":
            return tale.drains_at(life.worker, at)
    return False


@rule
def interrupted_is_not_done(tale: Tale) -> Findings:
    """An interrupted delivery is never acknowledged as done."""
    for life in tale.lives:
        for settled in life.settled if life.thrown else ():
            if settled.name in ("succeeded", "discarded"):
                yield settled.at, life.message, f"{life.key} was interrupted and {settled.name}"


@rule
def what_a_drain_stops_goes_back(tale: Tale) -> Findings:
    """A handler that a drain interrupts has not failed: its message is given back."""
    for life in tale.lives:
        if not life.thrown or life.thrown[0][1] != "Stopped":
            continue
        settled = next((one for one in life.settled if one.at >= life.thrown[0][0]), None)
        if settled is not None and settled.name not in ("released", "lease_lost"):
            yield settled.at, life.message, f"{life.key} was stopped by the drain and {settled.name}"


@rule
def limits_interrupt(tale: Tale) -> Findings:
    """A handler does not run on past its time limit, or without its lease, unless something was thrown into it."""
    for life in tale.lives:
        if life.start == math.inf:
            continue
        end = min(life.end, tale.gone_at(life.worker), tale.events[-1].at)
        for limit, why in (
            (life.start + tale.plan.timeout, "its time limit"),
            (max(life.lost_at, life.renewed), "the end of its lease"),
        ):
            at = max(limit, life.start)
            if end - at > SLACK_SECONDS + tale.still(life.worker, at, end) and not _thrown_by(life, at, tale):
                yield at, life.message, f"{life.key} runs on past {why}"


def _thrown_by(life: Life, at: float, tale: Tale) -> bool:
    latest = at + SLACK_SECONDS + tale.still(life.worker, at, at + 120.0)
    return any(when <= latest for when, _ in life.thrown)


@rule
def done_is_deleted(tale: Tale) -> Findings:
    """The delete of a finished handler always travels, and soon."""
    for life in tale.lives:
        if not life.is_done or (life.settled and life.settled[0].follow_ups):
            continue
        latest = life.end + 2 * SLACK_SECONDS
        latest += tale.still(life.worker, life.end, latest + 120.0)
        asked = any(ask.name == "delete" and life.end - EPSILON <= ask.sent <= latest for ask in life.asks)
        if not asked and tale.gone_at(life.worker) > latest and tale.events[-1].at > latest:
            yield life.end, life.message, f"{life.key} is done and no delete is sent"
