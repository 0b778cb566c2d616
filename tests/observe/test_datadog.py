"""[statsd] format = "datadog": names with tags, each delivery once, and gauges that name their process."""

from __future__ import annotations

import pytest

from millpond.observe.metric_row import MetricKey
from millpond.observe.statsd_packets import DatadogNaming, GraphiteNaming, Packer, tag_value

COUNTS = {
    MetricKey("succeeded", "emails", "email.send"): 3,
    MetricKey("succeeded", "emails", "unknown"): 2,
    MetricKey("received", "emails"): 5,
    MetricKey("worker.hub_blocked"): 1,
}
GAUGES = {MetricKey("in_hand", "emails"): 4.0, MetricKey("type.breaker", "", "email.send"): 1.0}
TIMES = {MetricKey("duration", "emails", "email.send"): [12.5]}


def lines_of(naming) -> list[str]:
    packets = Packer(naming).packets(COUNTS, GAUGES, TIMES)
    return [line for packet in packets for line in packet.split("\n")]


def test_tags_say_queue_type_and_of_gauges_the_worker_and_no_delivery_is_sent_twice():
    assert lines_of(DatadogNaming("mill", "web.1")) == [
        "mill.succeeded:3|c|#queue:emails,type:email.send",
        "mill.succeeded:2|c|#queue:emails,type:unknown",
        "mill.received:5|c|#queue:emails",
        "mill.worker.hub_blocked:1|c",
        "mill.in_hand:4.0|g|#queue:emails,worker:web.1",
        "mill.type.breaker:1.0|g|#type:email.send,worker:web.1",
        "mill.duration:12.500|ms|#queue:emails,type:email.send",
    ]


def test_the_same_as_paths_is_summed_for_the_queue():
    assert lines_of(GraphiteNaming("mill", "web.1")) == [
        "mill.emails.succeeded:5|c",
        "mill.emails.type.email_send.succeeded:3|c",
        "mill.emails.type.unknown.succeeded:2|c",
        "mill.emails.received:5|c",
        "mill.worker.hub_blocked:1|c",
        "mill.emails.in_hand.web_1:4.0|g",
        "mill.worker.type.email_send.breaker.web_1:1.0|g",
        "mill.emails.duration:12.500|ms",
        "mill.emails.type.email_send.duration:12.500|ms",
    ]


def test_of_a_sampled_timer_the_rate_stands_before_the_tags():
    packets = Packer(DatadogNaming("", "w")).packets({}, {}, {MetricKey("latency", "q", "a"): [1.0] * 400})
    assert packets[0].split("\n")[0] == "latency:1.000|ms|@0.500000|#queue:q,type:a"


@pytest.mark.parametrize("value", ["a,b", "a|b", "a#b", "a:b", "a\nb", "a b"])
def test_no_value_of_a_tag_begins_another_tag_or_line(value):
    assert tag_value(value) == "a_b"
