"""Bodies in S3: fetched for their messages, waited for while S3 is down, and deleted when their messages are."""

from __future__ import annotations

import json

import pytest

from millpond.app.large_body_settings import LargeBodySettings
from millpond.engine.bucket_bodies import MAX_DENIALS, ROOM_SECONDS
from millpond.errors import Discard, Reject, Stopped, Unavailable
from millpond.large_bodies.body_store import BodyDenied, BodyGone, BodyStoreError, BodyUnreadable
from tests.engine.wired import GONE, drain, run

pytestmark = pytest.mark.usefixtures("no_core_greenlet_died")

BUCKET = "bodies"
DOWN = "S3 cannot be reached for bodies"
CLASS = "software.amazon.payloadoffloading.PayloadS3Pointer"


def pointer(key, bucket=BUCKET, **more):
    return json.dumps([CLASS, {"s3BucketName": bucket, "s3Key": key, **more}])


def body(payload, event_type="job"):
    return json.dumps({"event_type": event_type, "payload": payload}).encode()


class FakeBodies:
    """A BodyStore. `calls`: when each key was asked for; `wrong`: what a call raises, by key, or for all ("")."""

    def __init__(self, clock):
        self.clock = clock
        self.objects = {}
        self.calls = []
        self.wrong = {}
        self.removed = []
        self.seconds = 0.0

    def get(self, bucket, key, take):
        self.calls.append((key, self.clock.now()))
        if self.seconds:
            self.clock.sleep(self.seconds)
        self._check(key)
        if (bucket, key) not in self.objects:
            raise BodyGone("The specified key does not exist.")
        found = self.objects[bucket, key]
        take(len(found))
        if self.seconds:
            self.clock.sleep(self.seconds)
        self._check(f"{key} half way")
        return found

    def remove(self, bucket, key):
        self._check(f"remove {key}")
        self.removed.append(key)
        self.objects.pop((bucket, key), None)

    def _check(self, key):
        error = self.wrong.get(key) or self.wrong.get("" if not key.startswith("remove") else "remove all")
        if error is not None:
            raise error


class Work:
    def __init__(self, clock):
        self.clock, self.payloads, self.messages, self.bytes = clock, [], [], []
        self.seconds, self.error, self.rig = 0.0, None, None

    def __call__(self, payload, message):
        self.payloads.append(payload)
        self.messages.append(message)
        self.bytes.append(self.rig.permits.bytes.number)
        if self.seconds:
            self.clock.sleep(self.seconds)
        if self.error is not None:
            raise self.error


@pytest.fixture
def rig(clock):
    def rig(**more):
        settings = {"buckets": (BUCKET,), "max_bytes": 1_000, **more.pop("large", {})}
        bodies, work = FakeBodies(clock), Work(clock)
        made = run(clock, {"job": work}, bodies=bodies, large_bodies=LargeBodySettings(**settings), **more)
        made.bodies, made.work, work.rig = bodies, work, made
        return made

    return rig


def put(rig, *keys, payload="large"):
    """A body, and the message that leads to it."""
    for key in keys:
        rig.bodies.objects[BUCKET, key] = body(payload)
    return [rig.queue.put(pointer(key))[0] for key in keys]


def test_a_pointer_leads_to_its_body_and_the_message_keeps_what_came(clock, rig):
    one = rig()
    [message_id] = put(one, "a/b")
    clock.advance(1)
    assert one.work.payloads == ["large"]
    assert one.work.messages[0].body == pointer("a/b")
    assert one.work.messages[0].event_id == message_id
    assert [outcome.name for _, outcome in one.ended] == ["succeeded"]
    assert one.permits.bytes.number == 0
    assert one.bodies.objects  # it is kept, where nothing else is asked for


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        (
            pointer("a", bucket="others"),
            "the body is in S3, in the bucket 'others', which is not in [large_bodies] buckets",
        ),
        (pointer("a", bucket=""), "the body is in S3, in the bucket '', which is not in [large_bodies] buckets"),
        (pointer("gone"), "the body is not in S3 any more: bodies/gone"),
        (pointer("big"), "the body in S3 is too large, 1,001 bytes ([large_bodies] max_bytes = 1,000): bodies/big"),
        (pointer(""), "the body is in S3, and '' is no key that can be asked for"),
        (pointer("../others/a"), "the body is in S3, and '../others/a' is no key that can be asked for"),
        (pointer("a/./b"), "the body is in S3, and 'a/./b' is no key that can be asked for"),
    ],
)
def test_what_can_never_be_had_is_a_dead_letter_with_its_body_as_it_came(clock, rig, sent, reason):
    one = rig(large={"delete_after_success": True})
    one.bodies.objects[BUCKET, "big"] = b"x" * 1_001
    one.bodies.objects["others", "a"] = one.bodies.objects[BUCKET, "../others/a"] = body(1)
    one.queue.put(sent)
    clock.advance(1)
    [(_, outcome)] = one.ended
    assert (outcome.name, outcome.cause, outcome.reason) == ("dead_lettered", "undecodable", reason)
    [letter] = one.dead.messages.values()
    assert letter.entry.body == sent
    assert one.work.payloads == []
    assert one.bodies.removed == []
    assert one.permits.bytes.number == 0


def test_what_is_in_s3_and_fits_nothing_is_a_dead_letter(clock, rig):
    one = rig()
    one.bodies.objects[BUCKET, "a"] = b"\xff\xfe"
    one.bodies.objects[BUCKET, "b"] = body(1, "nobody's")
    for key in "ab":
        one.queue.put(pointer(key))
    clock.advance(1)
    assert [outcome.cause for _, outcome in one.ended] == ["undecodable"] * 2
    assert sorted(outcome.reason[:23] for _, outcome in one.ended) == [
        'no handler for type "no',
        "the message names no ty",
    ]
    assert one.permits.bytes.number == 0


def test_without_buckets_no_pointer_is_followed(clock):
    one = run(clock, {"job": print})
    one.queue.put(pointer("a"))
    clock.advance(1)
    [(_, outcome)] = one.ended
    assert outcome.reason == "the body is in S3, in the bucket 'bodies', which is not in [large_bodies] buckets"


def test_while_s3_is_down_messages_wait_in_hand_and_one_at_a_time_tries(clock, rig, json_lines, caplog):
    caplog.set_level("INFO", "millpond")
    one = rig(concurrency=20)
    one.bodies.wrong[""] = BodyStoreError(DOWN)
    put(one, *map(str, range(20)))
    one.put("job", "small", number=5)
    clock.advance(300)
    assert one.work.payloads == ["small"] * 5  # the others go on
    assert one.consumer.in_hand == 20
    assert {message.receives for message in one.queue.messages.values()} == {1}
    tries = [at for _, at in one.bodies.calls]
    assert sum(at < tries[0] + 0.4 for at in tries) == 1  # none of the others has called
    assert 300 / 10 < len(tries) < 300 / 4
    assert {key for key, _ in one.bodies.calls} == {*map(str, range(20))}  # each has its turn
    del one.bodies.wrong[""]
    clock.advance(11)
    assert one.work.payloads == ["small"] * 5 + ["large"] * 20
    assert [outcome.name for _, outcome in one.ended] == ["succeeded"] * 25
    opened = next(line for line in json_lines if line["event"] == "breaker.opened")
    assert (opened["type"], opened["reason"]) == ("bodies in bodies", DOWN)
    assert [line["type"] for line in json_lines if line["event"] == "breaker.closed"] == ["bodies in bodies"]


def test_one_bucket_that_is_down_does_not_hold_up_another(clock, rig):
    one = rig(large={"buckets": (BUCKET, "", "second")})
    one.bodies.wrong["a"] = BodyStoreError(DOWN)
    put(one, "a")
    one.bodies.objects["second", "b"] = body("second")
    one.queue.put(pointer("b", bucket="second"))
    clock.advance(2)
    assert one.work.payloads == ["second"]
    assert one.consumer.in_hand == 1


def test_a_body_that_is_gone_shows_that_s3_answers(clock, rig):
    one = rig()
    one.bodies.wrong[""] = BodyStoreError(DOWN)
    put(one, "a", "b")
    clock.advance(1)
    del one.bodies.wrong[""]
    del one.bodies.objects[BUCKET, "a"], one.bodies.objects[BUCKET, "b"]
    clock.advance(3)
    assert [outcome.cause for _, outcome in one.ended] == ["undecodable"] * 2


def test_a_body_that_alone_is_denied_becomes_a_dead_letter_and_where_all_are_they_wait(clock, rig):
    one = rig()
    one.bodies.wrong["secret"] = BodyDenied("S3 refuses s3:GetObject on bodies")
    [message_id] = put(one, "secret")
    clock.advance(60)
    assert one.ended == []
    for number in range(MAX_DENIALS):
        assert message_id not in dict(one.ended)
        put(one, f"open {number}")
        clock.advance(60)
    ended = dict(one.ended)
    assert ended[message_id].name == "dead_lettered"
    assert "it may be gone (S3 says so only with the right s3:ListBucket)" in ended[message_id].reason
    assert len(ended) == 1 + MAX_DENIALS


def test_a_body_that_s3_cannot_give_is_a_dead_letter_at_once_and_its_bucket_stays_open(clock, rig):
    one = rig()
    one.bodies.wrong["archived"] = BodyUnreadable("S3 cannot give it as it is kept (InvalidObjectState)")
    put(one, *["archived"] * 20)
    put(one, "a")
    clock.advance(1)
    assert one.work.payloads == ["large"]
    assert set(one.letters()) == {"S3 cannot give it as it is kept (InvalidObjectState): bodies/archived"}
    assert [outcome.name for _, outcome in one.ended].count("dead_lettered") == 20


def test_a_lease_that_is_lost_meanwhile_runs_no_handler(clock, rig):
    one = rig(visibility_seconds=10)
    one.bodies.seconds = 30.0
    one.queue.on_call = lambda name: clock.sleep(1_000) if name == "change_visibility" else None
    put(one, "a")
    clock.advance(70)
    assert one.work.payloads == []
    assert [outcome.name for _, outcome in one.ended] == ["lease_lost"]
    assert one.permits.bytes.number == 0


@pytest.mark.parametrize("kind", ["auto", "none"])
@pytest.mark.parametrize("text", [pointer("a"), json.dumps([CLASS, 5])])
def test_where_no_bucket_may_be_read_a_handler_can_follow_pointers_itself(clock, kind, text):
    payloads = []
    rig = run(clock, {"job": lambda payload, message: payloads.append(payload)}, event_type="job", envelope=kind)
    rig.queue.put(text)
    clock.advance(1)
    assert payloads == [json.loads(text)]
    assert [outcome.name for _, outcome in rig.ended] == ["succeeded"]


def test_where_no_bucket_may_be_read_and_no_type_is_named_a_pointer_is_a_dead_letter(clock):
    rig = run(clock, {"job": lambda payload, message: None})
    rig.queue.put(pointer("a"))
    clock.advance(1)
    [reason] = rig.letters()
    assert reason == f"the body is in S3, in the bucket '{BUCKET}', which is not in [large_bodies] buckets"


def test_a_drain_gives_back_what_still_waits_for_its_body(clock, rig):
    one = rig()
    one.bodies.seconds = 5.0
    put(one, "a", "b")
    clock.advance(7)  # their size is known
    assert one.permits.bytes.number
    drain(one, clock, 20)
    one.consumer.interrupt(Stopped)
    clock.advance(1)
    assert [outcome.name for _, outcome in one.ended] == ["released"] * 2
    clock.advance(20)
    assert one.work.payloads == []
    assert one.permits.bytes.number == 0


def test_a_body_that_comes_in_the_moment_of_the_give_back_runs_no_handler(clock, rig):
    one, answered = rig(), clock.event()
    one.bodies.get = lambda bucket, key, take: [answered.wait(), body("large")][1]
    put(one, "a")
    clock.advance(1)
    drain(one, clock, 20)

    def give_back():
        answered.set()  # the slot runs before the greenlet that ends the delivery
        one.consumer.interrupt(Stopped)

    clock.soon(give_back)
    clock.advance(5)
    assert [outcome.name for _, outcome in one.ended] == ["released"]
    assert one.work.payloads == []


def test_a_drain_gives_back_what_waits_for_s3(clock, rig):
    one = rig()
    one.bodies.wrong[""] = BodyStoreError(DOWN)
    put(one, "a", "b")
    clock.advance(3)
    drain(one, clock, 20)
    one.consumer.give_back_held()
    clock.advance(1)
    assert [outcome.name for _, outcome in one.ended] == ["released"] * 2


# --- memory


def test_bodies_in_hand_take_no_more_than_they_may(clock, rig):
    one = rig(max_bytes=2_000, concurrency=50)
    one.work.seconds = 1.0
    put(one, *map(str, range(20)), payload="x" * 860)
    clock.advance(ROOM_SECONDS * 20)
    assert 900 < max(one.work.bytes) <= 2_000
    assert [outcome.name for _, outcome in one.ended] == ["succeeded"] * 20
    assert one.permits.bytes.number == 0


def test_one_that_is_larger_than_the_bound_is_read_where_nothing_else_is_in_hand(clock, rig):
    one = rig(max_bytes=100)
    put(one, "a", "b", payload="x" * 800)
    clock.advance(1)
    assert len(one.ended) == 2


def test_what_finds_no_memory_waits_in_hand_outside_its_slot_and_is_no_failure(clock, rig):
    one = rig(max_bytes=1_200)
    one.work.seconds = 50.0
    put(one, "a", "b", payload="x" * 800)
    clock.advance(ROOM_SECONDS + 1)
    assert one.consumer.hold.number == 1
    clock.advance(60)
    one.work.seconds = 0.0
    clock.advance(60)
    assert [outcome.name for _, outcome in one.ended] == ["succeeded"] * 2
    assert [message.attempt for message in one.work.messages] == [1, 1]


def test_a_body_that_breaks_off_gives_its_memory_back(clock, rig):
    one = rig()
    one.bodies.wrong["a half way"] = BodyStoreError(DOWN)
    put(one, "a")
    clock.advance(5)
    assert one.permits.bytes.number == 0
    one.bodies.wrong.clear()
    clock.advance(11)
    assert [outcome.name for _, outcome in one.ended] == ["succeeded"]


def test_a_message_that_waits_for_its_own_type_keeps_its_body_and_its_memory(clock, rig):
    one = rig()
    one.work.error = Unavailable("down")
    put(one, "a")
    clock.advance(3)
    assert one.permits.bytes.number == len(body("large"))
    one.work.error = None
    clock.advance(11)
    assert len(one.bodies.calls) == 1
    assert [outcome.name for _, outcome in one.ended] == ["succeeded"]
    assert one.permits.bytes.number == 0


# --- deleting


@pytest.mark.parametrize(
    ("error", "removed"),
    [(None, ["a"]), (Discard("no need"), ["a"]), (Reject("never"), []), (ValueError("broken"), [])],
)
def test_a_body_is_deleted_where_its_message_is_done(clock, rig, error, removed):
    one = rig(large={"delete_after_success": True}, max_attempts=1)
    one.work.error = error
    put(one, "a")
    one.put("job", "small")
    clock.advance(5)
    assert len(one.ended) == 2
    assert one.bodies.removed == removed


def test_a_body_is_deleted_only_after_sqs_has_confirmed_the_delete_of_its_message(clock, rig):
    one = rig(large={"delete_after_success": True})
    one.queue.gates["delete"] = answered = clock.event()
    put(one, "a")
    clock.advance(20)
    assert one.work.payloads == ["large"]
    assert one.bodies.removed == []
    answered.set()
    clock.advance(1)
    assert one.bodies.removed == ["a"]
    assert one.queue.messages == {}


def test_a_message_that_another_worker_has_by_then_keeps_its_body(clock, rig):
    one = rig(large={"delete_after_success": True})
    one.queue.script["delete"] = [GONE]
    put(one, "a")
    clock.advance(5)
    assert [outcome.name for _, outcome in one.ended] == ["lease_lost"]
    assert one.bodies.removed == []


def test_a_body_that_cannot_be_deleted_stays_and_is_logged_once_a_minute(clock, rig, json_lines):
    one = rig(large={"delete_after_success": True})
    one.bodies.wrong["remove all"] = BodyDenied("S3 refuses s3:DeleteObject on bodies")
    put(one, *"abc")
    clock.advance(5)
    clock.advance(60)
    put(one, "d")
    clock.advance(5)
    lines = [line for line in json_lines if line["event"] == "bodies.left"]
    assert [line["number"] for line in lines] == [1, 3]
    assert lines[0]["message"].startswith("S3 refuses s3:DeleteObject on bodies; 1 bodies of messages that are done")
    one.remover.close()


def test_where_s3_deletes_more_slowly_than_messages_are_done_the_backlog_has_an_end(
    clock, rig, json_lines, monkeypatch
):
    monkeypatch.setattr("millpond.engine.body_remover.MAX_REMOVALS", 20)
    one = rig(large={"delete_after_success": True})
    one.bodies.remove = lambda bucket, key: [clock.sleep(10), one.bodies.removed.append(key)]
    for number in range(50):
        put(one, f"{number}")
    clock.advance(120)
    lines = [line for line in json_lines if line["event"] == "bodies.left"]
    assert 20 <= len(one.bodies.removed) < 50
    assert lines[0]["message"].startswith("S3 deletes more slowly than messages are done; 1 bodies of messages that")
    one.remover.close()
