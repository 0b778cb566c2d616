"""Service: from the first poll to the exit code; when --until-empty ends; the watchdog beside it."""

from signal import SIGTERM

import pytest
from gevent.event import Event

from millpond.errors import (
    FINISHED,
    Retry,
)
from millpond.observe.metric_row import MetricKey
from millpond.process.gauges import SnapshotGauges
from tests.handlers import Gate, fine
from tests.process.running import LONG


def test_an_idle_worker_stops_in_order_as_soon_as_its_polls_are_back(process, clock):
    one = process({"job": fine}, drain_seconds=LONG, wait_seconds=20)
    (message_id,) = one.rig.put("job")
    clock.advance(1)
    assert one.rig.queue.deleted == {message_id: 1}
    one.signal(SIGTERM)
    clock.advance(18)
    assert one.exit_code is None  # an aborted poll would still take messages
    clock.advance(3)
    assert one.exit_code == FINISHED


def test_a_worker_that_is_stopped_before_it_runs_receives_nothing(process, clock):
    one = process({"job": fine}, start=False)
    one.core.stop("SIGTERM")
    one.start()
    clock.advance(0.1)
    assert one.exit_code == FINISHED
    assert one.rig.queue.calls == {}


@pytest.mark.parametrize(
    ("unanswered", "text"),
    [
        ([], "waiting for messages; "),
        (["q"], "started, but SQS has not answered yet for q: the worker keeps asking; "),
    ],
)
def test_a_worker_does_not_say_that_it_waits_for_messages_where_sqs_has_not_answered(process, caplog, unanswered, text):
    caplog.set_level("INFO")
    process({"job": fine}, start=False).start(unanswered=unanswered)
    (ready,) = [record.getMessage() for record in caplog.records if getattr(record, "event", "") == "worker.ready"]
    assert ready == f"{text}Ctrl-C or SIGTERM finishes what is in hand and stops"


def test_until_empty_stops_after_two_empty_polls_of_every_queue(process, clock):
    gate = Gate()
    one = process({"job": fine}, {"job": gate}, until_empty=True, wait_seconds=2)
    for rig in one.rigs:
        rig.put("job", {}, 3)
    clock.advance(10)
    assert not one.core.stopping  # one of the two is not empty
    gate.event.set()
    clock.advance(3)
    assert one.exit_code == FINISHED
    assert [len(rig.queue.deleted) for rig in one.rigs] == [3, 3]


def test_until_empty_does_not_believe_one_empty_poll(process, clock):
    """SQS asks a part of its servers only, and may say "empty" of a queue that is not."""
    one = process({"job": fine}, until_empty=True, wait_seconds=2)
    clock.advance(3)
    assert one.rig.consumer.pollers.empty_in_a_row == 1
    assert not one.core.stopping
    one.rig.put("job")
    clock.advance(3)
    assert not one.core.stopping
    clock.advance(4)
    assert one.exit_code == FINISHED


def test_until_empty_waits_for_what_is_in_hand(process, clock):
    gate = Gate()
    one = process({"job": gate}, until_empty=True, wait_seconds=2)
    (message_id,) = one.rig.put("job")
    clock.advance(40)
    assert one.rig.consumer.pollers.empty_in_a_row > 10
    assert not one.core.stopping
    gate.event.set()
    clock.advance(4)
    assert one.exit_code == FINISHED
    assert one.rig.outcomes() == {message_id: "succeeded"}


def test_until_empty_waits_for_what_this_worker_has_put_off(process, clock):
    seen = []

    def handle(payload, message):
        seen.append(message.attempt)
        if message.attempt == 1:
            raise Retry("not yet", after=50)

    one = process({"job": handle}, until_empty=True, wait_seconds=2)
    (message_id,) = one.rig.put("job")
    clock.advance(45)
    assert one.rig.consumer.pollers.empty_in_a_row > 10
    assert not one.core.stopping
    hold = one.rig.queue.gates["receive"] = Event()  # the receive that will bring it is asked for, and is slow
    clock.advance(15)
    assert not one.core.stopping  # the empty answers are all older than the end of its back-off
    del one.rig.queue.gates["receive"]
    hold.set()
    clock.advance(10)
    assert seen == [1, 2]
    assert one.rig.queue.deleted == {message_id: 1}
    assert one.exit_code == FINISHED


class Recorded:
    """A watchdog that does nothing, and tells what was asked of it."""

    def __init__(self):
        self.heard = []
        self.hub_blocked = self.leases_rescued = 0

    def start(self):
        self.heard.append("start")

    def stop(self):
        self.heard.append("stop")

    def hand_over_keys(self):
        pass


def test_the_watchdog_runs_from_the_first_poll_to_the_end_and_no_longer(process, clock):
    one = process({"job": lambda payload, message: None}, start=False)
    watchdog = Recorded()
    one.start(watchdog=watchdog)
    assert watchdog.heard == ["start"]
    clock.advance(100)
    one.signal(SIGTERM)
    assert watchdog.heard == ["start"]  # the drain can be blocked too
    clock.advance(60)
    assert one.exit_code == FINISHED
    assert watchdog.heard == ["start", "stop"]


def test_what_the_watchdog_has_seen_and_done_is_counted_once(process, clock):
    one = process({"job": lambda payload, message: None}, start=False)
    watchdog = Recorded()
    one.start(watchdog=watchdog)
    gauges = SnapshotGauges(one.observer, clock)
    counted = lambda name: gauges.read().totals[MetricKey(f"worker.{name}")]  # noqa: E731
    assert (counted("hub_blocked"), counted("leases_rescued")) == (0, 0)
    for blocked, rescued in ((2, 30), (3, 31)):
        watchdog.hub_blocked, watchdog.leases_rescued = blocked, rescued
        clock.advance(30)
        assert (counted("hub_blocked"), counted("leases_rescued")) == (blocked, rescued)


def test_keys_are_handed_over_to_the_watchdog_at_the_start_and_again_and_again(process, clock):
    times = []
    one = process({"job": lambda payload, message: None}, start=False)
    watchdog = Recorded()
    watchdog.hand_over_keys = lambda: times.append(clock.now())
    one.start(watchdog=watchdog)
    assert len(times) == 1
    clock.advance(60)
    assert 5 <= len(times) <= 8
