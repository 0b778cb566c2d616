"""Nothing is lost, and nothing is done twice without a reason."""

from __future__ import annotations

import math

from chaos.simulation.lives import Life, SentEntry, Tale
from chaos.simulation.rules.rule import Findings, rule


@rule
def nothing_lost(tale: Tale) -> Findings:
    """Each message is handled to its end, or dead-lettered with its reason; in the end the queue is empty."""
    done = {life.message for life in tale.lives if life.is_done}
    told = {event.message for event in tale.of_kind["letter"] if event.value and event.value["reason"]}
    for message in tale.puts.keys() - done - told:
        yield math.inf, message, "neither handled to its end nor dead-lettered with its reason"
    for message in tale.of_kind["the end"][0].value:
        yield math.inf, message, "still in the queue long after the faults have stopped"


@rule
def not_done_twice(tale: Tale) -> Findings:
    """A second complete handling only where something has befallen the lease."""
    done: dict[str, Life] = {}
    for life in sorted((life for life in tale.lives if life.is_done), key=lambda life: life.end):
        if life.message in done and life.message not in tale.explained:
            yield life.end, life.message, f"done again as {life.key}, after {done[life.message].key}, for no reason"
        done[life.message] = life


@rule
def not_started_after_delete(tale: Tale) -> Findings:
    """What is deleted is over."""
    for life in tale.lives:
        gone = tale.deleted.get(life.message, math.inf)
        if gone < life.start < math.inf and life.message not in tale.explained:
            yield life.start, life.message, f"{life.key} started though the message is deleted"


@rule
def deleted_after_its_sends(tale: Tale) -> Findings:
    """The copy, and every follow-up, is confirmed before the delete of the original is sent."""
    for life in tale.lives:
        for ask in life.asks:
            if ask.name == "delete" and (settled := life.outcome_at(ask.sent)) is not None:
                needed = settled.follow_ups + (settled.name == "dead_lettered")
                sent = sum(one.done and one.ended <= ask.sent and one.sent >= settled.at for one in _sends(life))
                if sent < needed:
                    yield ask.sent, life.message, f"deleted with {sent} of {needed} sends confirmed"


def _sends(life: Life) -> list[SentEntry]:
    return [ask for ask in life.asks if ask.name in ("letter", "job")]
