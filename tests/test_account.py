"""What is counted and timed of each delivery, as StatsD hears it."""

from __future__ import annotations

import pytest

from millpond.metrics import Metrics
from tests.rig import Rig
from tests.test_metrics import Server
from tests.virtual import VirtualClock


@pytest.fixture
def clock():
    return VirtualClock()


def test_a_delivery_is_timed_in_milliseconds_its_handler_alone_and_what_it_waited_before(clock):
    server = Server()
    metrics = Metrics("127.0.0.1", server.port, "mill", "worker.1")
    rig = Rig(clock, {"email.send": lambda payload, message: clock.sleep(2.5)}, metrics=metrics)
    rig.put("email.send")
    clock.advance(4)
    rig.consumer.polls.start()
    clock.advance(3)
    metrics.close()
    lines = server.lines()
    server.close()
    assert sorted(line for line in lines if "|ms" in line) == [
        "mill.q.duration:2500.000|ms",
        "mill.q.latency:4000.000|ms",
        "mill.q.type.email_send.duration:2500.000|ms",
    ]
    assert {"mill.q.received:1|c", "mill.q.succeeded:1|c", "mill.q.type.email_send.succeeded:1|c"} <= {*lines}
