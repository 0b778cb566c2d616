"""What a handler leaves behind: sent in order, in its time, whatever SQS refuses; and the handler runs once."""

import json

import pytest

from millpond.app.dead_letter import ATTRIBUTE
from millpond.app.envelope import early_seconds
from millpond.app.opener import Opener
from millpond.errors import AccessDenied, QueueMissing, Retry, Throttled, Unavailable, Unreachable
from millpond.message import FollowUp, Message, delayed
from millpond.sqs.limits import MAX_BYTES
from millpond.sqs.queue import Failure, Received
from tests.engine.test_groups import FifoQueue
from tests.rig import Rig
from tests.virtual import VirtualClock

BROKEN = Failure("InternalError", "try again")
REFUSED = Failure("InvalidMessageContents", "no", sender_fault=True)


class SendingQueue(FifoQueue):
    """A FIFO queue that delivers what is sent to it: all but the entries for which `fail` has an answer."""

    def __init__(self, clock):
        super().__init__(clock)
        self.sends = []  # the payloads of each call
        self.fail = lambda payload: None

    def send(self, entries):
        self.sends.append([json.loads(entry.body)["payload"] for entry in entries])
        failure = self._enter("send", entries)
        return [failure or self._take_in(entry) for entry in entries]

    def _take_in(self, entry):
        assert entry.delay_seconds == 0, "a FIFO queue refuses DelaySeconds"
        failure = self.fail(json.loads(entry.body)["payload"])
        return failure or self._send(entry)


@pytest.fixture
def clock():
    return VirtualClock()


@pytest.fixture
def start(clock):
    rigs = []

    def start(handle, **settings):
        rig = Rig(clock, {"job": handle}, queue=SendingQueue(clock), fifo=True, **settings)
        rigs.append(rig)
        rig.consumer.pollers.start()
        return rig

    yield start
    assert [rig.crashes for rig in rigs if rig.crashes] == []


def put(rig, payload, group="a"):
    return rig.queue.put(json.dumps({"event_type": "job", "payload": payload}), group_id=group)[0]


# What SQS drops on a FIFO queue


def test_two_messages_of_one_event_id_leave_two_follow_ups_on_a_fifo_queue(start, clock):
    ran = []

    def handle(payload, message):
        ran.append(payload)
        if payload in ("x", "y"):
            message.follow_up(f"rest of {payload}")

    rig = start(handle)
    for group in ("x", "y"):
        rig.queue.put(json.dumps({"event_type": "job", "event_id": "order-7", "payload": group}), group_id=group)
    clock.advance(10)
    assert sorted(ran) == ["rest of x", "rest of y", "x", "y"]


def test_only_the_same_job_of_the_same_message_is_dropped_when_it_is_left_again():
    job = FollowUp("e/1", '{"payload": "a"}')
    again, other_job = FollowUp("e/1", '{"payload": "a"}'), FollowUp("e/1", '{"payload": "c"}')
    assert job.dedup_id("m1") == again.dedup_id("m1")  # its worker died before the delete: it ran again, and left it
    assert len({job.dedup_id("m1"), job.dedup_id("m2"), other_job.dedup_id("m1")}) == 3


def test_rejected_follow_ups_of_one_event_id_are_dead_letters_each(start, clock):
    rig = start(lambda payload, message: message.follow_up(payload, reject="550") and None)
    for group in ("x", "y"):
        rig.queue.put(json.dumps({"event_type": "job", "event_id": "order-7", "payload": group}), group_id=group)
    clock.advance(10)
    ids = [entry.dedup_id for call in rig.dead.batches["send"] for entry in call]
    assert len(ids) == len(set(ids)) == 2


# Delay on a FIFO queue


def test_a_delayed_follow_up_on_a_fifo_queue_is_handled_when_its_time_has_come_and_nothing_runs_twice(start, clock):
    ran, begun = [], clock.now()

    def handle(payload, message):
        ran.append((payload, round(clock.now() - begun)))
        if payload == "first":
            message.follow_up("rest", after=5)

    rig = start(handle, max_attempts=1)
    first, behind = put(rig, "first"), put(rig, "behind")
    clock.advance(4)
    assert ran == [("first", 0), ("behind", 0)]
    put(rig, "later")
    clock.advance(30)
    assert ran[2:] == [("rest", 5), ("later", 5)]  # it keeps its place in its group
    assert rig.books.outcomes["dead_lettered"] == rig.books.causes["failed"] == 0
    assert rig.queue.deleted[first] == rig.queue.deleted[behind] == 1
    assert rig.queue.messages == {}


def test_being_put_off_uses_up_no_attempt(start, clock):
    ran = []

    def handle(payload, message):
        if payload == "first":
            message.follow_up("rest", after=5)
            return
        ran.append(message.attempt)
        if len(ran) < 2:
            raise Retry("not yet", after=1)

    rig = start(handle, max_attempts=2)
    put(rig, "first")
    clock.advance(60)
    assert ran == [2, 3]  # SQS counts the receive that came too early
    assert rig.dead.messages == {}
    assert rig.queue.messages == {}


def test_another_worker_that_cannot_know_of_it_allows_one_receive_more(start, clock):
    first, second = [], []

    def handle(payload, message):
        second.append(message.attempt)
        raise Retry("not yet", after=1)

    rig = start(handle, max_attempts=2)
    body = delayed(json.dumps({"event_type": "job", "payload": "rest"}), round((clock.time() - 1) * 1000))
    (one,) = rig.queue.put(body, group_id="a")
    rig.queue.messages[one].receives = 1  # there it was put off
    clock.advance(60)
    assert second == [2, 3]
    assert first == []
    (letter,) = rig.dead.messages.values()
    reason = json.loads(letter.entry.attributes[ATTRIBUTE].value)["reason"]
    assert reason == "not yet (failed 2 times, received 3 times; max_attempts = 2)"


def test_a_rejected_follow_up_goes_to_its_queue_for_no_longer_than_sqs_delays_where_no_letter_can_be_written(clock):
    def handle(payload, message):
        if payload == "first":
            message.follow_up("rest", reject="550")

    rig = Rig(clock, {"job": handle}, back_off=(43_200, 43_200))
    rig.dead.script["send"] = [QueueMissing("no such queue", "QueueDoesNotExist")] * 10
    rig.consumer.pollers.start()
    rig.put("job", "first")
    clock.advance(30)
    [[entry]] = rig.queue.batches["send"]
    assert entry.delay_seconds <= 900  # SQS refuses a longer one, and would for ever


@pytest.mark.parametrize(
    ("said", "sent_seconds_ago", "receives", "seconds"),
    [
        ("5", None, 1, 5),
        ("5", 0, 1, 5),
        ("-5", 0, 1, 0),
        ("900", 0, 1, 900),
        ("100000000", 0, 1, 900),
        ("100000000", 899, 1, 1),
        ("100000000", 900, 1, 0),
        ("100000000", 4_000_000, 9, 0),
        ("100000000", None, 1, 900),
        ("100000000", None, 2, 0),
        ("100000000", -4_000_000, 1, 900),
    ],
)
def test_no_value_of_not_before_hides_a_message_for_longer_than_a_follow_up_can_wait(
    said, sent_seconds_ago, receives, seconds
):
    now = 1_700_000_000.0
    sent_ms = 0 if sent_seconds_ago is None else round((now - sent_seconds_ago) * 1000)
    body = delayed('{"event_type":"job","payload":1}', round((now + float(said)) * 1000))
    received = Received("m", "h", body, receives, sent_ms)
    assert early_seconds(Opener().open(received), received, now) == seconds


@pytest.mark.parametrize(
    "value", ['"soon"', "null", "[]", "{}", "1e400", "-1", "9" * 400, "1.5", "true", "[" * 500 + "]" * 500]
)
def test_a_not_before_that_is_no_moment_is_ignored_as_any_unknown_key(value):
    body = f'{{"event_type":"job","payload":1,"not_before":{value}}}'
    envelope = Opener().open(Received("m", "h", body))
    assert envelope.event_type == "job"
    assert early_seconds(envelope, Received("m", "h", body), 1_700_000_000.0) == 0


# Order on a FIFO queue


FIFTEEN = list(range(15))


def leave_fifteen(payload, message):
    if payload is None:
        for number in FIFTEEN:
            message.follow_up(number)


def order(rig):
    return [json.loads(one.entry.body)["payload"] for one in rig.queue.messages.values()]


@pytest.mark.parametrize("error", [Unreachable("500", "InternalError"), Throttled("slow"), BROKEN], ids=repr)
@pytest.mark.parametrize("which", [0, 1, 7])
def test_follow_ups_of_a_group_stay_in_order_where_a_call_fails(start, clock, error, which):
    seen = []

    def handle(payload, message):
        leave_fifteen(payload, message)
        seen.append(payload)

    rig = start(handle)
    rig.queue.script["send"] = [None] * which + [error]
    put(rig, None)
    clock.advance(30)
    assert seen == [None, *FIFTEEN]


def test_follow_ups_of_a_group_stay_in_order_where_an_entry_fails_and_other_groups_go_on(start, clock):
    seen, failed = [], []

    def handle(payload, message):
        if payload is None:
            for number in range(3):
                message.follow_up([message.group_id, number])
        else:
            seen.append((*payload, clock.now()))

    rig = start(handle)

    def fail(payload):
        if payload == ["a", 1] and len(failed) < 4:
            failed.append(payload)
            return BROKEN
        return None

    rig.queue.fail = fail
    begun = clock.now()
    put(rig, None, "a")
    put(rig, None, "b")
    clock.advance(30)
    assert [number for group, number, _ in seen if group == "a"] == [0, 1, 2]
    assert [number for group, number, _ in seen if group == "b"] == [0, 1, 2]
    assert max(at for group, _, at in seen if group == "b") < begun + 0.5
    assert max(at for group, _, at in seen if group == "a") > begun + 0.5  # four back-offs


def test_a_follow_up_that_is_refused_lets_those_behind_it_go(start, clock):
    seen = []

    def handle(payload, message):
        leave_fifteen(payload, message)
        seen.append(payload)

    rig = start(handle)
    rig.queue.fail = lambda payload: REFUSED if payload == 3 else None
    put(rig, None)
    clock.advance(30)
    assert seen == [None, *[number for number in FIFTEEN if number != 3]]
    (letter,) = rig.dead.messages.values()
    assert json.loads(letter.entry.body)["payload"] == 3


def test_one_call_takes_one_follow_up_of_each_group(start, clock):
    """Of two in one call the first can fail and the second not."""
    rig = start(leave_fifteen)
    for group in "abcd":
        put(rig, None, group)
    clock.advance(30)
    assert rig.queue.messages == {}
    assert max(len(call) for call in rig.queue.sends) <= 4


def test_one_call_takes_no_more_bytes_than_sqs_does(start, clock):
    def handle(payload, message):
        if payload is None:
            message.follow_up("x" * 500_000)

    rig = start(handle)
    for group in "abc":
        put(rig, None, group)
    clock.advance(5)
    assert [len(call) for call in rig.queue.sends] == [2, 1]
    assert rig.queue.messages == {}


# Attempts: a neighbour's failure is no failure


def test_what_goes_back_behind_a_neighbour_of_its_group_keeps_its_attempts(start, clock):
    ran = []

    def handle(payload, message):
        ran.append(payload)
        if payload == "bad" and ran.count("bad") < 5:
            raise Retry("not yet", after=1)
        if payload == "good" and ran.count("good") < 2:
            raise ValueError("once")

    rig = start(handle, max_attempts=5)
    put(rig, "bad")
    put(rig, "good")
    clock.advance(120)
    assert rig.queue.messages == {}
    assert rig.dead.messages == {}
    assert ran.count("good") == 2


def test_waiting_for_a_server_that_is_down_uses_up_no_attempt(clock):
    ran = []

    def handle(payload, message):
        ran.append(message.attempt)
        if len(ran) < 5:
            raise Unavailable("down", after=10)
        if len(ran) < 6:
            raise ValueError("once")

    rig = Rig(clock, {"job": handle}, max_attempts=2)
    rig.put("job")
    rig.consumer.pollers.start()
    clock.advance(300)
    assert len(ran) == 6
    assert rig.dead.messages == {}
    assert rig.queue.messages == {}


def test_a_message_that_runs_again_in_hand_leaves_its_follow_ups_once(clock):
    ran = []

    def handle(payload, message):
        ran.append(payload)
        if payload == "first":
            message.follow_up("next")
            if len(ran) < 3:
                raise Unavailable("down", after=10)

    rig = Rig(clock, {"job": handle}, max_receive_count=1)
    rig.put("job", "first")
    rig.consumer.pollers.start()
    clock.advance(300)
    assert ran == ["first", "first", "first", "next"]
    assert rig.queue.messages == {}


# Size


def a_message(**more):
    return Message("m", "e", "job", "q", "", **more)


def test_a_follow_up_that_its_queue_would_not_take_is_an_error_where_it_is_left():
    message = a_message(max_bytes=1_000)
    overhead = len('{"event_type":"job","event_id":"e/1","payload":""}')
    with pytest.raises(ValueError, match=r"a follow-up of 1,001 bytes: its queue takes 1,000"):
        message.follow_up("x" * (1_001 - overhead))
    with pytest.raises(ValueError, match="1,000"):
        message.follow_up("\u20ac" * 400)
    assert message.follow_ups == ()
    assert message.follow_up("x" * (1_000 - overhead)) == "e/1"


@pytest.mark.parametrize(("after", "seconds"), [(0, 0), (0.2, 1), (1, 1), (1.01, 2), (899.5, 900), (900, 900)])
def test_a_delay_is_whole_seconds_rounded_up(after, seconds):
    message = a_message()
    message.follow_up({}, after=after)
    assert [job.after_seconds for job in message.follow_ups] == [seconds]


def test_a_queue_that_says_nothing_takes_a_mebibyte():
    assert a_message().max_bytes == MAX_BYTES == 1_048_576


def test_the_moment_that_a_delayed_follow_up_carries_on_a_fifo_queue_has_its_room():
    message = a_message(max_bytes=1_000, group_id="a")
    overhead = len('{"event_type":"job","event_id":"e/1","payload":""}')
    with pytest.raises(ValueError, match="1,000"):
        message.follow_up("x" * (1_000 - overhead), after=5)
    message.follow_up("x" * (973 - overhead), after=5)
    (job,) = message.follow_ups
    assert len(delayed(job.body, 1_700_000_000_000)) == 1_000
    assert json.loads(delayed(job.body, 1_700_000_000_000))["not_before"] == 1_700_000_000_000


def test_what_the_queue_takes_is_known_to_its_handlers(clock):
    seen = []
    rig = Rig(clock, {"job": lambda payload, message: seen.append(message.max_bytes)})
    rig.consumer.learn(0, 262_144)
    rig.put("job")
    rig.consumer.pollers.start()
    clock.advance(1)
    assert seen == [262_144]


def test_a_denied_send_is_told_with_its_remedy_and_its_end(clock, caplog):
    caplog.set_level("INFO")
    rig = Rig(clock, {"job": lambda payload, message: payload or (message.follow_up(1) and None)}, dead_letters=False)
    rig.queue.script["send"] = [AccessDenied("not authorized", "AccessDenied")] * 3
    rig.put("job")
    rig.consumer.pollers.start()
    clock.advance(30)
    told = [vars(record) for record in caplog.records if getattr(record, "event", "").startswith("settle.")]
    assert [one["event"] for one in told] == ["settle.failed", "settle.resumed"]
    fields = told[0]["fields"]
    assert (fields["call"], fields["code"], fields["queue"], fields["waiting"]) == (
        "sqs:SendMessage",
        "AccessDenied",
        "q",
        1,
    )
    assert "allow sqs:SendMessage" in told[0]["msg"]


@pytest.mark.parametrize("fifo", [False, True])
def test_a_follow_up_is_known_in_a_queue_whose_bodies_are_payloads_and_so_is_its_dead_letter(clock, fifo):
    seen = []

    def handle(payload, message):
        seen.append((payload, message.event_id))
        if len(seen) == 1:
            message.follow_up({"left": "behind"}, after=5)
            message.follow_up({"left": "behind"}, reject="no")

    more = {"queue": SendingQueue(clock)} if fifo else {}
    rig = Rig(clock, {"job": handle}, fifo=fifo, envelope="none", event_type="job", **more)
    body = '{"event_type":"of others","payload":1}'
    rig.queue.put(body, **({"group_id": "a"} if fifo else {}))
    rig.consumer.pollers.start()
    clock.advance(30)
    (first, first_id), (second, second_id) = seen
    assert (first, second, second_id) == (json.loads(body), {"left": "behind"}, f"{first_id}/1")
    [letter] = [one.entry for one in rig.dead.messages.values()]
    redriven = Received("m", "h", letter.body, attributes=letter.attributes)
    envelope = Opener("job", "none").open(redriven)
    assert (envelope.event_type, envelope.event_id, bytes(envelope.payload)) == (
        "job",
        f"{first_id}/2",
        b'{"left":"behind"}',
    )
    assert rig.crashes == []
