"""What is held: its lease, its permit, its group, its bound, and what becomes of it meanwhile."""

from __future__ import annotations

import pytest

from millpond.engine.gate import MAX_HELD
from millpond.errors import Unavailable
from tests.engine.wired import GONE, Server, drain, give_out_again, run
from tests.handlers import Gate, fine

pytestmark = pytest.mark.usefixtures("no_core_greenlet_died")


def held(rig):
    return rig.consumer.hold.number


# Permits


def test_what_is_held_gives_its_permit_back_and_takes_one_again(clock):
    server = Server(clock, None)
    rig = run(clock, {"job": server}, concurrency=5)
    rig.put("job", {}, 40)
    clock.advance(5)
    assert held(rig) == 40
    assert rig.permits.free + rig.consumer._share.polling == 5
    server.up = True
    clock.advance(15)
    assert len(rig.queue.deleted) == 40
    assert (held(rig), rig.consumer.in_hand) == (0, 0)
    assert rig.permits.free + rig.consumer._share.polling == 5


def test_while_more_run_than_there_are_permits_nothing_is_received(clock):
    gate, up = Gate(), []

    def handle(payload, message):
        if not up:
            raise Unavailable("down")
        gate(payload, message)

    rig = run(clock, {"job": handle}, concurrency=5)
    rig.put("job", {}, 40)
    clock.advance(25)
    up.append(True)
    clock.advance(0.1)
    while not gate.inside:
        clock.advance(1)
    gate.event.set()
    gate.event.clear()
    clock.advance(1)
    assert rig.permits.free < 0
    rig.queue.batches.clear()
    rig.put("job", {}, 20)
    clock.advance(25)
    assert rig.queue.batches["receive"] == []
    gate.event.set()
    clock.advance(5)
    assert len(rig.queue.deleted) == 60
    assert rig.permits.free + rig.consumer._share.polling == 5


# The lease


def test_a_lease_that_is_lost_while_its_message_is_held_ends_it(clock):
    rig = run(clock, {"job": Server(clock, None)})
    (one,) = rig.put("job")
    clock.advance(1)
    rig.queue.script["change_visibility"] = [GONE] * 5
    clock.advance(15)
    assert rig.outcomes() == {one: "lease_lost"}
    assert (held(rig), rig.consumer.in_hand) == (0, 0)
    assert rig.permits.free + rig.consumer._share.polling == 10


def test_a_lost_lease_of_a_held_message_that_asked_to_finish_ends_it_too(clock):
    """`on_lease_lost="finish"` is for a handler that runs."""
    rig = run(clock, {"job": Server(clock, None)}, finishes=True)
    (one,) = rig.put("job")
    clock.advance(1)
    rig.queue.script["change_visibility"] = [GONE] * 5
    clock.advance(15)
    assert rig.outcomes() == {one: "lease_lost"}


def test_a_message_that_is_redelivered_while_it_is_held_stays_held_by_its_new_handle(clock):
    server = Server(clock, 20)
    rig = run(clock, {"job": server}, wait_seconds=1)
    (one,) = rig.put("job")
    clock.advance(1)
    give_out_again(rig, one)
    clock.advance(5)
    assert (rig.books.redelivered, held(rig), rig.consumer.in_hand) == (1, 1, 1)
    server.up = True
    clock.advance(40)
    assert rig.queue.deleted == {one: 1}
    assert len(server.times) == 2
    assert rig.permits.free + rig.consumer._share.polling == 10


def test_a_held_message_keeps_its_lease_for_hours(clock):
    server = Server(clock, 10_000)
    rig = run(clock, {"job": server}, visibility_seconds=30)
    (one,) = rig.put("job")
    clock.advance(9_990)
    assert rig.queue.messages[one].receives == 1
    assert not rig.consumer.hand.deliveries[one].lease.is_lost(clock.now())


@pytest.mark.parametrize("dead_letters", [True, False])
def test_none_is_held_past_max_hold_seconds(clock, dead_letters):
    rig = run(clock, {"job": Server(clock, None)}, hold_seconds=200, visibility_seconds=30, dead_letters=dead_letters)
    ids = rig.put("job", {}, 20)
    clock.advance(181)
    assert rig.outcomes() == dict.fromkeys(ids, "released")
    assert {(outcome.cause, outcome.reason) for _, outcome in rig.ended} == {
        ("no_room", "it cannot be held for longer: mail server down")
    }
    assert held(rig) == 0
    assert rig.permits.free + rig.consumer._share.polling == 10


# Bounds


def test_a_line_has_a_bound_and_what_is_beyond_it_stays_in_the_queue(clock):
    server = Server(clock, None)
    rig = run(clock, {"job": server}, concurrency=100, visibility_seconds=600, max_receive_count=3)
    ids = rig.put("job", {}, 5_000)
    clock.advance(3_600)
    assert MAX_HELD <= held(rig) <= MAX_HELD + 100
    assert rig.books.received == held(rig)  # and nothing was received in vain
    server.up = True
    clock.advance(60)
    assert rig.queue.deleted == dict.fromkeys(ids, 1)


def test_what_finds_no_room_comes_back_later_and_has_lost_no_attempt(clock):
    """Beside a healthy type receiving goes on."""
    server = Server(clock, None)
    rig = run(clock, {"job": server, "fine": fine}, concurrency=10, visibility_seconds=600, max_attempts=1)
    rig.put("job", {}, 1_200)
    for _ in range(60):
        rig.put("fine", {}, 20)
        clock.advance(1)
    released = [outcome for _, outcome in rig.ended if outcome.name == "released"]
    assert released
    assert {outcome.cause for outcome in released} == {"no_room"}
    assert all(15 <= outcome.delay_seconds <= 900 for outcome in released)
    assert MAX_HELD <= held(rig) <= MAX_HELD + 10
    server.up = True
    clock.advance(1_000)
    assert len(rig.queue.deleted) == 1_200 + 60 * 20
    assert rig.letters() == []


def test_at_its_last_receive_a_message_is_held_past_the_bound(clock):
    server = Server(clock, None)
    rig = run(
        clock,
        {"job": server, "fine": fine},
        concurrency=10,
        visibility_seconds=600,
        max_receive_count=1,
        max_attempts=9,
    )
    ids = rig.put("job", {}, 1_300)
    for _ in range(30):
        rig.put("fine", {}, 20)
        clock.advance(1)
    assert held(rig) == 1_300
    server.up = True
    clock.advance(60)
    assert all(rig.queue.deleted[one] == 1 for one in ids)
    assert rig.letters() == rig.queue.moved == []


# Types and queues


def test_a_message_of_a_healthy_type_that_comes_in_an_outage_begins_at_once(clock):
    rig = run(clock, {"job": Server(clock, None), "fine": fine}, concurrency=10)
    rig.put("job", {}, 100)
    clock.advance(300)
    (one,) = rig.put("fine")
    clock.advance(1)
    assert rig.queue.deleted == {one: 1}


def test_while_no_type_may_begin_nothing_is_received_and_then_all_is(clock):
    server = Server(clock, None)
    rig = run(clock, {"job": server, "other": server}, concurrency=100, visibility_seconds=600, max_receive_count=2)
    for _ in range(700):
        rig.put("job")
        rig.put("other")
    clock.advance(60)
    rig.queue.batches.clear()
    clock.advance(3_600)
    assert rig.queue.batches["receive"] == []
    server.up = True
    clock.advance(60)
    assert len(rig.queue.deleted) == 1_400
    assert rig.letters() == rig.queue.moved == []


# Groups


def test_with_the_first_of_a_group_those_behind_it_are_held_and_run_in_order(clock):
    server = Server(clock, None)
    rig = run(clock, {"job": server}, fifo=True, concurrency=6)
    ids = [rig.put("job", number, group_id="a")[0] for number in range(10)]
    clock.advance(30)
    assert held(rig) == 10
    assert rig.permits.free + rig.consumer._share.polling == 6
    assert set(server.ids) == {ids[0]}
    server.up = True
    clock.advance(20)
    assert list(dict.fromkeys(server.ids)) == ids
    assert len(rig.queue.deleted) == 10
    assert rig.permits.free + rig.consumer._share.polling == 6


def test_a_group_whose_first_can_be_held_no_longer_goes_back_whole(clock):
    rig = run(clock, {"job": Server(clock, None)}, fifo=True, hold_seconds=200, visibility_seconds=30)
    ids = rig.put("job", {}, 5, group_id="a")
    clock.advance(181)
    assert {rig.outcomes()[one] for one in ids} == {"released"}
    assert rig.permits.free + rig.consumer._share.polling == 10


def test_a_group_that_becomes_dead_letters_as_it_is_held_no_longer_goes_on(clock):
    """Its line kept those that were done behind the first: what came later stood behind them, with all the permits."""
    server = Server(clock, None)
    rig = run(
        clock, {"job": server}, fifo=True, hold_seconds=200, visibility_seconds=30, max_receive_count=1, concurrency=4
    )
    dead = rig.put("job", {}, 3, group_id="a")
    clock.advance(181)
    assert {rig.outcomes()[one] for one in dead} == {"dead_lettered"}
    server.up = True
    tried = len(server.ids)
    ids = rig.put("job", {}, 10, group_id="a")
    clock.advance(60)
    assert rig.queue.deleted == dict.fromkeys([*dead, *ids], 1)
    assert server.ids[tried:] == ids


# In a drain


def test_a_held_group_is_given_back_once_each_in_a_drain(clock):
    rig = run(clock, {"job": Server(clock, None)}, fifo=True, wait_seconds=1)
    ids = rig.put("job", {}, 5, group_id="a")
    clock.advance(5)
    drain(rig, clock, 25)
    clock.advance(1.5)
    rig.consumer.give_back_held()
    clock.advance(2)
    assert sorted(one for one, _ in rig.ended) == sorted(ids)
    assert rig.permits.free == 10


def test_until_empty_waits_for_what_is_held(clock):
    server = Server(clock, None)
    rig = run(clock, {"job": server}, wait_seconds=1)
    rig.put("job")
    clock.advance(300)
    assert rig.consumer.in_hand == 1  # of these `_is_empty` asks
    server.up = True
    clock.advance(15)
    assert rig.consumer.in_hand == 0


# In the log


def test_what_finds_no_room_is_logged_once_a_minute_with_the_reason(clock, caplog):
    caplog.set_level("INFO")
    rig = run(clock, {"job": Server(clock, None), "fine": fine}, concurrency=10, visibility_seconds=600)
    rig.put("job", {}, 2_500)
    for _ in range(59):
        rig.put("fine", {}, 20)
        clock.advance(1)
    full = [one.getMessage() for one in caplog.records if getattr(one, "event", "") == "queue.full"]
    assert full == ["1,010 messages are held, and more are given back with a delay: mail server down"]
    assert sum(getattr(one, "event", "") == "message.released" for one in caplog.records) <= 60
