"""The last hour in buckets, and the percentiles of times: numbers that were reckoned by hand."""

from __future__ import annotations

import random
import statistics

import pytest

from millpond.observe.last_hour import MAX_BUCKETS, LastHour
from millpond.observe.metric_row import MetricKey
from millpond.observe.metrics import MetricSecond
from millpond.observe.time_spread import SPREAD_BOUNDS_MS, TimeSpread


def key(name, kind="a"):
    return MetricKey(name, "q", kind)


def spread_of(times):
    spread = TimeSpread()
    if times:
        spread.add(times)
    return spread


class Hour:
    """A LastHour whose seconds are given to it."""

    def __init__(self):
        self.now, self.set_by = 0.0, 0.0
        self.hour = LastHour(lambda: self.now, lambda: 1_000_000.0 + self.now + self.set_by)

    def second(self, counts=None, times=None, seconds=1.0):
        self.now += seconds
        self.hour.take(MetricSecond(counts or {}, times or {}, {}))


@pytest.mark.parametrize(
    ("times", "percent", "wanted"),
    [
        ([], 50, None),
        ([7.0], 50, 7.0),
        ([7.0], 95, 7.0),
        ([5.0] * 1_000, 95, 5.0),
        ([-3.0], 50, 0.0),
        ([1e12, 1e12], 50, 1e12),
        ([-3.0, -5.0], 50, 0.0),
        ([1.0] * 95 + [10_000.0] * 5, 95, 1.0),
        ([1.0] * 94 + [10_000.0] * 6, 95, 10_000.0),
        ([100.0] * 50 + [4_000.0] * 50, 50, 100.0),
    ],
)
def test_a_percentile_is_the_time_that_this_share_does_not_exceed(times, percent, wanted):
    """To within a bucket of the histogram, which is 19 % wide."""
    found = spread_of(times).percentile(percent)
    assert found == wanted if wanted is None else found == pytest.approx(wanted, rel=0.19)


def test_between_two_bounds_the_times_lie_evenly():
    low, high = SPREAD_BOUNDS_MS[40], SPREAD_BOUNDS_MS[41]
    ten = spread_of([low + (high - low) * (step + 0.5) / 10 for step in range(10)])
    assert ten.percentile(50) == pytest.approx(low + (high - low) * 0.45)
    assert ten.percentile(95) == pytest.approx(low + (high - low) * 0.95)


def test_percentiles_of_many_times_are_right_to_a_few_percent_and_merged_ones_the_same():
    chance = random.Random(1)
    times = [chance.lognormvariate(3, 1.5) for _ in range(10_000)]
    cuts, merged = statistics.quantiles(times, n=100), spread_of(times[:3_000])
    merged.merge(spread_of(times[3_000:]))
    for percent in (50, 95):
        found = spread_of(times).percentile(percent)
        assert found == pytest.approx(cuts[percent - 1], rel=0.03)
        assert merged.percentile(percent) == found
    assert merged.count == sum(merged.numbers) == 10_000


@pytest.mark.parametrize("steps", range(0, 40, 3))
def test_times_that_are_alike_beside_others_are_right_to_nineteen_percent(steps):
    """A median of 100 ms was shown as 86: half of the times were 10 ms. docs/reference/settings.md names this bound."""
    alike = 10.0 * 2 ** (steps / 40)
    for times in ([1.0] * 499 + [alike] * 501, [alike] * 501 + [1_000.0] * 499):
        assert spread_of(times).percentile(50) == pytest.approx(alike, rel=0.19)


def test_a_bucket_has_what_ended_in_its_ten_seconds():
    one = Hour()
    for _ in range(9):
        one.second({key("succeeded"): 6, key("discarded"): 1}, {key("duration"): [20.0], key("latency"): [3_000.0]})
    assert one.hour.closed == 0
    one.second({key("retried"): 2, key("failed"): 1, key("unavailable"): 1, MetricKey("succeeded", "q"): 50})
    [bucket] = one.hour.since(0)
    assert one.hour.closed == 1
    assert (bucket.at, bucket.seconds) == (1_000_000.0, 10.0)
    assert bucket.outcomes == {"succeeded": 54, "discarded": 9, "retried": 2}
    assert bucket.failed == 1
    assert (bucket.wait_p50, bucket.wait_p95, bucket.run_p50, bucket.run_p95) == (3.0, 3.0, 0.02, 0.02)
    one.second({key("succeeded", "b"): 1})
    assert [bucket.at for bucket in one.hour.since(0)] == [1_000_000.0, 1_000_010.0]
    assert [bucket.outcomes for bucket in one.hour.since(1)] == [{"succeeded": 1}]


def test_a_hub_that_was_blocked_makes_one_long_bucket():
    one = Hour()
    one.second({key("succeeded"): 30}, seconds=45.0)
    one.second({}, seconds=10.0)
    assert [(one.at, one.seconds) for one in one.hour.since(0)] == [(1_000_000.0, 45.0), (1_000_045.0, 10.0)]


@pytest.mark.parametrize("seconds", [3 * 3_600.0, -3_600.0])
def test_what_ends_after_a_laptop_has_slept_or_its_clock_was_set_is_shown_at_the_time_of_then(seconds):
    """The clock of a bucket's length stands still while a machine sleeps, and the wall's does not."""
    one = Hour()
    one.second({key("succeeded"): 5})
    one.second()
    one.set_by = seconds
    one.second({key("failed"): 7, key("retried"): 7})
    before, after = one.hour.since(0)
    assert (before.at, before.seconds, before.outcomes) == (1_000_000.0, 2.0, {"succeeded": 5})
    assert (after.at, after.seconds, after.failed) == (1_000_002.0 + seconds, 1.0, 7)


def test_a_clock_that_is_set_before_anything_was_counted_leaves_no_bucket_behind():
    one = Hour()
    one.set_by = 50_000.0
    one.second({key("succeeded"): 1})
    assert [(bucket.at, bucket.seconds) for bucket in one.hour.since(0)] == [(1_050_000.0, 1.0)]


def test_a_bucket_in_which_nothing_ended_has_no_percentiles_and_the_open_one_is_left_out():
    one = Hour()
    for _ in range(15):
        one.second()
    [bucket] = one.hour.since(0)
    assert (bucket.outcomes, bucket.failed, bucket.run_p50, bucket.wait_p95) == ({}, 0, None, None)


def test_an_hour_is_kept_and_no_more():
    one = Hour()
    for _ in range(MAX_BUCKETS + 20):
        one.second({key("succeeded"): 1}, seconds=10.0)
    buckets = one.hour.since(0)
    assert (len(buckets), one.hour.closed) == (MAX_BUCKETS, MAX_BUCKETS + 20)
    assert buckets[0].at == 1_000_000.0 + 200
    assert len(one.hour.since(one.hour.closed - 3)) == 3
    assert one.hour.since(one.hour.closed) == []


def test_the_minute_of_a_type_is_that_of_six_buckets_and_ends():
    one = Hour()
    assert (one.hour.minute, one.hour.minutes) == (None, {})
    ended = {key("succeeded"): 20, key("discarded"): 10, key("failed"): 10, key("retried"): 15, key("unavailable"): 5}
    one.second(ended, {key("duration"): [50.0]}, seconds=10.0)
    one.second({key("succeeded", "b"): 60}, {key("duration", "b"): [70.0]}, seconds=10.0)
    minute, whole = one.hour.minutes["a"], one.hour.minute
    assert (minute.seconds, minute.ended, minute.failed, minute.failed_percent) == (20.0, 45, 10, 25.0)
    assert (minute.run_p50, minute.wait_p50) == (0.05, None)
    assert (whole.ended, whole.failed, whole.failed_percent) == (105, 10, 10.0)
    for _ in range(5):
        one.second(seconds=10.0)
    assert {*one.hour.minutes} == {"b"}
    one.second(seconds=10.0)
    assert (one.hour.minutes, one.hour.minute.ended, one.hour.minute.seconds) == ({}, 0, 60.0)
