"""What a rule is: a pure function of a tale that yields what breaks it. @rule enters it among RULES."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import msgspec

from chaos.simulation.lives import Tale

#: Two things at one moment may come in either order.
EPSILON = 0.001
#: Between what is due and its request: lingering, and a turn of the hub.
SLACK_SECONDS = 0.5
#: A change that failed is sent again after at most this.
PAUSE_SECONDS = 2.0
#: Near the end of 12 h no beat is worth sending.
HOLD_SECONDS = 43_000.0

#: When a rule was broken, by which message ("": by none), and how.
Findings = Iterator[tuple[float, str, str]]
Rule = Callable[[Tale], Findings]
RULES: list[Rule] = []


class Violation(msgspec.Struct, frozen=True):
    """A rule that was broken, when, and what about."""

    rule: str
    at: float
    message: str
    text: str


def rule(function: Rule) -> Rule:
    """Enter it among the rules."""
    RULES.append(function)
    return function
