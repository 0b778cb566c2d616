import gevent
import pytest
from gevent.event import Event

from millpond.sqs.batcher import HURRIED_BACK_OFF_SECONDS, MAX_BACK_OFF_SECONDS, Batcher
from millpond.sqs.limits import MAX_BYTES
from tests.virtual import VirtualClock, settle


class Calls:
    """Records the batches; `gate` holds the calls, `again` is what the next ones give back."""

    def __init__(self):
        self.batches = []
        self.under_way = 0
        self.most = 0
        self.again = []
        self.gate = Event()
        self.gate.set()

    def __call__(self, batch):
        self.batches.append(list(batch))
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        self.gate.wait()
        self.under_way -= 1
        return [one for one in batch if self.again.pop(0)] if self.again else []


@pytest.fixture
def clock():
    return VirtualClock()


@pytest.fixture
def calls():
    return Calls()


@pytest.fixture
def batcher(clock, calls):
    return Batcher(calls, clock, gevent.spawn, linger_seconds=0.1, flushers=4, max_waiting=50)


def test_what_is_put_at_once_behind_a_full_batch_lingers_and_waits_for_no_answer(batcher, calls, clock):
    """A swarm of fifteen: five had to wait for the answer to the ten before them, and their FIFO groups with them."""
    calls.gate.clear()
    batcher.put(*range(15))
    settle()
    assert calls.batches == [list(range(10))]
    clock.advance(0.2)
    assert calls.batches == [list(range(10)), list(range(10, 15))]
    calls.gate.set()


@pytest.mark.parametrize("first", [3, 9])
def test_a_swarm_that_fills_a_batch_and_ends_in_the_next_one_lets_the_full_one_go(batcher, calls, clock, first):
    batcher.put(*range(first))
    batcher.put(*range(first, 14))
    settle()
    assert calls.batches == [list(range(10))]


def test_ten_items_go_at_once_and_the_rest_after_the_linger(batcher, calls, clock):
    for n in range(13):
        batcher.put(n)
    settle()
    assert calls.batches == [list(range(10))]
    clock.advance(0.09)
    assert len(calls.batches) == 1
    clock.advance(0.02)
    assert calls.batches[1] == [10, 11, 12]
    assert batcher.count == 0


@pytest.fixture
def pacing(clock, calls):
    """One that is patient only where ten come in a tenth of a second."""
    return Batcher(calls, clock, gevent.spawn, linger_seconds=0.1, brief_seconds=0.01, flushers=4, max_waiting=50)


def come(batcher, clock, number, every):
    for n in range(number):
        batcher.put(n)
        clock.advance(every)


def test_what_comes_slowly_lingers_for_a_moment_only(pacing, calls, clock):
    come(pacing, clock, 20, every=0.03)
    assert calls.batches == [[n] for n in range(20)]
    pacing.put(20)
    clock.advance(0.009)
    assert len(calls.batches) == 20
    clock.advance(0.002)
    assert len(calls.batches) == 21


def test_where_ten_come_in_time_a_batch_waits_for_the_tenth(pacing, calls, clock):
    come(pacing, clock, 100, every=0.008)
    calls.batches.clear()
    come(pacing, clock, 100, every=0.008)
    assert [len(batch) for batch in calls.batches] == [10] * 10


def test_after_a_rest_a_few_batches_make_it_patient_again(pacing, calls, clock):
    come(pacing, clock, 100, every=0.008)
    clock.advance(3_600)
    come(pacing, clock, 60, every=0.008)
    calls.batches.clear()
    come(pacing, clock, 50, every=0.008)
    assert [len(batch) for batch in calls.batches] == [10] * 5


def test_what_nobody_will_join_goes_at_once(batcher, calls, clock):
    come(batcher, clock, 3, every=0)
    batcher.flush()
    settle()
    assert calls.batches == [[0, 1, 2]]


def test_to_flush_while_nothing_waits_makes_nothing_go_early(batcher, calls, clock):
    batcher.flush()
    come(batcher, clock, 13, every=0)
    settle()
    assert calls.batches == [list(range(10))]


def test_what_comes_behind_a_batch_that_goes_at_once_waits_for_no_answer_to_its_call(batcher, calls, clock):
    calls.gate.clear()
    come_at_once(batcher, 10)
    batcher.flush()
    come_at_once(batcher, 9)
    clock.advance(0.1)
    assert sorted(len(batch) for batch in calls.batches) == [9, 10]
    calls.gate.set()


def test_what_does_not_fit_into_the_call_that_goes_at_once_waits_for_no_answer_to_it(calls, clock):
    calls.gate.clear()
    batcher = Batcher(
        calls, clock, gevent.spawn, linger_seconds=0.1, flushers=4, max_waiting=50, size_of=lambda n: MAX_BYTES // 2
    )
    come_at_once(batcher, 6)
    batcher.flush()
    clock.advance(0.1)
    assert calls.batches == [[0, 1], [2, 3], [4, 5]]
    calls.gate.set()


def come_at_once(batcher, number):
    for n in range(number):
        batcher.put(n)


def test_one_flusher_serves_a_trickle_and_more_join_with_the_backlog(batcher, calls, clock):
    calls.gate.clear()
    for n in range(10):
        batcher.put(n)
    settle()
    assert calls.under_way == 1
    for n in range(40):
        batcher.put(n)
    settle()
    assert calls.under_way == 4  # as many as allowed, not more
    calls.gate.set()
    settle()
    assert sorted(len(batch) for batch in calls.batches) == [10] * 5


def test_a_flusher_is_made_when_all_that_are_there_have_work_and_not_before(calls, clock):
    made = []
    batcher = Batcher(
        calls, clock, lambda run: made.append(gevent.spawn(run)), linger_seconds=0.1, flushers=4, max_waiting=50
    )
    for round_trip in range(1, 4):
        for n in range(10):
            batcher.put(n)
        settle()
        assert (len(calls.batches), len(made)) == (round_trip, 1)
    calls.gate.clear()
    for busy in (1, 2, 3, 4, 4):
        for n in range(10):
            batcher.put(n)
        settle()
        assert (calls.under_way, len(made)) == (busy, busy)
    calls.gate.set()
    settle()
    assert (len(calls.batches), batcher.count) == (8, 0)


def test_a_slow_call_does_not_keep_the_next_few_items_waiting(batcher, calls, clock):
    calls.gate.clear()
    for n in range(10):
        batcher.put(n)
    settle()
    batcher.put("late")
    clock.advance(0.2)
    assert calls.batches[-1] == ["late"]
    calls.gate.set()
    settle()


def test_items_that_failed_are_tried_again_after_a_pause_that_is_bounded(batcher, calls, clock):
    calls.again = [True]
    batcher.put("a")
    clock.advance(0.1)
    assert calls.batches == [["a"]]
    assert batcher.count == 1
    clock.advance(MAX_BACK_OFF_SECONDS)
    assert calls.batches == [["a"], ["a"]]
    assert batcher.count == 0


def test_only_the_failed_items_of_a_batch_come_again(batcher, calls, clock):
    calls.again = [False, True, False]
    for item in "abc":
        batcher.put(item)
    clock.advance(0.1)
    clock.advance(MAX_BACK_OFF_SECONDS)
    assert calls.batches == [["a", "b", "c"], ["b"]]


def test_a_full_backlog_says_so_and_tells_when_there_is_room_again(clock, calls):
    """Trap c: releasing permits before there is room held 2,950 messages instead of 20."""
    room = []
    batcher = Batcher(
        calls,
        clock,
        gevent.spawn,
        linger_seconds=0.1,
        flushers=1,
        max_waiting=50,
        on_room=lambda: room.append(batcher.count),
    )
    calls.gate.clear()
    for n in range(49):
        batcher.put(n)
    assert not batcher.is_full
    batcher.put(49)
    settle()
    assert batcher.is_full
    assert room == []
    calls.gate.set()
    settle()
    assert room == [40]
    assert not batcher.is_full


def test_a_hurried_batcher_neither_lingers_nor_pauses_long(batcher, calls, clock):
    calls.again = [True]
    batcher.put("a")
    clock.advance(0.1)
    batcher.hurry()
    settle()
    assert calls.batches == [["a"], ["a"]]  # the pause was cut short
    calls.again = [True] * 3
    batcher.put("b")
    settle()
    assert calls.batches[2:] == [["b"]]
    for _ in range(3):
        clock.advance(HURRIED_BACK_OFF_SECONDS)
    assert calls.batches[2:] == [["b"]] * 4
    assert batcher.count == 0


def by_item(item):
    return item[:1]


@pytest.mark.parametrize("key_of", [None, by_item], ids=["any order", "by key"])
def test_a_batch_ends_before_a_megabyte(clock, calls, key_of):
    batcher = Batcher(
        calls, clock, gevent.spawn, linger_seconds=0.1, flushers=1, max_waiting=50, size_of=len, key_of=key_of
    )
    for item in ("a" * (MAX_BYTES // 2), "b" * (MAX_BYTES // 2), "small"):
        batcher.put(item)
    clock.advance(0.1)
    clock.advance(0.1)
    assert [list(map(by_item, batch)) for batch in calls.batches] == [["a", "b"], ["s"]]


def test_of_eleven_keys_ten_go_in_one_call(clock, calls):
    batcher = Batcher(calls, clock, gevent.spawn, linger_seconds=0.1, flushers=1, max_waiting=50, key_of=by_item)
    for item in "abcdefghijk":
        batcher.put(item)
    clock.advance(0.2)
    assert calls.batches == [list("abcdefghij"), ["k"]]


@pytest.mark.parametrize("key_of", [None, by_item], ids=["any order", "by key"])
def test_an_item_larger_than_a_call_may_be_still_goes_alone(clock, calls, key_of):
    batcher = Batcher(
        calls, clock, gevent.spawn, linger_seconds=0.1, flushers=1, max_waiting=50, size_of=len, key_of=key_of
    )
    batcher.put("x" * (MAX_BYTES + 1))
    batcher.put("y")
    clock.advance(0.3)
    assert [len(batch) for batch in calls.batches] == [1, 1]


def test_sixteen_flushers_send_sixteen_batches_in_one_round_trip(clock, calls):
    """Trap d: one flusher caps the rate at ten a round trip."""
    batcher = Batcher(calls, clock, gevent.spawn, linger_seconds=0.1, flushers=16, max_waiting=1_000)
    calls.gate.clear()
    for n in range(160):
        batcher.put(n)
    settle()
    assert calls.most == 16
    calls.gate.set()
    settle()
    assert sorted(n for batch in calls.batches for n in batch) == list(range(160))


def test_after_a_call_that_works_the_next_failure_pauses_for_a_short_time_again(clock):
    calls = []

    def call(batch):
        calls.append(clock.now())
        return batch if len(calls) <= 6 or len(calls) == 8 else []

    batcher = Batcher(call, clock, gevent.spawn, linger_seconds=0.0, flushers=1, max_waiting=50)
    batcher.put("a")
    clock.advance(30)
    assert len(calls) == 7
    batcher.put("b")
    clock.advance(30)
    assert len(calls) == 9
    assert calls[8] - calls[7] <= 0.2


def test_nothing_of_a_key_overtakes_what_has_no_room_in_a_call(clock, calls):
    sizes = {"B1": 900_000, "A1": 200_000, "A2": 10_000}
    batcher = Batcher(
        calls,
        clock,
        gevent.spawn,
        linger_seconds=1,
        flushers=1,
        max_waiting=100,
        size_of=sizes.get,
        key_of=lambda one: one[0],
    )
    for one in sizes:
        batcher.put(one)
    batcher.hurry()
    settle()
    assert calls.batches == [["B1"], ["A1"], ["A2"]]


def test_a_long_line_of_one_key_is_not_measured_again_for_each_call(clock, calls):
    measured = []
    more = {"size_of": lambda one: measured.append(one) or 1, "key_of": lambda one: "a"}
    batcher = Batcher(calls, clock, gevent.spawn, linger_seconds=1, flushers=1, max_waiting=2_000, **more)
    for one in range(500):
        batcher.put(one)
    batcher.hurry()
    settle()
    assert [one for batch in calls.batches for one in batch] == list(range(500))
    assert len(measured) == 500
