"""Priorities: what each queue has of a process that is saturated, by its weight, on a clock that the test moves."""

from __future__ import annotations

import math
from typing import Any

import gevent
import pytest

from millpond.engine.permits import HUNGRY_SECONDS, QUIET_WAIT_SECONDS, Permits, Share
from millpond.hub import pool
from tests.engine.saturated import Saturated
from tests.engine.test_permits import Process, taken, waiting
from tests.virtual import VirtualClock, settle


def weighted(*weights: float, total: int = 100, strict: bool = False, number: int = 4_000) -> Process:
    """A process whose queues have these weights, and enough messages for some ten seconds."""
    process = Process(len(weights), total, strict=strict)
    for index, weight in enumerate(weights):
        process.shares[index].weight = weight
        process.put(index, number)
    process.clock.advance(5)
    return process


def parts(process: Process, seconds: float = 4) -> list[float]:
    """What each queue has of all messages that are done from now on, in %."""
    before = process.done.copy()
    process.clock.advance(seconds)
    done = [process.done[index] - before[index] for index in range(len(process.queues))]
    assert all(queue.visible() for index, queue in enumerate(process.queues) if done[index]), "saturated to the end"
    return [100 * number / sum(done) for number in done]


@pytest.mark.slow
@pytest.mark.parametrize(("total", "number"), [(10, 400), (100, 4_000), (300, 9_000)])
def test_three_queues_at_six_three_and_one_have_that_of_a_saturated_process(total, number):
    assert parts(weighted(6, 3, 1, total=total, number=number)) == pytest.approx([60, 30, 10], abs=3)


@pytest.fixture
def same_each_time(monkeypatch):
    """No slot gives way to others because this machine is busy."""
    monkeypatch.setattr(pool, "TURN_SECONDS", math.inf)


def saturated_parts(number: int, **settings: Any) -> list[float]:
    """What queues at 6:3:1, which are never empty, have of `number` messages that one worker handles, in %."""
    worker = Saturated(6, 3, 1, **settings)
    worker.advance_until(500)
    done = worker.advance_until(number)
    return [100 * part / sum(done) for part in done]


@pytest.mark.slow
@pytest.mark.usefixtures("same_each_time")
@pytest.mark.parametrize(
    ("concurrency", "work", "receive"),
    [(10, 0.05, 0.01), (20, 0.05, 0.02), (40, 0.005, 0.01), (40, 0.01, 0.001), (100, 0.005, 0.01), (100, 0.05, 0.03)],
)
def test_three_queues_that_are_never_empty_have_their_parts_whatever_a_receive_and_a_handler_take(
    concurrency, work, receive
):
    """The reference, at "Priorities", says where this holds."""
    shares = saturated_parts(5_000, concurrency=concurrency, work=work, receive=receive)
    assert shares == pytest.approx([60, 30, 10], abs=3)


@pytest.mark.slow
@pytest.mark.usefixtures("same_each_time")
def test_where_a_receive_takes_longer_than_a_handler_the_heaviest_queue_needs_more_pollers():
    """Four bring it 40 messages in each round trip. Of its 60 places 51 wait for one."""
    slow: dict[str, Any] = {"concurrency": 100, "work": 0.005, "receive": 0.03}
    assert saturated_parts(3_000, pollers=4, **slow)[0] < 57
    assert saturated_parts(3_000, pollers=6, **slow) == pytest.approx([60, 30, 10], abs=3)


@pytest.mark.parametrize(
    ("weights", "strict", "enough"), [((9.0, 1.0), False, 4), ((1.0,) * 10, False, 5), ((9.0, 1.0), True, 5)]
)
def test_a_queue_waits_for_no_more_permits_than_its_part(weights, strict, enough):
    """Of forty the light one has four. For five it would wait until its patience ends: no more are left for it."""
    permits = Permits(40, len(weights), VirtualClock(), strict=strict)
    *others, light = (permits.share(0, weight) for weight in weights)
    for share in others:
        taken(share, 36 // len(others))
    taken(light, 4)
    patient = gevent.spawn(light.acquire, 10, patient=True)
    settle()
    for released, share in enumerate([light] * 4 + others[:1], 1):
        assert patient.ready() is (released > enough)
        share.release()
        settle()
    assert patient.value == enough


def test_a_weight_that_is_changed_counts_at_once():
    process = weighted(1, 3, total=40)
    assert parts(process, 2) == pytest.approx([25, 75], abs=3)
    process.shares[0].weight, process.shares[1].weight = 3.0, 1.0
    process.clock.advance(1)
    assert parts(process, 2) == pytest.approx([75, 25], abs=3)


def test_what_a_heavy_queue_does_not_need_the_light_ones_have():
    process = Process(3, 100)
    for index, weight in enumerate((6, 3, 1)):
        process.shares[index].weight = weight
    process.put(2, 10_000)
    process.clock.advance(12)
    assert process.rate(2, 4) >= 0.85 * 0.9 * 100 / 0.2
    process.put(0, 6_000)
    process.clock.advance(QUIET_WAIT_SECONDS)
    assert parts(process, 4)[0] == pytest.approx(6 / 7 * 100, abs=3)


def test_slow_handlers_of_a_light_queue_take_no_more_than_its_places():
    process = Process(2, 50)
    process.work[1] = 10.0
    process.shares[0].weight = 4
    for index in range(2):
        process.put(index, 3_000)
    process.clock.advance(15)
    assert process.held[1] <= 11


def test_in_strict_order_the_heaviest_has_all_but_the_last_tenth_and_no_lighter_one_starves():
    process = weighted(6, 3, 1, strict=True, number=8_000)
    first, second, _ = parts(process, 2)
    assert first >= 89
    assert second >= 8
    before = len(process.begun[2])
    process.clock.advance(3 * QUIET_WAIT_SECONDS / 2)
    assert len(process.begun[2]) > before


@pytest.mark.parametrize("strict", [False, True])
def test_what_a_hungry_queue_lacks_of_its_part_is_left_for_it(strict):
    """Of forty the heavy one has thirty, and holds twenty: four that come back are too few for a receive."""
    permits = Permits(40, 2, VirtualClock(), strict=strict)
    heavy, light = permits.share(0, 3.0), permits.share(0, 1.0)
    taken(heavy, 20)
    taken(light, 20)
    patient = gevent.spawn(heavy.acquire, 10, patient=True)
    settle()
    next_one = waiting(light)
    light.release(4)
    settle()
    assert (patient.ready(), next_one.ready()) == (False, False)
    light.release(1)
    settle()
    assert (patient.ready(), next_one.ready()) == (True, False)


def of_three(*held: int, strict: bool = False) -> tuple[VirtualClock, Permits, list[Share]]:
    """Forty permits, all taken, of queues with the weights 3, 1 and 1: their parts are 24, 8 and 8."""
    clock = VirtualClock()
    permits = Permits(40, 3, clock, strict=strict)
    shares = [permits.share(0, weight) for weight in (3.0, 1.0, 1.0)]
    for share, number in zip(shares, held, strict=True):
        taken(share, number)
    return clock, permits, shares


def test_of_two_that_lack_permits_the_one_that_holds_less_for_its_weight_is_served_first():
    _, _, (heavy, light, third) = of_three(12, 6, 22)
    waits = [waiting(light), waiting(heavy)]
    third.release()
    settle()
    assert [one.ready() for one in waits] == [False, True]


def test_a_queue_below_its_part_is_served_though_a_heavier_one_lacks_more():
    _, _, (heavy, light, third) = of_three(20, 5, 15)
    patient = gevent.spawn(heavy.acquire, 10, patient=True)
    settle()
    third.release(2)
    settle()
    assert not patient.ready()
    assert waiting(light).ready()
    assert not waiting(third).ready()


def test_in_strict_order_the_heaviest_is_first_also_where_nothing_came_back_for_long():
    clock, _, (heavy, light, third) = of_three(30, 4, 6, strict=True)
    waits = [waiting(light), waiting(heavy)]
    clock.advance(HUNGRY_SECONDS * 2)
    third.release()
    settle()
    assert [one.ready() for one in waits] == [False, True]


def test_in_strict_order_a_receive_that_has_waited_for_ten_seconds_is_served_before_a_heavier_one():
    clock, _, (heavy, light, third) = of_three(20, 10, 10, strict=True)
    late = waiting(light)
    for seconds, served in ((QUIET_WAIT_SECONDS - 0.1, False), (0.1, True)):
        waiting(heavy)
        clock.advance(seconds)
        third.release()
        settle()
        assert late.ready() is served
