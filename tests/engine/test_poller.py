from itertools import pairwise

import gevent
import pytest
from gevent.event import Event

from millpond.engine.permits import FILL_SECONDS, Permits
from millpond.engine.poller import OVERDUE_SECONDS
from millpond.errors import AccessDenied, Throttled, Unreachable
from millpond.sqs.http_connection import TOO_LARGE
from tests.fakes import FakeQueue
from tests.rig import Polling
from tests.virtual import VirtualClock, settle


@pytest.fixture
def clock():
    return VirtualClock()


def acquire(share, want=10, patient=False):
    greenlet = gevent.spawn(share.acquire, want, patient)
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
    clock.advance(FILL_SECONDS)
    assert impatient.value == 1


def test_a_poll_that_finds_fewer_permits_than_it_wants_goes_with_them_after_a_moment(clock):
    share = Permits(40, 1, clock).share(0)
    for _ in range(3):
        assert acquire(share).value == 10
        share.polled(10, 10)
    assert acquire(share).value == 10
    share.polled(10, 3)
    poll = acquire(share, patient=True)
    settle()
    assert not poll.ready()
    clock.advance(FILL_SECONDS)
    assert poll.value == 7


def test_a_poll_that_waits_for_permits_wakes_nobody_while_there_are_none(clock, monkeypatch):
    """At ten messages at once a timer that rang for nothing woke the process once more for each receive."""
    timers: list[float] = []
    timer = clock.timer
    monkeypatch.setattr(clock, "timer", lambda seconds, call: timers.append(seconds) or timer(seconds, call))
    share = Permits(20, 1, clock).share(0)
    for _ in range(2):
        assert acquire(share).value == 10
        share.polled(10, 10)
    poll = acquire(share, patient=True)
    clock.advance(FILL_SECONDS / 2)
    assert timers == []
    share.release(1)
    assert timers == pytest.approx([FILL_SECONDS / 2])
    clock.advance(FILL_SECONDS / 2)
    assert poll.value == 1
    assert len(timers) == 1


def test_a_dismissed_poll_goes_away_empty_handed(clock):
    permits = Permits(1, 1, clock)
    share = permits.share(0)
    acquire(share)
    blocked = gevent.spawn(share.acquire, 10, False)
    settle()
    share.dismiss()
    settle()
    assert blocked.value == 0


def started(clock, *args, **settings):
    rig = Polling(clock, *args, **settings)
    rig.pollers.start()
    return rig


def test_one_poll_is_open_while_the_queue_is_quiet(clock):
    rig = started(clock)
    clock.advance(200)
    assert rig.pollers.active == 1
    assert rig.queue.calls["receive"] == 11  # one every twenty seconds, and no more


def test_more_polls_join_while_receives_come_back_full_and_leave_when_it_is_quiet(clock):
    rig = started(clock, visibility_seconds=3_600)
    rig.queue.on_call = lambda name: clock.sleep(0.01)
    rig.queue.put("x", 500)
    clock.advance(0.05)
    assert rig.pollers.active == 4
    clock.advance(1)
    assert len(rig.delivered) == 500
    clock.advance(45)
    assert rig.pollers.active == 1


def test_a_failing_queue_is_asked_ever_less_often_by_one_poll(clock):
    from millpond.errors import Unreachable

    rig = started(clock)
    rig.queue.script["receive"] = [Unreachable("down")] * 1_000
    clock.advance(10)
    early = rig.queue.calls["receive"]
    clock.advance(600)
    assert rig.pollers.active == 1
    assert early >= 4
    assert rig.queue.calls["receive"] - early < 121  # 5 to 10 s apart
    assert rig.failures[0][1:] == (1, False)


def test_empty_answers_that_come_at_once_are_not_asked_for_in_a_hot_loop(clock):
    """As at 120,000 messages in flight, or from a proxy that answers 200 to everything."""
    rig = started(clock)
    rig.queue.receive = lambda *args: rig.queue._enter("receive", args) or []
    clock.advance(60)
    assert 5 < rig.queue.calls["receive"] < 20


def test_pause_seconds_pass_between_two_polls(clock):
    rig = started(clock, pause_seconds=100, wait_seconds=1)
    clock.advance(250)
    assert rig.queue.calls["receive"] == 3


def test_after_stop_no_receive_begins_and_the_open_ones_are_awaited(clock):
    rig = started(clock)
    clock.advance(1)
    assert rig.pollers.open_until() == pytest.approx(clock.now() + 19)
    rig.pollers.stop()
    clock.advance(10)
    assert not rig.pollers.ended.is_set()
    rig.queue.put("x")
    clock.advance(1)
    assert rig.pollers.ended.is_set()
    assert rig.pollers.open_until() == 0.0
    assert len(rig.delivered) == 1
    assert rig.queue.calls["receive"] == 1
    assert rig.permits.free == 999


def test_polls_have_ended_once_the_last_of_them_is_back(clock):
    rig = started(clock, visibility_seconds=3_600)
    rig.queue.on_call = lambda name: clock.sleep(0.01)
    rig.queue.put("x", 500)
    clock.advance(1)
    assert (rig.pollers.active, len(rig.delivered)) == (4, 500)
    rig.pollers.stop()
    for left in (3, 2, 1):
        rig.queue.put("x")
        clock.advance(0.1)
        assert (rig.pollers.active, rig.pollers.ended.is_set()) == (left, False)
    rig.queue.put("x")
    clock.advance(0.1)
    assert (rig.pollers.active, rig.pollers.ended.is_set()) == (0, True)


def test_polls_that_were_never_started_have_ended_when_they_are_stopped(clock):
    pollers = Polling(clock).pollers
    pollers.stop()
    assert pollers.ended.is_set()


def test_a_poll_whose_connection_was_lost_counts_as_open_until_its_time_is_over(clock):
    """SQS does not notice that we are gone, and takes messages for it."""
    rig = started(clock)
    rig.queue.script["receive"] = [Unreachable("reset")]
    settle()
    rig.pollers.stop()
    clock.advance(1)
    assert rig.pollers.ended.is_set()
    assert rig.pollers.open_until() == pytest.approx(clock.now() + 19)
    clock.advance(19)
    assert rig.pollers.open_until() == 0.0
    refused = started(clock)
    refused.queue.script["receive"] = [Throttled("slow")]  # an answer: nothing is open behind it
    settle()
    refused.pollers.stop()
    clock.advance(1)
    assert refused.pollers.open_until() == 0.0


def test_an_answer_that_was_too_large_leaves_no_poll_open(clock):
    """SQS has answered: what is given back in a drain need not wait for that poll (it was hidden for 21 s)."""
    rig = started(clock)
    rig.queue.script["receive"] = [Unreachable("more than 64 MiB", TOO_LARGE)]
    settle()
    rig.pollers.stop()
    clock.advance(1)
    assert rig.pollers.ended.is_set()
    assert rig.pollers.open_until() == 0.0


# --- what goes wrong, and for how long


def answers_of(rig, seconds, every=0.1):
    """How many receives begin in so many seconds."""
    before = rig.queue.calls["receive"]
    rig.clock.advance(seconds)
    return rig.queue.calls["receive"] - before


@pytest.fixture
def polling(clock):
    def make(**settings):
        return started(clock, **settings)

    return make


def test_where_a_poll_hangs_another_takes_its_place_once_its_answer_is_overdue(polling, clock):
    rig = polling(wait_seconds=5)
    settle()
    rig.queue.gates["receive"] = Event()  # the one that is open was sent before; the next one hangs
    clock.advance(5)
    assert rig.queue.calls["receive"] == 2
    hanging = rig.queue.gates.pop("receive")
    rig.queue.put("x", 3)
    clock.advance(5.5)
    assert rig.delivered == []
    clock.advance(1)
    assert len(rig.delivered) == 3
    assert rig.pollers.active == 2
    clock.advance(30)
    hanging.set()
    clock.advance(10)
    assert rig.pollers.active == 1  # the place is given back


def test_never_more_polls_take_the_place_of_those_that_hang_than_are_allowed(polling, clock):
    rig = polling(wait_seconds=1, pollers=3)
    rig.queue.gates["receive"] = Event()
    clock.advance(100)
    assert rig.queue.calls["receive"] == 3
    rig.pollers.stop()
    rig.queue.gates.pop("receive").set()
    clock.advance(5)
    assert rig.pollers.ended.is_set()


def test_in_an_outage_one_poll_alone_asks_and_after_it_the_others_are_back(polling, clock):
    from millpond.errors import Unreachable

    rig = polling(visibility_seconds=3_600)
    rig.queue.on_call = lambda name: clock.sleep(0.01)
    rig.queue.put("x", 900)
    clock.advance(0.1)
    assert rig.pollers.active == 4
    rig.queue.script["receive"] = [Unreachable("down")] * 60
    clock.advance(30)
    assert rig.pollers.active == 1
    assert answers_of(rig, 60) <= 12
    rig.queue.script["receive"] = []
    clock.advance(32)
    assert len(rig.delivered) == 900
    clock.advance(45)
    assert rig.pollers.active == 1


def test_a_poll_that_comes_back_empty_stays_where_the_only_other_one_backs_off(polling, clock):
    from millpond.errors import AccessDenied

    rig = polling(wait_seconds=1, pollers=2, visibility_seconds=3_600)
    rig.queue.on_call = lambda name: clock.sleep(0.01)
    rig.queue.put("x", 60)
    clock.advance(0.025)
    rig.queue.script["receive"] = [AccessDenied("no")]  # it rests for 2.5 s at the least
    clock.advance(0.5)
    assert len(rig.failures) == 1
    assert len(rig.delivered) == 60
    assert answers_of(rig, 1.9) == 2


def test_after_a_receive_that_came_back_the_next_failure_is_the_first_again(polling, clock):
    from millpond.errors import Unreachable

    rig = polling(wait_seconds=1)
    rig.queue.script["receive"] = [Unreachable("down")] * 8
    clock.advance(120)
    assert [in_a_row for _, in_a_row, _ in rig.failures] == list(range(1, 9))
    rig.queue.script["receive"] = [Unreachable("down")] * 2
    clock.advance(3)
    assert [in_a_row for _, in_a_row, _ in rig.failures[8:]] == [1, 2]
    assert [ever for _, _, ever in rig.failures] == [False] * 8 + [True] * 2


def test_a_long_poll_that_took_its_time_ends_a_row_of_early_empties(polling, clock):
    rig = polling(wait_seconds=20)
    real, early = rig.queue.receive, []

    def receive(*args):
        early.append(clock.now())
        return [] if len(early) <= 9 or len(early) > 10 else real(*args)

    rig.queue.receive = receive
    clock.advance(400)
    pauses = [after - before for before, after in pairwise(early)]
    assert pauses[0] == pytest.approx(0.15, abs=0.0501)
    assert pauses[1] == pytest.approx(0.3, abs=0.1001)
    assert pauses[7] >= 5  # it has grown
    assert pauses[9] == pytest.approx(20, abs=0.1)  # the one that took its time
    assert pauses[10] == pytest.approx(0.15, abs=0.0501)


@pytest.mark.parametrize(("seconds", "rests"), [(9.0, True), (11.0, False)])
def test_an_empty_answer_is_early_where_it_comes_before_half_of_its_poll_is_over(polling, clock, seconds, rests):
    rig = polling(wait_seconds=20)
    begun = []

    def receive(*args):
        begun.append(clock.now())
        clock.sleep(seconds)
        return []

    rig.queue.receive = receive
    clock.advance(60)
    pauses = [after - before - seconds for before, after in pairwise(begun[1:])]
    assert all(pause >= 0.09 for pause in pauses) is rests


def test_a_narrow_intake_is_one_look_for_one_message_and_looks_grow_rare(polling, clock):
    rig = polling(wait_seconds=1)
    clock.advance(0.5)
    rig.narrow()
    rig.holds = True
    clock.advance(1)  # the poll that was open is back
    rig.queue.put("x", 100)
    rig.queue.batches.clear()
    for _ in range(600):
        clock.advance(1)
    asked = [number for (number,) in rig.queue.batches["receive"]]
    assert set(asked) == {1}
    assert 600 / 21 <= len(asked) <= 600 / 20 + 8
    rig.intake.widen()
    clock.advance(5)
    assert len({one.message_id for one in rig.delivered}) == 100


def test_a_look_that_brings_a_message_that_begins_makes_the_intake_wide_again(polling, clock):
    rig = polling(wait_seconds=1)
    rig.narrow()
    rig.queue.put("x", 100)
    clock.advance(5)
    assert not rig.intake.is_narrow
    assert len(rig.delivered) == 100


def test_a_look_that_brings_nothing_is_followed_by_the_next_at_once(polling, clock):
    """It has waited for its whole long poll: a message of another type begins within a second."""
    rig = polling(wait_seconds=20)
    rig.narrow()
    clock.advance(200)
    rig.queue.put("x")
    clock.advance(1)
    assert len(rig.delivered) == 1
    assert rig.queue.calls["receive"] <= 12


def test_no_look_is_made_while_no_type_may_begin_at_all(polling, clock):
    rig = polling(wait_seconds=1)
    clock.advance(0.5)
    rig.may_any_begin = False
    rig.narrow()
    clock.advance(1)
    asked = rig.queue.calls["receive"]
    clock.advance(3_600)
    assert rig.queue.calls["receive"] == asked
    rig.may_any_begin = True
    rig.queue.put("x")
    clock.advance(21)
    assert len(rig.delivered) == 1


def test_a_poll_that_waits_for_permits_when_the_intake_narrows_asks_for_one_message(polling, clock):
    rig = polling(wait_seconds=1, permits=20, taken=20)
    clock.advance(1)
    rig.narrow()
    rig.queue.put("x", 20)
    rig.other.release(20)
    clock.advance(1.2)
    assert [number for (number,) in rig.queue.batches["receive"]][:1] == [1]


def test_a_patient_poll_waits_for_a_quarter_and_not_for_all(clock):
    permits = Permits(8, 1, clock)
    share = permits.share(0)
    assert acquire(share, want=8).value == 8
    share.polled(8, 8)
    poll = acquire(share, want=8, patient=True)
    share.release(1)
    settle()
    assert not poll.ready()
    share.release(1)
    settle()
    assert poll.value == 2


def test_after_stop_a_poll_that_waits_for_permits_or_rests_is_gone_at_once(polling, clock):
    from millpond.errors import AccessDenied

    rig = polling()
    rig.queue.script["receive"] = [AccessDenied("no")]
    clock.advance(0.1)
    rig.pollers.stop()
    settle()
    assert rig.pollers.ended.is_set()
    looking = polling()
    looking.may_any_begin = False
    looking.narrow()
    clock.advance(25)
    looking.pollers.stop()
    clock.advance(0)
    assert looking.pollers.ended.is_set()
    assert looking.permits.free == 1_000


@pytest.mark.parametrize("fifo", [True, False])
def test_a_receive_whose_answer_was_lost_is_made_again_by_its_attempt_id_on_fifo(polling, clock, fifo):
    attempts = []
    rig = polling(fifo=fifo, wait_seconds=1)
    real = rig.queue.receive

    def receive(most, wait, visibility, attempt=""):
        attempts.append(attempt)
        return real(most, wait, visibility, attempt)

    rig.queue.receive = receive
    clock.advance(1)
    attempts.clear()
    rig.queue.script["receive"] = [Unreachable("reset"), None, Throttled("slow"), None]
    clock.advance(8)
    if fifo:
        assert attempts[0] == attempts[1]
        assert len({*attempts[1:5]}) == 4  # a refusal is an answer
    else:
        assert set(attempts) == {""}


def test_a_lost_receive_is_made_again_only_where_all_that_it_brought_can_be_held(polling, clock):
    """SQS answers an attempt id with the same messages, however few are asked for the second time."""
    from millpond.errors import Unreachable

    rig = polling(fifo=True, wait_seconds=1, permits=10)
    asked = []
    receive = rig.queue.receive
    rig.queue.receive = lambda most, *more: asked.append((most, more[2])) or receive(most, *more)
    rig.queue.script["receive"] = [Unreachable("reset")]
    settle()
    ((most, lost),) = asked
    assert most == 10
    elsewhere = rig.permits.share(0)
    elsewhere.take(8)
    clock.advance(5)
    assert {most for most, _ in asked[1:]} == {2}
    assert lost not in dict(asked[1:]).values()
    elsewhere.polled(8, 0)
    clock.advance(2)
    assert (10, lost) in asked[1:]


def test_an_attempt_id_is_not_used_when_sqs_has_forgotten_it(polling, clock):
    from millpond.errors import Unreachable

    attempts = []
    rig = polling(fifo=True, wait_seconds=1)
    real = rig.queue.receive

    def receive(most, wait, visibility, attempt=""):
        attempts.append(attempt)
        return real(most, wait, visibility, attempt)

    rig.queue.receive = receive
    clock.advance(1)
    attempts.clear()
    rig.queue.script["receive"] = [Unreachable("reset")]
    clock.advance(1)
    assert len(attempts) == 1
    rig.may_any_begin = False
    rig.narrow()
    clock.advance(310)
    rig.intake.widen()
    clock.advance(5)
    assert len(attempts) > 1
    assert attempts[0] not in attempts[1:]


def test_where_the_only_poll_hangs_another_takes_its_place(clock):
    """The queue was not asked until the hung poll was given up: 11 s with 3,000 messages waiting."""
    queue = FakeQueue(clock)
    queue.gates["receive"] = Event()
    Polling(clock, queue, wait_seconds=20).pollers.start()
    clock.advance(20 + OVERDUE_SECONDS - 0.1)
    assert queue.calls["receive"] == 1
    clock.advance(0.2)
    assert queue.calls["receive"] == 2


def test_a_poll_that_rests_is_not_counted_on_by_one_that_leaves(clock):
    """After AccessDenied a poll rests for seconds; another that came back empty left meanwhile, and nobody asked."""
    queue = FakeQueue(clock)
    queue.on_call = lambda name: clock.sleep(0.01)
    queue.put("x", 20)
    some = Polling(clock, queue, wait_seconds=1).pollers
    some.start()
    clock.advance(0.015)  # the first receive came back full: there are two polls
    assert some.active == 2
    queue.script["receive"] = [AccessDenied("no")]
    clock.advance(1.5)
    before = queue.calls["receive"]
    clock.advance(1.5)
    assert queue.calls["receive"] > before


def test_some_poll_is_always_left_whatever_fails_and_narrows(clock):
    """One left since another rested, which left since somebody had asked: no poll was left, for ever."""
    queue = FakeQueue(clock)
    queue.on_call = lambda name: clock.sleep(0.01)
    queue.put("x", 500)
    rig = Polling(clock, queue, wait_seconds=1)
    some = rig.pollers
    some.start()
    for round_ in range(40):
        queue.script["receive"] += [Unreachable("down")] * (round_ % 5)
        clock.advance(0.1 * (round_ % 7))
        rig.narrow()
        clock.advance(0.3)
        assert some.active >= 1
        rig.intake.widen()
