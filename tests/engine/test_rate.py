"""TypeRate: a written rate is kept smoothly; one that the other side refuses is lowered, and restored."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

import tests.chance  # noqa: F401  no example has a deadline
from millpond.app.handler_options import rate_limit
from millpond.engine.rate import CATCH_UP_SECONDS, LEAST_PER_SECOND, RateState, TypeRate, restored
from tests.engine.relays import AnySecond, Bucket, EachSecond, Relay, Worker


def starts(rate: TypeRate, seconds: float, late: Callable[[], float] = float, begin: float = 0.0) -> list[float]:
    """When messages begin where there are always more, and the timer for the next comes this late."""
    now, found = begin, []
    while now < begin + seconds:
        wait = rate.take(now)
        if wait:
            now += wait + late()
        else:
            found.append(now)
    return found


# --- a written rate


@pytest.mark.parametrize(("text", "least", "most"), [("14/s", 13.5, 14.0), ("200/s", 193, 200), ("90/m", 1.45, 1.5)])
@pytest.mark.parametrize("late", [0.0, 0.001, 0.02])
def test_a_written_rate_is_kept_from_below_though_timers_come_late(text, least, most, late):
    found = starts(TypeRate(rate_limit(text)), 60, lambda: late)
    assert least <= len(found) / 60 <= most


def test_no_second_has_more_than_is_written():
    found = starts(TypeRate(rate_limit("14/s")), 60, lambda: 0.004)
    assert max(sum(begin <= moment < begin + 1 for moment in found) for begin in found) == 14


@given(st.lists(st.floats(0, 3), max_size=60), st.sampled_from(["14/s", "200/s", "90/m"]))
def test_no_time_has_more_than_its_rate_however_it_is_asked(pauses, text):
    rate, now, found = TypeRate(rate_limit(text)), 0.0, []
    for pause in pauses:
        now += pause
        while not rate.take(now):
            found.append(now)
    for number, begin in enumerate(found):
        for further, end in enumerate(found[number:], start=1):
            assert further <= (end - begin + CATCH_UP_SECONDS) * rate.per_second + 1.2


@pytest.mark.parametrize("text", ["14/s", "200/s", "90/m"])
def test_time_in_which_nothing_waited_earns_no_burst(text):
    rate = TypeRate(rate_limit(text))
    for now in (0.0, 100.0, 200.0):
        assert rate.take(now) == 0.0
        if now:
            assert rate.take(now) == pytest.approx(1 / rate.per_second)
            assert rate.take(now + 1 / rate.per_second) == 0.0


def test_what_a_late_timer_makes_up_for_has_a_bound():
    rate = TypeRate(rate_limit("200/s"))
    assert rate.take(0.0) == 0.0
    assert rate.take(0.0) > 0  # awaited
    found = starts(rate, 0.001, begin=60.0)
    assert 1 <= len(found) <= 11  # 50 ms of 200/s, and not the minute


def test_a_rate_of_an_hour_waits_in_one_go():
    rate = TypeRate(rate_limit("2/h"))
    assert rate.take(0.0) == 0.0
    assert rate.take(1.0) == pytest.approx(1800 / 0.99 - 1)
    assert rate.take(1800 / 0.99) == 0.0


def test_without_a_rate_all_begin_at_once():
    rate = TypeRate(None)
    assert [rate.take(0.0) for _ in range(1_000)] == [0.0] * 1_000
    assert rate.state is RateState.UNLIMITED


# --- lowered


def test_a_refusal_halves_the_rate():
    rate = TypeRate(rate_limit("14/s"))
    assert rate.too_fast(10.0, began=9.9, running=5)
    assert (rate.state, rate.per_second) == (RateState.LOWERED, pytest.approx(14 * 0.99 / 2))
    assert rate.take(10.0) == pytest.approx(2 / 14 / 0.99)


def test_a_swarm_of_refusals_halves_it_once():
    rate = TypeRate(rate_limit("14/s"))
    assert [rate.too_fast(10.0 + i / 100, began=9.9, running=5) for i in range(300)] == [True] + [False] * 299


def test_what_began_before_it_was_lowered_does_not_lower_it_again_though_it_took_long():
    rate = TypeRate(rate_limit("14/s"))
    assert rate.too_fast(10.0, began=9.0, running=5)
    assert not rate.too_fast(20.0, began=9.9, running=5)
    assert rate.too_fast(20.0, began=10.5, running=5)


def test_where_none_is_written_it_begins_from_what_was_begun_in_a_second():
    rate = TypeRate(None)
    rate.too_fast(10.0, began=9.9, running=20)  # 20 at work for 0.1 s each: 200 a second
    assert rate.per_second == pytest.approx(100)


@pytest.mark.parametrize("running", [0, 1])
def test_one_message_alone_is_as_many_as_its_own_time_says(running):
    rate = TypeRate(None)
    rate.too_fast(10.0, began=9.9, running=running)
    assert rate.per_second == pytest.approx(5)


def flooded(accepted: int, refused: int) -> TypeRate:
    """A rate of 100, of which the other side took so many in a second, and refused so many."""
    rate = TypeRate(None)
    rate.too_fast(10.0, began=9.9, running=20)
    for _ in range(accepted):
        rate.succeeded(10.0)
    for _ in range(refused - 1):
        rate.too_fast(10.5, began=9.9, running=20)
    assert rate.too_fast(12.0, began=11.9, running=20)
    return rate


def test_where_most_is_refused_the_rate_falls_to_what_was_taken_at_once():
    assert flooded(accepted=40, refused=100).per_second == pytest.approx(20)  # in two seconds
    assert flooded(accepted=2, refused=100).per_second == pytest.approx(100 / 8)  # too few to be believed
    assert flooded(accepted=0, refused=100).per_second == pytest.approx(50)
    assert flooded(accepted=40, refused=40).per_second == pytest.approx(50)


def test_a_rate_never_falls_below_one_in_ten_seconds_nor_below_a_smaller_one_that_is_written():
    for text, least in ((None, LEAST_PER_SECOND), ("14/s", LEAST_PER_SECOND), ("10/h", 10 * 0.99 / 3600)):
        rate = TypeRate(rate_limit(text) if text else None)
        for second in range(100):
            rate.too_fast(2.0 * second, began=2.0 * second - 0.1, running=5)
        assert rate.per_second == pytest.approx(least)


@pytest.mark.parametrize("text", [None, "14/s"])
def test_nothing_begins_before_retry_after_is_over_whoever_says_it(text):
    rate = TypeRate(rate_limit(text) if text else None)
    rate.too_fast(10.0, 30.0, began=9.9, running=5)
    rate.too_fast(10.1, 5.0, began=9.9, running=5)
    assert rate.take(10.0) == pytest.approx(30.0)
    assert not rate.too_fast(11.0, 60.0, began=9.9, running=5)  # a straggler, but its word counts
    assert rate.take(39.0) == pytest.approx(32.0)
    assert rate.take(71.0) == 0.0


def test_retry_after_is_no_time_in_which_the_rate_is_restored():
    rate = TypeRate(rate_limit("14/s"))
    rate.too_fast(10.0, 3600.0, began=9.9, running=5)
    rate.succeeded(3609.0)
    assert rate.per_second == pytest.approx(7 * 0.99)


def test_successes_restore_it_to_what_is_written_and_not_above():
    rate = TypeRate(rate_limit("14/s"))
    rate.too_fast(10.0, began=9.9, running=5)
    seen = []
    for tenths in range(100, 500):
        rate.succeeded(tenths / 10)
        seen.append(rate.per_second)
    assert seen == sorted(seen)
    assert seen[-1] == pytest.approx(14 * 0.99)
    assert rate.state is RateState.WRITTEN


def test_time_without_a_success_restores_nothing():
    rate = TypeRate(rate_limit("14/s"))
    rate.too_fast(10.0, began=9.9, running=5)
    rate.take(1_000.0)
    assert rate.per_second == pytest.approx(7 * 0.99)


def test_it_is_off_again_where_it_is_far_above_what_is_used():
    rate = TypeRate(None)
    rate.too_fast(0.0, began=-0.1, running=5)
    for second in range(1, 120):
        assert rate.take(float(second)) == 0.0  # one in a second: none waits
        rate.succeeded(second + 0.2)
        if rate.state is RateState.UNLIMITED:
            break
    assert 20 <= second < 60
    assert rate.per_second == math.inf


def test_it_stays_on_while_messages_wait_for_it():
    worker = Worker(AnySecond(14), seconds=120)
    assert worker.rate.state is RateState.LOWERED


@pytest.mark.parametrize("lowered_to", [50.0, 100.0])
def test_a_lowered_rate_comes_back_without_a_step(lowered_to):
    rates = [restored(lowered_to, 100.0, tenths / 10) for tenths in range(600)]
    assert rates == sorted(rates)
    assert max(after / before for before, after in pairwise(rates)) < 1.1
    assert restored(lowered_to, 100.0, 2.0) >= 90
    assert restored(lowered_to, 100.0, 20.0) == pytest.approx(100)
    assert restored(lowered_to, 100.0, 1e9) < math.inf


# --- a relay that refuses what is too much, with 100 messages at once


@pytest.mark.parametrize(
    ("relay", "least"),
    [
        (AnySecond(14), 12),
        (EachSecond(14), 12),
        (Bucket(14, 14), 12),
        (Bucket(14, 1), 12),
        (Bucket(14, 100), 12),
        (AnySecond(1), 0.75),
        (EachSecond(1), 0.75),
        (AnySecond(200), 170),
        (EachSecond(200), 170),
        (Bucket(200, 200), 170),
    ],
    ids=lambda value: (
        f"{type(value).__name__} {value.per_second}" if not isinstance(value, int | float) else str(value)
    ),
)
@pytest.mark.parametrize("written", [None, "300/s"])
def test_what_a_relay_takes_is_found_and_kept(relay: Relay, least, written):
    worker = Worker(type(relay)(*[relay.per_second, *([relay.depth] if isinstance(relay, Bucket) else [])]), written)
    assert worker.a_second(worker.accepted, 60, 300) >= least
    assert worker.a_second(worker.refused, 60, 300) <= max(0.5, relay.per_second / 100)
    assert len(worker.refused) < 1_500


def test_a_relay_that_takes_what_is_written_refuses_nothing():
    worker = Worker(AnySecond(14), "14/s")
    assert worker.a_second(worker.accepted, 60, 300) >= 13.5
    assert worker.refused == []


def test_what_takes_seconds_is_no_reason_to_lower_it_too_far():
    worker = Worker(AnySecond(14), work=(2, 4), refusal=(1, 2))
    assert worker.a_second(worker.accepted, 60, 300) >= 12


def test_a_relay_that_says_retry_after_is_obeyed_and_used():
    worker = Worker(AnySecond(14), after=1.0)
    assert worker.a_second(worker.accepted, 60, 300) >= 11.5


@pytest.mark.parametrize(("before", "later", "least"), [(14, 50, 40), (50, 5, 4.2), (14, 200, 150)])
def test_a_relay_that_takes_another_number_from_now_on_is_followed(before, later, least):
    worker = Worker(AnySecond(before), change=(60, later))
    assert worker.a_second(worker.accepted, 120, 300) >= least
    assert worker.a_second(worker.refused, 120, 300) <= 1
