"""The rate of errors, and how long messages wait, of the last minute."""

from __future__ import annotations

from millpond.observe.last_minute import LastMinute
from millpond.observe.metric_row import MetricKey

QUEUE, KIND = MetricKey("error_percent", "q"), MetricKey("type.error_percent", "", "a")


def key(name, kind="a"):
    return MetricKey(name, "q", kind)


def test_errors_are_a_share_of_what_ended_and_what_was_put_off_or_given_back_is_neither():
    minute = LastMinute()
    minute.add(0.0, {key("succeeded"): 6, key("discarded"): 1, key("retried"): 3, key("failed"): 1}, {})
    minute.add(1.0, {key("rejected"): 1, key("timed_out"): 1, key("unavailable"): 9, key("released"): 50}, {})
    minute.add(2.0, {key("succeeded", "b"): 10}, {})
    assert minute.gauges() == {QUEUE: 15.0, KIND: 30.0, MetricKey("type.error_percent", "", "b"): 0.0}


def test_after_a_minute_without_errors_the_share_is_zero_and_is_still_sent():
    minute = LastMinute()
    minute.add(0.0, {key("failed"): 1}, {})
    minute.add(59.0, {}, {})
    assert minute.gauges()[QUEUE] == 100.0
    minute.add(61.0, {}, {})
    assert minute.gauges() == {QUEUE: 0.0, KIND: 0.0}


def test_the_longest_wait_is_that_of_a_minute_and_grows_where_nothing_begins():
    minute = LastMinute()
    assert minute.waited_seconds("q", 0.0) is None
    minute.add(0.0, {}, {key("latency"): [9_000.0], key("latency", "b"): [30_000.0], key("duration"): [99_000.0]})
    minute.add(10.0, {}, {key("latency"): [2_000.0, 4_000.0]})
    assert minute.waited_seconds("q", 20.0) == 30.0
    assert minute.waited_seconds("q", 65.0) == 4.0
    assert minute.waited_seconds("q", 110.0) == 104.0
    assert minute.waited_seconds("other", 110.0) is None
