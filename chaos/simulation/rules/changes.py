"""One writer a message: what is asked of SQS about its visibility, and when."""

from __future__ import annotations

import math

from chaos.simulation.lives import Tale
from chaos.simulation.rules.rule import EPSILON, HOLD_SECONDS, Findings, rule


@rule
def one_change_at_a_time(tale: Tale) -> Findings:
    """At most one change of visibility of one handle is on its way."""
    for life in tale.lives:
        ended: dict[str, float] = {}
        for ask in life.changes():
            if ask.sent < ended.get(ask.handle, 0.0):
                yield ask.sent, life.message, f"a second change of {ask.handle} while one is on its way"
            ended[ask.handle] = ask.ended


@rule
def no_change_behind_a_delete(tale: Tale) -> Findings:
    """Nothing is changed while the delete is on its way, or once it is confirmed."""
    for life in tale.lives:
        until: dict[str, float] = {}  # no change of this handle before
        for ask in life.asks:
            if ask.name == "delete":
                until[ask.handle] = math.inf if ask.done else ask.ended
            elif ask.name == "change_visibility" and ask.sent < until.get(ask.handle, 0.0):
                yield ask.sent, life.message, f"{ask.handle} is changed behind its delete"


@rule
def back_off_stays(tale: Tale) -> Findings:
    """Once a message is given back, only its back-off is sent."""
    for life in tale.lives:
        for ask in life.changes():
            settled = life.outcome_at(ask.sent - EPSILON / 10)
            if settled is None or settled.name not in ("retried", "released") or ask.seconds == settled.delay:
                continue
            if ask.sent - max(life.got, life.renewed) + settled.delay < HOLD_SECONDS:  # past that it is clamped
                yield ask.sent, life.message, f"{ask.seconds} s sent over a back-off of {settled.delay} s"


@rule
def not_past_twelve_hours(tale: Tale) -> Findings:
    """SQS takes no extension past them, and says that the handle is void."""
    for event in tale.of_kind["changed"]:
        if event.value[1] and "limit" in event.value[1]:
            yield event.at, event.message, f"{event.value[0]} s asked: {event.value[1]}"
