"""The end of a whole service around one consumer: its drain with stuck deletes, its exit code, --until-empty."""

import contextlib
import time

import gevent
import pytest
from gevent.event import Event

from millpond.errors import QueueMissing, Unreachable
from millpond.hub.clock import SystemClock
from millpond.hub.signals import ExitSignals
from millpond.observe.metrics import Metrics
from millpond.process.core import Core
from millpond.process.observer import Observer
from millpond.process.refusals import Refusals
from millpond.process.service import Service
from millpond.process.wiring import Queues
from millpond.sqs.queue import Failure
from tests.handlers import Gate, fine
from tests.rig import Rig
from tests.virtual import VirtualClock

GONE = Failure("ReceiptHandleIsInvalid", "", sender_fault=True)


@pytest.fixture
def clock():
    return VirtualClock()


def run(clock, handlers, **settings):
    rig = Rig(clock, handlers, **settings)
    rig.consumer.pollers.start()
    return rig


def service_of(rig, clock, drain_seconds, until_empty=False):
    core = Core(10, drain_seconds, clock, ExitSignals())
    core.pool = rig.pool
    queues = Queues([rig.consumer], Refusals(core))
    return Service(core, Metrics(), queues, Observer(core, "t"), until_empty=until_empty)


def stuck(clock, **settings):
    """Deletes are down while extensions work; then every slot is busy, and messages are ready."""
    gate = Gate()
    rig = run(clock, {"job": fine, "slow": gate}, concurrency=5, prefetch=10, **settings)
    rig.queue.script["delete"] = [Unreachable("down")] * 10_000
    rig.put("job", {}, 18)
    rig.put("slow", {}, 40)
    return rig, gate


@pytest.mark.clock
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
    rig.queue.script["change_visibility"] = [GONE]
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
