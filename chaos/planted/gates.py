"""Bugs of what is held: its permit, its probes, its place."""

from __future__ import annotations

import math
from typing import Any

from chaos.planted.bug import mutant
from millpond.engine.breaker import CircuitBreaker, sign_of
from millpond.engine.delivery import Delivery
from millpond.engine.gate import Gate
from millpond.engine.groups import Groups
from millpond.engine.hold import Hold
from millpond.engine.intake import Intake
from millpond.engine.permits import Share
from millpond.message import Outcome


@mutant("a held message takes a permit again when it begins or ends", (Share, "unpark"))
def permit_not_taken_again(original: Any) -> Any:
    return lambda self: None


@mutant("a held message gives one permit back, once", (Share, "park"))
def permit_parked_twice(original: Any) -> Any:
    def park(self: Share) -> None:
        original(self)
        original(self)

    return park


@mutant("a held message gives its permit back", (Share, "park"))
def permit_kept(original: Any) -> Any:
    return lambda self: None


@mutant("a straggler's success does not close the breaker", (CircuitBreaker, "ended"))
def straggler_closes(original: Any) -> Any:
    def ended(self: CircuitBreaker, delivery: Delivery, outcome: Outcome, now: float) -> bool:
        if sign_of(outcome) == "up":
            self._close()
        return bool(original(self, delivery, outcome, now))

    return ended


@mutant("a probe is waited for no longer than its limit", (CircuitBreaker, "begin"))
def probe_without_end(original: Any) -> Any:
    def begin(self: CircuitBreaker, delivery: Delivery, now: float) -> None:
        original(self, delivery, now)
        if self.state.value == "probing":
            self.until = math.inf

    return begin


@mutant("one message at a time is the probe", (CircuitBreaker, "seconds_left"))
def open_breaker_lets_all(original: Any) -> Any:
    return lambda self, now: 0.0


@mutant("what was let in does not begin once the breaker has opened again", (CircuitBreaker, "lets"))
def pass_outlives_the_breaker(original: Any) -> Any:
    return lambda self, delivery: True


@mutant("the waits between probes end at the longest", (CircuitBreaker, "_open"))
def waits_grow_without_end(original: Any) -> Any:
    def opens(self: CircuitBreaker, wait_seconds: float, asked_seconds: float, now: float) -> None:
        original(self, 3 * wait_seconds + 10, asked_seconds, now)

    return opens


@mutant("what fails because the server is down is held", (CircuitBreaker, "ended"))
def outage_is_retried(original: Any) -> Any:
    def ended(self: CircuitBreaker, *given: Any) -> bool:
        original(self, *given)
        return False

    return ended


@mutant("a message that ends gives its place to another", (Gate, "ended"))
def place_lost(original: Any) -> Any:
    def ended(self: Gate, delivery: Delivery, outcome: Outcome) -> Outcome:
        had_place = delivery in self._begun
        found: Outcome = original(self, delivery, outcome)
        if had_place and outcome.name != "succeeded":
            self._begun.add(delivery)
        return found

    return ended


@mutant("no more of a type run at once than its concurrency", (Gate, "_let_in"))
def places_not_counted(original: Any) -> Any:
    def let_in(self: Gate, delivery: Delivery, from_line: bool) -> None:
        original(self, delivery, from_line)
        if not self.is_shut:
            self._begun.discard(delivery)

    return let_in


@mutant("the line goes on when a message ends", (Gate, "_let_next_in"))
def line_stands_still(original: Any) -> Any:
    def let_next_in(self: Gate) -> None:
        if not self.line or self.is_shut:
            original(self)

    return let_next_in


@mutant("none is held past max_hold_seconds", (Hold, "sweep"))
def held_past_its_time(original: Any) -> Any:
    return lambda self: None


@mutant("the drain gives back what is held", (Hold, "take_all"))
def drain_forgets_the_held(original: Any) -> Any:
    return lambda self: []


@mutant("what stands behind a held one of its group goes on with it", (Groups, "leave"))
def held_behind_forgotten(original: Any) -> Any:
    def leave(self: Groups, delivery: Delivery) -> None:
        line = self._lines.get(delivery.received.group_id)
        if not (line and len(line) > 1 and line[1].was_held):
            original(self, delivery)

    return leave


@mutant("a half-empty line makes the intake wide again", (Intake, "widen"))
def intake_stays_narrow(original: Any) -> Any:
    return lambda self: None
