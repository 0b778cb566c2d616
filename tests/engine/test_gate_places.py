"""The places of a type: its concurrency, a drain, and two queues that share it."""

from __future__ import annotations

import pytest

from millpond.errors import Reject, Stopped
from tests.engine.wired import GONE, MailServer, drain, run
from tests.handlers import Gate
from tests.rig import Rig

pytestmark = pytest.mark.usefixtures("no_core_greenlet_died")


def until_all_are_held(clock, rigs, number):
    """Until no probe is on its way: one that runs as a drain begins is not held, and ends as it ends."""
    until(clock, lambda: sum(rig.consumer.hold.number for rig in rigs) == number)


def held_in_an_outage(clock):
    """A worker of ten places, its mail server that is down, and the 30 messages that it holds."""
    server = MailServer(clock)
    server.up = False
    rig = run(clock, {"job": server}, wait_seconds=1, concurrency=10)
    ids = rig.put("job", {}, 30)
    clock.advance(25)
    until_all_are_held(clock, [rig], 30)
    return rig, server, ids


def until(clock, so):
    for _ in range(600):
        if so():
            return
        clock.advance(0.1)
    raise AssertionError("not in a minute")


# Concurrency


def test_no_more_of_a_type_run_at_once_than_its_concurrency_and_others_go_on(clock):
    inside, most, done = [], [], []

    def limited(payload, message):
        inside.append(message.id)
        most.append(len(inside))
        clock.sleep(1)
        inside.remove(message.id)

    rig = run(
        clock,
        {"job": limited, "fine": lambda payload, message: done.append(message.id)},
        options={"job": {"concurrency": 3}},
        concurrency=20,
        max_receive_count=2,
    )
    ids = rig.put("job", {}, 30)
    healthy = rig.put("fine", {}, 200)
    clock.advance(2)
    assert sorted(done) == sorted(healthy)
    clock.advance(60)  # what found no room came back
    assert max(most) == 3
    assert set(ids) <= {*rig.queue.deleted}
    assert rig.letters() == []


def test_a_limited_type_holds_a_line_of_its_own_need_and_receiving_stops(clock):
    rig = run(
        clock, {"job": lambda payload, message: clock.sleep(10)}, options={"job": {"concurrency": 2}}, concurrency=20
    )
    ids = rig.put("job", {}, 500)
    clock.advance(60)
    assert rig.consumer.hold.number <= 4 + 50 + 20
    clock.advance(2_500)
    assert rig.queue.deleted == dict.fromkeys(ids, 1)
    assert rig.books.received == 500  # nothing was received twice


@pytest.mark.parametrize("way", ["fails", "rejects", "is lost", "times out", "is stuck"])
def test_however_a_message_ends_another_takes_its_place(clock, way):
    """A place that is lost is lost for good: after five of them the type stands still."""
    gate = Gate()

    def handle(payload, message):
        match payload and way:
            case "fails":
                raise ValueError("boom")
            case "rejects":
                raise Reject("no")
            case "is stuck":
                while True:
                    try:
                        clock.sleep(100_000)
                    except BaseException:
                        continue
            case "is lost" | "times out":
                gate(payload, message)

    rig = run(
        clock,
        {"job": handle},
        options={"job": {"concurrency": 2, "breaker": None}},
        timeout=100,
        max_attempts=1,
        visibility_seconds=30,
    )
    rig.put("job", 1, 2)
    clock.advance(1)
    if way == "is lost":
        rig.queue.script["change_visibility"] = [GONE] * 20
    ids = rig.put("job", 0, 10)
    clock.advance(300)
    assert set(ids) <= {*rig.queue.deleted}


# In a drain


def test_what_is_held_in_a_drain_is_given_back_at_once(clock):
    rig, server, ids = held_in_an_outage(clock)
    drain(rig, clock, 25)
    clock.advance(1.5)
    rig.consumer.interrupt(Stopped)
    rig.consumer.give_back_held()
    clock.advance(2)
    assert rig.consumer.in_hand == 0
    assert rig.permits.free == 10
    assert {rig.outcomes()[one] for one in ids} == {"released"}
    begun = len(server.tries)
    clock.advance(100)
    assert len(server.tries) == begun


def test_what_tries_again_as_the_drain_begins_is_put_off_and_the_held_are_given_back(clock):
    rig, server, ids = held_in_an_outage(clock)
    until(clock, lambda: rig.consumer.hold.number == 29)
    _, trying = server.tries[-1]
    drain(rig, clock, 25)
    clock.advance(1.5)
    rig.consumer.give_back_held()
    clock.advance(2)
    outcomes = rig.outcomes()
    assert outcomes.pop(trying) == "retried"  # it has had its try: by back-off it finds the server up again
    assert outcomes == dict.fromkeys(set(ids) - {trying}, "released")
    assert rig.consumer.in_hand == 0


# Two queues


def test_two_queues_that_share_a_type_share_its_gate_and_each_holds_its_own(clock):
    server = MailServer(clock)
    server.up = False
    one = run(clock, {"job": server}, wait_seconds=1, concurrency=10)
    other = Rig(clock, {"job": server}, wait_seconds=1, concurrency=10)
    other.consumer._processor = one.processor
    other.consumer.pollers.start()
    ids, more = one.put("job", {}, 20), other.put("job", {}, 20)
    clock.advance(20)
    begun = len(server.tries)
    assert (one.consumer.in_hand, other.consumer.in_hand) == (20, 20)
    assert one.consumer.hold.number + other.consumer.hold.number >= 39  # one may be trying just now
    clock.advance(100)
    assert len(server.tries) - begun <= 25  # one probe of both
    until_all_are_held(clock, [one, other], 40)
    drain(one, clock, 25)
    clock.advance(1.5)
    one.consumer.give_back_held()
    clock.advance(1)
    assert {outcome.name for _, outcome in one.ended} == {"released"}
    assert len(one.ended) == len(ids)
    server.up = True
    clock.advance(15)
    assert other.queue.deleted == dict.fromkeys(more, 1)
    assert one.queue.deleted == {}
