"""An interrupt names one delivery, and lands in no other."""

import random

import gevent
import pytest

from millpond.errors import Interrupt, Stopped, TimeLimitExceeded
from millpond.hub.clock import SystemClock
from tests.rig import Rig

NUMBER = 10_000
#: A busy machine has its timers ring late, after the handlers' ends: then more messages come, until so many landed.
LEAST_LANDED = NUMBER // 20


class Storm:
    """Handlers of random short length; the first delivery of each message is interrupted around its end."""

    def __init__(self, seed):
        self.random = random.Random(seed)
        self.landed = {}  # message id -> the name that the interrupt carried
        self.finished = []

    def handle(self, payload, message):
        seconds = self.random.uniform(0, 0.003)
        if message.attempt == 1:
            self.aim(message.id, seconds)
        try:
            gevent.sleep(seconds)
        except Interrupt as interrupt:
            self.landed[message.id] = interrupt.target
            if self.random.random() < 0.5:  # the other half goes on as if nothing had happened
                raise
        else:
            self.finished.append(message.id)

    def aim(self, message_id, seconds):
        class Named(Stopped):
            target = message_id

        delivery = self.rig.consumer.hand.deliveries[message_id]
        moment = max(0.0, seconds + self.random.gauss(-0.0005, 0.001))
        self.rig.clock.timer(moment, lambda: delivery.interrupt(Named))


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_in_a_storm_of_interrupts_each_lands_in_its_own_delivery_or_nowhere(seed):
    storm = Storm(seed)
    rig = storm.rig = Rig(SystemClock(), {"job": storm.handle}, concurrency=100, wait_seconds=1)
    ids = rig.put("job", {}, NUMBER)
    rig.consumer.pollers.start()
    with gevent.Timeout(120):
        while rig.queue.messages or len(storm.landed) < LEAST_LANDED:
            ids += [] if rig.queue.messages else rig.put("job", {}, NUMBER // 10)
            gevent.sleep(0.01)
    assert rig.crashes == []
    assert len(storm.landed) < len(ids)  # some got away
    assert all(target == message_id for message_id, target in storm.landed.items())
    first, last = {}, {}
    for message_id, outcome in rig.ended:
        first.setdefault(message_id, outcome.name)
        last[message_id] = outcome.name
    assert {one for one in ids if first[one] == "released"} == set(storm.landed)  # none of them was acknowledged
    assert set(last.values()) == {"succeeded"}
    assert sorted(storm.finished) == sorted(ids)  # each was handled to its end once ...
    assert rig.queue.deleted == dict.fromkeys(ids, 1)  # ... and no finished one lost its delete


def test_a_handler_that_returns_after_an_interrupt_is_not_acknowledged():
    def handle(payload, message):
        try:
            gevent.sleep(10)
        except Interrupt:
            return

    rig = Rig(SystemClock(), {"job": handle}, timeout=0.01, wait_seconds=1)
    (message_id,) = rig.put("job")
    rig.consumer.pollers.start()
    with gevent.Timeout(5):
        while not rig.ended:
            gevent.sleep(0.005)
    assert rig.ended[0][1].name == "retried"
    assert rig.ended[0][1].cause == "timed_out"
    assert not rig.queue.deleted
    assert message_id in rig.queue.messages


def test_a_handler_that_swallows_every_interrupt_is_written_off_and_the_next_message_runs(monkeypatch):
    monkeypatch.setattr("millpond.hub.interruption.REPEAT_SECONDS", 0.01)
    swallowed = []
    release = gevent.event.Event()

    def stubborn(payload, message):
        while not release.is_set():
            try:
                release.wait(5)
            except TimeLimitExceeded:
                swallowed.append(message.id)

    rig = Rig(SystemClock(), {"stubborn": stubborn, "job": lambda payload, message: None}, concurrency=1, timeout=0.02)
    (stuck,) = rig.put("stubborn")
    rig.consumer.pollers.start()
    with gevent.Timeout(5):
        while not rig.ended:
            gevent.sleep(0.005)
        (fine,) = rig.put("job")
        while len(rig.ended) < 2:
            gevent.sleep(0.005)
    assert len(swallowed) == 10
    assert rig.outcomes() == {stuck: "retried", fine: "succeeded"}
    assert "goes on in spite of" in rig.ended[0][1].reason
    assert rig.pool.written_off == 1
    release.set()  # it comes back after all: its result counts for nothing
    gevent.sleep(0.15)  # three times the linger in which a second settling would travel
    assert len(rig.ended) == 2
    assert not rig.crashes


def test_an_interrupt_after_the_handler_finds_nobody():
    rig = Rig(
        SystemClock(), {"job": lambda payload, message: deliveries.append(rig.consumer.hand.deliveries[message.id])}
    )
    deliveries = []
    rig.put("job")
    rig.consumer.pollers.start()
    with gevent.Timeout(5):
        while not rig.ended:
            gevent.sleep(0.005)
    deliveries[0].interrupt(Stopped)
    gevent.sleep(0.01)
    assert deliveries[0].interruption is None
    assert not rig.crashes


def test_a_gevent_timeout_that_is_not_ours_is_an_ordinary_failure():
    def handle(payload, message):
        with gevent.Timeout(0.01):
            gevent.sleep(5)

    rig = Rig(SystemClock(), {"job": handle})
    rig.put("job")
    rig.consumer.pollers.start()
    with gevent.Timeout(5):
        while not rig.ended:
            gevent.sleep(0.005)
    assert (rig.ended[0][1].name, rig.ended[0][1].cause) == ("retried", "failed")
    assert "Timeout" in rig.ended[0][1].error
