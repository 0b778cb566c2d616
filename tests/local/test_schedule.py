"""What is due when."""

from __future__ import annotations

from millpond.local.schedule import Schedule


def test_a_schedule_has_one_time_for_each_key() -> None:
    schedule = Schedule()
    schedule.set(1, 10)
    schedule.set(2, 20)
    schedule.set(1, 30)
    schedule.set(3, 5)
    schedule.drop(3)
    assert (schedule.next_time(), len(schedule), 3 in schedule) == (20, 2, False)
    assert list(schedule.pop_due(30)) == [2, 1]
    assert schedule.next_time() is None
