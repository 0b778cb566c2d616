"""A drain begins no receive, ends in time, and leaves nothing in hand; no greenlet of the engine dies."""

from __future__ import annotations

import math

from chaos.simulation.history import Event
from chaos.simulation.lives import Tale
from chaos.simulation.rules.rule import EPSILON, SLACK_SECONDS, Findings, rule


@rule
def no_receive_after_drain(tale: Tale) -> Findings:
    """The signal has come: no receive begins."""
    for worker, drain in tale.drains.items():
        for poll in tale.polls[worker]:
            if poll.sent > drain.at + EPSILON:
                yield poll.sent, "", f"{worker} begins a receive after its drain has begun"


@rule
def drain_ends(tale: Tale) -> Findings:
    """In time."""
    drained = {event.worker: event.at for event in tale.of_kind["drained"]}
    for worker, drain in tale.drains.items():
        end = drain.value + SLACK_SECONDS + tale.still(worker, drain.at, drain.value + 120.0)
        if min(drained.get(worker, math.inf), tale.gone_at(worker), tale.events[-1].at) > end:
            yield end, "", f"{worker} has not drained in {end - drain.at:.1f} s"


@rule
def own_polls_do_not_fetch_again(tale: Tale) -> Findings:
    """What a drain gives back stays hidden while a poll of that worker is open: that would take it along."""
    for life in tale.lives:
        drain = tale.drains.get(life.worker)
        for settled in life.settled if drain is not None else ():
            if settled.name not in ("retried", "released") or settled.at <= drain.at:
                continue
            until = max((poll.until for poll in tale.polls[life.worker] if poll.open_at(settled.at)), default=0.0)
            if settled.at + settled.delay < until - EPSILON:
                yield (
                    settled.at,
                    life.message,
                    f"given back for {settled.delay} s, a poll is open for {until - settled.at:.1f}",
                )


@rule
def nothing_is_held_in_a_drain(tale: Tale) -> Findings:
    """What is held when a drain begins leaves its line in that moment, to go back; and nothing is held from then on."""
    for life in tale.lives:
        drain = tale.drains.get(life.worker)
        for at in life.held if drain is not None else ():
            freed = min((one for one in life.freed if one >= at), default=math.inf)
            if freed <= drain.at + EPSILON and at <= drain.at + EPSILON:
                continue
            latest = max(at, drain.at) + EPSILON
            if min(tale.gone_at(life.worker), life.over) > latest + tale.still(life.worker, drain.at, latest):
                yield latest, life.message, f"{life.key} is held, though its worker drains"


@rule
def drained_leaves_nothing(tale: Tale) -> Findings:
    """A worker that has drained has nothing in hand, unless a fault kept it."""
    for event in tale.of_kind["drained"]:
        begin = tale.drains[event.worker].at - 10.0
        troubled = any(one.worker == event.worker and one.at >= begin for one in tale.of_kind["fault"])
        if event.value and not troubled and not tale.still(event.worker, begin, event.at):
            yield event.at, "", f"{event.worker} has drained with {event.value} in hand"


@rule
def nothing_dies(tale: Tale) -> Findings:
    """No core greenlet dies, and nothing is raised in the hub."""
    errors: list[Event] = tale.of_kind["hub_error"] + tale.of_kind["core_error"]
    for event in errors:
        yield event.at, "", f"{event.worker} {event.what}: {event.value}"
