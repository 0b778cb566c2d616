from unittest.mock import Mock

import gevent
import pytest
from gevent.event import Event

from millpond.engine.lease import HOLD_MARGIN_SECONDS
from millpond.engine.lease_keeper import LeaseKeeper
from millpond.errors import AccessDenied, Unreachable
from millpond.sqs.limits import MARGIN_SECONDS, MAX_HOLD_SECONDS
from millpond.sqs.queue import Failure
from tests.fakes import FakeQueue, ListOwner
from tests.rig import queue_settings
from tests.virtual import VirtualClock, settle

VISIBILITY = 30
BEAT = 10.0
GONE = Failure("ReceiptHandleIsInvalid", "", sender_fault=True)


@pytest.fixture
def clock():
    return VirtualClock()


@pytest.fixture
def queue(clock):
    return FakeQueue(clock)


@pytest.fixture
def keeper(clock, queue):
    return LeaseKeeper(
        "q",
        queue_settings(visibility_seconds=VISIBILITY, heartbeat_seconds=BEAT),
        queue,
        10_000,
        ListOwner(),
        clock,
        gevent.spawn,
    )


@pytest.fixture
def take(keeper, queue):
    """Receive a message and take its lease; `lease.heard` has what its callbacks were told."""

    def one(body="x"):
        queue.put(body)
        received = queue.receive(1, 0, VISIBILITY)[0]
        heard = []
        lease = keeper.take(heard, received.receipt_handle, keeper.terms.clock.now())
        keeper.begin([lease], keeper.terms.clock.now())
        return lease, heard

    return one


def test_a_heartbeat_extends_the_visibility_before_the_time_out_expires(clock):
    """What the field expects of every such worker, seen by a mock of the queue."""
    queue = Mock()
    queue.change_visibility.return_value = [None]
    keeper = LeaseKeeper(
        "q",
        queue_settings(visibility_seconds=VISIBILITY, heartbeat_seconds=BEAT),
        queue,
        10,
        ListOwner(),
        clock,
        gevent.spawn,
    )
    keeper.begin([keeper.take([], "handle-1", clock.now())], clock.now())
    clock.advance(BEAT - 0.1)
    queue.change_visibility.assert_not_called()
    clock.advance(1)
    queue.change_visibility.assert_called_once_with([("handle-1", VISIBILITY)])
    clock.advance(5 * BEAT)
    assert queue.change_visibility.call_count == 6


def test_a_message_stays_invisible_for_as_long_as_its_lease_is_kept(take, queue, clock):
    take()
    for _ in range(100):
        clock.advance(7)
        assert queue.visible() == []


def test_short_work_pays_for_no_heartbeat(take, keeper, queue, clock):
    lease, _ = take()
    clock.advance(BEAT / 2)
    keeper.end([lease])
    clock.advance(100)
    assert queue.calls["change_visibility"] == 0


def test_a_thousand_leases_beat_ten_to_a_call(take, queue, clock):
    for _ in range(1_000):
        take()
    clock.advance(BEAT + 1)
    assert queue.calls["change_visibility"] == 100
    assert {len(batch) for batch in queue.batches["change_visibility"]} == {10}


def test_a_lease_ends_before_sqs_says_so_and_is_told_once(take, queue, clock):
    lease, heard = take()
    queue.script["change_visibility"] = [Unreachable("no network")] * 1_000
    clock.advance(VISIBILITY - MARGIN_SECONDS - 0.5)
    assert heard == []
    clock.advance(1)
    assert heard == ["lost"]
    assert lease.is_lost(clock.now())
    assert heard == ["lost"]


def test_a_beat_that_fails_is_tried_again_long_before_the_next(take, queue, clock):
    _, heard = take()
    queue.script["change_visibility"] = [Unreachable("no network"), Failure("InternalError")]
    clock.advance(BEAT + 6)
    assert queue.calls["change_visibility"] == 3
    assert queue.visible() == heard == []


def test_a_code_that_says_so_loses_the_lease_at_once(take, queue, clock):
    _, heard = take()
    queue.script["change_visibility"] = [GONE]
    clock.advance(BEAT + 1)
    assert heard == ["lost"]
    clock.advance(100)
    assert queue.calls["change_visibility"] == 1


def test_a_call_that_fails_as_a_whole_loses_no_lease_whatever_its_code(take, queue, clock):
    _, heard = take()
    queue.script["change_visibility"] = [Unreachable("garbage", code="InvalidParameterValue")]
    clock.advance(BEAT + 5)
    assert heard == []


def test_a_back_off_is_never_overwritten_by_the_beat_before_it(take, queue, clock):
    """Trap e: an older extension overwrote the back-off in 23 of 60 runs."""
    lease, heard = take()
    queue.gates["change_visibility"] = Event()
    clock.advance(BEAT + 1)
    assert queue.calls["change_visibility"] == 1  # the beat is on its way ...
    lease.let_go(3)
    clock.advance(1)
    assert queue.calls["change_visibility"] == 1  # ... and the back-off waits for its answer
    queue.gates.pop("change_visibility").set()
    clock.advance(1)
    assert queue.batches["change_visibility"] == [[(lease.handle, VISIBILITY)], [(lease.handle, 3)]]
    assert heard == [None]
    clock.advance(3)
    assert queue.visible() == ["m1"]


def test_a_beat_that_waits_to_be_sent_becomes_the_back_off(take, queue, clock):
    lease, heard = take()
    clock.advance(BEAT + 0.01)  # it lingers
    lease.let_go(0)
    clock.advance(1)
    assert queue.batches["change_visibility"] == [[(lease.handle, 0)]]
    assert heard == [None]


def test_no_beat_follows_a_delete_on_its_way_and_beats_go_on_when_it_fails(take, queue, clock):
    lease, _ = take()
    lease.withhold()
    clock.advance(BEAT * 2)
    assert queue.calls["change_visibility"] == 0
    lease.resume()
    clock.advance(1)
    assert queue.calls["change_visibility"] == 1  # at once: a beat was missed
    clock.advance(BEAT)
    assert queue.calls["change_visibility"] == 2


def test_a_beats_late_answer_says_nothing_of_a_message_whose_delete_is_on_its_way(take, queue, clock):
    lease, heard = take()
    queue.gates["change_visibility"] = Event()
    queue.script["change_visibility"] = [GONE]
    clock.advance(BEAT + 1)
    lease.withhold()
    queue.gates.pop("change_visibility").set()
    settle()
    assert heard == []


def test_giving_back_is_tried_again_until_it_is_confirmed(take, queue, clock):
    lease, heard = take()
    queue.script["change_visibility"] = [Unreachable("no network")] * 3
    lease.let_go(0)
    clock.advance(10)
    assert heard == [None]
    assert queue.visible() == ["m1"]


def test_what_could_not_be_given_back_is_told_once_its_visibility_has_ended_anyway(take, queue, clock):
    lease, heard = take()
    queue.script["change_visibility"] = [Unreachable("no network")] * 1_000
    lease.let_go(0)
    clock.advance(VISIBILITY + 3)
    assert [failure.code for failure in heard] == ["call:"]


def test_a_lease_is_never_asked_past_twelve_hours(take, queue, clock):
    lease, heard = take()
    clock.advance(MAX_HOLD_SECONDS - 20)
    assert heard == []
    lease.let_go(900)
    clock.advance(1)
    last = queue.batches["change_visibility"][-1][0][1]
    assert 0 < last <= 20 - HOLD_MARGIN_SECONDS
    assert all(seconds <= VISIBILITY for batch in queue.batches["change_visibility"] for _, seconds in batch)


def test_a_lease_that_was_held_for_twelve_hours_is_lost_not_asked_for(take, queue, clock):
    _, heard = take()
    clock.advance(MAX_HOLD_SECONDS + 10)
    assert heard == ["lost"]


def test_a_message_that_comes_again_is_held_by_its_new_handle(take, queue, clock):
    lease, heard = take()
    queue.change_visibility([(lease.handle, 0)])
    again = queue.receive(1, 0, VISIBILITY)[0]
    queue.batches.clear()
    lease.redelivered(again.receipt_handle, clock.now(), 2)
    clock.advance(BEAT * 4)
    assert {handle for batch in queue.batches["change_visibility"] for handle, _ in batch} == {"m1#2"}
    assert queue.visible() == heard == []


def test_an_answer_for_the_old_handle_says_nothing_of_the_new_one(take, queue, clock):
    lease, heard = take()
    queue.gates["change_visibility"] = Event()
    queue.script["change_visibility"] = [GONE]
    clock.advance(BEAT + 1)
    lease.redelivered("m1#2", clock.now(), 2)
    queue.gates.pop("change_visibility").set()
    settle()
    assert heard == []
    clock.advance(BEAT)
    assert queue.batches["change_visibility"][-1] == [("m1#2", VISIBILITY)]


@pytest.mark.slow
def test_five_thousand_leases_with_slow_answers_are_all_kept(keeper, queue, clock):
    """Beats of 5,000 messages at 50 ms a round trip: four calls at once are enough."""
    queue.on_call = lambda name: clock.sleep(0.05) if name == "change_visibility" else None
    queue.put("x", 5_000)
    heard = []
    for _ in range(500):
        for received in queue.receive(10, 0, VISIBILITY):
            keeper.begin(
                [keeper.take(heard, received.receipt_handle, keeper.terms.clock.now())], keeper.terms.clock.now()
            )
    for _ in range(100):
        clock.advance(1)
    assert heard == []
    assert queue.visible() == []


@pytest.mark.parametrize("visibility", [1, 2, 3])
def test_the_shortest_visibility_time_outs_leave_time_to_work_and_to_beat(clock, queue, visibility):
    keeper = LeaseKeeper(
        "q",
        queue_settings(visibility_seconds=visibility, heartbeat_seconds=visibility / 3),
        queue,
        10,
        ListOwner(),
        clock,
        gevent.spawn,
    )
    queue.put("x")
    lease = keeper.take([], queue.receive(1, 0, visibility)[0].receipt_handle, clock.now())
    keeper.begin([lease], clock.now())
    for _ in range(50):
        clock.advance(0.2)
        assert not lease.is_lost(clock.now())
        assert queue.visible() == []


def test_beats_that_are_refused_are_told_with_the_call_that_is(take, queue, clock, caplog):
    take()
    queue.script["change_visibility"] = [AccessDenied("no")] * 3
    clock.advance(BEAT + 1)
    (told,) = [record for record in caplog.records if record.__dict__.get("event") == "settle.failed"]
    assert told.__dict__["fields"]["call"] == "sqs:ChangeMessageVisibility"


def test_a_lease_lost_and_redelivered_in_one_turn_of_the_hub_does_not_spin(clock, alarm):
    queue = FakeQueue(clock)
    crashed = []

    def spawn(function, *args):
        greenlet = gevent.spawn(function, *args)
        greenlet.link_exception(lambda g: crashed.append(g.exception))
        return greenlet

    keeper = LeaseKeeper(
        "q", queue_settings(visibility_seconds=30, heartbeat_seconds=10), queue, 100, ListOwner(), clock, spawn
    )
    queue.put("x")
    lease = keeper.take([], queue.receive(1, 0, 30)[0].receipt_handle, clock.now())
    keeper.begin([lease], clock.now())

    def again():  # SQS gives it out again; that answer is read in the same turn of the hub as the beat's
        queue.messages["m1"].handle = "m1#2"
        gevent.get_hub().loop.run_callback(lease.redelivered, "m1#2", clock.now(), 2)

    queue.script["change_visibility"] = [again]
    clock.advance(11)
    assert queue.calls["change_visibility"] <= 2  # 20 and more, one a turn of the hub: 100 % CPU for a whole beat


def test_max_hold_seconds_does_not_shorten_a_back_off(clock, queue):
    """It bounds how long a message is kept: what is put off is kept no longer."""
    settings = queue_settings(visibility_seconds=VISIBILITY, heartbeat_seconds=BEAT, max_hold_seconds=60)
    keeper = LeaseKeeper("q", settings, queue, 10_000, ListOwner(), clock, gevent.spawn)
    queue.put("x")
    lease = keeper.take([], queue.receive(1, 0, VISIBILITY)[0].receipt_handle, clock.now())
    clock.advance(10)
    lease.let_go(300)
    clock.advance(1)
    assert [seconds for batch in queue.batches["change_visibility"] for _, seconds in batch] == [300]


def last_seconds_of_a_hold(clock, queue):
    """A lease that its beats have extended to the last whole second of max_hold_seconds."""
    settings = queue_settings(visibility_seconds=VISIBILITY, heartbeat_seconds=BEAT, max_hold_seconds=60)
    keeper = LeaseKeeper("q", settings, queue, 10_000, ListOwner(), clock, gevent.spawn)
    queue.put("x")
    lease = keeper.take([], queue.receive(1, 0, VISIBILITY)[0].receipt_handle, clock.now())
    keeper.begin([lease], clock.now())
    clock.advance(45)
    return lease


def test_no_beat_shortens_a_lease(clock, queue):
    """What is left is asked for in whole seconds: another 9 s would end before the 20 s that came before them."""
    lease = last_seconds_of_a_hold(clock, queue)
    deadline = lease.deadline
    clock.advance(5.5)
    assert lease.deadline >= deadline
    assert min(seconds for batch in queue.batches["change_visibility"] for _, seconds in batch) >= 20


def test_the_watchdogs_thread_shortens_no_lease(clock, queue):
    lease = last_seconds_of_a_hold(clock, queue)
    clock.advance(3.5)
    assert lease.mark(clock.now()) is None
    assert not lease.marked
