"""What is counted and timed of each delivery, as StatsD hears it."""

from __future__ import annotations

import logging

import pytest
from gevent.event import Event

from millpond.errors import Discard, Retry
from tests.observe.test_metrics import Server, metrics_to
from tests.rig import Rig
from tests.virtual import VirtualClock


@pytest.fixture
def clock():
    return VirtualClock()


def test_a_delivery_is_timed_in_milliseconds_its_handler_alone_and_what_it_waited_before(clock):
    server = Server()
    metrics = metrics_to(server)
    rig = Rig(clock, {"email.send": lambda payload, message: clock.sleep(2.5)}, metrics=metrics)
    rig.put("email.send")
    clock.advance(4)
    rig.consumer.pollers.start()
    clock.advance(3)
    metrics.close()
    lines = server.lines()
    server.close()
    assert sorted(line for line in lines if "|ms" in line) == [
        "mill.q.duration:2500.000|ms",
        "mill.q.latency:4000.000|ms",
        "mill.q.type.email_send.duration:2500.000|ms",
        "mill.q.type.email_send.latency:4000.000|ms",
    ]
    assert {"mill.q.received:1|c", "mill.q.succeeded:1|c", "mill.q.type.email_send.succeeded:1|c"} <= {*lines}


def told(caplog, event):
    return [record.fields for record in caplog.records if getattr(record, "event", "") == event]


def test_the_wait_of_a_message_is_that_before_its_first_handling_and_of_no_later_one(clock):
    server = Server()
    metrics = metrics_to(server)

    def handle(payload, message):
        if message.attempt == 1:
            raise Retry("later", after=5)

    rig = Rig(clock, {"job": handle}, metrics=metrics)
    rig.put("job")
    rig.consumer.pollers.start()
    clock.advance(60)
    metrics.close()
    lines = server.lines()
    server.close()
    assert len([line for line in lines if line.startswith("mill.q.duration:")]) == 2
    assert [line for line in lines if "q.latency" in line] == ["mill.q.latency:0.000|ms"]
    assert "mill.q.retried:1|c" in lines


def test_the_log_has_the_seconds_of_a_handler_in_milliseconds_and_none_where_it_did_not_run(clock, caplog):
    caplog.set_level(logging.INFO)

    def handle(payload, message):
        clock.sleep(1.2344)
        raise Retry("later", after=5)

    rig = Rig(clock, {"job": handle})
    rig.put("job")
    rig.queue.put("{")
    rig.consumer.pollers.start()
    clock.advance(3)
    (retried,), (unread,) = told(caplog, "message.retried"), told(caplog, "message.dead_lettered")
    assert (retried["seconds"], retried["delay_seconds"]) == (1.234, 5)
    assert unread["seconds"] == 0.0
    assert "delay_seconds" not in unread


def test_what_is_left_out_of_the_log_is_told_a_second_later_and_counted_anew_each_time(clock, caplog):
    caplog.set_level(logging.INFO)
    rig = Rig(clock, {"job": lambda payload, message: None}, visibility_seconds=3_600)
    rig.consumer.pollers.start()
    for number in (3, 5):
        rig.put("job", None, number)
        clock.advance(0.9)
        assert [fields["more"] for fields in told(caplog, "message.succeeded")] == [3] * (number == 5)
        clock.advance(0.2)
        assert [fields["more"] for fields in told(caplog, "message.succeeded")][-1] == number


def test_those_that_one_delete_confirms_are_told_apart_by_type_and_outcome(clock):
    server, gate = Server(), Event()
    metrics = metrics_to(server)

    def handle(payload, message):
        gate.wait()
        if payload:
            raise Discard("no")

    rig = Rig(clock, {"a": handle, "b": handle}, metrics=metrics)
    for kind, payload in (("a", 0), ("a", 1), ("b", 0), ("a", 0)):
        rig.put(kind, payload)
    rig.consumer.pollers.start()
    clock.advance(1)
    gate.set()
    clock.advance(1)
    metrics.close()
    lines = {line for line in server.lines() if line.startswith("mill.q.type.") and line.endswith("|c")}
    server.close()
    assert lines == {"mill.q.type.a.succeeded:2|c", "mill.q.type.a.discarded:1|c", "mill.q.type.b.succeeded:1|c"}


def test_no_fraction_of_a_millisecond_of_a_wait_is_cut_off(clock):
    """SQS's whole milliseconds are subtracted from a time that has a fraction."""
    server = Server()
    metrics = metrics_to(server)
    time = clock.time
    clock.time = lambda: time() + 0.0009
    rig = Rig(clock, {"job": lambda payload, message: None}, metrics=metrics)
    rig.put("job")
    clock.advance(1)
    rig.consumer.pollers.start()
    clock.advance(1)
    metrics.close()
    lines = server.lines()
    server.close()
    assert [line for line in lines if "q.latency" in line] == ["mill.q.latency:999.900|ms"]
