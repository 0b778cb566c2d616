"""A drain: what finishes, what goes back, and when."""

import gevent
import pytest
from gevent.event import Event

from millpond.errors import (
    Stopped,
    Unreachable,
)
from tests.engine.wired import REFUSED, drain, run
from tests.handlers import Gate, fine, reject
from tests.rig import Rig
from tests.virtual import settle

pytestmark = pytest.mark.usefixtures("no_core_greenlet_died")


def test_a_shutdown_interrupts_no_one_who_waits_for_a_delete(clock):
    """In a trial it hit handlers that were done, and their deletes were lost."""
    rig = run(clock, {"job": fine}, concurrency=5)
    rig.queue.gates["delete"] = Event()
    ids = rig.put("job", {}, 60)
    clock.advance(1)
    rig.consumer.interrupt(Stopped)
    rig.consumer.drain(clock.now() + 30)
    rig.consumer.give_back_held()
    clock.advance(1)
    rig.queue.gates.pop("delete").set()
    clock.advance(25)
    finished = {one for one, outcome in rig.ended if outcome.name == "succeeded"}
    assert finished
    assert finished == set(rig.queue.deleted)
    assert set(rig.queue.messages) == set(ids) - finished


def test_a_drain_lets_handlers_finish_and_gives_back_what_was_not_started(clock):
    gate = Gate()
    rig = run(clock, {"job": gate}, concurrency=2, prefetch=3, wait_seconds=1)
    ids = rig.put("job", {}, 5)
    settle()
    drain(rig, clock, 10)
    for work, delivery in rig.pool.take_ready():
        work(delivery)
    clock.advance(1.1)
    assert rig.consumer.pollers.ended.is_set()
    rig.consumer.give_back_held()
    clock.advance(0.2)
    assert sorted(rig.queue.visible()) == sorted(ids[2:])
    gate.event.set()
    clock.advance(0.2)
    assert rig.consumer.hand.idle.is_set()
    assert rig.books.outcomes == {"released": 3, "succeeded": 2}


def test_what_an_open_poll_brings_after_the_drain_began_is_given_back(clock):
    gate = Gate()
    rig = run(clock, {"job": gate})
    settle()
    drain(rig, clock, 10)
    rig.put("job")
    clock.advance(1)
    assert gate.seen == []
    assert rig.consumer.pollers.ended.is_set()
    rig.consumer.give_back_held()
    clock.advance(1)
    assert rig.queue.visible() == ["m1"]
    assert rig.books.outcomes == {"released": 1}


def test_what_goes_back_while_a_poll_stays_open_is_hidden_from_that_poll(clock):
    """An aborted poll still takes messages, which then hang until their visibility time-out."""
    gate = Gate()
    rig = run(clock, {"job": gate}, concurrency=5, wait_seconds=20)
    (one,) = rig.put("job")
    clock.advance(5)  # its handler runs, and the next poll is open
    drain(rig, clock, 4)
    rig.consumer.give_back_held()
    rig.consumer.interrupt(Stopped)
    clock.advance(0.5)
    assert rig.outcomes() == {one: "released"}
    until = rig.consumer.pollers.open_until()
    assert until - clock.now() > 10
    assert 1 <= rig.queue.messages[one].visible_at - until < 2


def test_a_handler_that_does_not_end_is_given_back_in_its_name_when_the_drain_is_over(clock):
    forever = Event()

    def handle(payload, message):
        while True:
            try:
                forever.wait()
            except BaseException:
                continue

    rig = run(clock, {"job": handle}, wait_seconds=1)
    (one,) = rig.put("job")
    clock.advance(0.5)
    drain(rig, clock, 4)
    clock.advance(1)
    rig.consumer.give_back_held()
    rig.consumer.interrupt(Stopped)
    clock.advance(0.5)
    assert rig.outcomes() == {}
    rig.consumer.write_off_running()
    clock.advance(0.5)
    assert rig.outcomes() == {one: "released"}
    assert rig.pool.written_off == 1


def test_beats_go_on_while_the_drain_waits(clock):
    gate = Gate()
    rig = run(clock, {"job": gate}, visibility_seconds=6, wait_seconds=1)
    rig.put("job")
    settle()
    drain(rig, clock, 60)
    clock.advance(40)
    assert rig.queue.visible() == []
    gate.event.set()
    clock.advance(1)
    assert len(rig.queue.deleted) == 1


def test_a_handler_that_was_never_reached_by_its_interrupt_is_still_given_back(clock):
    rig = run(clock, {"job": Gate()}, wait_seconds=1)
    (one,) = rig.put("job")
    settle()
    drain(rig, clock, 4)
    rig.consumer.write_off_running()  # the hub had no turn to throw
    clock.advance(2)
    assert rig.outcomes() == {one: "released"}


@pytest.mark.parametrize(("handler", "where", "call"), [(fine, "queue", "delete"), (reject, "dead", "send")])
def test_in_a_drain_no_settling_call_takes_longer_than_what_is_left(clock, handler, where, call):
    gate = Gate()

    def handle(payload, message):
        gate(payload, message)
        handler(payload, message)

    rig = run(clock, {"job": handle}, wait_seconds=1)
    queue, tried = getattr(rig, where), []
    queue.gates[call] = Event()
    queue.on_call = lambda name: tried.append(clock.now()) if name == call else None
    rig.put("job")
    clock.advance(1)
    deadline = clock.now() + 3
    rig.consumer.drain(deadline)
    gate.event.set()
    clock.advance(4)
    assert tried[0] < deadline - 2.5
    assert len(tried) > 1 or rig.ended != []  # it was cut by then, and is not waited for


def stuck(clock, **settings):
    """Deletes are down while extensions work; then every slot is busy, and messages are ready."""
    gate = Gate()
    rig = run(clock, {"job": fine, "slow": gate}, concurrency=5, prefetch=10, **settings)
    rig.queue.script["delete"] = [Unreachable("down")] * 10_000
    rig.put("job", {}, 18)
    rig.put("slow", {}, 40)
    return rig, gate


def test_what_is_held_back_goes_back_though_the_deletes_are_stuck(clock):
    rig, _ = stuck(clock, wait_seconds=1)
    clock.advance(5)
    ready = rig.consumer.ready
    assert ready > 0
    drain(rig, clock, 25)
    for work, delivery in rig.pool.take_ready():
        work(delivery)
    clock.advance(2)
    assert rig.consumer.pollers.ended.is_set()
    giver = gevent.spawn(rig.consumer.give_back_held)
    clock.advance(2)
    assert giver.ready()
    assert rig.books.outcomes["released"] >= ready


def test_a_drain_gives_back_what_is_decoding(clock):
    rig = Rig(clock, {"job": fine}, wait_seconds=1)

    never = Event()
    rig.reroute("job", decode=lambda raw: never.wait())
    rig.consumer.pollers.start()
    (one,) = rig.put("job")
    settle()
    drain(rig, clock, 4)
    clock.advance(2)
    rig.consumer.give_back_held()
    rig.consumer.interrupt(Stopped)
    clock.advance(1)
    rig.consumer.write_off_running()
    clock.advance(1)
    assert rig.outcomes() == {one: "released"}


def test_a_delivery_that_comes_while_every_slot_is_busy_in_a_drain_is_given_back(clock):
    """Kills the mutant `accept starts in drain`."""
    gate = Gate()
    rig = run(clock, {"job": gate}, concurrency=1, prefetch=1, wait_seconds=5)
    rig.put("job")
    clock.advance(0.5)
    drain(rig, clock, 60)
    rig.put("job")
    clock.advance(0.5)
    rig.consumer.give_back_held()
    clock.advance(0.5)
    assert rig.outcomes() == {"m2": "released"}
    gate.event.set()
    clock.advance(1)


def test_what_is_put_off_in_a_drain_stays_hidden_from_the_poll_that_is_still_open(clock):
    """A dead letter that was refused went back at once: the worker's own last poll took it, and nobody read that."""
    handler = Gate()

    def reject(payload, message):
        handler(payload, message)
        raise ValueError("boom")

    rig = Rig(clock, {"job": reject}, max_attempts=1, visibility_seconds=30, wait_seconds=20)
    rig.dead.script["send"] = [REFUSED] * 2  # with its reason, and without
    (one,) = rig.put("job")
    rig.consumer.pollers.start()
    clock.advance(1)
    rig.consumer.drain(clock.now() + 5)
    until = rig.consumer.pollers.open_until()
    assert until > clock.now() + 10
    handler.event.set()
    clock.advance(until - clock.now() + 1)
    assert rig.outcomes() == {one: "retried"}
    assert rig.queue.messages[one].receives == 1
