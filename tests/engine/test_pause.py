"""The pause after Unavailable, and what ends it."""

from itertools import pairwise

import pytest

from millpond.errors import (
    Unavailable,
)
from tests.engine.wired import Server, run
from tests.handlers import Gate

pytestmark = pytest.mark.usefixtures("no_core_greenlet_died")


def test_unavailable_pauses_the_receives_then_one_message_at_a_time_probes(clock):
    up = []

    def handle(payload, message):
        if not up:
            raise Unavailable("mail server down", after=60)

    rig = run(clock, {"job": handle}, concurrency=10)
    ids = rig.put("job", {}, 100)
    clock.advance(59)
    burned = {one: rig.queue.messages[one].receives for one in ids}
    assert sum(burned.values()) <= 20  # what was in hand; nobody else lost an attempt
    assert all(outcome.cause == "unavailable" and outcome.name == "retried" for _, outcome in rig.ended)
    before = rig.books.received
    clock.advance(125)
    assert rig.books.received - before <= 3  # one probe a minute
    up.append(True)
    clock.advance(65)
    assert rig.queue.messages == {}
    assert rig.books.outcomes["dead_lettered"] == 0


@pytest.mark.parametrize("body", ["{not json", '{"event_type": "unknown", "payload": 1}'])
def test_a_message_whose_handler_does_not_run_is_no_probe_that_got_through(clock, caplog, body):
    server = Server(clock, 60)
    rig = run(clock, {"job": server}, concurrency=30)
    rig.put("job")
    clock.advance(25)  # the poll that was open is back
    rig.queue.put(body)
    rig.put("job", {}, 30)
    clock.advance(575)
    assert len(rig.letters()) == 1
    assert len(server.times) <= 11
    assert "got through" not in caplog.text


def test_a_poll_that_waits_for_permits_when_a_pause_begins_asks_for_nothing_in_it(clock):
    gate = Gate()

    def handle(payload, message):
        gate(payload, message)
        raise Unavailable("mail server down", after=60)

    rig = run(clock, {"job": handle}, concurrency=10)
    rig.put("job", {}, 30)
    clock.advance(1)
    assert len(gate.inside) == 10
    gate.event.set()
    clock.advance(50)
    assert rig.books.received == 10
    clock.advance(20)
    assert rig.books.received == 11


@pytest.mark.parametrize("after", [0, -5, 0.001, -0.0, 1e-9], ids=str)
def test_unavailable_for_no_time_at_all_is_no_hot_loop(clock, after):
    server = Server(clock, after)
    rig = run(clock, {"job": server})
    rig.put("job", {}, 3)
    clock.advance(600)
    pauses = [later - earlier for earlier, later in pairwise(sorted({*server.times}))]
    assert min(pauses) >= 1
    assert len(server.times) < 30  # the pauses grow, a minute at the most
    assert max(pauses) <= 62
    server.up = True
    clock.advance(120)
    assert len(rig.queue.deleted) == 3
    server.up = False  # the next outage begins with short pauses again
    rig.put("job")
    clock.advance(8)
    assert len(server.times) >= 3


@pytest.mark.parametrize("after", [float("nan"), float("inf"), None, "soon"], ids=str)
def test_unavailable_for_a_time_that_is_none_waits_a_minute(clock, after):
    server = Server(clock, after)
    rig = run(clock, {"job": server})
    rig.put("job")
    clock.advance(59)
    assert len(server.times) == 1
    clock.advance(30)
    assert len(server.times) == 2


def test_a_pause_and_its_end_are_told_once_each(clock, caplog):
    caplog.set_level("INFO")
    up = []

    def handle(payload, message):
        if not up:
            raise Unavailable("mail server down", after=60)

    rig = run(clock, {"job": handle}, concurrency=10)
    rig.put("job", {}, 30)
    clock.advance(59)
    up.append(True)
    clock.advance(70)
    events = [getattr(one, "event", "") for one in caplog.records]
    assert rig.queue.messages == {}
    assert events.count("queue.paused") == events.count("queue.resumed") == 1


@pytest.mark.parametrize("seconds", [0, 10, 45], ids=["at once", "in the pause", "after the pause"])
def test_what_began_before_a_pause_does_not_end_it(clock, caplog, seconds):
    caplog.set_level("INFO")
    server = Server(clock, 30)
    rig = run(clock, {"job": server, "other": lambda payload, message: clock.sleep(seconds)}, concurrency=10)
    for _ in range(5):
        rig.put("job")
        rig.put("other")
    clock.advance(200)
    events = [getattr(one, "event", "") for one in caplog.records]
    assert events.count("queue.paused") == 1
    assert events.count("queue.resumed") == 0
    assert len(server.times) <= 5 + 6  # one at a time after the pause
    server.up = True
    clock.advance(65)
    assert rig.queue.messages == {}
