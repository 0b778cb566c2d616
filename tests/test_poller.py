import gevent
import pytest

from millpond.permits import PATIENCE_SECONDS, Permits
from millpond.poller import Pollers, PollSettings
from tests.fakes import FakeQueue
from tests.virtual import VirtualClock, settle


@pytest.fixture
def clock():
    return VirtualClock()


def acquire(share, want=10, patient=False):
    waiter = share.waiter(want, patient)
    greenlet = gevent.spawn(share.acquire, waiter)
    settle()
    return greenlet


def test_permits_are_taken_before_a_receive_and_come_back_unused(clock):
    permits = Permits(12, 1, clock)
    share = permits.share(0)
    assert acquire(share).value == 10
    assert acquire(share).value == 2
    third = acquire(share)
    assert not third.ready()
    share.polled(asked=10, got=4)
    settle()
    assert third.value == 6
    assert permits.free == 0


def test_a_quiet_queues_open_polls_never_starve_a_busy_one(clock):
    permits = Permits(10, 2, clock)
    quiet, busy = permits.share(0), permits.share(0)
    assert acquire(quiet).value == 5  # its even share, for twenty seconds
    assert not acquire(quiet).ready()
    assert acquire(busy).value == 5


def test_permits_go_to_those_who_waited_longest(clock):
    permits = Permits(4, 2, clock)
    first, second = permits.share(0), permits.share(0)
    for share in (first, second):
        assert acquire(share).value == 2
        share.polled(2, 2)
    waiting = [acquire(first), acquire(second)]
    first.release()
    settle()
    assert [one.ready() for one in waiting] == [True, False]
    first.polled(1, 0)  # it came back empty
    settle()
    assert waiting[1].ready()


def test_one_queue_cannot_hold_every_permit_for_a_tenth_is_kept_for_the_others(clock):
    permits = Permits(100, 2, clock)
    hanging, other = permits.share(0), permits.share(0)
    while (poll := acquire(hanging)).ready():
        hanging.polled(poll.value, poll.value)
    assert hanging.held == 90
    assert acquire(other).value == 10
    assert Permits(100, 1, clock).share(0).cap == 100
    assert Permits(3, 3, clock).share(0).cap == 2
    assert Permits(100, 20, clock).share(0).cap == 90


def test_a_queue_holds_no_more_than_its_cap(clock):
    permits = Permits(100, 1, clock)
    share = permits.share(3)
    assert acquire(share).value == 3
    share.polled(3, 3)
    blocked = acquire(share)
    assert not blocked.ready()
    share.release()
    settle()
    assert blocked.value == 1


def test_a_patient_poll_waits_a_moment_for_more_permits_than_one(clock):
    permits = Permits(40, 1, clock)
    share = permits.share(0)
    for _ in range(4):
        assert acquire(share).value == 10
        share.polled(10, 10)
    poll = acquire(share, patient=True)
    share.release(3)
    settle()
    assert not poll.ready()
    share.release(7)
    settle()
    assert poll.value == 10
    share.polled(10, 10)
    impatient = acquire(share, patient=True)
    share.release(1)
    clock.advance(PATIENCE_SECONDS)
    assert impatient.value == 1


def test_a_dismissed_poll_goes_away_empty_handed(clock):
    permits = Permits(1, 1, clock)
    share = permits.share(0)
    acquire(share)
    waiter = share.waiter(10, False)
    blocked = gevent.spawn(share.acquire, waiter)
    settle()
    share.dismiss(waiter)
    settle()
    assert blocked.value == 0


class Polls:
    def __init__(self, clock, **settings):
        self.queue = FakeQueue(clock)
        self.delivered = []
        self.failures = []
        values = {"wait_seconds": 20, "max_messages": 10, "visibility_seconds": 30, "pollers": 4} | settings
        self.permits = Permits(1_000, 1, clock)
        self.polls = Pollers(
            self.queue,
            PollSettings(**values),
            self.permits.share(0),
            clock,
            gevent.spawn,
            lambda batch, latest: self.delivered.extend(batch),
            lambda *failure: self.failures.append(failure),
        )
        self.polls.start()


def test_one_poll_is_open_while_the_queue_is_quiet(clock):
    rig = Polls(clock)
    clock.advance(200)
    assert rig.polls.active == 1
    assert rig.queue.calls["receive"] == 11  # one every twenty seconds, and no more


def test_more_polls_join_while_receives_come_back_full_and_leave_when_it_is_quiet(clock):
    rig = Polls(clock, visibility_seconds=3_600)
    rig.queue.on_call = lambda name: clock.sleep(0.01)
    rig.queue.put("x", 500)
    clock.advance(0.05)
    assert rig.polls.active == 4
    clock.advance(1)
    assert len(rig.delivered) == 500
    clock.advance(45)
    assert rig.polls.active == 1


def test_a_failing_queue_is_asked_ever_less_often_by_one_poll(clock):
    from millpond.errors import Unreachable

    rig = Polls(clock)
    rig.queue.script["receive"] = [Unreachable("down")] * 1_000
    clock.advance(10)
    early = rig.queue.calls["receive"]
    clock.advance(600)
    assert rig.polls.active == 1
    assert early >= 4
    assert rig.queue.calls["receive"] - early < 60
    assert rig.failures[0][1:] == (1, False)


def test_empty_answers_that_come_at_once_are_not_asked_for_in_a_hot_loop(clock):
    """As at 120,000 messages in flight, or from a proxy that answers 200 to everything."""
    rig = Polls(clock)
    rig.queue.receive = lambda *args: rig.queue._enter("receive", args) or []
    clock.advance(60)
    assert 5 < rig.queue.calls["receive"] < 20


def test_pause_seconds_pass_between_two_polls(clock):
    rig = Polls(clock, pause_seconds=100, wait_seconds=1)
    clock.advance(250)
    assert rig.queue.calls["receive"] == 3


def test_after_stop_no_receive_begins_and_the_open_ones_are_awaited(clock):
    rig = Polls(clock)
    clock.advance(1)
    assert rig.polls.open_until() == pytest.approx(clock.now() + 19)
    rig.polls.stop()
    clock.advance(10)
    assert not rig.polls.ended.is_set()
    rig.queue.put("x")
    clock.advance(1)
    assert rig.polls.ended.is_set()
    assert rig.polls.open_until() == 0.0
    assert len(rig.delivered) == 1
    assert rig.queue.calls["receive"] == 1
    assert rig.permits.free == 999


def test_polls_that_were_never_started_have_ended_when_they_are_stopped(clock):
    queue = FakeQueue(clock)
    share = Permits(1, 1, clock).share(0)
    polls = Pollers(
        queue, PollSettings(1, 1, 1, 1), share, clock, gevent.spawn, lambda batch, latest: None, lambda *a: None
    )
    polls.stop()
    assert polls.ended.is_set()


def test_a_poll_whose_connection_was_lost_counts_as_open_until_its_time_is_over(clock):
    """SQS does not notice that we are gone, and takes messages for it."""
    from millpond.errors import Throttled, Unreachable

    rig = Polls(clock)
    rig.queue.script["receive"] = [Unreachable("reset")]
    settle()
    rig.polls.stop()
    clock.advance(1)
    assert rig.polls.ended.is_set()
    assert rig.polls.open_until() == pytest.approx(clock.now() + 19)
    clock.advance(19)
    assert rig.polls.open_until() == 0.0
    refused = Polls(clock)
    refused.queue.script["receive"] = [Throttled("slow")]  # an answer: nothing is open behind it
    settle()
    refused.polls.stop()
    clock.advance(1)
    assert refused.polls.open_until() == 0.0
