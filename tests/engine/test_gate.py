"""Messages before a gate that is shut: what is held, what is a probe, and what comes of it at a queue."""

from __future__ import annotations

from itertools import pairwise

import pytest

from millpond.app.handler_options import Breaker
from millpond.errors import Reject, Retry, Unavailable
from millpond.hub.threads import NoThread
from millpond.message import delayed, envelope_text
from tests.engine.wired import GONE, MailServer, Server, give_out_again, run
from tests.handlers import Gate, fine

pytestmark = pytest.mark.usefixtures("no_core_greenlet_died")


def events(caplog):
    return [one.event for one in caplog.records if getattr(one, "event", "").startswith("breaker.")]


def breaker(**options):
    return {"job": {"breaker": Breaker(**options)}}


# What must hold


@pytest.mark.parametrize("seconds", [60, 1_200])
def test_an_outage_leaves_nothing_in_the_dead_letter_queue_and_costs_no_receive(clock, seconds):
    server = MailServer(clock)
    server.up = False
    rig = run(clock, {"job": server}, concurrency=100, max_receive_count=3, visibility_seconds=60)
    ids = rig.put("job", {}, 200)
    clock.advance(seconds)
    assert max(rig.queue.messages[one].receives for one in ids) <= 2
    assert rig.consumer.in_hand == 200
    server.up = True
    clock.advance(15)
    assert rig.queue.deleted == dict.fromkeys(ids, 1)
    assert rig.letters() == rig.queue.moved == []
    assert rig.permits.free + rig.consumer._share.polling == 100


@pytest.mark.parametrize("seconds", [60, 1_200])
def test_in_an_outage_a_healthy_type_of_the_same_queue_goes_on_at_full_speed(clock, seconds):
    done = []

    def healthy(payload, message):
        clock.sleep(0.2)
        done.append(clock.now())

    server = MailServer(clock)
    rig = run(clock, {"job": server, "fine": healthy}, concurrency=20, max_receive_count=3, visibility_seconds=60)

    def load(numbers):
        for _ in range(numbers):
            clock.advance(1)
            rig.put("fine", {}, 90)  # of 100 a second that twenty slots can do

    load(20)
    before, server.up = len(done), False
    ids = rig.put("job", {}, 200)
    load(60)
    assert len(done) - before >= 0.95 * 60 * 90
    clock.advance(seconds - 60)
    assert max(rig.queue.messages[one].receives for one in ids) <= 2
    server.up = True
    clock.advance(15)
    assert all(rig.queue.deleted[one] == 1 for one in ids)
    assert rig.letters() == rig.queue.moved == []


def test_a_message_that_always_runs_past_its_time_limit_is_a_dead_letter_though_nothing_else_is_there(clock):
    def hangs(payload, message):
        clock.sleep(3_600)

    rig = run(clock, {"job": hangs}, max_attempts=7, visibility_seconds=60, timeout=2.0)
    rig.put("job", {}, 1)
    clock.advance(3 * 3_600)
    (letter,) = rig.letters()
    assert "failed 7 times" in str(letter) or "saw 7 failures" in str(letter)
    assert rig.queue.messages == {}


def test_a_lone_message_is_tried_for_ever_without_another_receive(clock):
    """It was a dead letter at its fifteenth probe, since each probe was a receive."""
    server = MailServer(clock)
    server.up = False
    rig = run(clock, {"job": server}, max_receive_count=15)
    (one,) = rig.put("job")
    clock.advance(36_000)
    assert len(server.tries) >= 3_000
    assert rig.queue.messages[one].receives == 1
    server.up = True
    clock.advance(15)
    assert rig.queue.deleted == {one: 1}


# Probes


def test_one_message_at_a_time_is_the_probe_and_each_has_its_turn(clock):
    """One that always fails must not keep the others from being tried."""
    server = MailServer(clock)
    server.up = False
    rig = run(clock, {"job": server}, options=breaker(probe_seconds=10.0))
    ids = rig.put("job", {}, 10)
    clock.advance(1)
    begun = len(server.tries)
    clock.advance(1_000)
    times = [time for time, _ in server.tries[begun:]]
    assert min(later - earlier for earlier, later in pairwise(times)) >= 5
    assert 80 <= len(times) <= 200
    assert {one for _, one in server.tries[begun : begun + 10]} == set(ids)


def test_a_message_that_always_fails_does_not_keep_the_others_from_getting_through(clock):
    poison = []

    def handle(payload, message):
        if payload == "poison":
            poison.append(message.id)
            raise Unavailable("down")

    rig = run(clock, {"job": handle})
    rig.put("job", "poison")
    clock.advance(0.1)
    ids = rig.put("job", {}, 50)
    clock.advance(30)
    assert all(rig.queue.deleted.get(one) == 1 for one in ids)


def test_a_probe_that_never_settles_is_followed_by_the_next(clock):
    gate = Gate()
    up = []

    def handle(payload, message):
        if up and payload != "hangs":
            return
        if up:
            gate(payload, message)
        raise Unavailable("down")

    rig = run(clock, {"job": handle}, timeout=36_000)
    rig.put("job", "hangs")
    ids = rig.put("job", {}, 5)
    clock.advance(0.1)
    up.append(True)
    clock.advance(100)
    assert all(rig.queue.deleted.get(one) == 1 for one in ids)
    assert len(gate.inside) == 1


def put_early(rig, seconds):
    """What is not to be handled sooner: as a follow-up on a FIFO queue says it."""
    moment = round((rig.clock.time() + seconds) * 1000)
    return rig.queue.put(delayed(envelope_text("job", "e", None), moment))[0]


def probe_early(rig):
    put_early(rig, 900)


def probe_lost(rig):
    rig.put("job", "hangs")
    rig.queue.script["change_visibility"] = [GONE] * 2


def probe_in_hand(rig):
    give_out_again(rig, rig.held)


def probe_thread(rig):
    rig.put("job", "no thread")


def probe_rejected(rig):
    rig.put("job", "reject")


@pytest.mark.parametrize("probe", [probe_early, probe_lost, probe_in_hand, probe_thread, probe_rejected])
def test_however_a_probe_ends_the_next_one_follows(clock, probe):
    gate, server = Gate(), Server(clock, 10)

    def handle(payload, message):
        match payload:
            case "hangs":
                gate(payload, message)
            case "no thread":
                raise NoThread("no thread was free for it")
            case "reject":
                raise Reject("no such customer")
        server(payload, message)

    rig = run(clock, {"job": handle}, visibility_seconds=36_000, wait_seconds=1, timeout=36_000)
    (rig.held,) = rig.put("job")
    clock.advance(2)
    probe(rig)
    clock.advance(12_000 if probe is probe_lost else 30)
    assert len(server.times) >= 3
    server.up = True
    (one,) = rig.put("job")
    clock.advance(60)
    assert rig.queue.deleted[one] == 1
    assert rig.queue.deleted[rig.held] == (probe is not probe_lost)  # its own lease is lost there too


@pytest.mark.parametrize("body", ["{not json", '{"event_type": "unknown", "payload": 1}'])
def test_a_message_whose_handler_does_not_run_closes_nothing(clock, caplog, body):
    server = Server(clock, 60)
    rig = run(clock, {"job": server}, concurrency=30)
    rig.put("job")
    clock.advance(25)
    rig.queue.put(body)
    rig.put("job", {}, 30)
    clock.advance(575)
    assert len(rig.letters()) == 1
    assert len(server.times) <= 11
    assert "got through" not in caplog.text


def test_what_began_before_the_breaker_opened_does_not_close_it_by_its_success(clock, caplog):
    caplog.set_level("INFO")
    slow = Gate()

    def handle(payload, message):
        if payload == "slow":
            slow(payload, message)
        else:
            raise Unavailable("down")

    rig = run(clock, {"job": handle})
    (straggler,) = rig.put("job", "slow")
    rig.put("job")
    clock.advance(20)
    slow.event.set()
    clock.advance(0.5)
    assert rig.queue.deleted == {straggler: 1}
    assert events(caplog).count("breaker.closed") == 0


def test_an_outage_failure_of_a_straggler_is_held_and_not_retried(clock):
    gate, server = Gate(), Server(clock, None)

    def handle(payload, message):
        if payload == "slow" and not server.up:
            gate(payload, message)
            raise Unavailable("down")
        server(payload, message)

    rig = run(clock, {"job": handle}, max_receive_count=1)
    (slow,) = rig.put("job", "slow")
    rig.put("job")
    clock.advance(10)
    gate.event.set()
    clock.advance(1)
    assert rig.ended == []
    server.up = True
    clock.advance(15)
    assert rig.queue.deleted[slow] == 1


def test_once_the_server_is_back_those_held_begin_a_hundred_at_a_time(clock):
    server, most = MailServer(clock), []
    server.up = False
    rig = run(clock, {"job": server}, concurrency=500)
    ids = rig.put("job", {}, 400)
    clock.advance(20)
    server.up = True
    for _ in range(150):
        clock.advance(0.1)
        most.append(sum(clock.now() - time < 0.15 for time, _ in server.tries))
    assert max(most) <= 200
    assert rig.queue.deleted == dict.fromkeys(ids, 1)


def test_what_was_let_in_and_has_not_begun_when_the_breaker_opens_again_is_held_again(clock):
    server = MailServer(clock)
    server.up = False
    rig = run(clock, {"job": server}, concurrency=5)
    rig.put("job", {}, 60)
    clock.advance(30)
    server.up = True
    while not rig.queue.deleted:
        clock.advance(0.1)
    server.up = False
    clock.advance(1)
    begun = len(server.tries)
    clock.advance(10)
    assert len(server.tries) - begun <= 8  # probes, and none of those that were ready
    server.up = True
    clock.advance(20)
    assert len(rig.queue.deleted) == 60


@pytest.mark.parametrize("after", [0, -5, 0.001, 1e-9, None, float("nan"), "soon"], ids=str)
def test_unavailable_for_no_time_at_all_is_no_hot_loop(clock, after):
    server = Server(clock, after)
    rig = run(clock, {"job": server})
    rig.put("job", {}, 3)
    clock.advance(600)
    assert 60 <= len(server.times) <= 130  # the waits grow, to ten seconds
    server.up = True
    clock.advance(15)
    assert len(rig.queue.deleted) == 3


def test_without_a_breaker_unavailable_is_put_off_by_itself(clock):
    server = Server(clock, 60)
    rig = run(clock, {"job": server, "fine": fine}, options={"job": {"breaker": None}}, max_receive_count=9)
    (one,) = rig.put("job")
    rig.put("job", {}, 2)
    clock.advance(290)
    assert rig.consumer.in_hand == 0
    assert {outcome.cause for _, outcome in rig.ended} == {"unavailable"}
    assert rig.queue.messages[one].receives == 5


def test_an_outage_is_logged_at_its_beginning_and_end_and_once_a_minute_between(clock, caplog):
    caplog.set_level("INFO")
    server = MailServer(clock)
    server.up = False
    rig = run(clock, {"job": server}, concurrency=10)
    rig.put("job", {}, 30)
    clock.advance(290)
    server.up = True
    clock.advance(20)
    assert events(caplog) == ["breaker.opened", *["breaker.probing"] * 4, "breaker.closed"]
    opened, *_, closed = (one for one in caplog.records if getattr(one, "event", "").startswith("breaker."))
    assert opened.levelname == "WARNING"
    assert (opened.fields["reason"], opened.fields["type"]) == ("mail server down", "job")
    assert 285 <= closed.fields["seconds"] <= 305  # it opened with the first failure, and a probe was on its way at 290


def test_what_opens_it_by_a_last_attempt_is_named_by_its_error_and_not_by_the_attempts(clock, caplog):
    def refused(payload, message):
        raise ConnectionRefusedError("no server at smtp:25")

    rig = run(clock, {"job": refused}, options={"job": {"max_attempts": 1, "breaker": Breaker()}})
    rig.put("job", {}, 5)
    clock.advance(5)
    opened = next(one for one in caplog.records if getattr(one, "event", "") == "breaker.opened")
    assert opened.fields["reason"] == "ConnectionRefusedError: no server at smtp:25"


def test_a_run_of_ordinary_failures_opens_it_and_no_attempts_are_burned(clock):
    """A bug in a new version: 10,000 messages would be dead letters before anybody looks."""

    def handle(payload, message):
        raise Retry("bug", after=1)

    rig = run(clock, {"job": handle}, max_attempts=3, options=breaker(failures=10), concurrency=5)
    rig.put("job", {}, 500)
    clock.advance(120)
    assert len(rig.letters()) <= 30
