import random

import gevent
import pytest

from millpond.hub.countdown import Countdown
from tests.virtual import VirtualClock


@pytest.fixture
def clock():
    return VirtualClock(start=0.0)


def test_each_is_due_the_same_time_after_it_began(clock):
    due = []
    countdown = Countdown(10, lambda item: due.append((item, clock.now())), clock)
    for item in range(3):
        countdown.add(item)
        clock.advance(2)
    clock.advance(20)
    assert due == [(0, 10), (1, 12), (2, 14)]


def test_what_was_removed_is_never_due(clock):
    due = []
    countdown = Countdown(10, due.append, clock)
    for item in range(3):
        countdown.add(item)
        clock.advance(1)
    countdown.remove(0)
    countdown.remove(2)
    countdown.remove(2)
    clock.advance(20)
    assert due == [1]
    countdown.add(0)
    clock.advance(10)
    assert due == [1, 0]


def test_one_timer_serves_all(clock):
    countdown = Countdown(10, lambda item: None, clock)
    for item in range(1_000):
        countdown.add(item)
        if item >= 10:
            countdown.remove(item - 10)
        clock.advance(0.1)
    assert len(clock._timers) <= 2


def test_what_is_due_may_begin_again_at_once_and_take_others_out(clock):
    """An interrupt runs the handler's own code, and what that frees, in the middle of a ring."""
    due = []

    def ring(item):
        due.append((item, clock.now()))
        countdown.remove("other")
        if len(due) < 3:
            countdown.add(item)

    countdown = Countdown(10, ring, clock)
    countdown.add("one")
    countdown.add("other")
    clock.advance(100)
    assert due == [("one", 10), ("one", 20), ("one", 30)]


@pytest.mark.parametrize("seed", range(20))
def test_at_any_order_of_events_what_is_in_is_due_on_time_once(clock, seed):
    chance = random.Random(seed)
    due, expected, began = {}, {}, {}
    countdown = Countdown(5, lambda item: due.setdefault(item, []).append(clock.now()), clock)
    for item in range(200):
        if chance.random() < 0.7:
            countdown.add(item)
            began[item] = clock.now()
        elif running := [one for one, at in began.items() if one not in due]:
            gone = chance.choice(running)
            countdown.remove(gone)
            del began[gone]
        clock.advance(chance.random() * 2)
    clock.advance(5)
    expected = {item: [at + 5] for item, at in began.items()}
    assert due == expected


def test_what_is_due_after_one_that_raised_is_due_all_the_same(clock):
    due = []

    def ring(item):
        due.append(item)
        if item == "bad":
            raise ValueError("a bug")

    countdown = Countdown(10, ring, clock)
    for item in ("bad", "good"):
        countdown.add(item)
    hub = gevent.get_hub()
    printed, hub.handle_error = hub.handle_error, lambda *args: None
    clock.advance(20)
    hub.handle_error = printed
    assert due == ["bad", "good"]


def test_where_nothing_is_in_no_timer_keeps_anybody_waiting(clock):
    """`gevent.wait()` waits for timers too: a test of a handler would end with its time limit."""
    countdown = Countdown(10, lambda item: None, clock)
    for item in range(3):
        countdown.add(item)
        countdown.remove(item)
    assert [timer for _, _, timer in clock._timers if timer.call is not None] == []


def test_what_is_over_or_never_began_has_no_time_left():
    clock = VirtualClock()
    clock.advance(100)
    countdown = Countdown(10, print, clock)
    countdown.add("one")
    clock.advance(4)
    assert countdown.left("one") == 6
    countdown.remove("one")
    assert countdown.left("one") == countdown.left("other") == 0
