"""An idempotent handler runs an event once, in however many workers it arrives."""

import pytest

from millpond.errors import Discard, Reject, Retry, Unavailable
from tests.engine.claimed import Effects, Store, body, worker
from tests.engine.wired import give_out_again

pytestmark = pytest.mark.usefixtures("no_core_greenlet_died")
KEY = "job e1"


@pytest.fixture
def store(clock):
    return Store(clock)


def test_an_event_that_was_done_is_deleted_and_not_done_again(clock, store):
    effects = Effects(clock)
    rig = worker(clock, store, effects)
    [first] = rig.queue.put(body())
    clock.advance(1)
    rig.queue.put(body())
    clock.advance(1)
    assert effects.done == [first]
    assert rig.queue.messages == {}
    assert store.names() == ["claim", "complete", "claim"]
    assert [(outcome.name, outcome.cause) for _, outcome in rig.ended if outcome.cause] == [("discarded", "duplicate")]
    assert rig.books.causes["duplicate"] == 1


def test_a_success_is_written_at_the_store_before_its_message_is_deleted(clock, store):
    rig = worker(clock, store, Effects(clock))
    seen = []
    rig.queue.on_call = lambda name: seen.append((name, store.names()[-1])) if name == "delete" else None
    rig.queue.put(body())
    clock.advance(1)
    assert seen == [("delete", "complete")]


def test_what_another_worker_runs_is_given_back_until_that_claim_ends_and_no_attempt_is_counted(clock, store):
    effects = Effects(clock, seconds=20)
    mine, other = (worker(clock, store, effects, visibility_seconds=30, wait_seconds=1) for _ in range(2))
    mine.queue.put(body())
    clock.advance(1)
    [copy] = other.queue.put(body())
    clock.advance(1)
    [(_, outcome)] = other.ended
    assert (outcome.name, outcome.cause) == ("released", "claimed")
    assert outcome.delay_seconds == pytest.approx(30 + 5 - 2, abs=1)
    clock.advance(60)
    assert len(effects.done) == 1
    assert other.outcomes() == {copy: "discarded"}
    assert other.queue.messages == {}


def test_an_event_id_with_another_payload_is_a_dead_letter_with_the_reason(clock, store):
    rig = worker(clock, store, Effects(clock))
    rig.queue.put(body(payload=1))
    clock.advance(1)
    rig.queue.put(body(payload=2))
    clock.advance(1)
    assert rig.letters() == ["its event_id was used before, for another payload: give each event an id of its own"]
    assert store.record(KEY).done_at is not None


def test_a_store_that_is_down_is_no_licence_to_repeat(clock, store):
    effects = Effects(clock)
    rig = worker(clock, store, effects)
    store.down = True
    rig.queue.put(body())
    clock.advance(300)
    assert effects.begun == []
    store.down = False
    clock.advance(300)
    assert len(effects.done) == 1
    assert rig.queue.messages == {}


@pytest.mark.parametrize(
    ("step", "name", "failures"),
    [(ValueError("x"), "retried", 1), (Retry("x"), "retried", 1), (Unavailable("x", after=5), "retried", 0)],
)
def test_before_a_message_is_visible_again_its_claim_is_released_with_its_failures(clock, store, step, name, failures):
    rig = worker(clock, store, Effects(clock, steps=[step]))
    seen = []
    rig.queue.on_call = lambda call: seen.append(store.names()[-1]) if call == "change_visibility" else None
    rig.queue.put(body())
    clock.advance(0.2)
    if failures:
        assert seen == ["release"]
        assert store.calls[-1][2] == failures
        assert store.record(KEY).failures == failures
    clock.advance(120)
    assert rig.queue.messages == {}
    assert store.record(KEY).done_at is not None


def test_what_its_handler_discards_is_done(clock, store):
    rig = worker(clock, store, Effects(clock, steps=[Discard("no need")]))
    rig.queue.put(body())
    clock.advance(1)
    assert store.names() == ["claim", "complete"]
    assert rig.queue.messages == {}


def test_a_dead_letter_forgets_the_claim_so_that_a_redrive_runs(clock, store):
    effects = Effects(clock, steps=[Reject("wrong")])
    rig = worker(clock, store, effects)
    order = []
    rig.dead.on_call = lambda name: order.append(name)
    rig.queue.on_call = lambda name: order.append((name, *store.names()[-1:])) if name == "delete" else None
    rig.queue.put(body())
    clock.advance(1)
    assert order == ["send", ("delete", "release")]
    assert store.calls[-1][2:] == (None, True)
    assert store.record(KEY).expires <= clock.time()
    [letter] = rig.dead.messages.values()
    rig.queue.put(letter.entry.body)  # an operator sends it back
    clock.advance(1)
    assert len(effects.done) == 1


def test_a_message_that_is_redelivered_in_hand_keeps_its_claim(clock, store):
    effects = Effects(clock, seconds=20)
    rig = worker(clock, store, effects, visibility_seconds=60)
    [one] = rig.queue.put(body())
    clock.advance(5)
    give_out_again(rig, one)
    clock.advance(30)
    assert effects.done == [one]
    assert store.names() == ["claim", "renew", "complete"]
    assert len({token for _, token, _, _ in store.calls}) == 1
