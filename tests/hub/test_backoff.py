import pytest

from millpond.errors import AccessDenied, Throttled, Unreachable
from millpond.hub.backoff import MAX_CALL_DELAY_SECONDS, call_back_off_seconds, retry_seconds, whole_seconds


@pytest.mark.parametrize(("attempt", "ceiling"), [(1, 2), (2, 4), (3, 8), (9, 512), (10, 900), (2_000, 900)])
def test_a_retry_waits_between_one_second_and_a_ceiling_that_doubles(attempt, ceiling):
    assert retry_seconds(attempt, 2, 900, lambda: 0.0) == 1
    assert retry_seconds(attempt, 2, 900, lambda: 0.5) == max(1, ceiling / 2)
    assert retry_seconds(attempt, 2, 900, lambda: 1.0) == ceiling


def test_sqs_takes_whole_seconds_rounded_up_and_zero_stays_zero():
    assert [whole_seconds(n) for n in (0, 0.01, 1, 60.2, -3)] == [0, 1, 1, 61, 0]


def test_a_failing_call_pauses_longer_each_time_and_by_its_kind():
    assert call_back_off_seconds(1, Unreachable("x"), lambda: 1.0) == pytest.approx(0.2)
    assert call_back_off_seconds(2, Unreachable("x"), lambda: 1.0) == pytest.approx(0.4)
    assert call_back_off_seconds(1, Throttled("x"), lambda: 1.0) == 1.0
    assert call_back_off_seconds(1, AccessDenied("x"), lambda: 1.0) == 5.0
    assert call_back_off_seconds(10_000, Unreachable("x"), lambda: 1.0) == MAX_CALL_DELAY_SECONDS
    assert call_back_off_seconds(1, Unreachable("x"), lambda: 0.0) == pytest.approx(0.1)  # jitter takes half at most
