"""Permits reach those who have work: several queues in one process, on a clock that the test moves."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from typing import cast

import gevent
import pytest

from millpond.engine.ask import Asks
from millpond.engine.intake import Intake, Traffic
from millpond.engine.permits import HUNGRY_SECONDS, QUIET_WAIT_SECONDS, Permits
from millpond.engine.poller import Pollers
from millpond.errors import QueueError
from millpond.sqs.queue import Received
from tests.fakes import FakeQueue
from tests.rig import queue_settings
from tests.virtual import VirtualClock, settle


class Accepted:
    """What the polls of one queue bring goes to its process."""

    def __init__(self, process: Process, index: int) -> None:
        self._process = process
        self._index = index

    def accept(self, messages: list[Received], latest: float, earliest: float) -> None:
        self._process.take(self._index, messages)

    def receive_failed(self, error: QueueError, in_a_row: int) -> None:
        pass

    def receives_work(self) -> None:
        pass


class Process:
    """Queues that share permits; a handler takes `work` seconds, and its delete is confirmed at once.

    A queue that hangs (`hang`) gives no permit back.
    """

    def __init__(
        self, queues: int, total: int, caps: dict[int, int] | None = None, strict: bool = False, **settings: object
    ) -> None:
        self.clock = VirtualClock()
        self.total = total
        self.permits = Permits(total, queues, self.clock, strict=strict)
        self.asked = Counter[int]()
        self.held = Counter[int]()
        self.done = Counter[int]()
        self.most_held = 0
        self.begun: dict[int, list[float]] = {index: [] for index in range(queues)}
        self.work = dict.fromkeys(range(queues), 0.2)
        self.hanging: set[int] = set()
        self.latency: dict[int, list[float]] = {index: [] for index in range(queues)}
        values = {"wait_seconds": 20, "max_messages": 10, "visibility_seconds": 43_200, "pollers": 4} | settings
        self.queues, self.shares, self.pollers = [], [], []
        for index in range(queues):
            queue = Watched(self, index)
            share = self.permits.share((caps or {}).get(index, 0))
            pollers = Pollers(
                queue,
                queue_settings(index % 3 == 1, **values),
                share,
                self.clock,
                gevent.spawn,
                Intake(cast("Traffic", None), share, self.clock),
                Accepted(self, index),
            )
            self.queues.append(queue)
            self.shares.append(share)
            self.pollers.append(pollers)
        for pollers in self.pollers:
            pollers.start()

    def take(self, index: int, batch: list) -> None:
        self.held[index] += len(batch)
        for received in batch:
            self.latency[index].append(self.clock.now() - float(received.body))
            self.clock.timer(self.work[index], lambda handle=received.receipt_handle: self.end(index, handle))
        self.look()

    def end(self, index: int, handle: str) -> None:
        if index not in self.hanging:
            self.queues[index].delete([handle])
            self.held[index] -= 1
            self.done[index] += 1
            self.shares[index].release()

    def put(self, index: int, number: int = 1) -> None:
        self.queues[index].put(str(self.clock.now()), number)

    def look(self) -> None:
        """Nothing is asked for that could not be held."""
        in_all = self.asked.total() + self.held.total()
        assert in_all + self.permits.free <= self.total
        assert self.permits.free >= 0
        self.most_held = max(self.most_held, in_all)

    def rate(self, index: int, seconds: float) -> float:
        """Messages a second of a queue, from now on."""
        before = self.done[index]
        self.clock.advance(seconds)
        return (self.done[index] - before) / seconds


class Watched(FakeQueue):
    """Takes 10 ms for an answer, and tells what is asked."""

    def __init__(self, process: Process, index: int) -> None:
        super().__init__(process.clock)
        self.process = process
        self.index = index
        self.longest = 0  # messages that an answer may have
        self.waits: list[int] = []

    def receive(self, max_messages, wait_seconds, visibility_seconds, attempt_id=""):
        self.process.asked[self.index] += max_messages
        self.process.begun[self.index].append(self.process.clock.now())
        self.waits.append(wait_seconds)
        self.process.look()
        try:
            self.process.clock.sleep(0.01)
            found = super().receive(max_messages, wait_seconds, visibility_seconds, attempt_id)
            if self.longest and len(found) > self.longest:
                raise QueueError("the answer is too large", "AnswerTooLarge")
            return found
        finally:
            self.process.asked[self.index] -= max_messages


@pytest.fixture(scope="module")
def alone() -> float:
    """Messages a second of one busy queue that has the process to itself: a hundred at once, of 200 ms each."""
    process = Process(1, 100)
    process.put(0, 10_000)
    process.clock.advance(2)
    return process.rate(0, 10)


def next_ask(brought: int, most: int) -> int:
    asks = Asks(most, fifo=False)
    asks.brought = brought
    return asks.number(alone=False, now=0.0)


def test_a_poll_asks_for_twice_what_the_last_one_brought():
    assert list(itertools.accumulate(range(5), lambda got, _: next_ask(got, 10), initial=1)) == [1, 2, 4, 8, 10, 10]
    assert next_ask(0, 10) == 1
    assert next_ask(7, 10) == 10
    assert next_ask(5, 3) == 3
    assert next_ask(0, 1) == 1


@pytest.mark.slow
@pytest.mark.parametrize("queues", [2, 5, 20, 100])
def test_a_busy_queue_beside_quiet_ones_has_nine_tenths_of_what_it_does_alone(alone, queues):
    process = Process(queues, 100)
    process.put(0, 15_000)
    process.clock.advance(12)  # two seconds after the start it is known who is quiet; of 100, once they took turns
    rate = process.rate(0, 10)
    assert rate >= 0.87 * alone, f"{rate} a second, alone {alone}"


def test_a_burst_after_a_quiet_hour_has_its_permits_within_one_long_poll(alone):
    process = Process(20, 100)
    process.clock.advance(3_600)
    process.put(0, 30_000)
    process.clock.advance(1)
    assert process.rate(0, 18) >= 0.78 * alone
    process.clock.advance(1)
    assert process.rate(0, 10) >= 0.87 * alone


def test_an_idle_hour_costs_a_hundred_and_eighty_receives_a_queue():
    process = Process(20, 100)
    process.clock.advance(60)
    before = [queue.calls["receive"] for queue in process.queues]
    process.clock.advance(3_600)
    receives = [queue.calls["receive"] - number for queue, number in zip(process.queues, before, strict=True)]
    assert all(179 <= number <= 181 for number in receives)


@pytest.mark.slow
@pytest.mark.parametrize(("queues", "total", "busy"), [(20, 100, 1), (20, 100, 2), (100, 100, 1), (5, 5, 1)])
def test_while_one_is_hungry_each_quiet_queue_is_looked_into_within_ten_seconds(queues, total, busy):
    process = Process(queues, total)
    for index in range(busy):
        process.put(index, 20_000)
    process.clock.advance(20)
    began = process.clock.now()
    process.clock.advance(25)
    for index in range(busy, queues):
        polls = [when for when in process.begun[index] if when >= began - 20]
        waits = process.queues[index].waits[-len(polls) :]
        idle = [after - (when + wait) for when, wait, after in zip(polls, waits, polls[1:], strict=False)]
        assert max(idle, default=0) <= QUIET_WAIT_SECONDS + 1.5, index
        assert len(polls) <= 45 / 1.0


@pytest.mark.slow
def test_a_message_in_a_quiet_queue_is_there_within_ten_seconds_and_a_burst_of_it_gets_half():
    process = Process(20, 100)
    process.put(0, 40_000)
    process.clock.advance(15)
    for index in range(1, 20):
        process.put(index)
    process.clock.advance(QUIET_WAIT_SECONDS + 2)
    assert all(process.done[index] == 1 for index in range(1, 20))
    process.put(7, 20_000)
    process.clock.advance(QUIET_WAIT_SECONDS + 2)
    before = process.done.copy()
    process.clock.advance(10)
    first, second = process.done[0] - before[0], process.done[7] - before[7]
    assert 0.8 <= first / second <= 1.25
    assert first + second >= 0.85 * 10 * 480


@pytest.mark.slow
def test_polls_of_a_busy_queue_that_becomes_quiet_give_their_permits_to_another_within_seconds(alone):
    process = Process(20, 100)
    for index in range(20):
        process.put(index, 200)
    process.clock.advance(15)
    assert all(process.done[index] == 200 for index in range(20))
    process.put(0, 30_000)
    process.clock.advance(11)
    assert process.rate(0, 10) >= 0.87 * alone


def test_of_those_who_wait_the_queue_that_holds_least_is_served_first():
    clock = VirtualClock()
    permits = Permits(20, 2, clock)
    more, less = permits.share(0), permits.share(0)
    for share, number in ((more, 10), (less, 8), (more, 2)):
        assert share.acquire(number, patient=False) == number
        share.polled(number, number)
    waiting = []
    for share in (more, less):
        waiting.append(gevent.spawn(share.acquire, 1, patient=False))
        settle()
    less.release()
    settle()
    assert [greenlet.ready() for greenlet in waiting] == [False, True]
    clock.advance(1.1)  # the other is not hungry any more
    more.release()
    settle()
    assert waiting[0].ready()


@pytest.mark.slow
def test_two_busy_queues_have_half_each_also_where_the_handlers_of_one_are_slow():
    process = Process(3, 100)
    process.work[0] = 10.0
    process.put(0, 5_000)
    process.put(1, 30_000)
    process.clock.advance(30)
    shares = []
    for _ in range(30):
        process.clock.advance(1)
        shares.append((process.held[0], process.held[1]))
    slow, fast = (sum(column) / len(shares) for column in zip(*shares, strict=True))
    assert slow <= 60
    assert fast >= 35


def test_a_queue_whose_messages_never_end_does_not_stop_the_others():
    process = Process(20, 100)
    process.hanging = {0}
    process.put(0, 1_000)
    process.clock.advance(30)
    assert process.held[0] == 90
    for index in (3, 11):
        process.put(index, 200)
    process.clock.advance(60)
    assert process.done[3] == process.done[11] == 200


def test_five_queues_with_five_permits_work_side_by_side():
    process = Process(5, 5)
    process.put(0, 10_000)
    process.clock.advance(30)
    assert process.rate(0, 30) >= 0.75 * 5 / 0.2 * 0.9  # four of five; the fifth is for the others
    process.hanging = {0}
    process.put(1, 20)
    process.clock.advance(120)
    assert process.done[1] == 20


def test_a_queue_at_its_own_cap_makes_no_other_take_turns():
    process = Process(20, 100, caps={0: 5})
    process.put(0, 5_000)
    process.clock.advance(60)
    assert process.held[0] + process.asked[0] <= 5
    before = process.queues[9].calls["receive"]
    process.clock.advance(200)
    assert 9 <= process.queues[9].calls["receive"] - before <= 11


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_what_is_asked_for_can_be_held_and_nobody_starves_whatever_comes_when(seed):
    dice = random.Random(seed)
    queues = dice.choice([2, 3, 5, 12, 40])
    total = max(queues, dice.choice([5, 12, 40, 100]))
    caps = {index: dice.randint(1, total) for index in range(queues) if dice.random() < 0.2}
    process = Process(queues, total, caps, pollers=dice.choice([1, 2, 4]), wait_seconds=dice.choice([1, 5, 20]))
    for index in range(queues):
        process.work[index] = dice.choice([0.0, 0.05, 0.2, 1.0])
    sent = Counter[int]()
    for _ in range(60):
        for index in range(queues):
            if dice.random() < 0.2:
                number = dice.choice([1, 1, 3, 20, 60])
                process.put(index, number)
                sent[index] += number
        process.clock.advance(dice.choice([0.1, 1.0, 3.0]))
        process.look()
    process.clock.advance(60 + sent.total() * 1.1 / total)
    process.look()
    assert process.done == sent
    assert process.held.total() == 0
    for pollers in process.pollers:
        pollers.stop()
    process.clock.advance(21)
    assert all(pollers.ended.is_set() for pollers in process.pollers)
    assert process.permits.free == total


@pytest.mark.parametrize("queues", [1, 2])
def test_after_an_answer_that_was_too_large_fewer_messages_are_asked_for_and_all_are_handled(queues):
    process = Process(queues, 100, visibility_seconds=30)
    queue = process.queues[0]
    queue.longest = 3
    process.put(0, 100)
    process.clock.advance(600)
    assert process.done[0] == 100
    asked = [number for (number,) in queue.batches["receive"]]
    first = next(index for index, number in enumerate(asked) if number <= 3)
    assert max(asked[first + 8 : first + 30]) <= 3  # those that were open then have ended
    queue.longest = 0
    process.clock.advance(1_000)
    process.put(0, 1_000)
    process.clock.advance(1)
    assert max(number for (number,) in queue.batches["receive"][-60:]) == 10


def test_fewer_messages_are_asked_for_down_to_one_and_one_more_each_minute():
    process = Process(1, 100, visibility_seconds=1, pollers=1, wait_seconds=1)
    queue = process.queues[0]
    queue.longest = 1
    process.put(0, 20)
    process.clock.advance(40)
    assert [number for (number,) in queue.batches["receive"]][:4] == [10, 5, 2, 1]
    assert process.done[0] == 20
    queue.longest = 0
    process.clock.advance(600)
    asked = [number for (number,) in queue.batches["receive"]][4:]
    assert asked == sorted(asked)
    assert all(25 <= asked.count(number) <= 62 for number in range(2, 10))
    assert asked[-1] == 10


def test_a_quiet_queue_has_its_turn_also_where_the_busy_ones_always_wait():
    process = Process(5, 10)
    for index in range(4):
        process.work[index] = 4.0
        process.put(index, 2_000)
    process.clock.advance(100)
    before = len(process.begun[4])
    process.clock.advance(200)
    assert len(process.begun[4]) - before >= 6


def taken(share, number: int) -> None:
    """So many permits are with messages of this queue."""
    while number:
        got = share.acquire(min(number, 10), patient=False)
        share.polled(got, got)
        number -= got


def waiting(share, want: int = 1, quiet: bool = False) -> gevent.Greenlet:
    greenlet = gevent.spawn(share.acquire, want, False, quiet)
    settle()
    return greenlet


@pytest.mark.parametrize(("total", "spare"), [(39, 1), (40, 2)])
def test_while_one_that_holds_less_is_hungry_a_twentieth_of_all_is_left_free(total, spare):
    permits = Permits(total, 2, VirtualClock())
    less, more = permits.share(0), permits.share(0)
    taken(less, 10)
    taken(more, total - 10)
    patient = gevent.spawn(less.acquire, 10, patient=True)
    settle()
    next_one = waiting(more)
    released = 0
    while not next_one.ready():
        more.release()
        settle()
        released += 1
    assert released == spare + 1
    assert not patient.ready()


def test_the_turn_of_a_quiet_queue_that_is_over_is_anothers_at_once_though_a_busy_one_waits_for_more():
    permits = Permits(20, 3, VirtualClock())
    busy, quiet = permits.share(0), permits.share(0)
    taken(busy, 18)
    looks = [waiting(quiet, quiet=True) for _ in range(2)]
    assert all(look.ready() for look in looks)
    hungry = gevent.spawn(permits.share(0).acquire, 10, patient=True)
    settle()
    third = waiting(quiet, quiet=True)
    assert not third.ready()
    quiet.polled(1, 0, quiet=True)
    settle()
    assert third.ready()
    assert not hungry.ready()


def test_a_new_queue_asks_for_one_message_and_looks_briefly_then_ever_longer():
    process = Process(3, 100)
    process.clock.advance(60)
    assert [asked for (asked,) in process.queues[0].batches["receive"]][:4] == [1] * 4
    assert process.queues[0].waits[:4] == [2, 8, 20, 20]


def test_a_queue_at_its_own_cap_is_not_hungry_where_all_permits_are_taken_either():
    permits = Permits(20, 2, VirtualClock())
    capped, other = permits.share(5), permits.share(0)
    taken(capped, 5)
    taken(other, 15)
    at_its_cap, next_one = waiting(capped), waiting(other)
    other.release()
    settle()
    assert (at_its_cap.ready(), next_one.ready()) == (False, True)


def test_a_queue_whose_open_polls_hold_half_of_all_is_not_hungry_while_permits_are_free():
    permits = Permits(40, 3, VirtualClock())
    polling, quiet = permits.share(0), permits.share(0)
    polls = [waiting(polling, 10) for _ in range(3)]
    assert [poll.ready() for poll in polls] == [True, True, False]
    looks = [waiting(quiet, quiet=True) for _ in range(6)]
    assert all(look.ready() for look in looks)  # they need not take turns


def test_a_strict_queue_that_falls_quiet_while_it_is_hungry_leaves_no_other_waiting():
    """Quiet by hand, or its breaker open: it asks for nothing more, and no permit comes back that would wake them."""
    clock = VirtualClock()
    permits = Permits(10, 2, clock, strict=True)
    heavy, light = permits.share(0, 50.0), permits.share(0, 1.0)
    taken(heavy, 9)
    taken(light, 1)
    hungry, other = waiting(heavy), waiting(light)
    settle()
    heavy.dismiss()
    heavy.polled(9, 0)
    light.polled(1, 0)
    settle()
    assert hungry.ready()
    assert not other.ready()
    clock.advance(2 * HUNGRY_SECONDS)
    assert other.ready()
    assert other.value == 1


@pytest.mark.parametrize("seed", range(30))
def test_no_permit_is_lost_and_each_who_waits_is_served_whatever_comes_when(seed):
    """Held messages, weights that change, strict or not: permits free and in hand are always all of them."""
    dice, clock = random.Random(seed), VirtualClock()
    total, queues = dice.choice([2, 5, 10, 40]), dice.randint(2, 5)
    permits = Permits(total, queues, clock, strict=seed % 2 == 0)
    shares = [permits.share(dice.choice([0, 0, 3]), dice.choice([1.0, 2.0, 100.0])) for _ in range(queues)]
    polls, held, waiters = [], dict.fromkeys(shares, 0), []

    def ask(share, want, patient, quiet):
        if number := share.acquire(want, patient, quiet):
            polls.append((share, number, quiet))

    def end_poll(part):
        share, number, quiet = polls.pop()
        share.polled(number, round(number * part), quiet)
        held[share] += round(number * part)

    for _ in range(150):
        share = dice.choice(shares)
        share.weight = dice.choice([share.weight, share.weight, 1.0, 50.0])
        waiters.append(gevent.spawn(ask, share, dice.randint(1, 10), dice.random() < 0.5, dice.random() < 0.3))
        settle()
        if polls and dice.random() < 0.7:
            end_poll(dice.random())
        for one in shares:
            if held[one] and dice.random() < 0.5:
                dice.choice([one.release, lambda one=one: (one.park(), one.unpark(), one.release())])()
                held[one] -= 1
        assert permits.free + sum(one.held for one in shares) == total
    for _ in range(400):
        while polls:
            end_poll(0)
        for one in shares:
            one.release(held[one])
            held[one] = 0
        clock.advance(1.0)
        settle()
    assert [one.ready() for one in waiters] == [True] * 150
    assert permits.free == total
