"""A claim while its handler runs, and at its end: renewed with the beats, closed before the message is settled."""

from contextlib import suppress
from types import SimpleNamespace

import pytest
from gevent.event import Event

from millpond.app.config import RetrySettings
from millpond.app.routing import Route
from millpond.engine.outcomes import of_interrupt
from millpond.engine.own_claim import ClaimLapsed
from millpond.engine.settler import GIVE_UP_SECONDS
from millpond.errors import ClaimStoreError, Reject, Stopped, Unavailable
from tests.engine.claimed import DOWN, Effects, Store, body, worker
from tests.engine.wired import BROKEN, drain, give_out_again

pytestmark = pytest.mark.usefixtures("no_core_greenlet_died")
KEY = "job e1"


@pytest.fixture
def store(clock):
    return Store(clock)


def causes(rig):
    return [(outcome.name, outcome.cause) for _, outcome in rig.ended]


def take_away(store, clock):
    """Another delivery claims the event, as soon as it can."""
    record = store.record(KEY)
    store.memory.claim(KEY, "another", record.digest, clock.time() + 1_000, record.lease_until + 6)


# While its handler runs


def test_a_claim_is_renewed_after_each_confirmed_beat_and_lasts_as_long_as_the_lease(clock, store):
    rig = worker(clock, store, Effects(clock, seconds=100), visibility_seconds=30, timeout=1_000)
    rig.queue.put(body())
    clock.advance(95)
    [delivery] = rig.consumer.hand
    assert store.names() == ["claim"] + ["renew"] * 9
    assert store.record(KEY).lease_until == pytest.approx(1_700_000_000 + delivery.lease.deadline)
    assert delivery.claim.until == delivery.lease.deadline


def test_short_work_pays_for_no_renewal(clock, store):
    rig = worker(clock, store, Effects(clock, seconds=9), visibility_seconds=30)
    rig.queue.put(body())
    clock.advance(20)
    assert store.names() == ["claim", "complete"]


def test_a_beat_that_is_not_confirmed_renews_nothing(clock, store):
    rig = worker(clock, store, Effects(clock, seconds=100), visibility_seconds=30, timeout=1_000)
    rig.queue.script["change_visibility"] = [BROKEN] * 50
    rig.queue.put(body())
    clock.advance(25)
    assert store.names() == ["claim"]


def test_one_renewal_is_on_its_way_at_most_and_the_beats_meanwhile_are_followed_by_one(clock, store):
    rig = worker(clock, store, Effects(clock, seconds=100), visibility_seconds=30, timeout=1_000)
    store.script["renew"] = [lambda: clock.sleep(15)]
    rig.queue.put(body())
    clock.advance(29)
    assert store.names() == ["claim", "renew", "renew"]
    [delivery] = rig.consumer.hand
    assert delivery.claim.until == delivery.lease.deadline


def test_who_loses_the_claim_is_interrupted_and_writes_nothing_more(clock, store):
    effects = Effects(clock, seconds=100)
    rig = worker(clock, store, effects, visibility_seconds=30, timeout=1_000)
    [one] = rig.queue.put(body())
    clock.advance(5)
    take_away(store, clock)
    clock.advance(6)
    assert effects.raised == ["ClaimLost"]
    assert causes(rig) == [("lease_lost", "claim_lost")]
    assert store.names() == ["claim", "renew"]
    assert store.calls[-1][-1] is False
    assert store.record(KEY).token == "another"
    assert one in rig.queue.messages


def test_a_handler_whose_claim_cannot_be_renewed_is_interrupted_when_it_ends_and_waits_for_the_store(clock, store):
    effects = Effects(clock, seconds=100)
    rig = worker(clock, store, effects, visibility_seconds=30, timeout=1_000)
    rig.queue.put(body())
    clock.advance(5)
    store.down = True
    clock.advance(23)
    assert effects.raised == []
    clock.advance(2)
    assert effects.raised == ["ClaimLapsed"]
    clock.advance(300)
    assert effects.done == []
    store.down = False
    clock.advance(400)
    assert len(effects.done) == 1
    assert effects.raised == ["ClaimLapsed"]
    assert rig.queue.messages == {}


@pytest.mark.parametrize(
    ("thread", "ends"), [(False, ("retried", "unavailable")), (True, ("lease_lost", "claim_lost"))]
)
def test_what_runs_on_in_its_thread_without_its_claim_is_not_held(thread, ends):
    route = Route("job", "tests.job", bytes, print, thread=thread)
    outcome = of_interrupt(ClaimLapsed("late"), SimpleNamespace(stood_at=""), RetrySettings(), route)
    assert (outcome.name, outcome.cause) == ends


def test_a_handler_that_goes_on_in_spite_of_its_claims_end_is_left_to_another_delivery(clock, store):
    """Held, it would begin again beside itself."""
    over = []

    def stubborn(payload, message):
        while not over:
            with suppress(BaseException):
                clock.sleep(1_000)

    rig = worker(clock, store, stubborn, visibility_seconds=30, timeout=10_000)
    rig.queue.put(body())
    clock.advance(5)
    store.down = True
    clock.advance(50)
    assert causes(rig) == [("lease_lost", "claim_lost")]
    assert rig.consumer.hold.number == 0
    over.append(True)
    clock.advance(1_000)


def test_a_renewal_that_gets_through_before_the_claim_ends_saves_the_handler(clock, store):
    effects = Effects(clock, seconds=100)
    rig = worker(clock, store, effects, visibility_seconds=30, timeout=1_000)
    store.script["renew"] = [ClaimStoreError("down")] * 8
    rig.queue.put(body())
    clock.advance(101)
    assert effects.raised == []
    assert len(effects.done) == 1


def test_a_claim_that_was_renewed_as_its_message_began_again_does_not_end_when_the_old_one_would_have(clock, store):
    effects = Effects(clock, seconds=11, steps=[Unavailable("down", after=11)])
    rig = worker(clock, store, effects, visibility_seconds=30, timeout=1_000)
    rig.queue.put(body())
    clock.advance(9)
    store.down = True  # the renewal at 10 s fails, until the handler ends
    clock.advance(3)
    store.down = False
    clock.advance(30)
    assert len(effects.begun) == 2
    assert effects.raised == []
    assert rig.outcomes() == {"m1": "succeeded"}


def test_a_handler_that_may_finish_without_its_lease_may_finish_without_its_claim(clock, store):
    effects = Effects(clock, seconds=100)
    rig = worker(clock, store, effects, visibility_seconds=30, timeout=1_000, finishes=True)
    [one] = rig.queue.put(body())
    clock.advance(5)
    take_away(store, clock)
    clock.advance(100)
    assert (effects.raised, effects.done) == ([], [one])
    assert causes(rig) == [("lease_lost", "claim_lost")]
    assert one in rig.queue.messages


def test_the_claim_goes_on_while_follow_ups_are_sent(clock, store):
    rig = worker(clock, store, Effects(clock, steps=[lambda message: message.follow_up("more")]), visibility_seconds=30)
    rig.queue.script["send"] = [BROKEN] * 30
    rig.queue.put(body())
    clock.advance(45)
    assert store.names()[:4] == ["claim", "renew", "renew", "renew"]


# At its end


def test_a_renewal_that_is_refused_while_the_mark_waits_is_not_asked_for_again_and_again(clock, store):
    """It was, without a pause: the process stood still until the store took or refused the mark."""
    worker(clock, store, Effects(clock, seconds=1), visibility_seconds=30).queue.put(body())
    store.script["complete"] = [DOWN] * 1_000
    store.script["renew"] = [lambda: None] * 20 + [DOWN] * 1_000  # else this test would not end
    clock.advance(5)
    take_away(store, clock)
    clock.advance(6)
    assert [answer for name, _, _, answer in store.calls if name == "renew"] == [False]


def test_while_the_store_does_not_take_the_mark_the_claim_is_renewed_and_nobody_repeats_the_effect(clock, store):
    effects = Effects(clock, seconds=1)
    rig = worker(clock, store, effects, visibility_seconds=30)
    store.script["complete"] = [lambda: clock.sleep(100)]  # under way, and not answered
    rig.queue.put(body())
    clock.advance(60)
    again = worker(clock, store, effects)
    again.queue.put(body())  # the producer has sent the event twice
    clock.advance(30)
    assert len(effects.done) == 1
    clock.advance(200)
    assert len(effects.done) == 1
    assert store.names().count("complete") == 1
    assert rig.queue.messages == again.queue.messages == {}


@pytest.mark.parametrize("step", ["lost", ClaimStoreError("down")])
@pytest.mark.parametrize("name", ["complete", "release"])
def test_what_a_claim_needs_at_its_end_is_written_until_the_store_has_answered(clock, store, step, name):
    steps = [ValueError("x")] if name == "release" else []
    rig = worker(clock, store, Effects(clock, steps=steps))
    store.script[name] = [step] * 3
    rig.queue.put(body())
    clock.advance(300)
    assert rig.queue.messages == {}
    assert [outcome.name for _, outcome in rig.ended][-1] == "succeeded"
    assert store.record(KEY).done_at is not None
    assert all(answer for called, _, _, answer in store.calls if called == name)


def test_a_success_waits_for_the_store_in_hand_for_as_long_as_it_is_down(clock, store):
    rig = worker(clock, store, Effects(clock, seconds=1), visibility_seconds=30)
    rig.queue.put(body())
    clock.advance(0.5)
    store.down = True
    clock.advance(3_600)
    assert rig.consumer.in_hand == 1
    assert rig.queue.deleted == {}
    store.down = False
    clock.advance(5)
    assert rig.outcomes() == {"m1": "succeeded"}
    assert sum(rig.queue.deleted.values()) == 1


def test_a_success_whose_claim_is_another_deliverys_is_not_deleted(clock, store):
    rig = worker(clock, store, Effects(clock, seconds=9), visibility_seconds=30)
    [one] = rig.queue.put(body())
    clock.advance(5)
    take_away(store, clock)
    clock.advance(5)
    assert causes(rig) == [("lease_lost", "claim_lost")]
    assert one in rig.queue.messages
    assert store.record(KEY).done_at is None


def test_follow_ups_are_sent_before_the_event_is_done(clock, store):
    """A crash between the two sends them again, and never forgets them."""
    rig = worker(clock, store, Effects(clock, steps=[lambda message: message.follow_up("more")]))
    order = []
    rig.queue.on_call = lambda name: order.append((name, store.names()[-1])) if name in ("send", "delete") else None
    rig.queue.put(body())
    clock.advance(0.05)
    assert order[:2] == [("send", "claim"), ("delete", "complete")]


def test_a_dead_letter_that_is_not_taken_puts_the_message_off_with_one_failure_more(clock, store):
    rig = worker(clock, store, Effects(clock, steps=[Reject("wrong")]))
    rig.dead.script["send"] = [BROKEN] * 1_000
    rig.queue.put(body())
    clock.advance(8)
    assert rig.ended[0][1].name == "retried"
    assert store.calls[1][:1] + store.calls[1][2:] == ("release", 1, True)


def test_a_drain_gives_back_what_the_store_does_not_answer_in_time_and_leaves_its_claim(clock, store):
    rig = worker(clock, store, Effects(clock, seconds=100), timeout=1_000, wait_seconds=1)
    [one] = rig.queue.put(body())
    clock.advance(5)
    store.down = True
    drain(rig, clock, 20)
    rig.consumer.interrupt(Stopped)
    clock.advance(3)
    assert rig.outcomes() == {one: "released"}
    assert rig.queue.messages[one].visible_at <= clock.now()
    assert store.record(KEY).lease_until > clock.time()


def test_a_drain_waits_for_no_claim_that_the_store_does_not_answer(clock, store):
    effects = Effects(clock)
    rig = worker(clock, store, effects, wait_seconds=1)
    store.gates["claim"] = gate = Event()
    [one] = rig.queue.put(body())
    clock.advance(5)
    drain(rig, clock, 20)
    rig.consumer.interrupt(Stopped)
    clock.advance(1)
    assert rig.outcomes() == {one: "released"}
    gate.set()  # the answer comes when the message is another worker's already: the claim is given up
    clock.advance(1)
    assert effects.begun == []
    assert store.names() == ["claim", "release"]
    assert rig.consumer.in_hand == 0


def test_a_drain_without_an_end_gives_up_a_success_that_the_store_never_takes(clock, store):
    rig = worker(clock, store, Effects(clock, seconds=1), wait_seconds=1)
    [one] = rig.queue.put(body())
    clock.advance(0.5)
    store.down = True
    drain(rig, clock, 1_000_000)
    clock.advance(GIVE_UP_SECONDS - 1)
    assert rig.consumer.in_hand == 1
    clock.advance(5)
    assert rig.consumer.in_hand == 0
    assert rig.books.abandoned == 1
    assert one in rig.queue.messages


def test_what_is_delivered_again_while_its_claim_is_closed_is_settled_once(clock, store):
    rig = worker(clock, store, Effects(clock, seconds=1), visibility_seconds=30)
    [one] = rig.queue.put(body())
    clock.advance(0.5)
    store.down = True
    clock.advance(5)
    give_out_again(rig, one)
    clock.advance(5)
    store.down = False
    clock.advance(5)
    assert rig.outcomes() == {one: "succeeded"}
    assert rig.queue.messages == {}


def test_a_claim_that_is_asked_for_twice_lasts_as_the_first_write_says_until_it_is_renewed(clock, store):
    """The answer to the first was lost: its record stands, with the older end."""
    rig = worker(clock, store, Effects(clock, seconds=20), visibility_seconds=12)
    store.script["claim"] = ["lost"]
    rig.queue.put(body())
    clock.advance(0.1)
    store.down = True
    clock.advance(5)  # a beat is confirmed meanwhile
    store.down = False
    while len(store.calls) < 2:
        clock.advance(0.01)
    [delivery] = rig.consumer.hand
    assert store.names() == ["claim", "claim", "renew"]
    assert len({token for _, token, _, _ in store.calls}) == 1
    assert store.record(KEY).lease_until + 0.001 >= 1_700_000_000 + delivery.claim.until
