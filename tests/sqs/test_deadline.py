"""What each call may take: its own limit, or what the drain leaves."""

from __future__ import annotations

from typing import Any

import pytest

from millpond.sqs.deadline import DeadlineQueue
from tests.virtual import VirtualClock


class Asked:
    """A queue that writes down what it is asked."""

    url = "https://queue.example/1/q"

    def __init__(self) -> None:
        self.asked: list[tuple[Any, ...]] = []

    def __getattr__(self, name: str) -> Any:
        return lambda *arguments: self.asked.append((name, *arguments)) or "the answer"


CALLS = {
    "delete": (["h"],),
    "extend": ([("h", 30)],),
    "send": ([],),
    "attributes": (),
}


@pytest.fixture
def clock():
    return VirtualClock()


@pytest.mark.parametrize(("name", "arguments"), CALLS.items())
def test_a_settling_call_has_ten_seconds_and_is_counted(clock, name, arguments):
    asked = Asked()
    queue = DeadlineQueue(asked, clock)  # type: ignore[arg-type]
    assert getattr(queue, name)(*arguments) == "the answer"
    assert asked.asked == [(name, *arguments, 10)]
    assert queue.url == asked.url
    assert queue.calls == 1  # which SQS bills


@pytest.mark.parametrize(
    ("left", "seconds"), [(60, 10), (10.04, 10), (9.9, 9.9), (2.4, 2.4), (0.5, 0.5), (0.1, 0.5), (-30, 0.5)]
)
@pytest.mark.parametrize(("name", "arguments"), CALLS.items())
def test_in_the_drain_it_has_what_is_left_and_half_a_second_at_the_least(clock, name, arguments, left, seconds):
    asked = Asked()
    queue = DeadlineQueue(asked, clock)  # type: ignore[arg-type]
    queue.deadline = clock.now() + left
    getattr(queue, name)(*arguments)
    assert asked.asked == [(name, *arguments, pytest.approx(seconds))]


def test_a_receive_has_its_wait_and_grace_in_the_drain_too(clock):
    asked = Asked()
    queue = DeadlineQueue(asked, clock)  # type: ignore[arg-type]
    queue.deadline = clock.now() + 1
    assert queue.receive(7, 20, 60, "attempt") == "the answer"
    assert asked.asked == [("receive", 7, 20, 60, "attempt")]
    assert queue.calls == 1
