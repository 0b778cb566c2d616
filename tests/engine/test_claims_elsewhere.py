"""Claims where more than one rule meets: FIFO groups, threads, what is held, and the books."""

import subprocess
import sys
from itertools import pairwise

import gevent
import pytest

from millpond.errors import TooFast, Unavailable
from millpond.hub.home import system
from tests.engine.claimed import Effects, Store, body, worker
from tests.rig import Rig

pytestmark = pytest.mark.usefixtures("no_core_greenlet_died")
KEY = "job e1"


@pytest.fixture
def store(clock):
    return Store(clock)


def in_real_time(clock, seconds=0.2):
    """Let the threads go on, and then the clock."""
    gevent.sleep(0.001)
    clock.advance(seconds)


def test_the_next_of_a_group_begins_when_the_one_before_it_is_done_and_deleted(clock, store):
    store.seconds = 0.2
    effects = Effects(clock, seconds=1)
    rig = worker(clock, store, effects, fifo=True)
    for number in range(3):
        rig.queue.put(body(f"e{number}"), group_id="g")
    clock.advance(10)
    begun = [at for at, _ in effects.begun]
    assert [later - before >= 1.4 for before, later in pairwise(begun)] == [True, True]
    assert rig.queue.messages == {}


def test_a_handler_in_a_thread_runs_under_a_claim_too(clock, store):
    done = []
    rig = Rig(clock, {"job": lambda payload, message: done.append(message.id)}, store=store, thread=True)
    rig.consumer.pollers.start()
    one = rig.queue.put(body())
    while not rig.ended:  # a real thread, in real time
        gevent.sleep(0.001)
        clock.advance(0.2)
    rig.queue.put(body())
    clock.advance(1)
    assert done == one
    assert store.names() == ["claim", "complete", "claim"]
    assert [outcome.cause for _, outcome in rig.ended] == ["", "duplicate"]


def test_what_runs_in_a_thread_is_done_once_where_its_claim_could_not_be_renewed_in_time(clock, store):
    """No interrupt reaches a thread: it has its effect, and its mark counts, as nobody else has claimed the event."""
    begun, end = [], system("threading", "Event")()
    works = {"job": lambda payload, message: [begun.append(1), end.wait(10)]}
    rig = Rig(clock, works, store=store, thread=True, timeout=1_000)
    rig.consumer.pollers.start()
    rig.queue.put(body())
    while not begun:
        in_real_time(clock)
    store.down = True
    clock.advance(40)
    store.down = False
    for _ in range(20):  # where a second thread would begin
        in_real_time(clock, seconds=1)
    end.set()
    while not rig.ended:
        in_real_time(clock)
    assert len(begun) == 1
    assert rig.outcomes() == {"m1": "succeeded"}
    assert store.record(KEY).done_at is not None


@pytest.mark.parametrize("max_receive_count", [0, 1])
def test_what_is_held_keeps_its_claim_and_renews_it_when_it_begins_again(clock, store, max_receive_count):
    """Its breaker is open: no write is paid for meanwhile. Another may take the event once the claim is over."""
    effects = Effects(clock, steps=[Unavailable("down", after=20)])
    rig = worker(clock, store, effects, visibility_seconds=30, max_receive_count=max_receive_count)
    [one] = rig.queue.put(body())
    clock.advance(15)
    assert store.names() == ["claim"]
    clock.advance(30)
    assert effects.done == [one]
    assert store.names() == ["claim", "renew", "complete"]


def test_what_was_kept_in_hand_does_not_run_where_another_delivery_has_done_the_event(clock, store):
    effects = Effects(clock, steps=[Unavailable("down", after=100)])
    rig = worker(clock, store, effects, visibility_seconds=30, max_receive_count=1)
    rig.queue.put(body())
    clock.advance(40)
    digest = store.record(KEY).digest
    store.memory.claim(KEY, "another", digest, clock.time() + 30, clock.time())
    store.memory.complete(KEY, "another", clock.time())
    clock.advance(100)
    assert effects.done == []
    assert [outcome.cause for _, outcome in rig.ended] == ["duplicate"]
    assert rig.queue.messages == {}


def test_at_the_last_receive_a_message_waits_in_hand_for_the_claim_of_another(clock, store):
    """Given back, SQS would move it to the dead-letter queue without a reason."""
    other = worker(clock, store, Effects(clock, seconds=20))
    other.queue.put(body())
    clock.advance(1)
    effects = Effects(clock)
    rig = worker(clock, store, effects, max_receive_count=1)
    rig.queue.put(body())
    clock.advance(200)
    assert effects.begun == []
    assert [(outcome.name, outcome.cause) for _, outcome in rig.ended] == [("discarded", "duplicate")]
    assert rig.queue.moved == []


def test_a_store_that_is_slow_holds_up_nobody_but_its_own(clock, store):
    store.seconds = 5.0
    rig = Rig(clock, {"job": Effects(clock)}, store=store)
    plain = Effects(clock)
    other = Rig(clock, {"job": plain}, queue=None)
    for one in (rig, other):
        one.consumer.pollers.start()
        one.queue.put(body(), 5)
    clock.advance(1)
    assert len(plain.done) == 5


def test_the_log_says_once_a_minute_that_the_store_is_down_and_that_it_is_back(clock, store, caplog):
    rig = worker(clock, store, Effects(clock))
    caplog.set_level("INFO")
    store.down = True
    rig.queue.put(body())
    clock.advance(150)
    store.down = False
    clock.advance(300)
    lines = [record.getMessage() for record in caplog.records if "table claims" in record.getMessage()]
    assert 1 <= len([line for line in lines if "no idempotent handler begins" in line]) <= 3
    assert any("answers again" in record.getMessage() for record in caplog.records)


def test_neither_key_nor_token_is_in_the_log_where_a_greenlet_fails(clock, store):
    rig = worker(clock, store, Effects(clock, seconds=5))
    rig.queue.put(body("secret-id"))
    clock.advance(1)
    [delivery] = rig.consumer.hand
    assert repr(delivery.claim) == "<OwnClaim ours>"


def test_the_log_says_of_a_duplicate_that_its_handler_did_not_run(clock, store, caplog):
    caplog.set_level("INFO")
    rig = worker(clock, store, Effects(clock))
    for _ in range(2):
        rig.queue.put(body())
        clock.advance(1)
    text = caplog.records[-1].getMessage()
    assert text.startswith("this event was done before: the message was deleted, and its handler did not run")


def test_a_message_whose_type_asks_for_fewer_at_a_time_keeps_its_claim_and_its_attempts(clock, store):
    effects = Effects(clock, steps=[TooFast("slower")] * 3)
    rig = worker(clock, store, effects, max_attempts=1)
    [one] = rig.queue.put(body())
    clock.advance(120)
    assert rig.outcomes() == {one: "succeeded"}
    assert store.names().count("claim") == 1
    assert "release" not in store.names()


def test_where_no_handler_is_idempotent_nothing_of_claims_is_made(clock):
    rig = Rig(clock, {"job": Effects(clock)})
    assert rig.consumer.endings.settler.claims is None
    assert rig.processor.claiming is None


def test_the_parts_of_a_worker_without_idempotent_handlers_load_no_client_of_dynamodb():
    code = "import sys, millpond.process.wiring; print([name for name in sys.modules if 'dynamodb' in name])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_a_store_that_goes_down_under_all_handlers_stops_no_other_type(clock, store):
    plain = Effects(clock)
    rig = Rig(clock, {"job": Effects(clock, seconds=5), "plain": plain}, store=store, concurrency=20)
    rig.consumer.pollers.start()
    for number in range(20):
        rig.queue.put(body(f"e{number}"))
    clock.advance(2)
    store.down = True
    clock.advance(10)  # all have ended, and wait for the store
    rig.put("plain", number=50)
    clock.advance(30)
    assert len(plain.done) == 50
    assert rig.consumer.in_hand == 20
