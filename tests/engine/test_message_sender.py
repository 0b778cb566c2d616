"""Dead letters and follow-ups: sent before the original is deleted, whatever is in the way."""

import json

import pytest
from gevent.event import Event

from millpond.errors import (
    AccessDenied,
    QueueError,
    QueueMissing,
    Reject,
    Retry,
    Throttled,
    Unreachable,
)
from millpond.sqs.queue import Attribute
from tests.engine.wired import BROKEN, REFUSED, run
from tests.handlers import Gate, fine, reject

pytestmark = pytest.mark.usefixtures("no_core_greenlet_died")


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


def test_a_rejected_follow_up_that_cannot_be_dead_lettered_waits_in_the_queue_under_back_off(clock):
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


def test_a_rejected_follow_up_is_told_and_counted(clock, caplog):
    rig = run(clock, {"job": lambda payload, message: message.follow_up({}, reject="550 5.1.1") and None})
    rig.put("job")
    clock.advance(1)
    assert rig.books.follow_ups_dead_lettered == 1
    (record,) = [one for one in caplog.records if getattr(one, "event", "") == "follow_up.dead_lettered"]
    assert "550 5.1.1" in str(vars(record))


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
