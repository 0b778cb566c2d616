"""The breaker alone: a pure function of its state and the time."""

from __future__ import annotations

from typing import Any

import pytest

from millpond.app.handler_options import Breaker
from millpond.engine.breaker import CLOSED, OPEN, PROBING, CircuitBreaker
from millpond.message import Outcome

SUCCEEDED = Outcome("succeeded")
UNAVAILABLE = Outcome("retried", "unavailable", "down", other_side=True)
REFUSED = Outcome("retried", "failed", error="ConnectionRefusedError", other_side=True)
TIMED_OUT = Outcome("retried", "timed_out", other_side=True)
TOO_FAST = Outcome("retried", "too_fast", other_side=True)
BUG = Outcome("retried", "failed", error="KeyError")
#: What shows nothing of a server.
OWN_FAULT = [
    Outcome("dead_lettered", "rejected"),
    Outcome("dead_lettered", "undecodable"),
    Outcome("discarded"),
    Outcome("released", reason="the worker shuts down"),
    Outcome("lease_lost"),
    Outcome("retried", "no_thread"),
    Outcome("retried", "waiting"),
]


class Begun:
    """What the breaker sees of a delivery."""

    def __init__(self, started: float) -> None:
        self.started = started
        self.ended = 0.0


class Trial:
    """A breaker, and a clock that stands still while it is asked."""

    def __init__(self, **options: Any) -> None:
        self.breaker = CircuitBreaker(Breaker(**options), chance=lambda: 1.0)
        self.now = 1_000.0

    def begin(self) -> Any:
        """A message that begins now."""
        self.now += 0.001
        delivery: Any = Begun(self.now)
        self.breaker.begin(delivery, self.now)
        return delivery

    def end(self, delivery: Any, outcome: Outcome) -> bool:
        self.now += 0.001
        delivery.ended = self.now
        return self.breaker.ended(delivery, outcome, self.now)

    def run(self, *outcomes: Outcome) -> list[bool]:
        return [self.end(self.begin(), outcome) for outcome in outcomes]

    def left(self) -> float:
        return round(self.breaker.seconds_left(self.now), 1)

    def wait(self) -> None:
        self.now = max(self.now, self.breaker.until)


def opened(**options: Any) -> Trial:
    trial = Trial(**options)
    trial.run(UNAVAILABLE)
    assert trial.breaker.state is OPEN
    return trial


def test_unavailable_opens_it_at_once_and_its_message_runs_again():
    trial = Trial()
    assert trial.run(UNAVAILABLE) == [True]
    assert trial.breaker.state is OPEN
    assert trial.left() == 1


@pytest.mark.parametrize("sign", [REFUSED, TIMED_OUT, TOO_FAST])
def test_five_failures_in_a_row_that_look_like_the_other_sides_open_it(sign):
    trial = Trial()
    assert trial.run(*[sign] * 4) == [False] * 4
    assert trial.breaker.state is CLOSED
    assert trial.run(sign) == [True]
    assert trial.breaker.state is OPEN


def test_twenty_five_failures_of_any_kind_in_a_row_open_it_and_each_goes_its_ordinary_way():
    trial = Trial()
    assert not any(trial.run(*[BUG] * 24))
    assert trial.breaker.state is CLOSED
    assert trial.run(BUG) == [False]
    assert trial.breaker.state is OPEN


def test_a_success_begins_the_count_anew():
    trial = Trial()
    trial.run(*[*[REFUSED] * 4, SUCCEEDED] * 10, *[*[BUG] * 24, SUCCEEDED] * 3)
    assert trial.breaker.state is CLOSED
    assert trial.breaker.is_quiet


def test_a_bug_between_them_begins_the_count_of_the_other_sides_failures_anew():
    trial = Trial()
    trial.run(*[*[REFUSED] * 4, BUG] * 4)
    assert trial.breaker.state is CLOSED


def test_without_failures_no_run_of_bugs_opens_it():
    trial = Trial(failures=0)
    trial.run(*[BUG] * 1_000)
    assert trial.breaker.state is CLOSED


@pytest.mark.parametrize("outcome", OWN_FAULT, ids=lambda one: one.cause or one.name)
def test_what_is_a_messages_own_fault_opens_nothing_and_ends_no_row(outcome):
    trial = Trial()
    trial.run(*[outcome] * 1_000)
    assert trial.breaker.is_quiet
    trial.run(*[REFUSED, outcome] * 4)
    assert trial.breaker.state is CLOSED
    trial.run(REFUSED)
    assert trial.breaker.state is OPEN


def test_a_breaker_that_is_off_never_opens():
    trial = Trial()
    trial.breaker = CircuitBreaker(None)
    assert not any(trial.run(*[UNAVAILABLE, REFUSED, BUG] * 100))
    assert trial.breaker.is_quiet


def test_the_waits_between_probes_grow_to_their_bound_and_never_end():
    trial, waits = opened(), []
    for _ in range(500):
        trial.wait()
        waits.append(trial.left())
        assert trial.run(UNAVAILABLE) == [True]
        assert trial.breaker.state is OPEN
        waits[-1] = trial.left()
    assert waits[:5] == [2, 4, 8, 10, 10]
    assert set(waits[5:]) == {10}
    trial.wait()
    trial.run(SUCCEEDED)
    assert trial.breaker.state is CLOSED
    trial.run(UNAVAILABLE)  # the next outage begins with short waits again
    assert trial.left() == 1


def test_the_waits_have_jitter_of_a_half_at_most():
    trial = Trial()
    trial.breaker._chance = lambda: 0.0
    trial.run(UNAVAILABLE)
    assert trial.left() == 0.5


def test_what_unavailable_asks_for_is_waited_for():
    trial = Trial()
    trial.run(Outcome("retried", "unavailable", asked_seconds=300.0))
    assert trial.left() == 300


def test_while_a_probe_runs_no_other_begins_until_it_is_waited_for_no_longer():
    trial = opened()
    trial.wait()
    probe = trial.begin()
    assert trial.breaker.state is PROBING
    assert trial.left() == 30
    trial.wait()
    trial.begin()
    assert trial.left() == 30
    trial.end(probe, SUCCEEDED)  # however late, it was begun in this outage
    assert trial.breaker.state is CLOSED


def test_a_probe_that_is_waited_for_no_longer_and_fails_leaves_the_next_one_its_time():
    trial = opened()
    trial.wait()
    first = trial.begin()
    trial.wait()
    trial.begin()
    assert trial.end(first, UNAVAILABLE)
    assert trial.breaker.state is PROBING


@pytest.mark.parametrize("outcome", [SUCCEEDED, BUG, REFUSED, UNAVAILABLE, *OWN_FAULT])
@pytest.mark.parametrize("probing", [False, True])
def test_a_straggler_shows_nothing_either_way(outcome, probing):
    trial = Trial()
    straggler = trial.begin()
    trial.run(UNAVAILABLE)
    trial.wait()
    if probing:
        trial.begin()
    before = trial.breaker.state, trial.breaker.until
    assert trial.end(straggler, outcome) is (outcome in (REFUSED, UNAVAILABLE))
    assert (trial.breaker.state, trial.breaker.until) == before


def test_a_straggler_that_fails_once_the_server_is_back_opens_nothing_and_runs_again():
    """A hundred connections that hang until their time-out are one outage, not a second one."""
    trial = Trial()
    straggler = trial.begin()
    trial.run(UNAVAILABLE)
    trial.wait()
    trial.run(SUCCEEDED)
    assert trial.end(straggler, UNAVAILABLE)
    assert trial.breaker.is_quiet


def test_a_probe_of_an_earlier_opening_is_a_straggler():
    trial = opened()
    trial.wait()
    first = trial.begin()
    trial.wait()
    trial.run(UNAVAILABLE)  # the second probe: the breaker opens again
    trial.end(first, SUCCEEDED)
    assert trial.breaker.state is OPEN


def test_a_probe_that_fails_by_itself_is_followed_after_the_same_wait():
    trial = opened()
    trial.wait()
    assert trial.run(BUG) == [False]
    assert trial.breaker.state is OPEN
    assert trial.left() == 1


def test_where_only_the_other_side_counts_a_probe_that_fails_by_itself_got_through():
    trial = opened(failures=0)
    trial.wait()
    trial.run(BUG)
    assert trial.breaker.state is CLOSED


@pytest.mark.parametrize("outcome", OWN_FAULT, ids=lambda one: one.cause or one.name)
def test_a_probe_that_shows_nothing_is_followed_by_the_next_at_once(outcome):
    trial = opened()
    trial.wait()
    assert trial.run(outcome) == [False]
    assert trial.breaker.state is OPEN
    assert trial.left() == 0
    trial.run(UNAVAILABLE)
    assert trial.left() == 2
