"""What is settled, when and in which order, and who is told: through a whole consumer, on a virtual clock."""

import gc
import json

import gevent
import pytest
from gevent.event import Event

from millpond.engine.delivery import Delivery
from millpond.engine.lease_keeper import LeaseKeeper
from millpond.errors import (
    AccessDenied,
    Discard,
    Interrupt,
    Reject,
    Retry,
    Stopped,
    TimeLimitExceeded,
    Unreachable,
)
from millpond.sqs.batcher import Batcher
from millpond.sqs.queue import Failure
from tests.fakes import FakeQueue, ListOwner
from tests.handlers import Gate, fine, reject
from tests.rig import Polling, Rig, queue_settings
from tests.virtual import VirtualClock, settle

GONE = Failure("ReceiptHandleIsInvalid", "", sender_fault=True)
BROKEN = Failure("InternalError", "try again")
REFUSED = Failure("InvalidMessageContents", "no", sender_fault=True)
VISIBILITY, BEAT = 30, 10.0


@pytest.fixture
def clock():
    return VirtualClock()


@pytest.fixture
def run(clock):
    """run(handlers, **settings) -> a rig that receives; a core greenlet of it that dies fails the test."""
    rigs = []

    def start(handlers, **settings):
        rig = Rig(clock, handlers, **settings)
        rigs.append(rig)
        rig.consumer.pollers.start()
        return rig

    yield start
    assert [rig.crashes for rig in rigs if rig.crashes] == []


class Swallowing(Gate):
    """One that goes on in spite of `times` interrupts, until the test lets it go."""

    def __init__(self, times=1_000):
        super().__init__()
        self.times = times

    def __call__(self, payload, message):
        while not self.event.is_set():
            try:
                super().__call__(payload, message)
            except Interrupt:
                if len(self.thrown) > self.times:
                    raise


def discard(payload, message):
    raise Discard("seen before")


def retry(payload, message):
    raise Retry("later", after=5)


def leave_job(payload, message):
    if payload is None:
        message.follow_up("job")


def leave_two(payload, message):
    if payload is None:
        message.follow_up("later")
        message.follow_up("never", reject="550")


def drain(rig, seconds):
    rig.consumer.drain(rig.clock.now() + seconds)


def slow_answers(queue, name):
    """The queue does what it is asked at once, and its answers are held until the returned event is set."""
    gate, call = Event(), getattr(queue, name)

    def slow(entries):
        answer = call(entries)
        gate.wait()
        return answer

    setattr(queue, name, slow)
    return gate


def give_out_again(queue, message_id):
    """SQS may give a message out twice."""
    queue.change_visibility([(queue.messages[message_id].handle, 0)])


# The lease, while its message is settled


def test_no_beat_is_sent_while_the_delete_is_on_its_way(run, clock):
    rig = run({"job": fine}, visibility_seconds=9)
    rig.queue.gates["delete"] = Event()
    rig.put("job")
    clock.advance(7)
    assert rig.queue.calls == {"receive": 2, "delete": 1}


def test_a_delete_that_fails_after_a_beat_was_missed_is_followed_by_that_beat_and_by_the_next(run, clock):
    rig = run({"job": fine}, visibility_seconds=9)
    hold = rig.queue.gates["delete"] = Event()
    rig.queue.script["delete"] = [BROKEN] * 100
    rig.put("job")
    clock.advance(5)
    assert rig.queue.calls["change_visibility"] == 0
    hold.set()
    clock.advance(0.1)
    assert rig.queue.calls["change_visibility"] == 1
    for _ in range(30):
        clock.advance(1)
        assert rig.queue.visible() == []
    assert rig.queue.calls["receive"] < 5  # nobody ever got it again


def test_a_delete_that_fails_before_a_beat_was_due_costs_none(run, clock):
    rig = run({"job": fine}, visibility_seconds=30)
    rig.queue.script["delete"] = [BROKEN] * 3
    (one,) = rig.put("job")
    clock.advance(9)
    assert rig.queue.deleted == {one: 1}
    assert rig.queue.calls["change_visibility"] == 0


@pytest.mark.parametrize("handler", [fine, reject, discard, retry])
def test_a_message_that_is_settled_has_no_heartbeat_and_is_forgotten(run, clock, handler, monkeypatch):
    started = []
    spawn = Rig.spawn
    monkeypatch.setattr(Rig, "spawn", lambda rig, *call: started.append(call) or spawn(rig, *call))
    rig = run({"job": handler}, concurrency=2)
    rig.put("job")
    clock.advance(0.3)
    assert len(rig.ended) == 1
    assert rig.consumer.hand.deliveries == {}
    rig.queue.messages.clear()
    started.clear()
    rig.queue.calls.clear()
    clock.advance(100)
    assert started == []
    assert set(rig.queue.calls) == {"receive"}


def test_a_message_whose_lease_is_lost_has_no_heartbeat(run, clock):
    gate = Gate()
    rig = run({"job": gate})
    rig.queue.script["change_visibility"] = [GONE]
    rig.put("job")
    clock.advance(11)
    assert gate.thrown != []
    rig.queue.messages.clear()
    clock.advance(100)
    assert rig.queue.calls["change_visibility"] == 1


def test_a_give_back_that_comes_too_late_is_a_lost_lease(run, clock):
    rig = run({"job": retry})
    rig.queue.script["change_visibility"] = [GONE]
    (one,) = rig.put("job")
    clock.advance(1)
    assert rig.outcomes() == {one: "lease_lost"}
    assert rig.consumer.in_hand == rig.books.abandoned == 0


def test_a_message_that_could_not_be_given_back_is_told_as_such_and_not_as_retried(run, clock, caplog):
    rig = run({"job": retry})
    rig.queue.script["change_visibility"] = [Unreachable("down")] * 100
    rig.put("job")
    clock.advance(29)
    assert rig.ended == []
    assert rig.consumer.in_hand == 1
    clock.advance(3)
    assert rig.books.abandoned == 1
    assert rig.books.outcomes["retried"] == rig.books.outcomes["lease_lost"] == 0
    assert "message.abandoned" in [getattr(record, "event", "") for record in caplog.records]


# What is sent before the delete


def test_the_original_is_deleted_after_the_last_of_its_follow_ups_not_after_the_first(run, clock):
    def handle(payload, message):
        if payload is None:
            for number in range(12):
                message.follow_up(number)

    rig = run({"job": handle}, concurrency=30)
    rig.queue.script["send"] = [None, Unreachable("down"), BROKEN, Unreachable("down")]  # ten are sent, two are not
    (one,) = rig.put("job")
    clock.advance(0.2)
    assert rig.queue.calls["send"] >= 2
    assert one in rig.queue.messages
    assert rig.queue.deleted[one] == 0
    clock.advance(10)
    assert rig.queue.deleted[one] == 1
    sent = [json.loads(entry.body)["payload"] for batch in rig.queue.batches["send"] for entry in batch]
    assert set(sent) == set(range(12))


def test_the_original_waits_for_its_follow_up_and_for_its_dead_letter_too(run, clock):
    rig = run({"job": leave_two}, concurrency=1)
    hold = rig.dead.gates["send"] = Event()
    (one,) = rig.put("job")
    clock.advance(5)
    assert rig.queue.calls["send"] == 1
    assert one in rig.queue.messages
    hold.set()
    clock.advance(1)
    assert rig.queue.deleted[one] == 1


@pytest.mark.slow
def test_the_follow_ups_of_a_message_whose_own_dead_letter_is_refused_are_not_sent(run, clock):
    """It runs again, and makes them again: sent from both, they would be there twice."""

    def handle(payload, message):
        if payload is None:
            message.follow_up("later")
            message.follow_up("never", reject="550")
            raise Reject("no such customer")

    rig = run({"job": handle}, wait_seconds=1, concurrency=1)
    rig.dead.script["send"] = [REFUSED] * 2
    (one,) = rig.put("job")
    clock.advance(0.9)
    assert [outcome.name for _, outcome in rig.ended] == ["retried"]
    assert rig.queue.calls["send"] == 0
    assert rig.dead.calls["send"] == 2  # with its reason, and without: the rejected follow-up was not offered
    clock.advance(60)
    assert rig.queue.calls["send"] >= 1
    assert rig.queue.deleted[one] == 1


def test_a_dead_letter_that_was_on_its_way_when_its_message_was_put_off_deletes_nothing(run, clock):
    rig = run({"job": reject}, concurrency=1, wait_seconds=1)
    hold = rig.dead.gates["send"] = Event()
    (one,) = rig.put("job")
    clock.advance(0.2)
    drain(rig, 30)
    clock.advance(6)  # the drain does not wait for it
    assert rig.outcomes() == {one: "retried"}
    hold.set()
    clock.advance(1)
    assert len(rig.dead.messages) == 1
    assert rig.queue.calls["delete"] == 0
    assert len(rig.ended) == 1


def test_follow_ups_that_are_refused_one_by_one_are_dead_letters_and_the_others_jobs_all_before_one_delete(run, clock):
    def handle(payload, message):
        if payload is None:
            for number in range(12):
                message.follow_up(number)

    rig = run({"job": handle}, concurrency=1)

    def picky(entries):
        rig.queue.calls["send"] += 1
        return [REFUSED if json.loads(entry.body)["payload"] in (3, 11) else None for entry in entries]

    rig.queue.send = picky
    (one,) = rig.put("job")
    clock.advance(1)
    letters = [json.loads(stored.entry.body)["payload"] for stored in rig.dead.messages.values()]
    assert sorted(letters) == [3, 11]
    assert rig.queue.deleted == {one: 1}
    assert rig.outcomes() == {one: "succeeded"}
    assert rig.queue.calls["send"] == 2


def deliveries_of(rig):
    """Those that are in memory."""
    gc.collect()
    return [one for one in gc.get_objects() if isinstance(one, Delivery) and one.owner is rig.consumer]


def test_a_dead_letter_that_cannot_be_sent_is_not_sent_any_more_once_its_message_is_somebody_elses(run, clock):
    rig = run({"job": reject}, visibility_seconds=9)
    rig.dead.script["send"] = [BROKEN] * 1_000
    rig.queue.script["change_visibility"] = [GONE]
    (one,) = rig.put("job")
    clock.advance(2.9)
    assert rig.ended == []
    clock.advance(2)
    assert rig.outcomes() == {one: "lease_lost"}
    assert rig.consumer.in_hand == 0
    before = rig.dead.calls["send"]
    clock.advance(3.9)  # then it comes again
    assert rig.dead.calls["send"] == before
    assert deliveries_of(rig) == []  # nothing keeps it in memory


# Back-pressure: what cannot be settled is not fetched


@pytest.mark.parametrize(
    ("handler", "where", "call"),
    [
        (fine, "queue", "delete"),
        (reject, "dead", "send"),
        (leave_job, "queue", "send"),
        (retry, "queue", "change_visibility"),
    ],
    ids=["deletes", "copies", "follow-ups", "give-backs"],
)
def test_whatever_settles_slowly_holds_back_the_receives(run, clock, handler, where, call):
    rig = run({"job": handler}, concurrency=20, options={"job": {"breaker": None}})
    hold = getattr(rig, where).gates[call] = Event()
    rig.put("job", None, 1_000)
    clock.advance(5)
    assert rig.consumer.in_hand <= 20 + 20 + 10  # permits, backlog, one receive
    del getattr(rig, where).gates[call]
    hold.set()
    clock.advance(20)
    assert len(rig.ended) >= 1_000  # and once it settles again, all go on
    assert rig.permits.free + rig.consumer.in_hand + rig.consumer._share.polling == 20


def test_the_permits_of_a_full_backlog_all_come_back(run, clock):
    rig = run({"job": fine}, concurrency=40)
    hold = rig.queue.gates["delete"] = Event()
    rig.put("job", None, 200)
    clock.advance(5)
    assert rig.permits.free == 0
    drain(rig, 30)
    del rig.queue.gates["delete"]
    hold.set()
    clock.advance(25)
    rig.consumer.give_back_held()
    clock.advance(1)
    assert rig.consumer.in_hand == 0
    assert rig.permits.free == 40


# Settled once


def test_a_handler_that_ends_after_it_was_written_off_is_not_settled_again(run, clock):
    handler = Swallowing()
    rig = run({"job": handler}, wait_seconds=1)
    (one,) = rig.put("job")
    clock.advance(0.5)
    drain(rig, 60)
    clock.advance(1)
    rig.consumer.interrupt(Stopped)
    clock.advance(0.5)
    rig.consumer.write_off_running()
    clock.advance(0.5)
    assert rig.outcomes() == {one: "released"}
    handler.event.set()
    clock.advance(20)  # longer than any linger
    assert len(rig.ended) == 1
    assert rig.queue.calls["change_visibility"] == 1
    assert rig.queue.calls["delete"] == rig.consumer.in_hand == 0
    assert rig.permits.free == 10


def test_a_message_that_comes_again_before_its_give_back_is_answered_is_a_new_delivery(run, clock):
    gate = Gate()

    def handle(payload, message):
        if message.attempt == 1:
            raise Retry("at once", after=0)
        gate(payload, message)

    rig = run({"job": handle})
    answer = slow_answers(rig.queue, "change_visibility")
    (one,) = rig.put("job")
    clock.advance(1)
    assert gate.seen == [(one, 2)]
    answer.set()
    clock.advance(1)
    assert rig.outcomes() == {one: "retried"}
    give_out_again(rig.queue, one)  # the end of the first has not made us forget the second
    clock.advance(1)
    assert rig.queue.messages[one].receives == 3
    assert gate.seen == [(one, 2)]
    gate.event.set()
    clock.advance(1)
    assert [outcome.name for _, outcome in rig.ended] == ["retried", "succeeded"]
    assert rig.queue.deleted == {one: 1}
    assert rig.consumer.in_hand == 0
    assert rig.books.received == 2


# Interrupts


def test_the_outcome_is_that_of_the_first_interrupt_and_a_later_one_is_not_thrown(run, clock):
    """Past its time limit it has failed, and is no less a failure because the worker shuts down meanwhile."""
    handler = Swallowing(times=2)
    rig = run({"job": handler}, timeout=5.0)
    (one,) = rig.put("job")
    clock.advance(5.5)
    assert handler.thrown == [TimeLimitExceeded]
    rig.consumer.interrupt(Stopped)
    clock.advance(0.1)
    assert handler.thrown == [TimeLimitExceeded]
    clock.advance(3)
    assert handler.thrown == [TimeLimitExceeded] * 3
    ((message_id, outcome),) = rig.ended
    assert (message_id, outcome.name, outcome.cause) == (one, "retried", "timed_out")


def test_two_interrupts_in_one_turn_are_thrown_once_so_that_the_handler_can_clean_up(run, clock):
    cleaned = []

    def handle(payload, message):
        try:
            Event().wait()
        except Interrupt:
            clock.sleep(0.5)
            cleaned.append(True)
            raise

    rig = run({"job": handle})
    (one,) = rig.put("job")
    clock.advance(0.5)
    rig.consumer.interrupt(Stopped)
    rig.consumer.interrupt(Stopped)
    clock.advance(0.6)
    assert cleaned == [True]
    assert rig.outcomes() == {one: "released"}


# Drain


@pytest.mark.parametrize("handler", [fine, reject, leave_job, retry])
def test_nothing_lingers_once_the_drain_has_begun(run, clock, handler):
    gate = Event()

    def handle(payload, message):
        gate.wait()
        handler(payload, message)

    rig = run({"job": handle})
    (one,) = rig.put("job")
    clock.advance(1)
    drain(rig, 30)
    gate.set()
    settle(40)  # and no time passes
    assert [message_id for message_id, _ in rig.ended] == [one]


def test_what_waits_for_its_linger_when_the_drain_begins_goes_at_once(run, clock):
    rig = run({"fine": fine, "reject": reject, "retry": retry})
    ids = [rig.put(name)[0] for name in ("fine", "reject", "retry")]
    settle()
    assert rig.ended == []
    drain(rig, 30)
    settle(40)
    assert sorted(message_id for message_id, _ in rig.ended) == ids


def test_a_poll_that_ends_during_the_drain_puts_nothing_behind_the_handlers_that_run(run, clock):
    """Behind a slot that is busy to the end it would be given back too late, or never."""
    gate = Gate()
    rig = run({"job": gate}, concurrency=1, prefetch=2)
    (running,) = rig.put("job")
    clock.advance(1)
    drain(rig, 30)
    (late,) = rig.put("job")
    clock.advance(1)
    assert rig.consumer.pollers.ended.is_set()
    assert rig.consumer.ready == rig.pool.ready == 0
    rig.consumer.give_back_held()
    clock.advance(0.1)
    assert rig.outcomes() == {late: "released"}
    assert gate.seen == [(running, 1)]
    gate.event.set()
    clock.advance(0.1)


def test_what_an_open_poll_brings_after_the_others_were_given_back_goes_back_as_well(run, clock):
    gate = Gate()
    rig = run({"job": gate}, concurrency=5)
    clock.advance(1)
    drain(rig, 30)
    rig.consumer.give_back_held()
    (late,) = rig.put("job")
    clock.advance(1)
    assert rig.outcomes() == {late: "released"}
    assert rig.queue.visible() == [late]
    assert gate.seen == []
    assert rig.permits.free == 5


@pytest.mark.parametrize("drained", [True, False])
def test_a_retry_during_the_drain_is_hidden_from_the_poll_that_is_still_open(run, clock, drained):
    gate = Event()

    def handle(payload, message):
        gate.wait()
        raise Retry("soon", after=1)

    rig = run({"job": handle}, wait_seconds=20)
    (one,) = rig.put("job")
    clock.advance(5)
    left = rig.consumer.pollers.open_until() - clock.now()
    assert left > 10
    if drained:
        drain(rig, 30)
    gate.set()
    clock.advance(0.1)
    hidden = rig.queue.messages[one].visible_at - clock.now()
    assert hidden > left if drained else hidden <= 1


def test_when_the_last_message_that_was_put_off_comes_back_is_known(run, clock):
    rig = run({"job": lambda payload, message: retry(payload, message), "once": fine})
    assert rig.consumer.hand.back_off_until == 0.0
    rig.put("once")
    clock.advance(1)
    assert rig.consumer.hand.back_off_until == 0.0
    rig.put("job")
    clock.advance(1)
    assert clock.now() + 4 <= rig.consumer.hand.back_off_until <= clock.now() + 5


# Leases


class Held:
    """One lease of a message that was received just now, and what it was told."""

    def __init__(self, clock):
        self.queue = FakeQueue(clock)
        self.heard = []
        self.keeper = LeaseKeeper(
            "q",
            queue_settings(visibility_seconds=VISIBILITY, heartbeat_seconds=BEAT),
            self.queue,
            100,
            ListOwner(),
            clock,
            gevent.spawn,
        )
        self.queue.put("x")
        handle = self.queue.receive(1, 0, VISIBILITY)[0].receipt_handle
        self.lease = self.keeper.take(self.heard, handle, clock.now())
        self.keeper.begin([self.lease], clock.now())

    def receive_again(self):
        give_out_again(self.queue, "m1")
        self.queue.calls.clear()
        self.queue.batches.clear()
        return self.queue.receive(1, 0, VISIBILITY)[0].receipt_handle


def test_an_extension_counts_from_its_request_not_from_its_answer(run, clock):
    """SQS counted from somewhere in between: the earlier moment is the safe one."""
    gate = Gate()
    rig = run({"job": gate}, timeout=1_000.0)
    hold = rig.queue.gates["change_visibility"] = Event()
    rig.queue.script["change_visibility"] = [None] + [Unreachable("down")] * 1_000
    (one,) = rig.put("job")
    clock.advance(15)
    assert rig.queue.calls["change_visibility"] == 1  # asked for 5 s ago
    del rig.queue.gates["change_visibility"]
    hold.set()
    clock.advance(24.9)  # of the 30 s, 0.1 and the linger are left
    assert gate.inside == [one]
    clock.advance(0.3)
    assert rig.outcomes() == {one: "lease_lost"}


@pytest.mark.parametrize("what", ["end", "withhold", "redelivered"])
def test_a_beat_that_waits_to_be_sent_is_void_when_the_message_is_settled_or_comes_again(clock, what):
    held = Held(clock)
    handle = held.receive_again() if what == "redelivered" else ""
    clock.advance(BEAT + 0.01)  # it lingers
    if what == "redelivered":
        held.lease.redelivered(handle, clock.now(), 2)
    elif what == "end":
        held.keeper.end([held.lease])
    else:
        held.lease.withhold()
    clock.advance(0.5)
    assert held.queue.calls["change_visibility"] == 0


def test_a_beat_that_is_to_be_tried_again_is_void_when_the_lease_is_lost(clock):
    held = Held(clock)
    held.queue.script["change_visibility"] = [Unreachable("down")] * 1_000
    clock.advance(VISIBILITY - 1)
    assert held.heard == ["lost"]
    before = held.queue.calls["change_visibility"]
    assert before > 2
    clock.advance(30)
    assert held.queue.calls["change_visibility"] == before


@pytest.mark.parametrize("answer", [None, GONE, BROKEN])
def test_an_answer_that_comes_after_the_lease_was_lost_says_nothing(clock, answer):
    held = Held(clock)
    hold = held.queue.gates["change_visibility"] = Event()
    held.queue.script["change_visibility"] = [answer]
    clock.advance(VISIBILITY)
    assert held.heard == ["lost"]
    hold.set()
    clock.advance(30)
    assert held.heard == ["lost"]
    assert held.lease.is_lost(clock.now())
    assert held.queue.calls["change_visibility"] == 1


def test_a_lost_lease_that_is_redelivered_beats_again(clock):
    held = Held(clock)
    held.queue.script["change_visibility"] = [Unreachable("down")] * 1_000
    clock.advance(VISIBILITY)
    assert held.heard == ["lost"]
    held.queue.script.clear()
    handle = held.receive_again()
    held.lease.redelivered(handle, clock.now(), 2)
    assert not held.lease.is_lost(clock.now())
    for _ in range(10):
        clock.advance(BEAT)
        assert held.queue.visible() == []
    assert held.heard == ["lost"]
    assert {batch[0] for batch in held.queue.batches["change_visibility"][-1:]} == {(handle, VISIBILITY)}
    assert 9 <= held.queue.calls["change_visibility"] <= 11  # one heartbeat, not two


# Batches and limits


def test_after_a_batch_went_early_the_next_items_linger_again(clock):
    batches = []
    batcher = Batcher(
        lambda batch: batches.append(batch) or [], clock, gevent.spawn, linger_seconds=0.1, flushers=4, max_waiting=50
    )
    batcher.put("lone")
    clock.advance(0.2)
    assert batches == [["lone"]]
    for number in range(13):
        batcher.put(number)
    clock.advance(0.05)
    assert batches[1:] == [list(range(10))]
    clock.advance(0.1)
    assert batches[2:] == [[10, 11, 12]]


def test_an_item_lingers_its_own_time_not_the_rest_of_anothers(clock):
    batches = []
    batcher = Batcher(
        lambda batch: batches.append(batch) or [], clock, gevent.spawn, linger_seconds=0.1, flushers=4, max_waiting=50
    )
    for number in range(10):
        batcher.put(number)
    clock.advance(0.05)
    batcher.put("lone")
    clock.advance(0.07)
    assert len(batches) == 1
    clock.advance(0.04)
    assert batches[1:] == [["lone"]]


@pytest.mark.parametrize(
    ("handler", "where", "call"),
    [
        (fine, "queue", "delete"),
        (reject, "dead", "send"),
        (leave_job, "queue", "send"),
        (retry, "queue", "change_visibility"),
    ],
    ids=["delete", "copy", "follow-up", "give-back"],
)
def test_a_settling_call_that_hangs_is_given_up_after_ten_seconds_and_tried_again(run, clock, handler, where, call):
    rig = run({"job": handler})
    queue = getattr(rig, where)
    queue.gates[call] = Event()  # no answer, ever
    (one,) = rig.put("job")
    clock.advance(9.9)
    assert queue.calls[call] == 1
    assert rig.ended == []
    del queue.gates[call]
    clock.advance(2)
    assert [message_id for message_id, _ in rig.ended][:1] == [one]


# Polls


def started(clock, **settings):
    rig = Polling(clock, visibility_seconds=3_600, **settings)
    rig.pollers.start()
    return rig


def test_an_empty_answer_is_as_old_as_its_request(clock):
    one = started(clock)
    begun = clock.now()
    clock.advance(20)
    assert one.pollers.empty_since == begun
    clock.advance(20)
    assert one.pollers.empty_since == begun + 20
    one.queue.put("x")
    clock.advance(1)
    assert one.pollers.empty_since == 0.0


def test_after_failures_one_poll_alone_asks_whether_the_queue_is_back(clock):
    one = started(clock, permits=1_000)
    one.queue.on_call = lambda name: clock.sleep(0.01)
    one.queue.put("x", 400)
    clock.advance(0.05)
    assert one.pollers.active == 4
    one.queue.script["receive"] = [Unreachable("down")] * 10_000
    clock.advance(2)
    assert one.pollers.active == 1


def test_permits_that_are_granted_in_the_turn_of_the_stop_come_back_and_nothing_is_received(clock):
    one = started(clock, permits=3, taken=3)
    clock.advance(1)
    assert one.pollers.active == 1
    one.other.release(2)  # the poll has them, and has not run yet
    one.pollers.stop()
    settle()
    assert one.pollers.ended.is_set()
    assert one.queue.calls["receive"] == 0
    assert one.permits.free == 2
    one.other.release()
    assert one.permits.free == 3


def test_a_swarm_that_cannot_be_settled_is_a_crash_and_no_silence(clock, monkeypatch):
    """It is settled in the hub, where gevent prints what is raised and goes on: leases would be kept for nothing."""
    rig = Rig(clock, {"job": fine})
    settler = rig.consumer._settler
    settle_well = settler.settle

    def fail_once(*what):
        monkeypatch.setattr(settler, "settle", settle_well)
        raise MemoryError

    monkeypatch.setattr(settler, "settle", fail_once)
    rig.put("job", {}, 3)
    rig.consumer.pollers.start()
    clock.advance(1)
    assert [type(error) for error in rig.crashes] == [MemoryError]
    rig.put("job", {}, 5)
    clock.advance(1)
    assert len(rig.queue.deleted) == 5  # what comes after it is not held up


def test_a_letter_is_not_sent_once_the_lease_is_lost(run, clock):
    def reject(payload, message):
        raise Reject("no")

    rig = run({"job": reject})
    rig.dead.script["send"] = [Unreachable("down")] * 25  # some 45 s
    rig.queue.script["change_visibility"] = [Unreachable("down")] * 500
    (_one,) = rig.put("job")
    settle()
    rig.consumer.pollers.stop()
    clock.advance(29.5)
    # another worker receives it when it becomes visible, and holds it
    clock.advance(0.6)
    rig.queue.messages and rig.queue._take(1, 3600)
    clock.advance(60)
    assert len(rig.dead.messages) == 0
    assert not rig.queue.deleted


def test_a_refused_follow_up_does_not_send_the_others_of_its_delivery_twice(run, clock):
    def handle(payload, message):
        for n in range(12):
            message.follow_up(n)

    rig = run({"job": handle})
    sent = []

    def picky(entries):
        if '"payload":0' in entries[0].body:
            sent.extend(e.body for e in entries[1:])
            return [REFUSED] + [None] * (len(entries) - 1)
        sent.extend(e.body for e in entries)
        return [None] * len(entries)

    rig.queue.send = picky
    rig.put("job")
    clock.advance(600)
    assert len(sent) == 11 == len(set(sent))
    assert len(rig.dead.messages) == 1
    assert [outcome.name for _, outcome in rig.ended] == ["succeeded"]


def test_a_delete_that_is_denied_once_in_a_drain_is_tried_again_though_its_message_never_ran(clock):
    """Its patience counts from its settling, not from the drain's beginning, or its dead letter would come twice."""
    once = {"pollers": 1, "max_receive_count": 1, "concurrency": 1, "prefetch": 1}
    rig = Rig(clock, {"a": lambda payload, message: clock.sleep(5)}, **once)
    rig.put("a", number=2)
    rig.consumer.pollers.start()
    clock.advance(0.5)
    rig.consumer.drain(clock.now() + 60)
    clock.advance(19)
    rig.queue.script["delete"] = [AccessDenied("denied", "AccessDenied")]
    rig.consumer.give_back_held()
    clock.advance(10)
    assert len(rig.letters()) == 1
    assert not rig.queue.messages
    assert rig.consumer.books.abandoned == 0
