"""Whether a queue receives at its full width, beside what it cannot begin."""

from __future__ import annotations

import pytest

from millpond.engine.delivery import Line
from millpond.engine.intake import BESIDE_LOOK_SECONDS, NO_ROOM_IN_A_ROW, Intake
from millpond.engine.permits import Permits
from tests.virtual import VirtualClock


class FakeTraffic:
    """Counts as the consumer does; `others` are those of another type, whose breaker is closed."""

    def __init__(self) -> None:
        self.held = self.others = 0

    def taken(self) -> int:
        return self.held + self.others

    def may_begin_beside(self, line: Line | None) -> bool:
        return True

    def begun_beside(self, line: Line | None) -> int:
        return self.others


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


@pytest.fixture
def traffic() -> FakeTraffic:
    return FakeTraffic()


@pytest.fixture
def intake(traffic: FakeTraffic, clock: VirtualClock) -> Intake:
    made = Intake(traffic, Permits(10, 1, clock).share(0), clock)
    clock.advance(2 * BESIDE_LOOK_SECONDS)
    return made


def turn_away(intake: Intake, traffic: FakeTraffic, number: int) -> None:
    for _ in range(number):
        traffic.held += 1
        intake.count_held()
        intake.full(None)


def test_it_stays_wide_while_others_begin(intake: Intake, traffic: FakeTraffic, clock: VirtualClock) -> None:
    for _ in range(20):
        traffic.others += 1
        turn_away(intake, traffic, NO_ROOM_IN_A_ROW - 1)
        clock.advance(BESIDE_LOOK_SECONDS)
    assert not intake.is_narrow


def test_many_in_a_row_make_it_narrow_where_no_other_type_has_begun(intake: Intake, traffic: FakeTraffic) -> None:
    turn_away(intake, traffic, NO_ROOM_IN_A_ROW - 1)
    assert not intake.is_narrow
    turn_away(intake, traffic, 1)
    assert intake.is_narrow


def test_a_row_of_any_length_leaves_it_wide_where_another_type_has_just_begun(
    intake: Intake, traffic: FakeTraffic
) -> None:
    traffic.others += 1
    turn_away(intake, traffic, 2 * NO_ROOM_IN_A_ROW)
    assert not intake.is_narrow


def test_one_that_is_on_its_way_from_the_line_to_a_slot_is_no_other(intake: Intake, traffic: FakeTraffic) -> None:
    for _ in range(NO_ROOM_IN_A_ROW // 2):
        turn_away(intake, traffic, 1)
        traffic.held -= 1  # it is made ready
        turn_away(intake, traffic, 1)
        traffic.held += 1  # and in a slot
    assert intake.is_narrow
