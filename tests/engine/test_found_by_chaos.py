"""What injected faults have found (chaos/), each bug by its name."""

import pytest
from gevent.event import Event

from millpond.engine.poller import OVERDUE_SECONDS
from millpond.errors import AccessDenied, Unreachable
from millpond.hub.pulse import PULSE_SECONDS, Pulse
from millpond.sqs.queue import Failure, Received
from tests.fakes import FakeQueue
from tests.rig import Polls, Rig
from tests.virtual import VirtualClock, settle

WAIT = 20
REFUSED = Failure("InvalidMessageContents", "no", sender_fault=True)


@pytest.fixture
def clock():
    return VirtualClock()


def received(rig, message_id, count):
    """This receive of a message, as an answer has it; a permit is held for it."""
    rig.permits.free -= 1
    rig.consumer._share.held += 1
    return Received(message_id, f"{message_id}#{count}", rig.queue.messages[message_id].entry.body, count)


class Slow:
    """A handler that waits until the test lets it go."""

    def __init__(self):
        self.event = Event()
        self.runs = []

    def __call__(self, payload, message):
        self.runs.append(message.attempt)
        self.event.wait()


# Polls


def test_where_the_only_poll_hangs_another_takes_its_place(clock):
    """The queue was not asked until the hung poll was given up: 11 s with 3,000 messages waiting."""
    queue = FakeQueue(clock)
    queue.gates["receive"] = Event()
    Polls(clock, queue, wait_seconds=WAIT).polls.start()
    clock.advance(WAIT + OVERDUE_SECONDS - 0.1)
    assert queue.calls["receive"] == 1
    clock.advance(0.2)
    assert queue.calls["receive"] == 2


def test_a_poll_that_rests_is_not_counted_on_by_one_that_leaves(clock):
    """After AccessDenied a poll rests for seconds; another that came back empty left meanwhile, and nobody asked."""
    queue = FakeQueue(clock)
    queue.on_call = lambda name: clock.sleep(0.01)
    queue.put("x", 20)
    some = Polls(clock, queue, wait_seconds=1).polls
    some.start()
    clock.advance(0.015)  # the first receive came back full: there are two polls
    assert some.active == 2
    queue.script["receive"] = [AccessDenied("no")]
    clock.advance(1.5)
    before = queue.calls["receive"]
    clock.advance(1.5)
    assert queue.calls["receive"] > before


def test_some_poll_is_always_left_whatever_fails_and_pauses(clock):
    """One left since another rested, which left since somebody had asked: no poll was left, for ever."""
    queue = FakeQueue(clock)
    queue.on_call = lambda name: clock.sleep(0.01)
    queue.put("x", 500)
    some = Polls(clock, queue, wait_seconds=1).polls
    some.start()
    for round_ in range(40):
        queue.script["receive"] += [Unreachable("down")] * (round_ % 5)
        clock.advance(0.1 * (round_ % 7))
        some.pause.begin(0.2)
        clock.advance(0.3)
        assert some.active >= 1
        some.pause.end()


# Leases


def test_a_stale_answer_is_not_started(clock):
    """It waited in the socket while the process was stopped: its message was somebody else's by then."""
    handler = Slow()
    rig = Rig(clock, {"job": handler}, visibility_seconds=30)
    (one,) = rig.put("job")
    rig.queue.messages[one].visible_at = clock.now() + 1_000
    rig.consumer.accept([received(rig, one, 1)], latest=clock.now() - 30)
    clock.advance(1)
    assert handler.runs == []
    assert rig.outcomes() == {one: "lease_lost"}
    assert rig.queue.calls["extend"] == rig.queue.calls["delete"] == 0


def test_what_is_read_after_a_standstill_may_be_as_old_as_it(clock):
    pulse = Pulse(clock)
    pulse.start()
    clock.advance(10)
    assert pulse.unread_since(clock.now()) == clock.now()
    began = pulse.last
    clock._now += 5  # nothing runs
    assert pulse.unread_since(clock.now()) == began
    clock.advance(0)
    assert pulse.unread_since(clock.now()) == began
    clock.advance(2 * PULSE_SECONDS)
    assert pulse.unread_since(clock.now()) == clock.now()


def test_an_answer_that_was_long_on_its_way_takes_no_newer_lease_over(clock):
    """Its dead handle replaced the good one: on a standard queue the delete then answers 200 and deletes nothing."""
    handler = Slow()
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
    assert (handler.runs, rig.books.received, rig.permits.free) == ([3], 1, free)


def test_a_beat_that_sqs_confirms_while_the_delete_is_on_its_way_counts(clock):
    """The lease was taken for lost at its old deadline, and its delete, done in time, was booked as such."""
    handler = Slow()
    rig = Rig(clock, {"job": handler}, visibility_seconds=12)
    beat = rig.queue.gates["extend"] = Event()
    delete = rig.queue.gates["delete"] = Event()
    (one,) = rig.put("job")
    rig.consumer.polls.start()
    clock.advance(4.2)  # the beat is on its way
    handler.event.set()
    clock.advance(0.5)  # the delete as well
    assert rig.queue.calls["delete"] == rig.queue.calls["extend"] == 1
    beat.set()
    clock.advance(8)  # past the deadline that the receive gave
    delete.set()
    clock.advance(1)
    assert rig.outcomes() == {one: "succeeded"}


def test_what_is_put_off_in_a_drain_stays_hidden_from_the_poll_that_is_still_open(clock):
    """A dead letter that was refused went back at once: the worker's own last poll took it, and nobody read that."""
    handler = Slow()

    def reject(payload, message):
        handler(payload, message)
        raise ValueError("boom")

    rig = Rig(clock, {"job": reject}, max_attempts=1, visibility_seconds=30, wait_seconds=WAIT)
    rig.dead.script["send"] = [REFUSED] * 2  # with its reason, and without
    (one,) = rig.put("job")
    rig.consumer.polls.start()
    clock.advance(1)
    rig.consumer.drain(clock.now() + 5)
    until = rig.consumer.polls.open_until()
    assert until > clock.now() + 10
    handler.event.set()
    clock.advance(until - clock.now() + 1)
    assert rig.outcomes() == {one: "retried"}
    assert rig.queue.messages[one].receives == 1
