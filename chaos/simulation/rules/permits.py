"""Permits bound what is held, and the books balance."""

from __future__ import annotations

from collections import defaultdict

from chaos.simulation.lives import Tale
from chaos.simulation.rules.rule import PAUSE_SECONDS, Findings, rule


@rule
def permits_bound_what_is_held(tale: Tale) -> Findings:
    """A message without an outcome has a permit, and there are not more of them than there are permits."""
    waiting: dict[str, set[str]] = defaultdict(set)
    for event in tale.events:
        if event.what == "got" and event.value == "new":
            waiting[event.worker].add(event.handle)
            if len(waiting[event.worker]) > tale.plan.permits:
                yield event.at, event.message, f"{len(waiting[event.worker])} held by {tale.plan.permits} permits"
        elif event.what == "settle":
            waiting[event.worker].discard(event.handle)


@rule
def books_balance(tale: Tale) -> Findings:
    """No permit is lost or made up; received = outcomes + in hand; what waits to be settled is bounded."""
    total, limit = tale.plan.permits, tale.plan.permits + 4 * tale.plan.limit
    for event in tale.of_kind["hold"]:
        free, held, polling, (received, ended, in_hand) = event.value
        if free < 0 or held < polling or free + held != total:
            yield event.at, "", f"{event.worker}: {free} permits free, {held} held, of {total}"
        if received != ended + in_hand:
            yield event.at, "", f"{event.worker}: {received} received, {ended} ended, {in_hand} in hand"
        if in_hand > limit:
            yield (
                event.at,
                "",
                f"{event.worker}: {in_hand} in hand, with {total} permits and room for {tale.plan.limit}",
            )


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
