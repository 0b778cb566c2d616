"""What messages in hand may take: how many are asked for, and that nothing is ever counted for ever."""

from __future__ import annotations

import json
from itertools import cycle

import pytest

from millpond.app.worker_settings import MAX_BYTES_IN_FLIGHT
from millpond.engine.bytes_in_hand import LEAST_BYTES, TRIM_SECONDS, mean_after
from millpond.engine.permits import Permits
from millpond.errors import Reject, Retry, Unavailable, Unreachable
from millpond.sqs.queue import Received
from tests.engine.wired import drain, give_out_again, run

pytestmark = pytest.mark.usefixtures("no_core_greenlet_died")

LARGE = 100_000
BODY = json.dumps({"event_type": "job", "payload": "x" * (LARGE - 40)}).ljust(LARGE)


def sized(size, number=1):
    return [Received("m", "h", "", size=size)] * number


class Work:
    """A handler that takes its time; the most that was in hand while it began."""

    def __init__(self, clock, seconds=1.0):
        self.clock, self.seconds, self.rig, self.most, self.most_bytes = clock, seconds, None, 0, 0

    def __call__(self, payload, message):
        self.most = max(self.most, self.rig.consumer.in_hand)
        self.most_bytes = max(self.most_bytes, self.rig.permits.bytes.number)
        self.clock.sleep(self.seconds)


def at_work(clock, seconds=1.0, **settings):
    work = Work(clock, seconds)
    work.rig = run(clock, {"job": work}, **{"concurrency": 100, "visibility_seconds": 600} | settings)
    return work


@pytest.mark.parametrize(
    ("mean", "size", "after"),
    [
        (0, 0, 0),
        (0, 900, 900),
        (1_000, 1_000_000, 1_000_000),  # the next receive may bring as large ones
        (1_000_000, 0, 700_000),
        (1_000_000, 500_000, 850_000),
        (LEAST_BYTES, 0, 0),
    ],
)
def test_the_mean_size_grows_at_once_and_falls_slowly_to_nothing(mean, size, after):
    assert mean_after(mean, size) == after


def test_a_queue_of_large_messages_holds_no_more_bytes_than_it_may(clock):
    work = at_work(clock, max_bytes=25 * LARGE)
    work.rig.queue.put(BODY, 200)
    clock.advance(100)
    assert len(work.rig.ended) == 200
    assert 20 <= work.most <= 25
    assert work.most_bytes <= 25 * LARGE
    assert work.rig.permits.bytes.number == 0


def test_no_receive_begins_between_what_came_and_its_count(clock):
    """A poll gives its permits back when it ends: another that waits for them must see what it brought."""
    work = at_work(clock, 60.0, concurrency=60, max_bytes=12 * LARGE)
    work.rig.queue.on_call = lambda name: clock.sleep(0.01)
    work.rig.queue.put(BODY, 60)
    clock.advance(5)
    assert work.rig.consumer.in_hand == 12


def test_small_messages_are_not_counted_whatever_the_bound(clock):
    work = at_work(clock, 10.0, max_bytes=1)
    work.rig.put("job", number=100)
    clock.advance(5)
    assert (work.rig.consumer.in_hand, work.most_bytes) == (100, 0)


def test_a_message_that_is_larger_than_the_bound_is_received_where_nothing_else_is_in_hand(clock):
    work = at_work(clock, max_bytes=LARGE // 2, wait_seconds=1)
    work.rig.queue.put(BODY, 10)  # the first ten come at once: nothing is known of the queue
    clock.advance(2)
    before = len(work.rig.ended)
    work.most = 0
    work.rig.queue.put(BODY, 5)
    clock.advance(20)
    assert len(work.rig.ended) - before == 5
    assert work.most == 1


def test_an_answer_that_is_larger_than_was_thought_stops_receives_until_it_is_worked_off(clock):
    work = at_work(clock, 5.0, max_bytes=5 * LARGE)
    work.rig.queue.put(BODY, 10)
    clock.advance(1)
    assert work.rig.permits.bytes.number == 10 * LARGE
    work.rig.queue.put(BODY, 10)
    clock.advance(3)
    assert work.rig.consumer.in_hand == 10
    clock.advance(3)
    assert work.rig.consumer.in_hand == 5


def test_after_large_messages_small_ones_are_received_as_before(clock):
    work = at_work(clock, 0.1, max_bytes=5 * LARGE, wait_seconds=1)
    work.rig.queue.put(BODY, 20)
    clock.advance(60)
    assert work.rig.consumer._share.bytes.mean == 0
    work.seconds = 100.0
    work.rig.put("job", number=100)
    clock.advance(5)
    assert work.rig.consumer.in_hand == 100


def test_a_queue_whose_messages_hang_leaves_a_tenth_of_the_bytes_to_the_others_and_each_may_have_one(clock):
    permits = Permits(1_000, 3, clock, 100 * LARGE)
    hanging, other, third = (permits.share(0) for _ in range(3))
    for share in (hanging, other, third):
        share.bytes.mean = LARGE
    assert hanging.room() == 90
    hanging.bytes.add(sized(LARGE, 90))
    assert (hanging.room(), other.room(), third.room()) == (0, 10, 10)
    other.take(10)  # an open poll counts as what it may bring
    assert (other.room(), third.room()) == (0, 1)
    third.take(1)
    assert third.room() == 0
    third.polled(1, 0)
    other.polled(10, 0)
    hanging.bytes.remove(90 * LARGE)
    assert hanging.room() == 90


def test_a_queue_of_small_messages_waits_for_nobodys_bytes(clock):
    permits = Permits(1_000, 2, clock, LARGE)
    large, small = permits.share(0), permits.share(0)
    large.bytes.add(sized(LARGE, 10))
    assert (large.room(), small.room()) == (0, 500)


def test_that_the_bytes_limit_is_logged_once_a_minute(clock, caplog):
    caplog.set_level("INFO")
    work = at_work(clock, max_bytes=5 * LARGE)
    work.rig.queue.put(BODY, 1_000)
    clock.advance(150)
    lines = [record for record in caplog.records if getattr(record, "event", "") == "worker.full"]
    assert len(lines) == 3
    assert lines[-1].fields["max_bytes"] == 5 * LARGE
    assert 0 < lines[-1].fields["bytes"] <= 5 * LARGE
    assert f"max_bytes_in_flight = {5 * LARGE:,}: they wait" in lines[-1].getMessage()


def test_nothing_is_counted_any_more_once_nothing_is_in_hand_however_it_ended(clock):
    ends = cycle([None, Retry("later", after=1), Reject("no"), ValueError("boom")])

    def end(payload, message):
        clock.sleep(5.0)
        if (error := next(ends)) is not None:
            raise error

    rig = run(clock, {"job": end}, concurrency=80, max_bytes=80 * LARGE, visibility_seconds=600)
    ids = rig.queue.put(BODY, 60)
    rig.queue.put("x" * LARGE, 5)  # undecodable
    rig.queue.script["receive"] = [None, Unreachable("reset"), None]
    clock.advance(2)
    give_out_again(rig, ids[0])  # it is in hand: what comes again is dropped
    clock.advance(2)
    assert rig.books.redelivered == 1
    clock.advance(2_000)
    assert rig.queue.messages == {}
    assert (rig.consumer.in_hand, rig.permits.bytes.number, rig.consumer._share.bytes.number) == (0, 0, 0)


def test_what_a_drain_gives_back_or_abandons_is_not_counted_any_more(clock):
    work = at_work(clock, 1_000.0)
    work.rig.queue.put(BODY, 20)
    clock.advance(1)
    assert work.rig.permits.bytes.number == 20 * LARGE
    drain(work.rig, clock, 5)
    work.rig.consumer.give_back_held()
    work.rig.consumer.write_off_running()
    clock.advance(30)
    assert work.rig.permits.bytes.number == 0


def test_memory_goes_back_to_the_system_once_the_large_messages_are_done(clock):
    trims = []
    work = at_work(clock)
    work.rig.permits.bytes._trim = lambda: trims.append(clock.now())
    work.rig.queue.put(BODY, 60)
    clock.advance(1 + TRIM_SECONDS - 0.1)
    assert trims == []
    work.rig.queue.put(BODY, 60)  # the next come before its time
    clock.advance(1 + TRIM_SECONDS - 0.1)
    assert trims == []
    clock.advance(1)
    assert len(trims) == 1
    work.rig.queue.put(BODY, 60)  # few bytes
    clock.advance(1_000)
    assert len(trims) == 1
    work.rig.queue.put(BODY, 60)
    clock.advance(1_000)
    assert len(trims) == 2


def test_by_default_a_hundred_messages_of_256_kib_are_in_hand_at_once(clock):
    assert MAX_BYTES_IN_FLIGHT >= 100 * 256 * 1024
    work = at_work(clock, 60.0)
    work.rig.queue.put(BODY.ljust(256 * 1024), 120)
    clock.advance(5)
    assert work.rig.consumer.in_hand == 100


# What is held


class MailServer:
    """What a handler needs; while it is down its messages are held."""

    up = False

    def __call__(self, payload, message):
        if not self.up:
            raise Unavailable("mail server down")


@pytest.mark.parametrize("seconds", [60, 7_200])
def test_held_messages_take_half_of_the_bytes_and_receiving_stops_with_that(clock, seconds):
    server = MailServer()
    rig = run(clock, {"job": server}, concurrency=100, max_bytes=20 * LARGE, visibility_seconds=60)
    ids = rig.queue.put(BODY, 200)
    clock.advance(seconds)
    assert rig.consumer._share.bytes.held == 10 * LARGE
    assert 10 <= rig.consumer.in_hand <= 12
    receives = [rig.queue.messages[one].receives for one in ids]
    assert sum(receives) <= 100 + seconds / 10  # once until nothing else is in sight, and a look now and then
    server.up = True
    clock.advance(900 + 120)  # what found no room was given back, later and later
    assert rig.queue.deleted == dict.fromkeys(ids, 1)
    assert rig.permits.bytes.held == rig.permits.bytes.number == 0


def test_beside_large_messages_that_are_held_those_of_another_type_go_on(clock):
    done = []
    handlers = {"job": MailServer(), "fine": lambda payload, message: done.append(clock.now())}
    rig = run(clock, handlers, concurrency=100, max_bytes=20 * LARGE, visibility_seconds=60)
    for _ in range(120):
        rig.queue.put(BODY.replace("job", "fine"), 5)
        rig.queue.put(BODY)
        clock.advance(1)
    assert len(done) >= 120 * 5 * 0.95
    assert rig.permits.bytes.held == 10 * LARGE
    assert rig.permits.bytes.number <= 20 * LARGE


def test_small_messages_are_held_beside_large_ones_that_take_their_half(clock):
    rig = run(clock, {"job": MailServer()}, concurrency=100, max_bytes=2 * LARGE, visibility_seconds=60)
    rig.queue.put(BODY, 5)
    clock.advance(5)
    assert rig.permits.bytes.held == LARGE
    rig.put("job", number=200)
    clock.advance(5)
    assert rig.consumer.in_hand >= 200
