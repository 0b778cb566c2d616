"""What SQS delivers again, late or stale: a message runs once, and goes on by its newest handle."""

import contextlib
import gc
import json

import gevent
import pytest
from gevent.event import Event

from millpond.engine import in_hand, outcomes
from millpond.engine.delivery import Delivery
from millpond.errors import (
    AccessDenied,
    Retry,
    Throttled,
    Unreachable,
)
from millpond.hub.threads import NoThread
from millpond.sqs.queue import Received
from tests.engine.wired import BROKEN, GONE, fail, give_out_again, received, run
from tests.handlers import Gate, fine
from tests.rig import Rig
from tests.virtual import settle

pytestmark = pytest.mark.usefixtures("no_core_greenlet_died")


def test_a_delete_that_fails_is_tried_again_and_nothing_runs_twice(clock):
    """DeleteMessageBatch alone is down for 90 s on a 30 s visibility time-out."""
    gate = Gate()
    gate.event.set()
    rig = run(clock, {"job": gate})
    rig.queue.script["delete"] = [Unreachable("down"), BROKEN, Throttled("slow")] * 35  # 1 to 2 s apart
    (one,) = rig.put("job")
    clock.advance(90)
    assert gate.seen == [(one, 1)]
    assert rig.queue.calls["delete"] > 20
    assert rig.queue.messages[one].receives == 1  # its beats went on
    assert rig.queue.visible() == []
    clock.advance(120)
    assert rig.queue.deleted == {one: 1}
    assert gate.seen == [(one, 1)]


@pytest.mark.parametrize("refusal", [BROKEN, Unreachable("down"), AccessDenied("no", "AccessDenied")], ids=repr)
def test_a_delete_that_is_owed_is_asked_for_until_it_is_made_and_the_handler_does_not_run_again(clock, refusal, caplog):
    gate = Gate()
    gate.event.set()
    rig = run(clock, {"job": gate})
    rig.queue.script["delete"] = [refusal] * 1_000_000
    (one,) = rig.put("job")
    clock.advance(1_200)
    assert rig.books.abandoned == 0
    assert rig.queue.messages[one].receives == 1  # its beats go on
    told = [record.getMessage() for record in caplog.records if getattr(record, "event", "") == "settle.failed"]
    assert 19 <= len(told) <= 21  # at once, and each minute
    assert all("sqs:DeleteMessage on http://queue.test/000000000000/q fails" in text for text in told)
    assert ("allow sqs:DeleteMessage" in told[0]) == isinstance(refusal, AccessDenied)
    rig.queue.script["delete"].clear()
    clock.advance(3)
    assert rig.queue.deleted == {one: 1}
    assert gate.seen == [(one, 1)]


def test_a_message_that_comes_again_while_it_is_in_hand_does_not_run_twice(clock):
    gate = Gate()
    rig = run(clock, {"job": gate}, concurrency=5)
    (one,) = rig.put("job")
    settle()
    rig.queue._hide(rig.queue.messages[one], 0)  # SQS may give a message out twice
    rig.queue._arrival.set()
    clock.advance(1)
    assert rig.queue.messages[one].receives == 2
    assert gate.seen == [(one, 1)]
    gate.event.set()
    clock.advance(1)
    assert rig.queue.deleted == {one: 1}  # by the new handle: the old one deletes nothing
    assert rig.books.received == 1 == sum(rig.books.outcomes.values())
    assert rig.books.redelivered == 1
    assert rig.consumer._share.held == rig.consumer._share.polling


def test_a_message_that_comes_again_while_its_delete_is_on_its_way_is_deleted_by_the_new_handle(clock):
    rig = run(clock, {"job": fine})
    rig.queue.gates["delete"] = Event()
    (one,) = rig.put("job")
    clock.advance(1)
    rig.queue._hide(rig.queue.messages[one], 0)
    rig.queue._arrival.set()
    clock.advance(1)
    rig.queue.gates.pop("delete").set()
    clock.advance(5)
    assert rig.queue.deleted == {one: 1}
    assert [outcome.name for _, outcome in rig.ended] == ["succeeded"]


def test_a_message_that_comes_again_while_its_lost_handler_still_ends_is_let_go(clock):
    ending = Event()

    def handle(payload, message):
        try:
            Event().wait()
        finally:
            while not ending.is_set():
                with contextlib.suppress(BaseException):
                    ending.wait()

    rig = run(clock, {"job": handle})
    rig.queue.script["change_visibility"] = [GONE]
    (one,) = rig.put("job")
    clock.advance(11)
    rig.queue._hide(rig.queue.messages[one], 0)
    rig.queue._arrival.set()
    clock.advance(0.5)
    assert [outcome.name for _, outcome in rig.ended] == ["released"]
    ending.set()
    clock.advance(0.2)
    assert [outcome.name for _, outcome in rig.ended] == ["released", "lease_lost"]


def test_an_old_handles_void_delete_does_not_end_the_delivery_that_has_a_new_one(clock):
    rig = run(clock, {"job": fine})
    rig.queue.script["delete"] = [GONE]
    rig.queue.gates["delete"] = Event()
    (one,) = rig.put("job")
    clock.advance(1)
    give_out_again(rig, one)
    clock.advance(1)
    rig.queue.gates.pop("delete").set()
    clock.advance(5)
    assert rig.outcomes() == {one: "succeeded"}
    assert rig.queue.deleted == {one: 1}


def test_an_old_handles_void_beat_does_not_end_the_lease_that_has_a_new_one(clock):
    gate = Gate()
    rig = run(clock, {"job": gate})
    rig.queue.script["change_visibility"] = [GONE]
    rig.queue.gates["change_visibility"] = Event()
    (one,) = rig.put("job")
    clock.advance(11)  # a beat is on its way
    give_out_again(rig, one)
    clock.advance(1)
    rig.queue.gates.pop("change_visibility").set()
    clock.advance(60)
    assert gate.inside == [one]
    gate.event.set()
    clock.advance(1)
    assert rig.outcomes() == {one: "succeeded"}
    assert rig.queue.deleted == {one: 1}


def test_a_finished_message_that_comes_again_after_its_lease_ran_out_is_deleted_not_run(clock):
    """A late success can only save a duplicate; and the old handle deletes nothing any more."""
    gate = Gate()
    gate.event.set()
    rig = run(clock, {"job": gate})
    rig.queue.script["delete"] = [BROKEN] * 32
    rig.queue.script["change_visibility"] = [Unreachable("down")] * 500
    (one,) = rig.put("job")
    clock.advance(31)
    assert rig.queue.messages[one].receives == 2
    clock.advance(74)
    assert gate.seen == [(one, 1)]
    assert rig.queue.deleted == {one: 1}


@pytest.mark.parametrize("max_receive_count", [0, 2])
def test_a_message_that_came_again_while_its_lost_handler_ends_runs_after_it_and_never_beside_it(
    clock, max_receive_count
):
    ending, inside, ran = Event(), [], []

    def handle(payload, message):
        ran.append(len(inside))
        if len(ran) > 1:
            return
        inside.append(message.id)
        while not ending.is_set():
            with contextlib.suppress(BaseException):
                ending.wait()
        inside.clear()

    rig = run(clock, {"job": handle}, max_receive_count=max_receive_count, visibility_seconds=9)
    rig.queue.script["change_visibility"] = [GONE]
    (one,) = rig.put("job")
    clock.advance(3.5)
    give_out_again(rig, one)
    clock.advance(7)  # it is put off by three seconds, and again
    assert ran == [0]
    ending.set()
    clock.advance(40)
    assert ran == [0, 0]
    assert rig.queue.deleted == {one: 1}
    assert rig.queue.moved == rig.letters() == []


def test_a_receive_of_what_is_in_hand_counts_as_an_attempt_as_any_other(clock):
    gate = Gate()

    def handle(payload, message):
        gate(payload, message)
        raise ValueError("boom")

    rig = run(clock, {"job": handle}, max_attempts=2)
    (one,) = rig.put("job")
    clock.advance(1)
    give_out_again(rig, one)
    clock.advance(1)
    gate.event.set()
    clock.advance(1)
    assert rig.outcomes() == {one: "dead_lettered"}
    assert rig.letters() == ["received 2 times; this worker saw 1 failure; max_attempts = 2"]


def put_off(clock, monkeypatch, puts):
    """`puts`: name -> when it is sent, how often no thread is free for it (it comes again after 20 s, then 40), and
    whether it fails then. Two receives are remembered, and two attempts are made; the receives of the dead letters."""
    monkeypatch.setattr(in_hand, "MAX_SEEN_MESSAGES", 2)
    monkeypatch.setattr(outcomes, "put_off_seconds", lambda receives: 20 * receives)
    left, fails = (
        {name: times for name, (_, times, _) in puts.items()},
        {name: fails for name, (*_, fails) in puts.items()},
    )

    def handle(name, message):
        left[name] -= 1
        if left[name] >= 0:
            raise NoThread("no thread was free for it")
        if fails[name]:
            raise Retry("not yet", after=1)

    rig = run(clock, {"job": handle}, max_attempts=2, wait_seconds=1)
    for name, (at, _, _) in puts.items():
        clock.timer(at, lambda name=name: rig.put("job", name))
    clock.advance(100)
    letters = [one.entry for one in rig.dead.messages.values()]
    return {json.loads(one.body)["payload"]: json.loads(one.attributes["millpond"].value)["attempt"] for one in letters}


def test_of_messages_that_were_put_off_only_so_many_are_remembered(clock, monkeypatch):
    assert put_off(clock, monkeypatch, {"a": (0, 1, True), "b": (1, 1, True)}) == {"a": 3, "b": 3}
    puts = {"a": (0, 1, True), "b": (1, 1, True), "c": (2, 1, True)}
    assert put_off(clock, monkeypatch, puts) == {"a": 2, "b": 3, "c": 3}


def test_a_message_that_is_done_takes_no_place_among_those_that_are_remembered(clock, monkeypatch):
    puts = {"b": (0, 2, True), "done": (21, 1, False), "c": (45, 1, True)}
    assert put_off(clock, monkeypatch, puts) == {"b": 4, "c": 3}


@contextlib.contextmanager
def in_transaction(message):
    yield


@pytest.mark.parametrize("way", ["done", "failed", "failed in @around", "timed out"])
def test_no_message_that_is_over_waits_in_memory_for_the_garbage_collector(clock, way):
    """It looks for cycles after 20,000 objects: that would be thousands of bodies."""

    def handle(payload, message):
        if way == "timed out":
            clock.sleep(1_000)
        elif way != "done":
            raise ValueError("boom")

    rig = run(clock, {"job": handle}, timeout=5, max_attempts=1, options={"job": {"breaker": None}})
    if way == "failed in @around":
        rig.reroute("job", around=in_transaction)
    gc.collect()
    gc.disable()
    try:
        rig.put("job", number=20)
        clock.advance(60)
        assert len(rig.ended) == 20
        assert [one for one in gc.get_objects() if type(one) is Delivery and one.owner is rig.consumer] == []
    finally:
        gc.enable()


def test_a_message_redelivered_in_the_turn_in_which_its_beat_is_lost_does_not_spin(clock, alarm):
    rig = run(clock, {"job": fine}, wait_seconds=20)
    rig.queue.script["delete"] = [BROKEN] * 400
    (one,) = rig.put("job")
    clock.advance(9)

    def again():
        rig.queue.messages[one].handle = f"{one}#2"
        received = Received(one, f"{one}#2", rig.queue.messages[one].entry.body, 2)
        rig.permits.free -= 1
        rig.consumer._share.held += 1
        gevent.get_hub().loop.run_callback(rig.consumer.accept, [received])

    rig.queue.script["change_visibility"] = [again]
    clock.advance(3)
    assert rig.queue.calls["change_visibility"] <= 2


def test_a_message_that_comes_again_before_it_was_started_is_started(clock):
    gate = Gate()
    rig = run(clock, {"job": gate}, concurrency=1, prefetch=2)
    _first, second = rig.put("job", {}, 2)
    settle()
    rig.consumer.hand.deliveries[second].lease._lose()
    rig.queue._hide(rig.queue.messages[second], 0)
    rig.queue._arrival.set()
    clock.advance(0.5)
    assert rig.ended == []  # redelivered


def test_a_stale_answer_is_not_started(clock):
    """It waited in the socket while the process was stopped: its message was somebody else's by then."""
    handler = Gate()
    rig = Rig(clock, {"job": handler}, visibility_seconds=30)
    (one,) = rig.put("job")
    rig.queue.messages[one].visible_at = clock.now() + 1_000
    rig.consumer.accept([received(rig, one, 1)], latest=clock.now() - 30)
    clock.advance(1)
    assert handler.seen == []
    assert rig.outcomes() == {one: "lease_lost"}
    assert rig.queue.calls["change_visibility"] == rig.queue.calls["delete"] == 0


def test_what_was_asked_for_after_a_block_is_new(clock):
    """All that is read shortly after a block was dated to before it: whatever a woken worker received was lost."""
    began = clock.now()
    rig = Rig(clock, {"job": Gate()}, visibility_seconds=3)
    (one,) = rig.put("job")
    clock.advance(10)  # in which the hub stood still
    rig.consumer._unread_since = lambda now: began
    rig.consumer.accept([received(rig, one, 1)], clock.now() + 1, clock.now())
    settle()
    assert rig.outcomes() == {}
    assert rig.consumer.hand.deliveries[one].lease.held_since == clock.now()


def test_an_answer_that_was_long_on_its_way_takes_no_newer_lease_over(clock):
    """Its dead handle replaced the good one: on a standard queue the delete then answers 200 and deletes nothing."""
    handler = Gate()
    rig = Rig(clock, {"job": handler}, visibility_seconds=30)
    (one,) = rig.put("job")
    rig.queue.messages[one].receives, rig.queue.messages[one].handle = 3, f"{one}#3"
    free = rig.permits.free
    rig.consumer.accept([received(rig, one, 3)])
    settle()
    rig.consumer.accept([received(rig, one, 2)])
    assert rig.consumer.hand.deliveries[one].lease.handle == f"{one}#3"
    handler.event.set()
    clock.advance(1)
    assert rig.queue.deleted == {one: 1}
    assert ([attempt for _, attempt in handler.seen], rig.books.received, rig.permits.free) == ([3], 1, free)


def test_what_comes_while_its_handler_still_ends_is_not_received_again_and_again_where_beats_are_quick(clock):
    """A third of a visibility time-out of 1 s, rounded, was none: SQS gave it out again at once, receive by receive."""

    def stubborn(payload, message):
        end = clock.now() + 8
        while clock.now() < end:
            with contextlib.suppress(BaseException):
                clock.sleep(end - clock.now())

    rig = run(clock, {"job": stubborn}, visibility_seconds=1, wait_seconds=1)
    rig.queue.script["change_visibility"] = [GONE]
    rig.put("job")
    clock.advance(7)
    assert 3 <= rig.books.received <= 9


def test_of_what_was_put_off_in_vain_nothing_is_kept(clock):
    """SQS denies the change until the lease is over: then the message comes back by itself."""
    rig = run(clock, {"job": fail}, visibility_seconds=30, max_attempts=1_000)
    rig.queue.script["change_visibility"] = [AccessDenied("no")] * 10_000
    rig.put("job", number=5)
    clock.advance(600)
    assert rig.books.abandoned > 20
    assert len(rig.consumer.hand._abandoned_until) <= 5
