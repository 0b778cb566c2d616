"""FIFO: the messages of a group run one after another, in the order in which they were sent."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator

from chaos.simulation.lives import Life, Tale
from chaos.simulation.rules.rule import Findings, rule


@rule
def groups_in_order(tale: Tale) -> Findings:
    """No message of a group is started while an earlier one is in the same hands, or has been and is not done."""
    if not tale.plan.fifo:
        return
    for life, earlier in _behind(tale):
        if earlier.got <= life.start and tale.deleted.get(earlier.message, math.inf) > life.start:
            yield life.start, life.message, f"{life.key} started before {earlier.message} of its group is gone"


def _behind(tale: Tale) -> Iterator[tuple[Life, Life]]:
    """Each life that was started, with every life in the same hands of an earlier message of its group."""
    lines: dict[tuple[str, str], list[Life]] = defaultdict(list)
    for life in tale.lives:
        lines[life.worker, tale.puts[life.message][1]].append(life)
    for line in lines.values():
        for life in line:
            if life.start < math.inf:
                place = tale.puts[life.message][0]
                yield from ((life, other) for other in line if tale.puts[other.message][0] < place)


@rule
def first_ends_in_order(tale: Tale) -> Findings:
    """In a group, what is done for the first time comes in the order in which it was sent."""
    if not tale.plan.fifo:
        return
    last: dict[str, tuple[int, str]] = {}
    seen: set[str] = set()
    for life in sorted((life for life in tale.lives if life.is_done), key=lambda life: life.end):
        place, group, _ = tale.puts[life.message]
        if life.message not in seen and life.end <= tale.deleted.get(life.message, math.inf):  # else a dead letter
            seen.add(life.message)
            if group in last and last[group][0] > place:
                yield life.end, life.message, f"first done after {last[group][1]}, which was sent later"
            last[group] = (place, life.message)
