"""From the outcome to the confirmed delete: permits, leases and batches meanwhile."""

import gevent
import pytest
from gevent.event import Event

from millpond.engine.settler import SHORT_LINGER_SECONDS
from millpond.errors import (
    AccessDenied,
    Retry,
    Unreachable,
)
from tests.engine.wired import BROKEN, GONE, Server, run
from tests.handlers import Gate, fine
from tests.rig import Rig
from tests.virtual import settle

pytestmark = pytest.mark.usefixtures("no_core_greenlet_died")


def test_a_message_that_succeeds_is_deleted_once_and_its_books_balance(clock):
    rig = run(clock, {"job": fine})
    ids = rig.put("job", {}, 25)
    clock.advance(1)
    assert rig.queue.deleted == dict.fromkeys(ids, 1)
    assert rig.queue.calls["delete"] == 3
    assert rig.books.received == 25 == rig.books.outcomes["succeeded"]
    assert (rig.books.redelivered, rig.books.abandoned, rig.books.follow_ups_dead_lettered) == (0, 0, 0)
    assert rig.consumer.hand.idle.is_set()
    assert rig.permits.free == 10 - rig.consumer._share.polling


def test_a_delete_waits_for_nobody_where_no_handler_of_its_queue_runs(clock):
    rig = Rig(clock, {"job": fine})
    rig.consumer.pollers.start()
    ids = rig.put("job", None, 3)
    settle(20)  # and no time passes
    assert rig.outcomes() == dict.fromkeys(ids, "succeeded")
    assert rig.queue.calls["delete"] == 1


def test_a_delete_waits_for_others_while_a_handler_of_its_queue_runs(clock):
    gate = Gate()
    rig = Rig(clock, {"job": fine, "long": gate})
    rig.consumer.pollers.start()
    rig.put("long")
    rig.put("job", None, 3)
    settle(20)
    assert gate.inside
    assert rig.ended == []
    clock.advance(SHORT_LINGER_SECONDS + 0.001)
    assert len(rig.ended) == 3
    gate.event.set()
    settle(20)
    assert len(rig.ended) == 4


def test_a_lease_outlives_a_slow_delete(clock):
    """Dropping it before the delete is confirmed made 440 deliveries of 40 messages, and no delete."""
    rig = run(clock, {"job": fine}, concurrency=40, visibility_seconds=6)
    rig.queue.on_call = lambda name: clock.sleep(3) if name == "delete" else None
    rig.queue.script["delete"] = [BROKEN] * 4
    ids = rig.put("job", {}, 40)
    for _ in range(60):
        clock.advance(1)
    assert rig.queue.deleted == dict.fromkeys(ids, 1)
    assert len(rig.ended) == 40


def test_a_slow_delete_holds_back_the_receives(clock):
    """Releasing the permit before the outcome has its place held 2,950 messages instead of 20."""
    rig = run(clock, {"job": fine}, concurrency=20)
    rig.queue.gates["delete"] = Event()
    rig.put("job", {}, 3_000)
    clock.advance(5)
    assert rig.consumer.in_hand <= 20 + 20 + 10  # permits, backlog, one receive
    rig.queue.gates.pop("delete").set()
    clock.advance(20)
    assert rig.books.outcomes["succeeded"] == 3_000


@pytest.mark.slow
def test_a_message_whose_owed_delete_outlasts_its_lease_is_deleted_by_the_new_handle_without_a_second_run(clock):
    """12 h are the longest that a message can be kept; then it comes again, and is still done."""
    gate = Gate()
    gate.event.set()
    rig = run(clock, {"job": gate}, visibility_seconds=3_600)
    rig.queue.script["delete"] = [AccessDenied("no", "AccessDenied")] * 1_000_000
    rig.queue.script["change_visibility"] = [AccessDenied("no", "AccessDenied")] * 1_000_000
    (one,) = rig.put("job")
    clock.advance(3_700)
    assert rig.queue.messages[one].receives == 2
    rig.queue.script["delete"].clear()
    clock.advance(3)
    assert rig.queue.deleted == {one: 1}
    assert gate.seen == [(one, 1)]


def test_a_delete_whose_handle_is_void_is_counted_as_a_lost_lease(clock):
    rig = run(clock, {"job": fine})
    rig.queue.script["delete"] = [GONE]
    rig.put("job")
    clock.advance(1)
    assert rig.ended[0][1].name == "lease_lost"


def test_a_delete_whose_lease_the_watchdog_is_at_waits_for_it_and_is_made(clock):
    gate = Gate()
    rig = run(clock, {"job": gate})
    (one,) = rig.put("job")
    clock.advance(1)
    (lease,) = rig.consumer.hand.leases()
    lease.marked = True  # its thread extends it just now
    gate.event.set()
    clock.advance(3)
    assert rig.queue.calls["delete"] == 0
    lease.unmark(lease.handle, 0.0)
    rig.consumer.drain(clock.now() + 30)
    clock.advance(3)
    assert rig.queue.deleted == {one: 1}
    assert rig.consumer.in_hand == 0


def test_many_handlers_under_load_settle_in_full_batches(clock):
    rig = run(clock, {"job": lambda payload, message: gevent.sleep(0)}, concurrency=100)
    rig.put("job", {}, 2_000)
    clock.advance(3)
    assert len(rig.queue.deleted) == 2_000
    assert rig.queue.calls["delete"] <= 220
    assert rig.queue.calls["receive"] <= 230


def test_a_give_back_whose_lease_the_watchdog_is_at_waits_for_it_and_is_made(clock):
    gate = Gate()

    def handle(payload, message):
        gate(payload, message)
        raise Retry("later", after=5)

    rig = run(clock, {"job": handle})
    (one,) = rig.put("job")
    clock.advance(1)
    (lease,) = rig.consumer.hand.leases()
    lease.marked = True  # its thread extends it just now
    gate.event.set()
    clock.advance(3)
    assert rig.queue.calls["change_visibility"] == 0
    lease.unmark(lease.handle, 0.0)
    clock.advance(3)
    assert rig.outcomes() == {one: "retried"}
    assert rig.queue.calls["change_visibility"] == 1


def test_a_queue_whose_deletes_are_stuck_keeps_no_slot_busy(clock):
    rig = run(clock, {"job": fine}, concurrency=5)
    rig.queue.script["delete"] = [Unreachable("down")] * 10_000
    rig.put("job", {}, 300)
    clock.advance(10)
    assert rig.consumer.in_hand >= 20
    done = []
    rig.pool.submit(done.append, ["other"])  # another queue's work, on the same pool
    settle()
    assert done == ["other"]


def test_a_beat_that_sqs_confirms_while_the_delete_is_on_its_way_counts(clock):
    """The lease was taken for lost at its old deadline, and its delete, done in time, was booked as such."""
    handler = Gate()
    rig = Rig(clock, {"job": handler}, visibility_seconds=12)
    beat = rig.queue.gates["change_visibility"] = Event()
    delete = rig.queue.gates["delete"] = Event()
    (one,) = rig.put("job")
    rig.consumer.pollers.start()
    clock.advance(4.2)  # the beat is on its way
    handler.event.set()
    clock.advance(0.5)  # the delete as well
    assert rig.queue.calls["delete"] == rig.queue.calls["change_visibility"] == 1
    beat.set()
    clock.advance(8)  # past the deadline that the receive gave
    delete.set()
    clock.advance(1)
    assert rig.outcomes() == {one: "succeeded"}


def test_a_held_message_that_is_lost_as_its_time_comes_does_not_run_after_its_end(clock):
    """The end that the loss asks for comes from another greenlet, when it is on the ready list already."""
    server = Server(clock, after=60)
    rig = run(clock, {"job": server})
    [one] = rig.put("job")
    clock.advance(1)
    [delivery] = rig.consumer.hand
    delivery.lease.deadline = clock.now()
    assert delivery.lease.is_lost(clock.now())
    rig.consumer.run_again(delivery)
    clock.advance(0.1)
    assert rig.outcomes() == {one: "lease_lost"}
    assert len(server.times) == 1
    assert (rig.consumer.in_hand, rig.consumer.hold.number) == (0, 0)
