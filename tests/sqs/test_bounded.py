"""Every call ends in time: after its own limit, or what the drain leaves."""

from __future__ import annotations

from typing import Any

import gevent
import pytest

from millpond.errors import Throttled, Unreachable
from millpond.sqs.bounded import Bounded
from tests.virtual import VirtualClock


class Silent:
    """A queue that never answers; `asked` has what it was asked."""

    url = "https://queue.example/1/q"

    def __init__(self, clock: VirtualClock) -> None:
        self._clock = clock
        self.asked: list[tuple[Any, ...]] = []

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any) -> None:
            self.asked.append((name, *arguments))
            self._clock.sleep(1_000_000)

        return call


CALLS = {
    "delete": (["h"],),
    "extend": ([("h", 30)],),
    "send": ([],),
    "attributes": (),
}


@pytest.fixture
def clock():
    return VirtualClock()


@pytest.fixture
def silent(clock):
    return Silent(clock)


def given_up_after(clock: VirtualClock, call: Any) -> float:
    """Seconds until the call is given up."""
    calling, began = gevent.spawn(call), clock.now()
    gevent.idle()
    while not calling.ready():
        assert clock.now() - began < 100
        clock.advance(0.05)
    with pytest.raises(Unreachable, match="no answer in"):
        calling.get()
    return round(clock.now() - began, 2)


@pytest.mark.parametrize(("name", "arguments"), CALLS.items())
def test_a_settling_call_is_given_up_after_ten_seconds(clock, silent, name, arguments):
    bounded = Bounded(silent, clock)
    assert given_up_after(clock, lambda: getattr(bounded, name)(*arguments)) == pytest.approx(10, abs=0.06)
    assert silent.asked == [(name, *arguments)]
    assert bounded.url == silent.url
    assert bounded.calls == 1  # which SQS bills


@pytest.mark.parametrize(
    ("left", "seconds"), [(60, 10), (10.04, 10), (9.9, 9.9), (2.4, 2.4), (0.5, 0.5), (0.1, 0.5), (-30, 0.5)]
)
@pytest.mark.parametrize(("name", "arguments"), CALLS.items())
def test_in_the_drain_it_takes_no_longer_than_what_is_left_and_half_a_second_at_the_least(
    clock, silent, name, arguments, left, seconds
):
    bounded = Bounded(silent, clock)
    bounded.deadline = clock.now() + left
    assert given_up_after(clock, lambda: getattr(bounded, name)(*arguments)) == pytest.approx(seconds, abs=0.06)


@pytest.mark.parametrize("wait_seconds", [0, 1, 20])
def test_a_receive_is_given_up_fifteen_seconds_after_its_wait_in_the_drain_too(clock, silent, wait_seconds):
    bounded = Bounded(silent, clock)
    bounded.deadline = clock.now() + 1
    seconds = given_up_after(clock, lambda: bounded.receive(7, wait_seconds, 60, "attempt"))
    assert seconds == pytest.approx(wait_seconds + 15, abs=0.06)
    assert silent.asked == [("receive", 7, wait_seconds, 60, "attempt")]


def test_calls_side_by_side_have_a_limit_each(clock, silent):
    bounded = Bounded(silent, clock)
    first = gevent.spawn(bounded.delete, ["1"])
    clock.advance(6)
    second = gevent.spawn(bounded.delete, ["2"])
    clock.advance(5)
    assert (first.ready(), second.ready()) == (True, False)
    clock.advance(5)
    assert second.ready()
    assert bounded.calls == 2
    for call in (first, second):
        with pytest.raises(Unreachable):
            call.get()


def test_an_answer_in_time_and_an_error_are_handed_on_and_nothing_is_cut_later(clock):
    class Answering:
        url = ""

        def delete(self, handles):
            clock.sleep(9)
            return [None]

        def extend(self, changes):
            raise Throttled("slowly", "RequestThrottled")

    bounded = Bounded(Answering(), clock)  # type: ignore[arg-type]

    def both() -> list[Any]:
        results = bounded.delete(["h"])
        with pytest.raises(Throttled, match="slowly"):
            bounded.extend([])
        clock.sleep(60)  # its limits are behind it
        return results

    calling = gevent.spawn(both)
    clock.advance(100)
    assert calling.get(timeout=5) == [None]
