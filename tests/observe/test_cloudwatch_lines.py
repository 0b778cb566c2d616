"""[cloudwatch]: lines of the log that CloudWatch reads as metrics, by the rules of its format."""

from __future__ import annotations

import io
import json
import logging

import msgspec
import pytest

from millpond.app.output_settings import CloudwatchSettings
from millpond.observe import log
from millpond.observe.cloudwatch_lines import MAX_VALUES_A_LINE, CloudwatchLines, TimeSample
from millpond.observe.metric_row import MetricKey
from millpond.observe.metrics import Metrics, MetricSecond

UNITS = {"Milliseconds", "Seconds", "Percent", "Bytes", "Count", "None"}
NAMES = ("succeeded", "failed", "duration", "in_hand", "type.breaker", "worker.slots", "oldest_seconds")


@pytest.fixture
def stream():
    root = logging.getLogger()
    before, level = list(root.handlers), root.level
    stream = io.StringIO()
    log.setup("error", "json", stream)
    yield stream
    root.handlers[:] = before
    root.setLevel(level)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def documents(stream: io.StringIO) -> list[dict]:
    """Each line, read and checked as CloudWatch does."""
    found = [json.loads(line) for line in stream.getvalue().splitlines()]
    for one in found:
        meta = one["_aws"]
        assert set(meta) == {"Timestamp", "CloudWatchMetrics"}
        assert type(meta["Timestamp"]) is int
        assert meta["Timestamp"] > 1.7e12
        for directive in meta["CloudWatchMetrics"]:
            assert set(directive) == {"Namespace", "Dimensions", "Metrics"}
            assert 1 <= len(directive["Metrics"]) <= 100
            for dimensions in directive["Dimensions"]:
                assert all(isinstance(one[name], str) and one[name] for name in dimensions)
            for metric in directive["Metrics"]:
                value = one[metric["Name"]]
                assert metric["Unit"] in UNITS
                values = value if isinstance(value, list) else [value]
                assert 1 <= len(values) <= 100
                assert all(isinstance(number, int | float) for number in values)
    return found


def dimensions_of(document: dict) -> list:
    return document["_aws"]["CloudWatchMetrics"][0]["Dimensions"]


def fill(metrics: Metrics) -> None:
    metrics.counter(MetricKey("succeeded", "emails", "email.send")).total += 3
    metrics.counter(MetricKey("succeeded", "emails", "other")).total += 4
    metrics.counter(MetricKey("received", "emails")).total += 9  # nobody wants it
    metrics.gauge(MetricKey("in_hand", "emails"), lambda: 7)
    metrics.gauge(MetricKey("type.breaker", "", "email.send"), lambda: 1)
    metrics.gauge(MetricKey("worker.slots"), lambda: 100)
    for ms in range(300):
        metrics.timer(MetricKey("duration", "emails", "email.send")).add(ms)


def test_a_line_a_queue_a_type_and_the_process_has_what_is_wanted_and_no_more(stream):
    metrics = Metrics(CloudwatchLines("Mill", NAMES, by_type=False))
    fill(metrics)
    metrics.flush()
    of_queue, of_process, of_type = sorted(documents(stream), key=dimensions_of)
    assert (of_queue["queue"], of_queue["succeeded"], of_queue["in_hand"]) == ("emails", 7, 7.0)
    assert "received" not in of_queue
    assert len(of_queue["duration"]) == MAX_VALUES_A_LINE
    assert (of_type["type"], of_type["type_breaker"]) == ("email.send", 1.0)
    assert (of_process["service"], of_process["worker_slots"]) == ("Mill", 100.0)
    assert (of_queue["event"], of_queue["level"]) == ("worker.metrics", "info")
    metrics.flush()
    assert [one.get("succeeded") for one in documents(stream)[3:]] == [None] * 3  # counted once


def test_by_type_there_is_a_line_for_each_type_too(stream):
    metrics = Metrics(CloudwatchLines("Mill", NAMES, by_type=True))
    fill(metrics)
    metrics.flush()
    found = {(one.get("queue"), one.get("type")): one.get("succeeded") for one in documents(stream)}
    assert found[("emails", None)] == 7
    assert (found[("emails", "email.send")], found[("emails", "other")]) == (3, 4)


def test_it_writes_once_a_minute_and_what_was_counted_meanwhile(stream):
    clock = Clock()
    lines = CloudwatchLines("Mill", NAMES, by_type=False, clock=clock)
    metrics = Metrics(lines, clock=clock)
    for second in range(125):
        clock.now = float(second)
        metrics.counter(MetricKey("succeeded", "emails", "a")).total += 1
        metrics._step(spread=True)
    assert [one["succeeded"] for one in documents(stream)] == [61, 60]
    metrics.close()
    assert documents(stream)[-1]["succeeded"] == 4


def test_a_log_in_text_has_none_of_them(stream):
    log.setup("info", "text", stream)
    metrics = Metrics(CloudwatchLines("Mill", NAMES, by_type=False))
    fill(metrics)
    metrics.flush()
    assert stream.getvalue() == ""


def test_a_field_of_a_user_named_as_the_formats_own_is_no_metric(stream):
    logging.getLogger("mine").error("hello", extra={"_aws": {"CloudWatchMetrics": []}, "fields": {"_aws": 1}})
    assert json.loads(stream.getvalue())["event"] == "log"


def test_the_times_of_a_minute_have_equal_chances_whenever_they_came():
    late = 0
    for _ in range(300):
        sample = TimeSample()
        sample.add([0.0] * 900)
        sample.add([1.0] * 100)
        late += sum(sample.values)
        assert len(sample.values) == MAX_VALUES_A_LINE
    assert 0.08 < late / 300 / MAX_VALUES_A_LINE < 0.12


def test_a_type_of_any_name_is_a_dimension_that_cloudwatch_takes(stream):
    """It drops a whole line for one value that is blank, too long, or not ASCII."""
    lines = CloudwatchLines("jobs", NAMES, True)
    types = ['a"b', "été", "x" * 2_000, "  ", "bell\x07"]
    lines.take(MetricSecond({MetricKey("succeeded", "q", one): 1 for one in types}, {}, {}))
    lines.send(spread=False)
    found = [one["type"] for one in documents(stream) if "type" in one]
    assert found == ['a"b', "_t_", "x" * 1024, "_", "bell_"]


def test_a_namespace_that_cloudwatch_does_not_take_is_refused():
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"namespace": "été"}, CloudwatchSettings)
