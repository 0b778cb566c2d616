"""The hub's pulse: time in which the hub stood still is charged to nobody."""

from __future__ import annotations

import random

import pytest

from millpond.hub.countdown import Countdown
from millpond.hub.pulse import PULSE_SECONDS, SLACK_SECONDS, Pulse
from tests.virtual import VirtualClock

#: A pulse that comes so long after the one before it costs no time.
GRACE = PULSE_SECONDS + SLACK_SECONDS + 1e-6


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


@pytest.fixture
def pulse(clock) -> Pulse:
    pulse = Pulse(clock)
    pulse.start()
    return pulse


def stand_still(clock: VirtualClock, seconds: float) -> None:
    """Time passes, and no timer rings."""
    clock._now += seconds


def test_while_the_hub_turns_its_time_is_the_clocks(clock, pulse):
    began = pulse.now()
    assert began == clock.now()
    for _ in range(100):
        clock.advance(0.7)
        assert clock.now() - pulse.last <= PULSE_SECONDS
    assert pulse.now() - began == pytest.approx(70)


def test_it_stops_in_a_standstill_and_goes_on_after_it(clock, pulse):
    clock.advance(10)
    before = pulse.now()
    stand_still(clock, 60)
    during = pulse.now()
    assert during - before <= GRACE
    stand_still(clock, 60)
    assert pulse.now() == during
    clock.advance(5)
    assert pulse.now() - during == pytest.approx(5)


def test_what_a_pulse_is_late_by_is_lost_and_no_more(clock, pulse):
    began = pulse.now()
    for _ in range(20):
        stand_still(clock, 3)
        clock.advance(1)
    hub, charged = pulse.now() - began, 20 * (1 + GRACE)
    assert 20 - 1e-6 <= hub <= charged


def test_a_short_hold_up_within_one_pulse_costs_no_time(clock, pulse):
    began = pulse.now()
    for _ in range(100):
        clock.advance(PULSE_SECONDS)
    for _ in range(100):
        stand_still(clock, PULSE_SECONDS / 2)
        clock.advance(PULSE_SECONDS / 2)
    assert pulse.now() - began == pytest.approx(200 * PULSE_SECONDS)


def test_what_is_read_within_a_pulse_of_a_standstill_may_have_been_there_since_it_began(clock, pulse):
    clock.advance(10)
    assert pulse.unread_since(clock.now()) == clock.now()
    began = pulse.last
    stand_still(clock, 5)
    assert pulse.unread_since(clock.now()) == began
    ended = clock.now()
    clock.advance(0)
    assert pulse.last == ended
    assert pulse.unread_since(ended + PULSE_SECONDS / 2) == began
    assert pulse.unread_since(ended + PULSE_SECONDS) == ended + PULSE_SECONDS


@pytest.mark.parametrize("seed", range(10))
def test_it_never_goes_back_and_never_faster_than_the_clock(seed):
    dice = random.Random(seed)
    clock = VirtualClock()
    pulse = Pulse(clock)
    pulse.start()
    last, last_real = pulse.now(), clock.now()
    for _ in range(300):
        seconds = dice.choice([0, 0.01, 0.1, PULSE_SECONDS, 0.3, 1, 20])
        dice.choice([clock.advance, lambda seconds: stand_still(clock, seconds)])(seconds)
        now, real = pulse.now(), clock.now()
        assert -1e-9 <= now - last <= real - last_real + 1e-9
        last, last_real = now, real


def test_the_lag_is_the_longest_standstill_since_the_last_look(clock, pulse):
    assert pulse.take_lag_ms() == 0
    for seconds in (1, 4, 2):
        stand_still(clock, seconds)
        clock.advance(1)
    assert 4_000 - 1_000 * PULSE_SECONDS <= pulse.take_lag_ms() <= 4_000
    assert pulse.take_lag_ms() == 0
    stand_still(clock, 2)
    clock.advance(1)
    assert 2_000 - 1_000 * PULSE_SECONDS <= pulse.take_lag_ms() <= 2_000


def test_a_countdown_on_it_does_not_fire_early_after_a_standstill(clock, pulse):
    due = []
    countdown = Countdown(10, lambda item: due.append((item, pulse.now())), pulse)
    began = pulse.now()
    countdown.add("a")
    clock.advance(4)
    stand_still(clock, 100)
    clock.advance(0)  # all timers that are due ring, in any order
    assert due == []
    assert 6 - GRACE <= countdown.left("a") <= 6
    clock.advance(5)
    assert due == []
    clock.advance(1.5)
    [(item, when)] = due
    assert item == "a"
    assert when - began == pytest.approx(10)


@pytest.mark.parametrize("seed", range(10))
def test_each_item_of_a_countdown_has_its_full_time_and_hardly_more(seed):
    dice = random.Random(seed)
    clock = VirtualClock()
    pulse = Pulse(clock)
    pulse.start()
    began: dict[int, float] = {}
    took: dict[int, float] = {}
    countdown = Countdown(5, lambda item: took.update({item: pulse.now() - began[item]}), pulse)
    for item in range(100):
        began[item] = pulse.now()
        countdown.add(item)
        clock.advance(dice.choice([0, 0.1, 1]))
        if dice.random() < 0.2:
            stand_still(clock, dice.choice([0.2, 1, 10, 60]))
    clock.advance(20)
    assert took.keys() == began.keys()
    assert min(took.values()) >= 5 - 1e-6
    assert max(took.values()) <= 5 + GRACE


def test_the_same_countdown_on_the_clock_itself_would_fire(clock, pulse):
    """So that the test above can fail."""
    due: list[str] = []
    countdown = Countdown(10, due.append, clock)
    countdown.add("a")
    clock.advance(4)
    stand_still(clock, 100)
    clock.advance(0)
    assert due == ["a"]


def test_what_is_read_after_a_standstill_may_be_as_old_as_it(clock):
    pulse = Pulse(clock)
    pulse.start()
    clock.advance(10)
    assert pulse.unread_since(clock.now()) == clock.now()
    began = pulse.last
    clock._now += 5  # nothing runs
    assert pulse.unread_since(clock.now()) == began
    clock.advance(0)
    assert pulse.unread_since(clock.now()) == began
    clock.advance(2 * PULSE_SECONDS)
    assert pulse.unread_since(clock.now()) == clock.now()
