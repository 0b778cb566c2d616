"""Where events are claimed, true failures are counted: give-backs and deploys are none."""

import pytest

from millpond.errors import Stopped, Unavailable
from tests.engine.claimed import Effects, Store, body, worker
from tests.engine.wired import drain
from tests.rig import Rig

pytestmark = pytest.mark.usefixtures("no_core_greenlet_died")
KEY = "job e1"


@pytest.fixture
def store(clock):
    return Store(clock)


def test_only_true_failures_count_towards_max_attempts(clock, store):
    """Given back by three deploys, then its first failure: it is retried as the first one."""
    effects = Effects(clock, seconds=100, steps=[ValueError("first")])
    settings = {"max_attempts": 2, "timeout": 1_000, "wait_seconds": 1}
    rig = worker(clock, store, effects, **settings)
    rig.queue.put(body())
    for _ in range(3):
        clock.advance(10)
        drain(rig, clock, 25)
        rig.consumer.interrupt(Stopped)
        clock.advance(3)
        rig.consumer.give_back_held()
        rig = worker(clock, store, effects, rig.queue, **settings)
    clock.advance(103)
    assert [number for _, _, number, _ in store.calls if isinstance(number, int)] == [0, 0, 0, 1]
    [(_, outcome)] = rig.ended
    assert (outcome.name, outcome.cause) == ("retried", "failed")
    assert store.record(KEY).failures == 1
    clock.advance(200)
    assert len(effects.done) == 1


def used_up(clock, rig):
    """The reason of the dead letter that a message ends as."""
    rig.queue.put(body())
    clock.advance(10_000)
    return rig.letters()


def test_a_dead_letter_names_its_true_failures_and_its_receives(clock, store):
    steps = [ValueError("x"), Unavailable("down", after=5), ValueError("x"), ValueError("x")]
    without = {"job": {"breaker": None}}  # else what waits for the server is held, and received once
    rig = worker(clock, store, Effects(clock, steps=list(steps)), max_attempts=3, options=without)
    [reason] = used_up(clock, rig)
    assert reason.startswith("failed 3 times, received ")
    assert "max_attempts = 3" in reason


def test_without_a_store_the_reason_says_what_is_known(clock):
    """A deploy is a receive, and nobody counts in which worker it failed."""
    effects = Effects(clock, seconds=10, steps=[ValueError("first")])
    settings = {"max_attempts": 2, "timeout": 1_000, "wait_seconds": 1}
    rig = Rig(clock, {"job": effects}, **settings)
    rig.consumer.pollers.start()
    rig.queue.put(body())
    clock.advance(5)
    drain(rig, clock, 25)
    rig.consumer.interrupt(Stopped)
    clock.advance(3)
    rig.consumer.give_back_held()
    rig = Rig(clock, {"job": effects}, queue=rig.queue, **settings)
    rig.consumer.pollers.start()
    clock.advance(30)
    [reason] = rig.letters()
    assert reason == "received 2 times; this worker saw 1 failure; max_attempts = 2"


def test_the_back_off_goes_by_failures_and_not_by_receives(clock, store):
    rig = worker(clock, store, Effects(clock, steps=[ValueError("x")] * 2), max_attempts=9, back_off=(100, 10_000))
    [one] = rig.queue.put(body())
    rig.queue.messages[one].receives = 6
    clock.advance(0.5)
    [(_, outcome)] = rig.ended
    assert 50 <= outcome.delay_seconds <= 100
    assert outcome.name == "retried"


def test_the_attempt_that_a_handler_sees_is_the_number_of_receives(clock, store):
    seen = []
    rig = worker(clock, store, Effects(clock, steps=[ValueError("x"), lambda message: seen.append(message.attempt)]))
    [one] = rig.queue.put(body())
    rig.queue.messages[one].receives = 2
    clock.advance(300)
    assert seen == [4]
