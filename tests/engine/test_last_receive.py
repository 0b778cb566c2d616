"""A message at the last receive that its queue permits: it waits in hand, or is a dead letter with its reason."""

import json
import re

import pytest

from millpond.errors import (
    Retry,
    Stopped,
    Unavailable,
)
from millpond.message import delayed, envelope_text
from tests.engine.wired import GONE, Server, fail, give_out_again, run
from tests.handlers import Gate, fine

pytestmark = pytest.mark.usefixtures("no_core_greenlet_died")


def test_a_message_that_sqs_would_move_next_is_moved_with_its_reason(clock):
    """At maxReceiveCount SQS redrives by itself, silently."""

    def handle(payload, message):
        raise Retry("not yet", after=60)

    rig = run(clock, {"job": handle}, max_receive_count=4, max_attempts=10, wait_seconds=1)
    (one,) = rig.put("job")
    for _ in range(300):
        clock.advance(1)
    assert [outcome.name for _, outcome in rig.ended] == ["retried"] * 3 + ["dead_lettered"]
    (letter,) = rig.dead.messages.values()
    reason = json.loads(letter.entry.attributes["millpond"].value)["reason"]
    assert reason == "not yet (failed 4 times; maxReceiveCount = 4 is reached, before max_attempts = 10: raise it)"
    assert rig.queue.deleted == {one: 1}


@pytest.mark.parametrize("max_receive_count", [1, 3])
def test_the_last_receive_that_the_queue_permits_is_not_spent_on_a_probe(clock, max_receive_count):
    server = Server(clock, 60)
    rig = run(clock, {"job": server}, max_receive_count=max_receive_count)
    (one,) = rig.put("job")
    clock.advance(7_200)
    assert len(server.times) >= 60
    assert rig.queue.messages[one].receives == 1
    assert not rig.dead.messages
    server.up = True
    clock.advance(61)
    assert rig.queue.deleted == {one: 1}
    assert rig.ended[-1][1].name == "succeeded"
    assert rig.consumer._share.held == rig.consumer._share.polling


@pytest.mark.parametrize(("hold_seconds", "stays"), [(91, True), (89, False)])
def test_a_message_at_its_last_receive_stays_in_hand_only_where_it_can_still_run_for_a_visibility_time_out(
    clock, hold_seconds, stays
):
    rig = run(clock, {"job": fine}, max_receive_count=1, visibility_seconds=30, hold_seconds=hold_seconds)
    one = put_early(rig, 60)
    clock.advance(10)
    assert rig.outcomes() == ({} if stays else {one: "dead_lettered"})


def test_many_messages_at_their_last_receive_all_outlast_an_outage(clock):
    server = Server(clock, 30)
    rig = run(clock, {"job": server}, max_receive_count=2, concurrency=5)
    ids = rig.put("job", {}, 12)
    clock.advance(3_600)
    server.up = True
    clock.advance(600)
    assert rig.queue.deleted == dict.fromkeys(ids, 1)
    assert not rig.dead.messages


@pytest.mark.parametrize(("dead_letters", "end"), [(True, "dead_lettered"), (False, "released")])
def test_what_stays_in_hand_through_an_outage_is_not_left_for_sqs_to_redrive_at_a_drain(clock, dead_letters, end):
    server = Server(clock, 60)
    rig = run(clock, {"job": server}, max_receive_count=1, dead_letters=dead_letters)
    (one,) = rig.put("job")
    clock.advance(10)
    assert rig.ended == []
    rig.consumer.drain(clock.now() + 25)
    rig.consumer.give_back_held()
    clock.advance(25)
    assert rig.outcomes() == {one: end}
    reason = "the worker shuts down (maxReceiveCount = 1 is reached: raise it)"
    assert rig.ended[0][1].reason == reason
    assert rig.letters() == ([reason] if dead_letters else [])
    clock.advance(120)
    assert len(server.times) == 1


def put_early(rig, seconds, payload=None):
    """What is not to be handled sooner: as a follow-up on a FIFO queue says it."""
    moment = round((rig.clock.time() + seconds) * 1000)
    body = delayed(envelope_text("job", "e", payload), moment)
    return rig.queue.put(body)[0]


@pytest.mark.parametrize("max_receive_count", [1, 2])
def test_a_message_that_comes_early_at_its_last_receive_waits_in_hand_until_its_time(clock, max_receive_count):
    ran, begun = [], clock.now()
    rig = run(
        clock, {"job": lambda payload, message: ran.append(clock.now() - begun)}, max_receive_count=max_receive_count
    )
    one = put_early(rig, 300)
    if max_receive_count == 2:  # a worker that died had it
        rig.queue.messages[one].receives = 1
    clock.advance(299)
    assert ran == rig.ended == []
    assert rig.consumer.hand.leases()
    clock.advance(2)
    assert ran == [pytest.approx(300, abs=1)]
    assert rig.queue.deleted == {one: 1}
    assert rig.queue.moved == rig.letters() == []


def test_a_message_that_must_wait_for_longer_than_it_can_be_held_is_a_dead_letter_that_says_so(clock):
    rig = run(clock, {"job": fine}, max_receive_count=1, hold_seconds=200, visibility_seconds=30)
    put_early(rig, 300)
    clock.advance(1)
    assert rig.letters() == ["its time has not come (maxReceiveCount = 1 is reached: raise it)"]
    assert rig.queue.moved == []


def test_a_message_that_waits_for_its_turn_is_a_dead_letter_with_its_reason_when_it_can_be_held_no_longer(clock):
    rig = run(clock, {"job": Server(clock, 60)}, max_receive_count=1, hold_seconds=200, visibility_seconds=30)
    ids = rig.put("job", {}, 5)
    clock.advance(180)
    assert rig.outcomes() == dict.fromkeys(ids, "dead_lettered")
    assert (
        rig.letters()
        == ["it cannot be held for longer: mail server down (maxReceiveCount = 1 is reached: raise it)"] * 5
    )
    assert rig.queue.moved == []
    assert rig.consumer.in_hand == 0


def test_what_never_began_at_its_last_receive_is_a_dead_letter_with_its_reason_in_a_drain(clock):
    gate = Gate()
    rig = run(clock, {"job": gate}, max_receive_count=1, concurrency=1, prefetch=2, wait_seconds=1)
    ids = rig.put("job", {}, 3)
    clock.advance(0.5)
    assert gate.inside == ids[:1]
    rig.consumer.drain(clock.now() + 10)
    rig.consumer.interrupt(Stopped)
    clock.advance(1.1)
    rig.consumer.give_back_held()
    clock.advance(3)
    began, *others = rig.letters()
    assert re.fullmatch(
        r"the worker shuts down; .* at tests/handlers\.py:\d+ in .* \(maxRec.* = 1 is reached: .*\)", began
    )
    assert others == ["the worker shuts down (maxReceiveCount = 1 is reached: raise it)"] * 2
    assert rig.queue.messages == {}


def test_what_stands_behind_a_failed_one_of_its_group_at_its_last_receive_is_a_dead_letter_with_its_reason(clock):
    """SQS hands the failed one out to nobody for as long as this one is in flight: it cannot wait in hand."""
    rig = run(clock, {"job": fail}, max_receive_count=2, fifo=True)
    first, behind = rig.put("job", {}, 2, group_id="a")
    rig.queue.messages[behind].receives = 1
    clock.advance(0.5)
    assert rig.letters() == ["an earlier message of its group failed (maxReceiveCount = 2 is reached: raise it)"]
    assert rig.outcomes() == {first: "retried", behind: "dead_lettered"}


def test_a_message_at_its_last_receive_whose_lease_is_lost_does_not_stay_in_hand(clock):
    gate = Gate()

    def handle(payload, message):
        gate(payload, message)
        raise Unavailable("mail server down", after=600)

    rig = run(clock, {"job": handle}, max_receive_count=1, finishes=True)
    rig.queue.script["change_visibility"] = [GONE]
    (one,) = rig.put("job")
    clock.advance(15)
    assert gate.inside == [one]
    gate.event.set()
    clock.advance(1)
    assert rig.outcomes() == {one: "lease_lost"}
    assert rig.letters() == []  # whoever has it now writes it


def test_a_message_that_came_again_in_hand_and_fails_at_its_last_receive_is_a_dead_letter_with_its_reason(clock):
    gate = Gate()

    def handle(payload, message):
        gate(payload, message)
        raise Retry("not yet", after=5)

    rig = run(clock, {"job": handle}, max_receive_count=2)
    (one,) = rig.put("job")
    clock.advance(1)
    give_out_again(rig, one)
    clock.advance(1)
    gate.event.set()
    clock.advance(30)
    counts = "received 2 times; this worker saw 1 failure; maxReceiveCount = 2 is reached, before max_attempts = 3"
    assert rig.letters() == [f"not yet ({counts}: raise it)"]
    assert rig.queue.moved == []


def test_a_message_that_is_kept_in_hand_for_a_server_that_stays_down_does_not_stop_the_others(clock):
    rig = run(clock, {"down": Server(clock, 60), "job": fine}, max_receive_count=1)
    (one,) = rig.put("down")
    clock.advance(25)  # the poll that was open is back
    ids = rig.put("job", {}, 50)
    clock.advance(300)
    assert rig.queue.deleted == dict.fromkeys(ids, 1)
    assert one in rig.queue.messages


def test_a_lease_that_is_lost_while_its_message_stays_in_hand_ends_it(clock):
    server = Server(clock, 60)
    rig = run(clock, {"job": server}, max_receive_count=1)
    (one,) = rig.put("job")
    clock.advance(1)
    rig.queue.script["change_visibility"] = [GONE] * 5
    clock.advance(80)
    assert rig.ended[0][0] == one
    assert rig.ended[0][1].name == "lease_lost"
