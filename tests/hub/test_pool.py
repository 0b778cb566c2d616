import gc
import math
import time
import weakref
from itertools import pairwise

import gevent
import pytest
from gevent.event import Event

from millpond.hub.pool import TURN_SECONDS, Pool, Slot
from tests.virtual import settle
from tests.waiting import until


@pytest.fixture
def crashes():
    return []


@pytest.fixture(autouse=True)
def endless_turns(monkeypatch):
    """On a busy machine any step may last longer than a turn, and what comes next comes by a real timer."""
    monkeypatch.setattr("millpond.hub.pool.TURN_SECONDS", math.inf)


@pytest.fixture
def short_turns(endless_turns, monkeypatch):
    """As they are."""
    monkeypatch.setattr("millpond.hub.pool.TURN_SECONDS", TURN_SECONDS)


def test_a_slot_that_is_busy_when_the_pool_closes_ends_with_its_work(crashes):
    gate = Event()
    pool = Pool(2, crashes.append)
    pool.submit(lambda work: gate.wait(), [1, 2, 3])
    settle()
    closing = gevent.spawn(pool.close, 10)
    settle()
    gate.set()
    assert closing.get(timeout=20)  # one close: another would wake those that are parked
    assert crashes == []


def test_work_runs_in_order_on_no_more_slots_than_allowed_and_slots_are_kept(crashes):
    gate, inside, slots, order = Event(), [], set(), []

    def do(work):
        inside.append(work)
        order.append(work)
        slots.add(gevent.getcurrent())
        gate.wait()
        inside.remove(work)

    pool = Pool(3, crashes.append)
    for work in range(10):
        pool.submit(do, [work])
    settle()
    assert len(inside) == 3
    assert pool.ready == 7
    gate.set()
    settle()
    assert order == list(range(10))
    assert len(slots) == 3
    assert pool.close(1)
    assert crashes == []


def test_a_slot_is_made_only_when_no_other_is_free(crashes):
    slots = set()
    pool = Pool(10, crashes.append)
    for work in range(5):
        pool.submit(lambda work: slots.add(gevent.getcurrent()), [work])
        settle()
    assert len(slots) == 1


def test_what_no_slot_has_taken_can_be_taken_back(crashes):
    gate, done = Event(), []
    pool = Pool(1, crashes.append)
    for work in range(4):
        pool.submit(lambda work: (gate.wait(), done.append(work)), [work])
    settle()
    assert [work for _, work in pool.take_ready()] == [1, 2, 3]
    gate.set()
    settle()
    assert done == [0]


def test_a_slot_that_is_written_off_is_replaced_for_what_is_ready(crashes):
    gate, done, slots = Event(), [], []

    def do(work):
        if work == "stuck":
            slots.append(gevent.getcurrent())
            gate.wait()
        else:
            done.append(work)

    pool = Pool(1, crashes.append)
    pool.submit(do, ["stuck"])
    pool.submit(do, ["next"])
    settle()
    assert done == []
    pool.write_off(slots[0])
    settle()
    assert done == ["next"]
    gate.set()
    settle()
    pool.submit(do, ["later"])
    settle()
    assert done == ["next", "later"]
    assert slots[0].dead


@pytest.mark.usefixtures("short_turns")
def test_handlers_that_never_wait_leave_the_others_their_turn(crashes):
    """Beats and polls starve otherwise: a slot yields once the hub has stood still for 10 ms."""
    turns = []

    def burn(work):
        end = gevent.get_hub().loop.now() + 0.012
        while time.time() < end:
            pass

    pool = Pool(1, crashes.append)

    def tick():
        while len(turns) < 5:
            turns.append(pool.ready)
            gevent.sleep(0)

    for work in range(20):
        pool.submit(burn, [work])
    gevent.spawn(tick).join(5)
    assert turns[-1] > 10  # five turns were had long before the work was over


def test_a_slot_that_dies_is_told(crashes):
    def do(work):
        raise ValueError("a bug")

    pool = Pool(1, crashes.append)
    hub = gevent.get_hub()
    printed, hub.print_exception = hub.print_exception, lambda *args: None
    pool.submit(do, [1])
    settle()
    hub.print_exception = printed
    assert isinstance(crashes[0].exception, ValueError)


def test_a_slot_that_is_killed_before_it_runs_is_told(crashes):
    """Its work would wait for ever."""
    pool = Pool(1, crashes.append)
    pool.submit(print, [1])
    (slot,) = [one for one in gc.get_objects() if type(one) is Slot and one.pool is pool]  # isinstance asks objects
    slot.kill(block=False)
    settle()
    assert crashes == [slot]


def test_a_slot_that_ends_as_it_should_is_no_crash(crashes):
    pool = Pool(1, crashes.append)
    pool.submit(lambda work: None, [1])
    settle()
    assert pool.close(1)
    settle()
    assert crashes == []


@pytest.mark.usefixtures("short_turns")
def test_a_time_out_that_a_handler_left_running_ends_nobody(crashes):
    """gevent throws it into the slot wherever that is by then: here it is parked, or gives way to the others."""
    done = []

    def leave_a_time_out(seconds):
        gevent.Timeout(seconds).start()
        done.append(seconds)

    def burn(seconds):
        gevent.Timeout(0.001).start()
        end = time.time() + seconds
        while time.time() < end:
            pass
        done.append(seconds)

    pool = Pool(1, crashes.append)
    pool.submit(leave_a_time_out, [0.001])
    gevent.sleep(0.02)  # the time-out comes meanwhile, as the next one does below
    pool.submit(burn, [0.012])
    pool.submit(done.append, ["next"])
    until(lambda: len(done) == 3)
    assert done == [0.001, 0.012, "next"]
    assert crashes == []
    pool.submit(done.append, ["last"])
    until(lambda: len(done) == 4)
    assert done[-1] == "last"
    assert pool.close(1)


def test_a_switch_that_a_handler_left_behind_lets_no_later_wake_up_into_a_handler(crashes):
    """A slot that was woken otherwise is parked no more: to wake it again would end its next handler's wait."""
    gate, woken = Event(), []

    def leave_a_switch(work):
        gevent.get_hub().loop.run_callback(gevent.getcurrent().switch)

    def wait(work):
        woken.append(gate.wait())

    pool = Pool(1, crashes.append)
    pool.submit(leave_a_switch, [1])
    settle()
    pool.submit(wait, [2])
    settle()
    pool.submit(wait, [3])
    settle()
    assert woken == []
    gate.set()
    settle()
    assert woken == [True, True]
    assert crashes == []


@pytest.mark.usefixtures("short_turns")
def test_work_that_never_waits_is_not_woken_all_in_one_turn_of_the_hub(crashes):
    """Forty of 20 ms each in one turn would hold up beats and polls for 0.8 s."""
    parked, done, seen = 40, [], []
    pool = Pool(parked, crashes.append)
    gate, through = Event(), []
    for _ in range(parked):
        pool.submit(lambda _: through.append(gate.wait()), [None])
    settle()
    gate.set()
    until(lambda: len(through) == parked)
    settle()

    def burn(work):
        end = time.time() + 0.02
        while time.time() < end:
            pass
        done.append(work)

    def watch():
        while len(done) < parked:
            seen.append(len(done))
            gevent.sleep(0.001)

    watcher = gevent.spawn(watch)
    gevent.sleep(0)
    for work in range(parked):
        pool.submit(burn, [work])
    watcher.join(20)
    assert max(after - before for before, after in pairwise(seen)) <= 5


def test_a_slot_that_was_woken_otherwise_and_found_work_is_not_woken_again_in_its_handler(crashes):
    gate, woken = Event(), []
    pool = Pool(1, crashes.append)
    loop = gevent.get_hub().loop

    def wait(work):
        woken.append(gate.wait())

    def leave_a_switch(work):
        loop.run_callback(pool.submit, wait, [2])
        loop.run_callback(gevent.getcurrent().switch)

    pool.submit(leave_a_switch, [1])
    settle()
    pool.submit(wait, [3])
    settle()
    assert woken == []
    gate.set()
    settle()
    assert woken == [True, True]
    assert crashes == []


def test_slots_that_ended_leave_nothing_behind(crashes):
    slots = weakref.WeakSet()

    def do(work):
        slots.add(gevent.getcurrent())
        pool.step_aside()
        gevent.sleep(0)
        pool.step_back()

    pool = Pool(3, crashes.append)
    for work in range(300):
        pool.submit(do, [work])
    settle(50)
    gc.collect()
    assert pool.ready == 0
    assert 1 <= len(slots) <= 3
    assert crashes == []
