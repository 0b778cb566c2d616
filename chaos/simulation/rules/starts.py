"""Never twice at once, never without a lease."""

from __future__ import annotations

import math

from chaos.simulation.history import receive_of
from chaos.simulation.lives import Life, Tale
from chaos.simulation.rules.rule import EPSILON, Findings, rule


@rule
def not_beside_itself(tale: Tale) -> Findings:
    """One message runs once at a time in one worker."""
    running: dict[tuple[str, str], Life] = {}
    for life in sorted((life for life in tale.lives if life.start < math.inf), key=lambda life: life.start):
        before = running.get((life.worker, life.message))
        if before is not None and life.start < min(before.end, tale.gone_at(life.worker)):
            yield life.start, life.message, f"{life.key} started while {before.key} runs"
        running[life.worker, life.message] = life


@rule
def not_started_without_lease(tale: Tale) -> Findings:
    """What may be another worker's is not begun."""
    for life in tale.lives:
        if life.start_deadline + EPSILON < life.start < math.inf:
            yield (
                life.start,
                life.message,
                f"{life.key} started, its lease ended {life.start - life.start_deadline:.3f} s ago",
            )


@rule
def not_started_once_visible(tale: Tale) -> Findings:
    """As SQS sees it, too: what is begun is this worker's, unless it cannot know better."""
    for life in tale.lives:
        if life.start_until <= life.start < math.inf and life.message not in tale.misled:
            yield (
                life.start,
                life.message,
                f"{life.key} started, visible to all since {life.start - life.start_until:.3f} s",
            )


@rule
def newest_handle_counts(tale: Tale) -> Findings:
    """An answer that was long on its way renews nothing: its handle is dead."""
    for life in tale.lives:
        held = life.key
        for at, handle in life.handles:
            if receive_of(handle) < receive_of(held):
                yield at, life.message, f"{held} is given up for {handle}"
            held = handle
