"""The corners that a hostile reader found: outages of one call alone, odd handlers, two things in one turn."""

import contextlib
import signal
import time

import gevent
import pytest
from gevent.event import Event

from millpond.engine.lease_keeper import LeaseKeeper
from millpond.errors import QueueMissing, Reject, Retry, Stopped, Unreachable
from millpond.hub.clock import SystemClock
from millpond.hub.signals import ExitSignals
from millpond.observe.metrics import Metrics
from millpond.process.core import Core
from millpond.process.refusals import Refusals
from millpond.process.service import Service
from millpond.process.wiring import Queues
from millpond.sqs.queue import Failure
from tests.engine.test_consumer import BROKEN, GONE, Gate, drain, fine, run
from tests.fakes import FakeQueue, ListOwner
from tests.rig import Rig
from tests.virtual import VirtualClock, settle

REFUSED = Failure("InvalidMessageContents", "no", sender_fault=True)


@pytest.fixture
def clock():
    return VirtualClock()


@pytest.fixture
def alarm():
    def rang(number, frame):
        raise AssertionError("the hub stands still")

    before = signal.signal(signal.SIGALRM, rang)
    signal.setitimer(signal.ITIMER_REAL, 4)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


# 1 hang: hot loop


def test_a_lease_lost_and_redelivered_in_one_turn_of_the_hub_does_not_spin(clock, alarm):
    queue = FakeQueue(clock)
    crashed = []

    def spawn(function, *args):
        greenlet = gevent.spawn(function, *args)
        greenlet.link_exception(lambda g: crashed.append(g.exception))
        return greenlet

    keeper = LeaseKeeper(
        queue, clock, spawn, ListOwner(), visibility_seconds=30, beat_seconds=10, flushers=4, limit=100
    )
    queue.put("x")
    lease = keeper.take([], queue.receive(1, 0, 30)[0].receipt_handle, clock.now())
    keeper.begin([lease], clock.now())

    def again():  # SQS gives it out again; that answer is read in the same turn of the hub as the beat's
        queue.messages["m1"].handle = "m1#2"
        gevent.get_hub().loop.run_callback(lease.redelivered, "m1#2", clock.now(), 2)

    queue.script["extend"] = [again]
    clock.advance(11)
    assert queue.calls["extend"] <= 2  # 20 and more, one a turn of the hub: 100 % CPU for a whole beat


def test_the_same_through_the_consumer(clock, alarm):
    rig = run(clock, {"job": fine}, wait_seconds=20)
    rig.queue.script["delete"] = [BROKEN] * 400
    (one,) = rig.put("job")
    clock.advance(9)
    from millpond.sqs.queue import Received

    def again():
        rig.queue.messages[one].handle = f"{one}#2"
        received = Received(one, f"{one}#2", rig.queue.messages[one].entry.body, 2)
        rig.permits.free -= 1
        rig.consumer._share.held += 1
        gevent.get_hub().loop.run_callback(rig.consumer.accept, [received])

    rig.queue.script["extend"] = [again]
    clock.advance(3)
    assert rig.queue.calls["extend"] <= 2


# 2 drain


def service_of(rig, clock, drain_seconds, until_empty=False):
    core = Core(10, drain_seconds, clock, ExitSignals())
    core.pool = rig.pool
    queues = Queues([rig.consumer], Refusals(core))
    return Service(core, Metrics("", 0, "millpond", "t"), queues, until_empty=until_empty)


def stuck(clock, **settings):
    """Deletes are down while extensions work; then every slot is busy, and messages are ready."""
    gate = Gate()
    rig = run(clock, {"job": fine, "slow": gate}, concurrency=5, prefetch=10, **settings)
    rig.queue.script["delete"] = [Unreachable("down")] * 10_000
    rig.put("job", {}, 18)
    rig.put("slow", {}, 40)
    return rig, gate


def test_what_is_held_back_goes_back_though_the_deletes_are_stuck(clock):
    rig, _ = stuck(clock, wait_seconds=1)
    clock.advance(5)
    ready = rig.consumer.ready
    assert ready > 0
    drain(rig, clock, 25)
    for work, delivery in rig.pool.take_ready():
        work(delivery)
    clock.advance(2)
    assert rig.consumer.polls.ended.is_set()
    giver = gevent.spawn(rig.consumer.give_back_held)
    clock.advance(2)
    assert giver.ready()
    assert rig.books.outcomes["released"] >= ready


@pytest.mark.slow
def test_the_drain_ends_in_time_though_the_deletes_are_stuck():
    """In real time: the main greenlet itself gives back."""
    clock = SystemClock()
    rig, gate = stuck(clock, wait_seconds=20)
    service = service_of(rig, clock, 2)
    running = gevent.spawn(service.run)
    with gevent.Timeout(5):
        while not rig.consumer.ready:
            gevent.sleep(0.01)
    service.core.stop("SIGTERM")
    began = time.monotonic()
    running.join(8)
    assert running.ready(), "the drain of 2 s is not over after 8 s"
    assert time.monotonic() - began < 4
    assert not gate.inside
    assert running.value == 1  # what could not be deleted


# 3 handlers that take the process down


def follow_up_with_an_exception(payload, message):
    message.follow_up({}, reject=ValueError("550 no such user"))


def other_type(payload, message):
    message.event_type = "audit"  # to send a follow-up of another type
    message.follow_up({})
    raise ValueError("boom")


def retry_late(payload, message):
    raise Retry("later", after=10**400)


def odd_id(payload, message):
    message.event_id = 17


class Odd(Reject):
    @property
    def reason(self):
        raise RuntimeError("a bug of the user's")

    @reason.setter
    def reason(self, value):
        pass


def odd_reason(payload, message):
    raise Odd("x")


def no_list(payload, message):
    message.follow_ups = None


@pytest.mark.parametrize("handler", [follow_up_with_an_exception, other_type, retry_late, odd_id, odd_reason, no_list])
def test_no_handler_can_end_a_core_greenlet(clock, handler):
    rig = run(clock, {"job": handler})
    rig.put("job")
    clock.advance(2)
    assert rig.crashes == []


# 4 a shared pool


def test_a_queue_whose_deletes_are_stuck_keeps_no_slot_busy(clock):
    rig = run(clock, {"job": fine}, concurrency=5)
    rig.queue.script["delete"] = [Unreachable("down")] * 10_000
    rig.put("job", {}, 300)
    clock.advance(10)
    assert rig.consumer.in_hand >= 20
    done = []
    rig.pool.submit(done.append, ["other"])  # another queue's work, on the same pool
    settle()
    assert done == ["other"]


# 5 exit code


def test_a_message_abandoned_long_ago_is_no_reason_for_exit_1():
    clock = SystemClock()
    rig = Rig(clock, {"job": fine}, wait_seconds=1)
    service = service_of(rig, clock, 2)
    running = gevent.spawn(service.run)
    gevent.sleep(0.1)
    rig.books.abandoned = 1  # one blip last week; the message has come again and succeeded since
    service.core.stop("SIGTERM")
    assert running.get(timeout=5) == 0


def test_a_crash_outweighs_a_refusal():
    core = Core(1, 1, SystemClock(), ExitSignals())
    Refusals(core).note("q", QueueMissing("gone"))
    core.stop("crash", 2)
    assert core.exit_code == 2


# 6 decode


def test_a_lease_lost_while_the_payload_decodes_starts_no_handler(clock):
    ran = []
    rig = Rig(clock, {"job": lambda payload, message: ran.append(message.id)}, visibility_seconds=6)
    import msgspec

    def slow(raw):
        clock.sleep(8)

    rig.processor._routes["job"] = (
        msgspec.structs.replace(rig.processor._routes["job"], decode=slow)
        if isinstance(rig.processor._routes["job"], msgspec.Struct)
        else rig.processor._routes["job"]
    )
    rig.queue.script["extend"] = [Unreachable("down")] * 100
    rig.consumer.polls.start()
    rig.put("job")
    clock.advance(8.5)
    assert ran == []


def test_a_drain_gives_back_what_is_decoding(clock):
    rig = Rig(clock, {"job": fine}, wait_seconds=1)
    import msgspec

    never = Event()
    rig.processor._routes["job"] = msgspec.structs.replace(
        rig.processor._routes["job"], decode=lambda raw: never.wait()
    )
    rig.consumer.polls.start()
    (one,) = rig.put("job")
    settle()
    drain(rig, clock, 4)
    clock.advance(2)
    rig.consumer.give_back_held()
    rig.consumer.interrupt(Stopped)
    clock.advance(1)
    rig.consumer.write_off_running()
    clock.advance(1)
    assert rig.outcomes() == {one: "released"}


# 7 doubles


def test_a_letter_is_not_sent_once_the_lease_is_lost(clock):
    def reject(payload, message):
        raise Reject("no")

    rig = run(clock, {"job": reject})
    rig.dead.script["send"] = [Unreachable("down")] * 25  # some 45 s
    rig.queue.script["extend"] = [Unreachable("down")] * 500
    (_one,) = rig.put("job")
    settle()
    rig.consumer.polls.stop()
    clock.advance(29.5)
    # another worker receives it when it becomes visible, and holds it
    clock.advance(0.6)
    rig.queue.messages and rig.queue._take(1, 3600)
    clock.advance(60)
    assert len(rig.dead.messages) == 0
    assert not rig.queue.deleted


def test_a_refused_follow_up_does_not_send_the_others_of_its_delivery_twice(clock):
    def handle(payload, message):
        for n in range(12):
            message.follow_up(n)

    rig = run(clock, {"job": handle})
    sent = []

    def picky(entries):
        if '"payload":0' in entries[0].body:
            sent.extend(e.body for e in entries[1:])
            return [REFUSED] + [None] * (len(entries) - 1)
        sent.extend(e.body for e in entries)
        return [None] * len(entries)

    rig.queue.send = picky
    rig.put("job")
    clock.advance(600)
    assert len(sent) == 11 == len(set(sent))
    assert len(rig.dead.messages) == 1
    assert [outcome.name for _, outcome in rig.ended] == ["succeeded"]


# 8 until empty


def test_until_empty_waits_for_what_was_let_go_for_a_moment(clock):
    ending = Event()

    def handle(payload, message):
        if message.attempt > 1:
            return
        try:
            Event().wait()
        except BaseException:
            while not ending.is_set():
                with contextlib.suppress(BaseException):
                    ending.wait()
            raise

    rig = run(clock, {"job": handle}, wait_seconds=2, visibility_seconds=60)
    service = service_of(rig, clock, 2, until_empty=True)
    rig.queue.script["extend"] = [GONE]
    (one,) = rig.put("job")
    clock.advance(21)
    rig.queue._hide(rig.queue.messages[one], 0)
    rig.queue._arrival.set()
    clock.advance(0.5)
    assert [o.name for _, o in rig.ended] == ["released"]
    ending.set()
    clock.advance(0.2)
    assert rig.consumer.in_hand == 0
    for _ in range(100):
        clock.advance(0.1)
        assert not (service._is_empty() and one in rig.queue.messages)


def test_a_message_that_comes_again_before_it_was_started_is_started(clock):
    gate = Gate()
    rig = run(clock, {"job": gate}, concurrency=1, prefetch=2)
    _first, second = rig.put("job", {}, 2)
    settle()
    rig.consumer.hand.deliveries[second].lease._lose()
    rig.queue._hide(rig.queue.messages[second], 0)
    rig.queue._arrival.set()
    clock.advance(0.5)
    assert rig.ended == []  # redelivered


@pytest.mark.slow
def test_asking_what_is_left_does_not_outlast_the_drain():
    clock = SystemClock()
    rig = Rig(clock, {"job": fine}, wait_seconds=1)
    service = service_of(rig, clock, 2, until_empty=True)
    rig.queue.attributes = lambda: Event().wait() or {}
    running = gevent.spawn(service.run)
    gevent.sleep(0.1)
    service.core.stop("SIGTERM")
    running.join(4)
    assert running.ready()


def test_a_delivery_that_comes_while_every_slot_is_busy_in_a_drain_is_given_back(clock):
    """Kills the mutant `accept starts in drain`."""
    gate = Gate()
    rig = run(clock, {"job": gate}, concurrency=1, prefetch=1, wait_seconds=5)
    rig.put("job")
    clock.advance(0.5)
    drain(rig, clock, 60)
    rig.put("job")
    clock.advance(0.5)
    rig.consumer.give_back_held()
    clock.advance(0.5)
    assert rig.outcomes() == {"m2": "released"}
    gate.event.set()
    clock.advance(1)


def test_a_late_answer_to_an_extension_counts_from_its_request(clock):
    """Kills the mutant `lease: deadline from answer`."""
    queue = FakeQueue(clock)
    keeper = LeaseKeeper(
        queue, clock, gevent.spawn, ListOwner(), visibility_seconds=30, beat_seconds=10, flushers=1, limit=100
    )
    queue.put("x")
    lease = keeper.take([], queue.receive(1, 0, 30)[0].receipt_handle, clock.now())
    keeper.begin([lease], clock.now())
    queue.on_call = lambda name: clock.sleep(5) if name == "extend" else None
    clock.advance(16)
    assert lease.deadline == pytest.approx(1_000 + 10.05 + 30, abs=0.1)
