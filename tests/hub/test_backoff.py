import math
import re
from pathlib import Path

import pytest

import millpond
from millpond.app.config import RetrySettings
from millpond.errors import AccessDenied, Throttled, Unreachable
from millpond.hub.backoff import (
    MAX_CALL_DELAY_SECONDS,
    call_back_off_seconds,
    put_off_seconds,
    retries_seconds,
    retry_seconds,
    whole_seconds,
)


@pytest.mark.parametrize(("attempt", "ceiling"), [(1, 2), (2, 6), (3, 18), (6, 486), (7, 900), (2_000, 900)])
def test_a_retry_waits_for_the_upper_half_of_a_ceiling_that_trebles(attempt, ceiling):
    assert retry_seconds(attempt, 2, 900, lambda: 0.0) == ceiling / 2
    assert retry_seconds(attempt, 2, 900, lambda: 0.5) == math.ceil(ceiling * 0.75)
    assert retry_seconds(attempt, 2, 900, lambda: 1.0) == ceiling


def test_a_retry_waits_for_a_second_where_its_back_off_is_none():
    assert retry_seconds(5, 0, 0, lambda: 0.0) == 1


def test_the_default_attempts_survive_a_deploy_of_the_other_side_and_a_lunch_break():
    retry = RetrySettings()
    least, most = retries_seconds(retry.max_attempts, retry.base_seconds, retry.max_seconds)
    assert least > 35 * 60
    assert most > 60 * 60


@pytest.mark.parametrize(
    ("attempts", "seconds"), [(1, (0, 0)), (2, (10, 20)), (3, (40, 80)), (7, (2_110, 4_220)), (8, (3_010, 6_020))]
)
def test_all_attempts_together_take_the_sum_of_their_waits(attempts, seconds):
    assert retries_seconds(attempts, 20, 1_800) == seconds


@pytest.mark.parametrize(("receives", "ceiling"), [(1, 30), (2, 60), (5, 480), (6, 900), (1_000, 900)])
def test_what_could_not_begin_is_put_off_for_the_upper_half_of_a_ceiling_that_doubles(receives, ceiling):
    assert put_off_seconds(receives, lambda: 0.0) == ceiling / 2
    assert put_off_seconds(receives, lambda: 1.0) == ceiling


#: A back-off at its longest -> that, for what chance says.
LONGEST = {
    "retry": lambda chance: retry_seconds(100, 20, 1_800, chance),
    "put off": lambda chance: put_off_seconds(100, chance),
    "call": lambda chance: call_back_off_seconds(100, Throttled("x"), chance),
    "call, briefly": lambda chance: call_back_off_seconds(100, None, chance, most=2.0),
}


@pytest.mark.parametrize("name", LONGEST)
def test_a_back_off_is_spread_at_its_longest_too_where_all_wait_that_have_failed_for_long(name):
    """A limit that is laid on after the jitter leaves none: all come back at once."""
    longest = LONGEST[name](lambda: 1.0)
    assert LONGEST[name](lambda: 0.0) == longest / 2
    assert longest / 2 < LONGEST[name](lambda: 0.5) < longest


def test_no_place_lays_its_limit_on_after_the_jitter():
    """The producer's own is the end of its time: no further call comes after it."""
    sources = [path for path in Path(millpond.__file__).parent.rglob("*.py") if path.name != "producer.py"]
    cut = re.compile(r"min\([^\n]*(?:retry|put_off|call_back_off)_seconds\(")
    assert [path.name for path in sources if cut.search(path.read_text())] == []


def test_sqs_takes_whole_seconds_rounded_up_and_zero_stays_zero():
    assert [whole_seconds(n) for n in (0, 0.01, 1, 60.2, -3)] == [0, 1, 1, 61, 0]


def test_a_failing_call_pauses_longer_each_time_and_by_its_kind():
    assert call_back_off_seconds(1, Unreachable("x"), lambda: 1.0) == pytest.approx(0.2)
    assert call_back_off_seconds(2, Unreachable("x"), lambda: 1.0) == pytest.approx(0.4)
    assert call_back_off_seconds(1, Throttled("x"), lambda: 1.0) == 1.0
    assert call_back_off_seconds(1, AccessDenied("x"), lambda: 1.0) == 5.0
    assert call_back_off_seconds(10_000, Unreachable("x"), lambda: 1.0) == MAX_CALL_DELAY_SECONDS
    assert call_back_off_seconds(1, Unreachable("x"), lambda: 0.0) == pytest.approx(0.1)  # jitter takes half at most
