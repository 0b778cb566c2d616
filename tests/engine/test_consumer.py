"""One queue, wired, on a virtual clock: what becomes of messages when things go wrong."""

import contextlib
import gc
import json
from itertools import pairwise

import gevent
import msgspec
import pytest
from gevent.event import Event

from millpond.engine import in_hand, outcomes
from millpond.engine.delivery import Delivery
from millpond.engine.lease_keeper import LeaseKeeper
from millpond.engine.settler import SHORT_LINGER_SECONDS
from millpond.errors import (
    AccessDenied,
    QueueError,
    QueueMissing,
    Reject,
    Retry,
    Stopped,
    Throttled,
    Unavailable,
    Unreachable,
)
from millpond.hub.threads import NoThread
from millpond.message import delayed, envelope_text
from millpond.observe import log
from millpond.sqs.limits import MARGIN_SECONDS
from millpond.sqs.queue import Attribute, Failure, Received
from tests.fakes import FakeQueue, ListOwner
from tests.handlers import Gate, fine, reject
from tests.rig import Rig, queue_settings
from tests.virtual import VirtualClock, settle

GONE = Failure("ReceiptHandleIsInvalid", "", sender_fault=True)
BROKEN = Failure("InternalError", "try again")
REFUSED = Failure("InvalidMessageContents", "no", sender_fault=True)


@pytest.fixture
def clock():
    return VirtualClock()


def fail(payload, message):
    raise ValueError("boom")


def run(clock, handlers, **settings):
    rig = Rig(clock, handlers, **settings)
    rig.consumer.pollers.start()
    return rig


@pytest.fixture(autouse=True)
def no_core_greenlet_died(monkeypatch):
    rigs = []
    init = Rig.__init__

    def keep(self, *args, **kwargs):
        init(self, *args, **kwargs)
        rigs.append(self)

    monkeypatch.setattr(Rig, "__init__", keep)
    yield
    assert [rig.crashes for rig in rigs if rig.crashes] == []


def test_every_call_is_a_request_those_to_the_dead_letter_queue_too(clock):
    def refuse(payload, message):
        raise Reject("no")

    rig = run(clock, {"job": refuse}, wait_seconds=20)
    assert rig.consumer.requests_per_1000 == 0.0
    rig.put("job", {}, 10)
    clock.advance(1)
    assert rig.queue.calls == {"receive": 2, "delete": 1}
    assert rig.dead.calls == {"send": 1}
    assert rig.consumer.requests == 4
    rig.put("job", {}, 2)
    clock.advance(1)
    assert rig.consumer.requests == 7


def test_requests_per_1000_messages_are_given_from_100_messages_on(clock):
    rig = run(clock, {"job": fine}, wait_seconds=20)
    rig.put("job", {}, 99)
    clock.advance(1)
    assert rig.consumer.requests_per_1000 == 0.0
    rig.put("job")
    clock.advance(1)
    assert rig.consumer.requests_per_1000 == 10.0 * rig.consumer.requests


@pytest.mark.parametrize(("seconds", "took"), [(0, "less than 1 ms"), (1.5, "1.5 s")])
def test_the_line_of_a_message_that_succeeded_says_how_long_its_handler_took(clock, caplog, seconds, took):
    caplog.set_level("INFO")
    rig = run(clock, {"job": lambda payload, message: clock.sleep(seconds) if seconds else None})
    rig.consumer.books._succeeded = log.Allowance(10)
    rig.put("job")
    clock.advance(2)
    assert f"succeeded in {took}" in [record.getMessage() for record in caplog.records]


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


def test_a_failed_message_comes_back_after_its_back_off_until_its_attempts_are_used_up(clock):
    rig = run(clock, {"job": fail}, max_attempts=3)
    (one,) = rig.put("job")
    clock.advance(1)
    assert rig.ended[0][1].name == "retried"
    assert rig.queue.visible() == []
    clock.advance(60)
    assert [outcome.name for _, outcome in rig.ended] == ["retried", "retried", "dead_lettered"]
    assert rig.queue.deleted == {one: 1}
    (letter,) = rig.dead.messages.values()
    reason = json.loads(letter.entry.attributes["millpond"].value)
    assert reason["error"] == "ValueError: boom"
    assert reason["attempt"] == 3
    assert reason["handler"] == "tests.job"
    assert reason["message_id"] == one


def test_the_original_is_deleted_only_after_its_dead_letter_is_confirmed(clock):
    rig = run(clock, {"job": reject}, visibility_seconds=6)
    rig.dead.gates["send"] = Event()
    rig.put("job")
    clock.advance(9)  # longer than the visibility time-out: the lease is held till then
    assert not rig.queue.deleted
    assert rig.queue.messages["m1"].receives == 1
    rig.dead.gates.pop("send").set()
    clock.advance(1)
    assert len(rig.queue.deleted) == 1
    assert len(rig.dead.messages) == 1


@pytest.mark.parametrize("dead_letters", [True, False])
def test_without_a_place_for_a_dead_letter_the_message_stays_under_back_off(clock, dead_letters):
    rig = run(clock, {"job": reject}, dead_letters=dead_letters)
    if dead_letters:
        rig.dead.script["send"] = [REFUSED] * 2  # with its reason, and without
    (one,) = rig.put("job")
    clock.advance(1)
    assert rig.ended[0][1].name == "retried"
    assert rig.ended[0][1].cause == "rejected"
    assert "no such customer" in rig.ended[0][1].reason
    assert not rig.queue.deleted
    assert one in rig.queue.messages


def test_a_dead_letter_queue_that_fails_for_a_while_gets_the_letter_later(clock):
    rig = run(clock, {"job": reject})
    rig.dead.script["send"] = [Unreachable("down"), BROKEN, Throttled("slow down")]
    rig.put("job")
    clock.advance(10)
    assert len(rig.dead.messages) == len(rig.queue.deleted) == 1


def test_a_body_that_cannot_be_read_is_a_dead_letter_with_its_reason(clock):
    rig = run(clock, {"job": fine})
    rig.queue.put("{not json", attributes={"tenant": Attribute("String", "acme")})
    rig.put("job.unknown", {})
    clock.advance(1)
    letters = [one.entry for one in rig.dead.messages.values()]
    assert letters[0].body == "{not json"
    assert letters[0].attributes["tenant"].value == "acme"
    assert "the message names no type" in json.loads(letters[0].attributes["millpond"].value)["reason"]
    assert "no handler for type 'job.unknown'" in json.loads(letters[1].attributes["millpond"].value)["reason"]


def test_a_follow_up_is_sent_before_its_original_is_deleted(clock):
    order = []

    def handle(payload, message):
        if payload == "first":
            message.follow_up("second", after=5)

    rig = run(clock, {"job": handle})
    rig.queue.on_call = lambda name: order.append(name) if name in ("send", "delete") else None
    rig.put("job", "first")
    clock.advance(1)
    assert order == ["send", "delete"]
    (job,) = rig.queue.batches["send"][0]
    assert json.loads(job.body)["event_id"].endswith("/1")
    assert job.delay_seconds == 5


def test_a_rejected_follow_up_goes_to_the_dead_letter_queue(clock):
    rig = run(clock, {"job": lambda payload, message: message.follow_up({"to": "x"}, reject="550") and None})
    rig.put("job")
    clock.advance(1)
    (letter,) = rig.dead.messages.values()
    assert json.loads(letter.entry.body)["payload"] == {"to": "x"}
    assert json.loads(letter.entry.attributes["millpond"].value)["reason"] == "550"
    assert len(rig.queue.deleted) == 1


def test_a_rejected_follow_up_without_a_dead_letter_queue_waits_in_the_queue_itself(clock):
    def handle(payload, message):
        if payload == "first":
            message.follow_up("rest", reject="550")
        else:
            raise Reject("550")

    rig = run(clock, {"job": handle}, dead_letters=False)
    (one,) = rig.put("job", "first")
    clock.advance(1)
    assert rig.queue.deleted == {one: 1}
    assert [json.loads(stored.entry.body)["payload"] for stored in rig.queue.messages.values()] == ["rest"]


@pytest.mark.parametrize(
    "refusal",
    [
        REFUSED,
        AccessDenied("no", "AccessDenied"),
        AccessDenied("none found", "NoCredentials"),
        QueueMissing("gone", "x"),
    ],
    ids=repr,
)
def test_a_follow_up_that_is_refused_is_a_dead_letter_and_its_handler_does_not_run_again(clock, refusal, caplog):
    ran = []

    def handle(payload, message):
        ran.append(message.id)
        message.follow_up({"n": 1}, after=5)

    rig = run(clock, {"job": handle}, wait_seconds=1)
    rig.queue.script["send"] = [refusal] * 100
    (one,) = rig.put("job")
    clock.advance(600)
    assert ran == [one]
    assert rig.outcomes() == {one: "succeeded"}
    assert rig.queue.deleted == {one: 1}
    (letter,) = rig.dead.messages.values()
    body, reason = json.loads(letter.entry.body), json.loads(letter.entry.attributes["millpond"].value)
    assert (body["event_id"], body["payload"]) == (f"{one}/1", {"n": 1})
    assert reason["reason"].startswith("it could not be sent: ")
    assert reason["event_id"] == f"{one}/1"
    told = [vars(record) for record in caplog.records if getattr(record, "event", "") == "follow_up.dead_lettered"]
    assert [record["fields"]["follow_up"] for record in told] == [f"{one}/1"]
    assert rig.books.follow_ups_dead_lettered == 1


@pytest.mark.parametrize("dead_letters", [True, False])
def test_a_follow_up_that_nobody_takes_is_offered_for_as_long_as_its_message_can_be_held(clock, dead_letters, caplog):
    ran = []

    def handle(payload, message):
        if payload is None:
            ran.append(message.id)
            message.follow_up("later")

    rig = run(clock, {"job": handle}, dead_letters=dead_letters)
    denied = AccessDenied("not allowed", "AccessDenied")
    rig.queue.script["send"] = [denied] * 10_000
    if dead_letters:
        rig.dead.script["send"] = [denied] * 10_000
    (one,) = rig.put("job")
    clock.advance(3_600)
    assert ran == [one]
    assert rig.ended == []
    told = [one.getMessage() for one in caplog.records if getattr(one, "event", "") == "settle.failed"]
    about = [text for text in told if "queue.test" in text and "allow sqs:SendMessage" in text]
    assert 55 <= len(about) <= 2 * 61
    rig.queue.script["send"].clear()
    clock.advance(3)
    assert rig.outcomes()[one] == "succeeded"
    clock.advance(3)
    assert rig.queue.messages == {}


def test_a_retried_message_leaves_no_follow_up_behind(clock):
    def handle(payload, message):
        message.follow_up({})
        raise Retry("not yet", after=7)

    rig = run(clock, {"job": handle})
    rig.put("job")
    clock.advance(1)
    assert rig.queue.calls["send"] == 0
    assert rig.ended[0][1].delay_seconds == 7


# Deletes


def test_trap_a_a_shutdown_interrupts_no_one_who_waits_for_a_delete(clock):
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


def test_trap_b_a_lease_outlives_a_slow_delete(clock):
    """Dropping it before the delete is confirmed made 440 deliveries of 40 messages, and no delete."""
    rig = run(clock, {"job": fine}, concurrency=40, visibility_seconds=6)
    rig.queue.on_call = lambda name: clock.sleep(3) if name == "delete" else None
    rig.queue.script["delete"] = [BROKEN] * 4
    ids = rig.put("job", {}, 40)
    for _ in range(60):
        clock.advance(1)
    assert rig.queue.deleted == dict.fromkeys(ids, 1)
    assert len(rig.ended) == 40


def test_trap_c_a_slow_delete_holds_back_the_receives(clock):
    """Releasing the permit before the outcome has its place held 2,950 messages instead of 20."""
    rig = run(clock, {"job": fine}, concurrency=20)
    rig.queue.gates["delete"] = Event()
    rig.put("job", {}, 3_000)
    clock.advance(5)
    assert rig.consumer.in_hand <= 20 + 20 + 10  # permits, backlog, one receive
    rig.queue.gates.pop("delete").set()
    clock.advance(20)
    assert rig.books.outcomes["succeeded"] == 3_000


def test_a_delete_that_fails_is_tried_again_and_nothing_runs_twice(clock):
    """DeleteMessageBatch alone is down for 90 s on a 30 s visibility time-out."""
    gate = Gate()
    gate.event.set()
    rig = run(clock, {"job": gate})
    rig.queue.script["delete"] = [Unreachable("down"), BROKEN, Throttled("slow")] * 20
    (one,) = rig.put("job")
    clock.advance(90)
    assert gate.seen == [(one, 1)]
    assert rig.queue.calls["delete"] > 20
    assert rig.queue.messages[one].receives == 1  # its beats went on
    assert rig.queue.visible() == []
    clock.advance(60)
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


# Leases


def test_a_message_whose_lease_ran_out_while_it_was_ready_is_not_started(clock):
    gate = Gate()
    rig = run(clock, {"job": gate}, concurrency=1, prefetch=1)
    first, second = rig.put("job", {}, 2)
    settle()
    rig.queue.script["change_visibility"] = [Unreachable("down")] * 100
    clock.advance(30 - MARGIN_SECONDS + 0.5)
    assert gate.seen == [(first, 1)]
    assert rig.outcomes() == {first: "lease_lost", second: "lease_lost"}
    gate.event.set()
    clock.advance(2)
    assert gate.seen == [(first, 1), (first, 2), (second, 2)]


def test_a_running_handler_hears_that_its_lease_is_lost_and_is_not_acknowledged(clock):
    gate = Gate()
    rig = run(clock, {"job": gate})
    rig.queue.script["change_visibility"] = [GONE]
    (one,) = rig.put("job")
    settle()
    assert gate.inside == [one]
    clock.advance(11)
    assert gate.inside == []
    assert rig.outcomes() == {one: "lease_lost"}
    assert not rig.queue.deleted


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


# Receiving


def test_receives_that_fail_back_off_and_go_on(clock):
    rig = run(clock, {"job": fine})
    rig.queue.script["receive"] = [Unreachable("down"), Throttled("slow"), AccessDenied("no")]
    (one,) = rig.put("job")
    clock.advance(0.05)
    assert rig.queue.calls["receive"] == 1  # a failing queue is not asked again at once
    clock.advance(30)
    assert rig.queue.deleted == {one: 1}
    assert len(rig.first_failures) == 3  # before any receive came back, the service hears of each


def test_a_receive_that_is_denied_while_the_worker_runs_does_not_end_it(clock):
    rig = run(clock, {"job": fine})
    (one,) = rig.put("job")
    clock.advance(1)
    rig.queue.script["receive"] = [AccessDenied("no")] * 5
    clock.advance(25)  # the open poll has ended, and the next one was denied
    assert len(rig.queue.script["receive"]) < 5
    assert rig.first_failures == []
    (two,) = rig.put("job")
    clock.advance(200)
    assert rig.first_failures == []
    assert rig.queue.deleted == {one: 1, two: 1}


# What is late, or of an old handle


def give_out_again(rig, one):
    rig.queue._hide(rig.queue.messages[one], 0)
    rig.queue._arrival.set()


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


# Dead letters that do not go


def test_a_dead_letter_queue_that_is_denied_stops_nothing(clock, caplog):
    rig = run(clock, {"job": reject, "good": fine}, concurrency=10)
    rig.dead.script["send"] = [AccessDenied("not allowed", "AccessDenied")] * 10_000
    rig.put("job", None, 30)
    clock.advance(2)
    goods = rig.put("good", None, 50)
    clock.advance(1)
    assert [one for one in goods if one not in rig.queue.deleted] == []
    clock.advance(57)
    told = [record.getMessage() for record in caplog.records if getattr(record, "event", "") == "settle.failed"]
    assert len(told) == 1
    assert "put off" not in told[0]
    clock.advance(60)
    told = [record.getMessage() for record in caplog.records if getattr(record, "event", "") == "settle.failed"]
    assert 2 <= len(told) <= 3
    assert "put off: " in told[1]
    assert rig.dead.calls["send"] < 40  # one looks each five seconds whether it is back
    rig.dead.script["send"].clear()
    clock.advance(900)
    assert len(rig.dead.messages) == 30
    assert rig.queue.messages == {}
    assert rig.books.outcomes["dead_lettered"] == 30


def test_a_refusal_that_passes_makes_no_second_run_and_no_dead_letter_of_a_follow_up(clock):
    ran = []

    def handle(payload, message):
        ran.append(payload)
        if payload == "leaves one":
            message.follow_up("rest")
        if payload == "rejected":
            raise Reject("never")

    rig = run(clock, {"job": handle})
    for queue in (rig.queue, rig.dead):
        queue.script["send"] = [AccessDenied("not yet", "AccessDenied")]
    rig.put("job", "leaves one")
    rig.put("job", "rejected")
    clock.advance(30)
    assert sorted(ran) == ["leaves one", "rejected", "rest"]
    assert len(rig.dead.messages) == 1
    assert rig.queue.messages == {}


@pytest.mark.parametrize("hangs", [True, False])
def test_a_dead_letter_queue_that_does_not_answer_holds_a_message_for_a_short_while_only(clock, hangs):
    rig = run(clock, {"job": reject}, concurrency=10)
    if hangs:
        rig.dead.gates["send"] = Event()
    else:
        rig.dead.script["send"] = [Unreachable("down")] * 10_000
    (one,) = rig.put("job")
    clock.advance(4.5)
    assert rig.ended == []
    clock.advance(7)
    assert rig.ended[0][1].name == "retried"
    assert rig.ended[0][1].reason.startswith("no such customer (the dead-letter queue did not take it: ")
    assert rig.queue.deleted == {}
    clock.advance(60)
    assert all(outcome.name == "retried" for _, outcome in rig.ended)
    assert rig.queue.messages[one].receives > 2


def test_a_dead_letter_that_is_too_large_with_its_reason_goes_without_it_and_the_log_has_it(clock, caplog):
    rig = run(clock, {"job": reject})

    def picky(entries):
        rig.dead.put("".join(entry.body for entry in entries if "millpond" not in entry.attributes))
        return [REFUSED if "millpond" in entry.attributes else None for entry in entries]

    rig.dead.send = picky
    (one,) = rig.put("job")
    clock.advance(1)
    assert rig.outcomes() == {one: "dead_lettered"}
    (line,) = [vars(record) for record in caplog.records if getattr(record, "event", "") == "dead_letter.bare"]
    assert line["fields"]["reason"] == "no such customer"
    assert line["levelname"] == "WARNING"


def test_a_dead_letter_with_ten_attributes_goes_without_its_reason_and_the_log_has_it(clock, caplog):
    rig = run(clock, {"job": reject})
    ten = {f"a{number}": Attribute("String", "x") for number in range(10)}
    rig.queue.put(json.dumps({"event_type": "job", "payload": None}), attributes=ten)
    clock.advance(1)
    (letter,) = rig.dead.messages.values()
    assert letter.entry.attributes == ten
    (line,) = [vars(record) for record in caplog.records if getattr(record, "event", "") == "dead_letter.bare"]
    assert line["fields"]["reason"] == "no such customer"


def test_a_producers_own_attribute_millpond_does_not_go_on(clock):
    rig = run(clock, {"job": reject})
    nine = {f"a{number}": Attribute("String", "x") for number in range(9)}
    mine = {**nine, "millpond": Attribute("String", "forged")}
    rig.queue.put(json.dumps({"event_type": "job", "payload": None}), attributes=mine)
    clock.advance(1)
    (letter,) = rig.dead.messages.values()
    assert json.loads(letter.entry.attributes["millpond"].value)["reason"] == "no such customer"
    assert letter.entry.attributes.keys() == mine.keys()


def test_one_dead_letter_that_is_refused_fails_none_of_its_neighbours(clock):
    """SQS can refuse a whole call for what is in one entry of it."""

    def handle(payload, message):
        raise Reject("never")

    rig = run(clock, {"job": handle}, concurrency=10)
    send = rig.dead.send

    def picky(entries):
        if any('"payload": 3' in entry.body for entry in entries):
            raise QueueError("SendMessageBatch: not these", "InvalidMessageContents")
        return send(entries)

    rig.dead.send = picky
    ids = [rig.put("job", number)[0] for number in range(10)]
    clock.advance(1)
    named = {one: outcome.name for one, outcome in rig.ended}
    assert named == {one: "retried" if index == 3 else "dead_lettered" for index, one in enumerate(ids)}
    assert len(rig.dead.messages) == 9


def test_a_rejected_follow_up_that_cannot_be_buried_waits_in_the_queue_under_back_off(clock):
    ran = []

    def handle(payload, message):
        ran.append(payload)
        message.follow_up("rest", reject="550")

    rig = run(clock, {"job": handle})
    rig.dead.script["send"] = [AccessDenied("no", "AccessDenied")] * 10_000
    (one,) = rig.put("job", "first")
    clock.advance(3)
    assert rig.queue.deleted[one] == 1
    assert ran[0] == "first"
    (job,) = [entry for batch in rig.queue.batches["send"] for entry in batch][:1]
    assert job.delay_seconds >= 1


def test_a_rejected_follow_up_that_neither_queue_takes_is_offered_until_one_does(clock):
    def handle(payload, message):
        if payload == "first":
            message.follow_up("rest", reject="550")

    rig = run(clock, {"job": handle})
    for queue in (rig.queue, rig.dead):
        queue.script["send"] = [AccessDenied("no", "AccessDenied")] * 10_000
    (one,) = rig.put("job", "first")
    clock.advance(60)
    assert rig.ended == []
    for queue in (rig.queue, rig.dead):
        queue.script["send"].clear()
    clock.advance(10)
    assert rig.outcomes()[one] == "succeeded"
    assert rig.queue.deleted[one] == 1


def test_a_receive_that_hangs_is_given_up(clock):
    rig = run(clock, {"job": fine}, wait_seconds=20)
    rig.queue.gates["receive"] = Event()
    clock.advance(29)
    assert rig.queue.calls["receive"] == 1
    rig.queue.gates.pop("receive")
    (one,) = rig.put("job")
    clock.advance(3)
    assert rig.queue.deleted == {one: 1}


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


# Drain


def drain(rig, clock, seconds):
    rig.consumer.drain(clock.now() + seconds)


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


def test_many_handlers_under_load_settle_in_full_batches(clock):
    rig = run(clock, {"job": lambda payload, message: gevent.sleep(0)}, concurrency=100)
    rig.put("job", {}, 2_000)
    clock.advance(3)
    assert len(rig.queue.deleted) == 2_000
    assert rig.queue.calls["delete"] <= 220
    assert rig.queue.calls["receive"] <= 230


def test_a_finished_message_that_comes_again_after_its_lease_ran_out_is_deleted_not_run(clock):
    """A late success can only save a duplicate; and the old handle deletes nothing any more."""
    gate = Gate()
    gate.event.set()
    rig = run(clock, {"job": gate})
    rig.queue.script["delete"] = [BROKEN] * 25
    rig.queue.script["change_visibility"] = [Unreachable("down")] * 500
    (one,) = rig.put("job")
    clock.advance(31)
    assert rig.queue.messages[one].receives == 2
    clock.advance(74)
    assert gate.seen == [(one, 1)]
    assert rig.queue.deleted == {one: 1}


def test_a_handler_that_was_never_reached_by_its_interrupt_is_still_given_back(clock):
    rig = run(clock, {"job": Gate()}, wait_seconds=1)
    (one,) = rig.put("job")
    settle()
    drain(rig, clock, 4)
    rig.consumer.write_off_running()  # the hub had no turn to throw
    clock.advance(2)
    assert rig.outcomes() == {one: "released"}


def test_a_message_that_sqs_would_move_next_is_moved_with_its_reason(clock):
    """At maxReceiveCount SQS redrives by itself, silently."""

    def handle(payload, message):
        raise Retry("not yet", after=60)

    rig = run(clock, {"job": handle}, max_receive_count=4, max_attempts=10, wait_seconds=1)
    (one,) = rig.put("job")
    for _ in range(300):
        clock.advance(1)
    assert [outcome.name for _, outcome in rig.ended] == ["retried"] * 3 + ["dead_lettered"]
    (letter,) = rig.dead.messages.values()
    reason = json.loads(letter.entry.attributes["millpond"].value)["reason"]
    assert reason == "not yet (maxReceiveCount = 4 is reached)"
    assert rig.queue.deleted == {one: 1}


class Server:
    """What a handler needs, and cannot reach while it is down; `times`: when it was tried."""

    def __init__(self, clock, after):
        self.clock, self.after, self.up, self.times, self.ids = clock, after, False, [], []

    def __call__(self, payload, message):
        self.times.append(self.clock.now())
        self.ids.append(message.id)
        if not self.up:
            raise Unavailable("mail server down", after=self.after)


@pytest.mark.parametrize("max_receive_count", [1, 3])
def test_the_last_receive_that_the_queue_permits_is_not_spent_on_a_probe(clock, caplog, max_receive_count):
    server = Server(clock, 60)
    rig = run(clock, {"job": server}, max_receive_count=max_receive_count)
    (one,) = rig.put("job")
    clock.advance(7_200)
    assert len(server.times) >= 60
    assert rig.queue.messages[one].receives == max_receive_count
    assert not rig.dead.messages
    assert f"maxReceiveCount = {max_receive_count} is reached: 1 message stays in hand" in caplog.text
    server.up = True
    clock.advance(61)
    assert rig.queue.deleted == {one: 1}
    assert rig.ended[-1][1].name == "succeeded"
    assert rig.consumer._share.held == rig.consumer._share.polling


@pytest.mark.parametrize(("hold_seconds", "stays"), [(91, True), (89, False)])
def test_a_message_at_its_last_receive_stays_in_hand_only_where_it_can_still_run_for_a_visibility_time_out(
    clock, hold_seconds, stays
):
    rig = run(clock, {"job": Server(clock, 60)}, max_receive_count=1, visibility_seconds=30, hold_seconds=hold_seconds)
    (one,) = rig.put("job")
    clock.advance(10)
    assert rig.outcomes() == ({} if stays else {one: "dead_lettered"})


def test_many_messages_at_their_last_receive_all_outlast_an_outage(clock):
    server = Server(clock, 30)
    rig = run(clock, {"job": server}, max_receive_count=2, concurrency=5)
    ids = rig.put("job", {}, 12)
    clock.advance(3_600)
    server.up = True
    clock.advance(600)
    assert rig.queue.deleted == dict.fromkeys(ids, 1)
    assert not rig.dead.messages


@pytest.mark.parametrize(("dead_letters", "end"), [(True, "dead_lettered"), (False, "released")])
def test_what_stays_in_hand_through_an_outage_is_not_left_for_sqs_to_bury_at_a_drain(clock, dead_letters, end):
    server = Server(clock, 60)
    rig = run(clock, {"job": server}, max_receive_count=1, dead_letters=dead_letters)
    (one,) = rig.put("job")
    clock.advance(10)
    assert rig.ended == []
    rig.consumer.drain(clock.now() + 25)
    rig.consumer.give_back_held()
    clock.advance(25)
    assert rig.outcomes() == {one: end}
    reason = "the worker shuts down (maxReceiveCount = 1 is reached: raise it)"
    assert rig.ended[0][1].reason == reason
    assert rig.letters() == ([reason] if dead_letters else [])
    clock.advance(120)
    assert len(server.times) == 1


def put_early(rig, seconds, payload=None):
    """What is not to be handled sooner: as a follow-up on a FIFO queue says it."""
    moment = round((rig.clock.time() + seconds) * 1000)
    body = delayed(envelope_text("job", "e", payload), moment)
    return rig.queue.put(body)[0]


@pytest.mark.parametrize("max_receive_count", [1, 2])
def test_a_message_that_comes_early_at_its_last_receive_waits_in_hand_until_its_time(clock, max_receive_count):
    ran, begun = [], clock.now()
    rig = run(
        clock, {"job": lambda payload, message: ran.append(clock.now() - begun)}, max_receive_count=max_receive_count
    )
    one = put_early(rig, 300)
    if max_receive_count == 2:  # a worker that died had it
        rig.queue.messages[one].receives = 1
    clock.advance(299)
    assert ran == rig.ended == []
    assert rig.consumer.hand.leases()
    clock.advance(2)
    assert ran == [pytest.approx(300, abs=1)]
    assert rig.queue.deleted == {one: 1}
    assert rig.queue.moved == rig.letters() == []


def test_a_message_that_must_wait_for_longer_than_it_can_be_held_is_a_dead_letter_that_says_so(clock):
    rig = run(clock, {"job": fine}, max_receive_count=1, hold_seconds=200, visibility_seconds=30)
    put_early(rig, 300)
    clock.advance(1)
    assert rig.letters() == ["its time has not come (maxReceiveCount = 1 is reached: raise it)"]
    assert rig.queue.moved == []


def test_a_message_that_waits_for_its_turn_is_a_dead_letter_with_its_reason_when_it_can_be_held_no_longer(clock):
    rig = run(clock, {"job": Server(clock, 60)}, max_receive_count=1, hold_seconds=200, visibility_seconds=30)
    ids = rig.put("job", {}, 5)
    clock.advance(180)
    assert rig.outcomes() == dict.fromkeys(ids, "dead_lettered")
    assert rig.letters() == ["mail server down (maxReceiveCount = 1 is reached: raise it)"] * 5
    assert rig.queue.moved == []
    assert rig.consumer.in_hand == 0


def test_what_never_began_at_its_last_receive_is_a_dead_letter_with_its_reason_in_a_drain(clock):
    gate = Gate()
    rig = run(clock, {"job": gate}, max_receive_count=1, concurrency=1, prefetch=2, wait_seconds=1)
    ids = rig.put("job", {}, 3)
    clock.advance(0.5)
    assert gate.inside == ids[:1]
    rig.consumer.drain(clock.now() + 10)
    rig.consumer.interrupt(Stopped)
    clock.advance(1.1)
    rig.consumer.give_back_held()
    clock.advance(3)
    assert rig.letters() == ["the worker shuts down (maxReceiveCount = 1 is reached: raise it)"] * 3
    assert rig.queue.messages == {}


def test_what_stands_behind_a_failed_one_of_its_group_at_its_last_receive_is_a_dead_letter_with_its_reason(clock):
    """SQS hands the failed one out to nobody for as long as this one is in flight: it cannot wait in hand."""
    rig = run(clock, {"job": fail}, max_receive_count=2, fifo=True)
    first, behind = rig.put("job", {}, 2, group_id="a")
    rig.queue.messages[behind].receives = 1
    clock.advance(0.5)
    assert rig.letters() == ["an earlier message of its group failed (maxReceiveCount = 2 is reached: raise it)"]
    assert rig.outcomes() == {first: "retried", behind: "dead_lettered"}


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


def test_a_message_at_its_last_receive_whose_lease_is_lost_does_not_stay_in_hand(clock):
    gate = Gate()

    def handle(payload, message):
        gate(payload, message)
        raise Unavailable("mail server down", after=600)

    rig = run(clock, {"job": handle}, max_receive_count=1, finishes=True)
    rig.queue.script["change_visibility"] = [GONE]
    (one,) = rig.put("job")
    clock.advance(15)
    assert gate.inside == [one]
    gate.event.set()
    clock.advance(1)
    assert rig.outcomes() == {one: "lease_lost"}
    assert rig.letters() == []  # whoever has it now writes it


# The number of its receives, where it came again


def test_a_message_that_came_again_in_hand_and_fails_at_its_last_receive_is_a_dead_letter_with_its_reason(clock):
    gate = Gate()

    def handle(payload, message):
        gate(payload, message)
        raise Retry("not yet", after=5)

    rig = run(clock, {"job": handle}, max_receive_count=2)
    (one,) = rig.put("job")
    clock.advance(1)
    give_out_again(rig, one)
    clock.advance(1)
    gate.event.set()
    clock.advance(30)
    assert rig.letters() == ["not yet (maxReceiveCount = 2 is reached)"]
    assert rig.queue.moved == []


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
    assert rig.letters() == ["every attempt failed (attempt 2)"]


# Probes


def test_messages_that_are_kept_in_hand_are_the_probe_one_after_another(clock):
    server = Server(clock, 60)
    rig = run(clock, {"job": server}, max_receive_count=1, concurrency=20, visibility_seconds=3_600)
    ids = rig.put("job", {}, 10)
    clock.advance(1)
    assert len(server.times) == 10
    clock.advance(1_200)
    assert 10 + 18 <= len(server.times) <= 10 + 20
    assert set(server.ids[10:]) == set(ids)
    assert min(later - earlier for earlier, later in pairwise(server.times[10:])) >= 60
    server.up = True
    clock.advance(63)
    assert rig.queue.deleted == dict.fromkeys(ids, 1)
    before = rig.queue.calls["receive"]
    clock.advance(100)
    assert rig.queue.calls["receive"] - before <= 6  # long polls again


def test_a_receive_that_fails_in_an_outage_does_not_stop_the_probes(clock):
    server = Server(clock, 10)
    rig = run(clock, {"job": server}, max_receive_count=1, visibility_seconds=36_000)
    rig.put("job")
    clock.advance(25)  # the poll that was open is back
    rig.queue.script["receive"] = [Unreachable("down")] * 5
    clock.advance(300)
    assert len(rig.queue.script["receive"]) == 0
    assert len(server.times) >= 9


def test_what_falls_due_in_an_outage_is_the_probe_also_where_it_has_every_permit(clock):
    server = Server(clock, 10)
    rig = run(clock, {"job": server}, max_receive_count=2, concurrency=2, wait_seconds=1)
    (first,) = rig.put("job")
    clock.advance(2)
    early = [put_early(rig, 300) for _ in range(2)]
    for one in early:  # a worker that died had them
        rig.queue.messages[one].receives = 1
    rig.queue._hide(rig.queue.messages[first], 3_600)
    clock.advance(290)
    assert len(server.times) == 1
    server.up = True
    clock.advance(30)
    assert rig.queue.deleted == dict.fromkeys(early, 1)


def test_what_falls_due_in_an_outage_waits_for_its_turn_too(clock):
    server = Server(clock, 60)
    rig = run(clock, {"job": server}, max_receive_count=1, concurrency=20)
    for _ in range(5):
        put_early(rig, 100)
    rig.put("job")
    clock.advance(600)
    assert 5 <= len(server.times) <= 11
    server.up = True
    clock.advance(63)
    assert rig.queue.messages == {}
    assert rig.letters() == []


def test_a_message_that_is_kept_in_hand_for_a_server_that_stays_down_does_not_stop_the_others(clock):
    rig = run(clock, {"down": Server(clock, 60), "job": fine}, max_receive_count=1)
    (one,) = rig.put("down")
    clock.advance(25)  # the poll that was open is back
    ids = rig.put("job", {}, 50)
    clock.advance(300)
    assert rig.queue.deleted == dict.fromkeys(ids, 1)
    assert one in rig.queue.messages


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


def probe_early(rig):
    put_early(rig, 900)


def probe_lost(rig):
    rig.put("lost")
    rig.queue.script["change_visibility"] = [GONE] * 2


def probe_in_hand(rig):
    give_out_again(rig, rig.in_hand)


def probe_thread(rig):
    rig.put("thread")


@pytest.mark.parametrize("probe", [probe_early, probe_lost, probe_in_hand, probe_thread])
def test_however_a_probe_ends_the_next_one_follows(clock, probe):
    """A queue stood still for its whole visibility time-out, 12 h at the most."""
    gate, server = Gate(), Server(clock, 10)

    def no_thread(payload, message):
        raise NoThread("no thread was free for it")

    rig = run(
        clock,
        {"job": server, "slow": gate, "lost": gate, "thread": no_thread},
        visibility_seconds=36_000,
        wait_seconds=1,
        timeout=36_000,
    )
    (rig.in_hand,) = rig.put("slow")
    rig.put("job")
    clock.advance(2)
    probe(rig)
    clock.advance(12_000 if probe is probe_lost else 12)
    server.up = True
    (one,) = rig.put("job")
    clock.advance(60)
    assert rig.queue.deleted[one] == 1


# Receives that were no failures


def put_off(clock, monkeypatch, puts):
    """`puts`: name -> when it is sent, how often no thread is free for it (it comes again after 20 s, then 40), and
    whether it fails then. Two receives are remembered, and two attempts are made; the receives of the dead letters."""
    monkeypatch.setattr(in_hand, "MAX_SPARED", 2)
    monkeypatch.setattr(outcomes, "retry_seconds", lambda receives, *_: 20 * receives)
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


def test_a_lease_that_is_lost_while_its_message_stays_in_hand_ends_it(clock):
    server = Server(clock, 60)
    rig = run(clock, {"job": server}, max_receive_count=1)
    (one,) = rig.put("job")
    clock.advance(1)
    rig.queue.script["change_visibility"] = [GONE] * 5
    clock.advance(80)
    assert rig.ended[0][0] == one
    assert rig.ended[0][1].name == "lease_lost"


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


def test_a_rejected_follow_up_is_told_and_counted(clock, caplog):
    rig = run(clock, {"job": lambda payload, message: message.follow_up({}, reject="550 5.1.1") and None})
    rig.put("job")
    clock.advance(1)
    assert rig.books.follow_ups_dead_lettered == 1
    (record,) = [one for one in caplog.records if getattr(one, "event", "") == "follow_up.dead_lettered"]
    assert "550 5.1.1" in str(vars(record))


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


def test_successes_that_are_not_logged_one_by_one_are_counted_in_one_line(clock, caplog):
    caplog.set_level("INFO")
    rig = run(clock, {"job": fine})  # the rig's allowance is none a second
    rig.put("job", {}, 25)
    clock.advance(3)
    lines = [one for one in caplog.records if getattr(one, "event", "") == "message.succeeded"]
    assert ["25 more" in one.getMessage() for one in lines] == [True]


@pytest.mark.parametrize("rejected", [False, True])
def test_what_is_sent_travels_in_calls_that_sqs_takes_by_their_size(clock, rejected):
    def handle(payload, message):
        if payload is None:
            for _ in range(3):
                message.follow_up("x" * 500_000, reject="550" if rejected else None)

    rig = run(clock, {"job": handle})
    rig.put("job")
    clock.advance(1)
    batches = (rig.dead if rejected else rig.queue).batches["send"]
    assert [len(batch) for batch in batches] == [2, 1]


def test_a_follow_up_that_cannot_be_sent_for_five_minutes_is_a_dead_letter(clock):
    ran = []

    def handle(payload, message):
        ran.append(message.id)
        message.follow_up("later")

    rig = run(clock, {"job": handle})
    rig.queue.script["send"] = [BROKEN, Unreachable("down")] * 10_000
    (one,) = rig.put("job")
    clock.advance(299)
    assert rig.dead.messages == {}
    clock.advance(6)
    assert len(rig.dead.messages) == 1
    assert rig.queue.deleted == {one: 1}
    assert ran == [one]


def test_a_drain_does_not_wait_for_a_dead_letter_queue_that_is_known_not_to_answer(clock):
    rig = run(clock, {"job": reject}, concurrency=10, wait_seconds=1)
    rig.dead.gates["send"] = Event()
    rig.put("job")
    clock.advance(16)
    rig.put("job")  # one looks whether it is back
    clock.advance(0.5)
    rig.consumer.drain(clock.now() + 25)
    clock.advance(1.5)
    rig.consumer.give_back_held()
    clock.advance(0.5)
    assert rig.consumer.in_hand == 0


def test_a_dead_letter_that_is_refused_for_what_it_is_says_nothing_of_the_queue(clock, caplog):
    rig = run(clock, {"job": reject}, concurrency=10)
    send = rig.dead.send

    def picky(entries):
        results = send([entry for entry in entries if "huge" not in entry.body]) if entries else []
        return [REFUSED if "huge" in entry.body else results.pop() for entry in entries]

    rig.dead.send = picky
    rig.put("job", "huge", 40)
    clock.advance(8)
    for _ in range(20):
        (one,) = rig.put("job", "small")
        clock.advance(0.3)
        assert rig.outcomes()[one] == "dead_lettered"
        clock.advance(1)
    (told,) = [record.getMessage() for record in caplog.records if getattr(record, "event", "") == "settle.failed"]
    assert "InvalidMessageContents" in told
    assert told.endswith("the queue does not take the message: look at its MaximumMessageSize")


@pytest.mark.parametrize(
    ("error", "remedy"),
    [
        (QueueMissing("gone", "QueueDoesNotExist"), "there is no such queue: make it again, or correct its URL"),
        (
            AccessDenied("no", "AccessDenied"),
            "allow sqs:DeleteMessage on that queue (and the use of its KMS key, where",
        ),
        (AccessDenied("none found", "NoCredentials"), "look at the credentials"),
        (Unreachable("down"), "the call is tried again"),
    ],
    ids=repr,
)
def test_a_settling_call_that_fails_is_told_with_its_remedy(clock, caplog, error, remedy):
    rig = run(clock, {"job": fine})
    rig.queue.script["delete"] = [error]
    rig.put("job")
    clock.advance(10)
    (told,) = [record.getMessage() for record in caplog.records if getattr(record, "event", "") == "settle.failed"]
    assert f"; {remedy}" in told


def test_a_lost_lease_is_no_trouble_of_the_queue(clock, caplog):
    rig = run(clock, {"job": fine})
    rig.queue.script["delete"] = [GONE]
    rig.put("job")
    clock.advance(1)
    assert rig.ended[0][1].name == "lease_lost"
    assert [record for record in caplog.records if getattr(record, "event", "") == "settle.failed"] == []


def test_what_is_told_of_a_failing_call_is_told_of_the_next_time_too_and_each_minute(clock, caplog):
    caplog.set_level("INFO")
    rig = run(clock, {"job": fine})

    def told():
        events = [getattr(record, "event", "") for record in caplog.records]
        return [event for event in events if event.startswith("settle.")]

    for _ in range(2):
        rig.queue.script["delete"] = [BROKEN] * 10_000
        rig.put("job")
        clock.advance(70)
        rig.queue.script["delete"].clear()
        clock.advance(70)
    assert told() == ["settle.failed", "settle.failed", "settle.resumed"] * 2


def test_a_call_that_fails_and_works_in_turns_is_told_once_a_minute_and_each_end_only_of_what_was_told(clock, caplog):
    caplog.set_level("INFO")
    rig = run(clock, {"job": fine})
    for _ in range(60):  # more than two minutes
        rig.queue.script["delete"] = [BROKEN]
        rig.put("job")
        clock.advance(2.5)
    rig.queue.script["delete"] = [BROKEN] * 10_000
    rig.put("job")
    clock.advance(70)  # one that lasts is told when the minute is over
    events = [getattr(record, "event", "") for record in caplog.records]
    told = [event for event in events if event.startswith("settle.")]
    assert told[:-1] == ["settle.failed", "settle.resumed"] * 3
    assert told[-1] == "settle.failed"


@pytest.mark.parametrize("dead_letters", [True, False])
def test_a_drain_gives_up_a_follow_up_that_nobody_takes_in_seconds(clock, dead_letters):
    rig = run(clock, {"job": lambda payload, message: message.follow_up(1) and None}, dead_letters=dead_letters)
    for queue in (rig.queue, *([rig.dead] if dead_letters else [])):
        queue.script["send"] = [AccessDenied("no", "AccessDenied")] * 10_000
    rig.put("job")
    clock.advance(30)
    rig.consumer.drain(clock.now() + 25)
    clock.advance(2)
    assert rig.consumer.in_hand == 1
    clock.advance(3)
    assert rig.consumer.in_hand == 0
    assert rig.books.abandoned == 1
    assert rig.consumer.hand.left() == 1


@pytest.mark.parametrize("before", [True, False])
def test_in_a_drain_nobody_waits_for_long_for_a_dead_letter_queue_that_does_not_answer(clock, before):
    gate = Gate()

    def handle(payload, message):
        gate(payload, message)
        raise Reject("never")

    rig = run(clock, {"job": handle}, wait_seconds=1)
    rig.dead.gates["send"] = Event()
    (one,) = rig.put("job")
    clock.advance(1)
    if before:
        gate.event.set()
        clock.advance(1)
    rig.consumer.drain(clock.now() + 25)
    gate.event.set()
    clock.advance(4)
    assert rig.ended == []
    clock.advance(2.5)
    assert rig.outcomes() == {one: "retried"}
    assert rig.consumer.in_hand == 0


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


def test_a_dead_letter_that_fails_in_a_drain_is_not_tried_again(clock):
    gate = Gate()

    def handle(payload, message):
        gate(payload, message)
        raise Reject("never")

    rig = run(clock, {"job": handle}, wait_seconds=1)
    rig.dead.script["send"] = [Unreachable("down")] * 100
    (one,) = rig.put("job")
    clock.advance(1)
    rig.consumer.drain(clock.now() + 25)
    gate.event.set()
    clock.advance(2)
    assert rig.outcomes() == {one: "retried"}
    assert rig.consumer.in_hand == 0


# Memory


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

    rig = run(clock, {"job": handle}, timeout=5, max_attempts=1)
    if way == "failed in @around":
        route = rig.processor._routes["job"]
        rig.processor._routes["job"] = msgspec.structs.replace(route, around=in_transaction)
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
    from millpond.sqs.queue import Received

    def again():
        rig.queue.messages[one].handle = f"{one}#2"
        received = Received(one, f"{one}#2", rig.queue.messages[one].entry.body, 2)
        rig.permits.free -= 1
        rig.consumer._share.held += 1
        gevent.get_hub().loop.run_callback(rig.consumer.accept, [received])

    rig.queue.script["change_visibility"] = [again]
    clock.advance(3)
    assert rig.queue.calls["change_visibility"] <= 2


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


def follow_up_with_an_exception(payload, message):
    message.follow_up({}, reject=ValueError("550 no such user"))


def other_type(payload, message):
    message.event_type = "audit"  # to send a follow-up of another type
    message.follow_up({})
    raise ValueError("boom")


def retry_late(payload, message):
    raise Retry("later", after=10**400)


def odd_id(payload, message):
    message.event_id = 17


class Odd(Reject):
    @property
    def reason(self):
        raise RuntimeError("a bug of the user's")

    @reason.setter
    def reason(self, value):
        pass


def odd_reason(payload, message):
    raise Odd("x")


def no_list(payload, message):
    message.follow_ups = None


@pytest.mark.parametrize("handler", [follow_up_with_an_exception, other_type, retry_late, odd_id, odd_reason, no_list])
def test_no_handler_can_end_a_core_greenlet(clock, handler):
    rig = run(clock, {"job": handler})
    rig.put("job")
    clock.advance(2)
    assert rig.crashes == []


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


def test_a_lease_lost_while_the_payload_decodes_starts_no_handler(clock):
    ran = []
    rig = Rig(clock, {"job": lambda payload, message: ran.append(message.id)}, visibility_seconds=6)
    import msgspec

    def slow(raw):
        clock.sleep(8)

    rig.processor._routes["job"] = (
        msgspec.structs.replace(rig.processor._routes["job"], decode=slow)
        if isinstance(rig.processor._routes["job"], msgspec.Struct)
        else rig.processor._routes["job"]
    )
    rig.queue.script["change_visibility"] = [Unreachable("down")] * 100
    rig.consumer.pollers.start()
    rig.put("job")
    clock.advance(8.5)
    assert ran == []


def test_a_drain_gives_back_what_is_decoding(clock):
    rig = Rig(clock, {"job": fine}, wait_seconds=1)
    import msgspec

    never = Event()
    rig.processor._routes["job"] = msgspec.structs.replace(
        rig.processor._routes["job"], decode=lambda raw: never.wait()
    )
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


def test_a_late_answer_to_an_extension_counts_from_its_request(clock):
    """Kills the mutant `lease: deadline from answer`."""
    queue = FakeQueue(clock)
    keeper = LeaseKeeper(
        "q", queue_settings(visibility_seconds=30, heartbeat_seconds=10), queue, 100, ListOwner(), clock, gevent.spawn
    )
    queue.put("x")
    lease = keeper.take([], queue.receive(1, 0, 30)[0].receipt_handle, clock.now())
    keeper.begin([lease], clock.now())
    queue.on_call = lambda name: clock.sleep(5) if name == "change_visibility" else None
    clock.advance(16)
    assert lease.deadline == pytest.approx(1_000 + 10.05 + 30, abs=0.1)


def received(rig, message_id, count):
    """This receive of a message, as an answer has it; a permit is held for it."""
    rig.permits.free -= 1
    rig.consumer._share.held += 1
    return Received(message_id, f"{message_id}#{count}", rig.queue.messages[message_id].entry.body, count)


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
