"""Permits bound what is held, and the books balance."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from chaos.simulation.history import Event
from chaos.simulation.lives import Tale
from chaos.simulation.rules.rule import PAUSE_SECONDS, Findings, rule


@rule
def permits_bound_what_is_held(tale: Tale) -> Findings:
    """A message without an outcome has a permit, and there are not more of them than there are permits.

    One that was held has given its permit back, and takes one again even where none is free.
    """
    waiting: dict[str, set[str]] = defaultdict(set)
    for event in tale.events:
        if event.what == "got" and event.value == "new":
            waiting[event.worker].add(event.message)
            if len(waiting[event.worker]) > tale.plan.permits:
                yield event.at, event.message, f"{len(waiting[event.worker])} held by {tale.plan.permits} permits"
        elif event.what in ("settle", "held"):
            waiting[event.worker].discard(event.message)


@rule
def what_is_not_held_has_a_permit(tale: Tale) -> Findings:
    """Of the messages without an outcome each has a permit, but for those that are held: these have none."""
    for event, waiting, once_held in _counts(tale):
        free, held, polling, _ = event.value
        if held - polling < waiting:
            yield event.at, "", f"{event.worker}: {waiting} messages have {held - polling} permits"
        if free < -once_held - 4 * tale.plan.limit:  # permits of what has ended wait while settling is full
            yield event.at, "", f"{event.worker}: {free} permits free, with {once_held} that were held"


@rule
def books_balance(tale: Tale) -> Findings:
    """No permit is lost or made up; received = outcomes + in hand; what waits to be settled is bounded."""
    total, limit = tale.plan.permits, tale.plan.permits + 4 * tale.plan.limit
    for event, _, once_held in _counts(tale):
        free, held, polling, (received, ended, in_hand) = event.value
        if held < polling or free + held != total:
            yield event.at, "", f"{event.worker}: {free} permits free, {held} held, of {total}"
        if received != ended + in_hand:
            yield event.at, "", f"{event.worker}: {received} received, {ended} ended, {in_hand} in hand"
        if in_hand > limit + once_held:
            room = f"{total} permits, room for {tale.plan.limit} and {once_held} that were held"
            yield event.at, "", f"{event.worker}: {in_hand} in hand, with {room}"


@rule
def settling_keeps_permits(tale: Tale) -> Findings:
    """Of what waits to be settled no more is without a permit than each kind of call that it needs has room for."""
    kinds: dict[str, dict[str, set[str]]] = defaultdict(dict)  # worker -> handle -> kinds of call
    held: dict[str, set[str]] = defaultdict(set)
    for event in tale.events:
        if event.what == "settle":
            kinds[event.worker].setdefault(event.handle, set()).update(_calls_of(event))
        elif event.what in ("finished", "abandoned"):
            kinds[event.worker].pop(event.handle, None)
        elif event.what == "held":
            held[event.worker].add(event.handle)
        elif event.what == "freed":
            held[event.worker].discard(event.handle)
        elif event.what == "hold":
            _, permits, polling, (_, _, in_hand) = event.value
            without = in_hand - len(held[event.worker]) - (permits - polling)
            room = tale.plan.limit * len(set().union(*kinds[event.worker].values()))
            if without > room:
                yield event.at, "", f"{event.worker}: {without} messages wait without a permit, with room for {room}"


def _calls_of(settled: Event) -> set[str]:
    name, _, _, follow_ups = settled.value
    if name in ("retried", "released"):
        return {"change_visibility"}
    return {"delete"} | ({"job"} if follow_ups else set()) | ({"letter"} if name == "dead_lettered" else set())


def _counts(tale: Tale) -> Iterator[tuple[Event, int, int]]:
    """At each look at a worker's books: its messages that have no outcome and are not held; in hand that were held."""
    waiting: dict[str, set[str]] = defaultdict(set)
    once_held: dict[str, set[str]] = defaultdict(set)
    for event in tale.events:
        if (event.what == "got" and event.value in ("new", "refused")) or event.what == "freed":
            waiting[event.worker].add(event.handle)
        elif event.what == "held":
            once_held[event.worker].add(event.handle)
            waiting[event.worker].discard(event.handle)
        elif event.what == "settle":
            waiting[event.worker].discard(event.handle)
        elif event.what in ("finished", "abandoned"):
            once_held[event.worker].discard(event.handle)
        elif event.what == "hold":
            yield event, len(waiting[event.worker]), len(once_held[event.worker])


@rule
def permits_come_back(tale: Tale) -> Findings:
    """With nothing in hand, no permit is held but by a poll."""
    last = {event.worker: event for event in tale.of_kind["hold"]}
    for event in tale.of_kind["drained"]:
        _, held, polling, _ = last[event.worker].value
        if event.value == 0 and held != polling and not _is_calling(tale, event.worker, event.at):
            yield event.at, "", f"{event.worker}: {held} permits held with nothing in hand"


def _is_calling(tale: Tale, worker: str, at: float) -> bool:
    """Whether a call of it was on its way then, or paused before another try: what it carries holds permits back."""
    return any(
        ask.sent <= at < ask.ended + PAUSE_SECONDS for life in tale.lives if life.worker == worker for ask in life.asks
    )
