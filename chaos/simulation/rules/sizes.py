"""What is in hand is counted in bytes, and nothing else is."""

from __future__ import annotations

from collections import Counter

from chaos.simulation.lives import Tale
from chaos.simulation.rules.rule import Findings, rule
from chaos.simulation.sqs import size_of


@rule
def bytes_are_those_in_hand(tale: Tale) -> Findings:
    """At each look at a worker's books its bytes are those of the large messages that it has and has not settled."""
    in_hand: Counter[str] = Counter()
    for event in tale.events:
        if event.what == "got" and event.value == "new":
            in_hand[event.worker] += size_of(event.message)
        elif event.what in ("finished", "abandoned"):
            in_hand[event.worker] -= size_of(event.message)
        elif event.what == "bytes" and event.value != in_hand[event.worker]:
            yield event.at, "", f"{event.worker}: {event.value} bytes, {in_hand[event.worker]} in hand"
