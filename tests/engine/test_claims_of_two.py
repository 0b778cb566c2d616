"""Two processes and one event: one is stopped, killed, or late. Each has a clock of its own, which can stand still."""

import json

import pytest
from gevent.event import Event

from chaos.simulation.clock import ProcessClock, WorldClock
from millpond.claims.claim import Busy
from tests.engine.claimed import DOWN, Effects, Store, body, worker
from tests.engine.wired import give_out_again
from tests.fakes import FakeQueue
from tests.virtual import settle

pytestmark = pytest.mark.usefixtures("no_core_greenlet_died")
KEY = "job e1"
SETTINGS = {"visibility_seconds": 30, "timeout": 1_000, "wait_seconds": 1}


class Process:
    """A worker whose handler takes `seconds`; see Effects for `steps`."""

    def __init__(self, world, seconds, steps):
        self.clock = ProcessClock(world.clock)
        self.effects = Effects(self.clock, seconds, steps)
        self.rig = worker(self.clock, world.store, self.effects, world.queue, **SETTINGS)

    def stop(self, seconds):
        """SIGSTOP, and SIGCONT then. It receives no more."""
        self.rig.consumer.pollers.stop()
        self.clock.stand_still(seconds)

    def kill(self):
        """Nothing of it goes on from here."""
        self.rig.consumer.pollers.stop()
        self.clock.dead = True

    @property
    def done(self):
        return self.effects.done

    def causes(self):
        return [outcome.cause for _, outcome in self.rig.ended]


class World:
    """One queue and one store; each worker gets a clock of its own."""

    def __init__(self):
        self.clock = WorldClock()
        self.store = Store(self.clock)
        self.queue = FakeQueue(self.clock)

    def worker(self, seconds=0.0, steps=None):
        return Process(self, seconds, steps)

    def run(self, seconds):
        end = self.clock.now() + seconds
        self.clock.timer(seconds, lambda: None)
        settle()
        while self.clock.now() < end and self.clock.step():
            pass


@pytest.fixture
def world():
    return World()


def raise_down():
    raise DOWN


def by_token(store):
    """The writes of each token, and whether each was done; without those that only found another's claim."""
    done = {}
    for name, token, _, answer in store.calls:
        if not isinstance(answer, Busy):
            done.setdefault(token, []).append((name, bool(answer)))
    return list(done.values())


def test_what_a_stopped_process_still_writes_is_refused_and_the_effect_happens_once(world):
    stopped = world.worker(seconds=20)
    [one] = world.queue.put(body())
    world.run(5)
    stopped.stop(200)
    other = world.worker(seconds=20)
    world.run(190)
    assert other.done == [one]
    world.run(60)
    assert stopped.done == []
    assert stopped.effects.raised == ["LeaseLost"]
    assert by_token(world.store) == [[("claim", True)], [("claim", True), ("renew", True), ("complete", True)]]
    assert other.rig.outcomes() == {one: "succeeded"}
    assert stopped.rig.outcomes() == {one: "lease_lost"}


def test_a_stopped_process_whose_handler_was_done_does_not_mark_what_another_has_claimed(world):
    """It stood still between its effect and the done mark: the window that no store closes. Its write is refused."""
    stopped = world.worker(seconds=5)
    world.store.gates["complete"] = gate = Event()
    [one] = world.queue.put(body())
    world.run(6)
    stopped.stop(200)
    other = world.worker(seconds=200)
    world.run(100)
    gate.set()
    world.run(1)
    first, second = by_token(world.store)
    assert first == [("claim", True), ("complete", False)]
    assert ("claim", True) in second
    world.run(300)
    assert other.rig.outcomes() == {one: "succeeded"}
    assert stopped.rig.outcomes() == {one: "lease_lost"}


def test_after_a_kill_the_next_worker_takes_over_when_the_claim_and_its_margin_are_over(world):
    killed = world.worker(seconds=20)
    [one] = world.queue.put(body())
    world.run(5)
    killed.kill()
    other = world.worker()
    world.run(26)  # visible again, and claimed for five seconds more
    assert other.effects.begun == []
    assert other.causes() == ["claimed"]
    world.run(10)
    assert (killed.done, other.done) == ([], [one])


def test_a_kill_between_the_effect_and_the_done_mark_repeats_the_effect(world):
    """The window that docs/delivery.md names."""
    killed = world.worker(seconds=1)
    world.store.gates["complete"] = Event()
    [one] = world.queue.put(body())
    world.run(2)
    assert killed.done == [one]
    killed.kill()
    del world.store.gates["complete"]
    other = world.worker()
    world.run(60)
    assert other.done == [one]
    assert other.rig.outcomes() == {one: "succeeded"}


def test_a_success_that_the_store_does_not_take_within_its_lease_runs_again_where_the_event_was_sent_twice(world):
    """The window, without a death: this worker cannot reach the store, and another can."""
    cut_off = world.worker(seconds=1)
    for name in ("renew", "complete"):
        world.store.script[name] = [DOWN] * 1_000
    world.queue.put(body())
    world.run(2)
    cut_off.rig.consumer.pollers.stop()
    other = world.worker()
    world.queue.put(body())
    world.run(25)
    assert other.done == []
    world.run(30)
    assert (len(cut_off.done), len(other.effects.begun)) == (1, 1)
    world.store.script.clear()
    world.run(60)
    assert world.queue.messages == {}
    assert cut_off.causes() == ["claim_lost"]


def test_a_kill_between_the_done_mark_and_the_delete_repeats_nothing(world):
    killed = world.worker(seconds=1)
    world.queue.on_call = lambda name: killed.kill() if name == "delete" else None
    world.queue.gates["delete"] = Event()
    [one] = world.queue.put(body())
    world.run(3)
    assert world.store.names() == ["claim", "complete"]
    world.queue.on_call = lambda name: None
    del world.queue.gates["delete"]
    other = world.worker()
    world.run(60)
    assert (killed.done, other.done) == ([one], [])
    assert other.causes() == ["duplicate"]
    assert world.queue.messages == {}


def test_a_kill_between_the_follow_ups_and_the_done_mark_sends_them_again_under_the_same_ids(world):
    """They are one event: it is done once."""

    def follow_up(message):
        if message.event_id == "e1":
            message.follow_up("more")

    killed = world.worker(steps=[follow_up])
    world.store.script["complete"] = [lambda: killed.kill() or raise_down()]
    world.queue.put(body())
    world.run(1)
    assert [json.loads(one.entry.body)["event_id"] for one in world.queue.messages.values()] == ["e1", "e1/1"]
    other = world.worker(steps=[follow_up] * 3)
    world.run(120)
    assert other.done[0] == "m1"
    assert len({"m2", "m3"} & {*killed.done, *other.done}) == 1
    assert other.causes().count("duplicate") >= 1
    assert world.queue.messages == {}


def test_six_copies_of_one_event_in_one_queue_have_one_effect(world):
    workers = [world.worker(seconds=20) for _ in range(2)]
    world.queue.put(body(), 6)
    world.run(400)
    assert sum(len(one.done) for one in workers) == 1
    assert world.queue.messages == {}
    assert sum(one.causes().count("duplicate") for one in workers) == 5


def test_a_message_that_sqs_gives_to_two_workers_runs_once(world):
    first = world.worker(seconds=20)
    [one] = world.queue.put(body())
    world.run(5)
    second = world.worker(seconds=20)
    first.rig.consumer.pollers.stop()
    world.run(2)
    give_out_again(second.rig, one)
    world.run(200)
    assert first.effects.raised == ["LeaseLost"]
    assert (first.done, second.done) == ([], [one])
    assert world.queue.messages == {}


def test_clocks_that_are_four_seconds_apart_do_no_harm(world):
    """Less than the stated margin: who is ahead takes the claim when its owner, unable to renew, was interrupted."""
    behind = world.worker(seconds=1_000)
    world.store.script["renew"] = [DOWN] * 1_000
    world.queue.put(body())
    world.run(2)
    behind.rig.consumer.pollers.stop()
    ahead = world.worker(seconds=20)
    ahead.clock.time = lambda: world.clock.time() + 4
    world.queue.put(body())
    both = behind.effects, ahead.effects
    for _ in range(300):
        world.run(0.2)
        assert sum(len(one.begun) - len(one.done) - len(one.raised) for one in both) <= 1
    assert behind.effects.raised == ["ClaimLapsed"]
    assert len(ahead.done) == 1


@pytest.mark.parametrize("hours", [3, -3])
def test_a_clock_that_jumps_by_hours_lets_two_begin_at_the_most_and_only_one_of_them_marks_it_done(world, hours):
    jumping = world.worker(seconds=100)
    world.queue.put(body())
    world.run(15)
    jumping.clock.time = lambda: world.clock.time() + hours * 3_600
    jumping.rig.consumer.pollers.stop()
    right = world.worker(seconds=100)
    world.queue.put(body())
    world.run(20_000)
    marks = [name for name, _, _, answer in world.store.calls if name == "complete" and answer]
    assert len(marks) == 1
    assert len(jumping.done + right.done) == 1
    assert world.queue.messages == {}


def test_a_clock_that_is_ahead_by_more_than_records_are_kept_takes_what_was_done_for_forgotten(world):
    first = world.worker()
    world.queue.put(body())
    world.run(5)
    first.rig.consumer.pollers.stop()
    for days, done in ((6, 0), (8, 1)):
        ahead = world.worker()
        ahead.clock.time = lambda days=days: world.clock.time() + days * 86_400
        world.queue.put(body())
        world.run(5)
        ahead.rig.consumer.pollers.stop()
        assert (len(first.done), len(ahead.done)) == (1, done)
