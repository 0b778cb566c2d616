"""Gauges of a snapshot, and the depth of the queues: asked of SQS once a minute, where somebody sees it."""

from __future__ import annotations

import logging
import os
import subprocess
import sys

import msgspec
import pytest

from millpond.errors import AccessDenied
from millpond.observe.histograms import MetricHistograms
from millpond.observe.metric_row import MetricKey
from millpond.observe.metrics import Metrics
from millpond.process.depths import depth_of, share_of
from millpond.process.gauges import SnapshotGauges, reading_of
from millpond.process.process_name import ProcessName
from tests.handlers import fine
from tests.process.snapshots import FULL
from tests.virtual import settle


def test_each_number_of_a_snapshot_is_a_gauge_of_its_queue_type_or_process():
    gauges = {tuple(filter(None, key)): value for key, value in reading_of(FULL).gauges.items()}
    assert gauges[("in_hand", "emails")] == 25
    assert gauges[("dollars_per_million", "emails")] == pytest.approx(0.082)
    assert gauges[("receive_age_seconds", "emails")] == 0.5
    assert gauges[("backlog_per_worker", "emails")] == 225.0
    assert gauges[("type.breaker", "email.send")] == 1.0
    assert gauges[("worker.slots_busy",)] == 20


def test_a_queue_of_which_sqs_has_said_nothing_has_no_depth_and_one_without_a_receive_the_age_of_the_process():
    queue = msgspec.structs.replace(FULL.queues[0], depth=None, last_receive_seconds=None, url="https://x/q.fifo")
    gauges = reading_of(msgspec.structs.replace(FULL, queues=[queue])).gauges
    assert MetricKey("visible", "emails") not in gauges
    assert gauges[MetricKey("receive_age_seconds", "emails")] == 1_000.0
    assert gauges[MetricKey("dollars_per_million", "emails")] == pytest.approx(0.1025)


@pytest.mark.parametrize(("silent_ago", "age"), [(None, 700.0), (0.0, 0.0), (30.0, 30.0), (900.0, 700.0)])
def test_a_queue_that_may_not_receive_is_not_one_that_does_not(silent_ago, age):
    """Its permits were all in hand for ten minutes, or an operator had paused it: an alert at night for nothing."""
    queue = msgspec.structs.replace(FULL.queues[0], last_receive_seconds=700.0)
    silent = {} if silent_ago is None else {"emails": silent_ago}
    gauges = reading_of(msgspec.structs.replace(FULL, queues=[queue]), silent).gauges
    assert gauges[MetricKey("receive_age_seconds", "emails")] == age


def test_the_age_of_the_last_receive_grows_only_while_one_may_begin(clock):
    queue = msgspec.structs.replace(FULL.queues[0], last_receive_seconds=700.0)

    class Observer:
        rightly_silent = True

        def take(self, most_running):
            return msgspec.structs.replace(
                FULL, queues=[msgspec.structs.replace(queue, rightly_silent=self.rightly_silent)]
            )

    observer = Observer()
    gauges = SnapshotGauges(observer, clock)
    age = lambda: gauges.read().gauges[MetricKey("receive_age_seconds", "emails")]  # noqa: E731
    assert age() == 0.0
    observer.rightly_silent = False
    clock.advance(40.0)
    assert age() == 40.0


def test_where_very_many_are_in_hand_a_snapshot_is_good_for_longer(clock):
    class Observer:
        taken = 0

        def take(self, most_running):
            self.taken += 1
            return msgspec.structs.replace(FULL, worker=msgspec.structs.replace(FULL.worker, in_hand=self.in_hand))

    for in_hand, taken in ((1_999, 20), (20_000, 2)):
        observer = Observer()
        observer.in_hand = in_hand
        gauges = SnapshotGauges(observer, clock)
        for _ in range(20):
            gauges.read()
            clock.advance(1.0)
        assert observer.taken == taken


# --- depth


@pytest.mark.parametrize(
    ("in_hand", "in_flight", "share"), [(25, 100, 0.25), (0, 100, 0.0), (0, 0, 1.0), (30, 20, 1.0), (10, 10, 1.0)]
)
def test_a_workers_part_is_what_it_has_of_what_all_have(in_hand, in_flight, share):
    assert share_of(in_hand, in_flight) == share


def test_the_mean_of_all_workers_is_the_backlog_by_their_number():
    counts, in_hand = {"visible": 900, "in_flight": 100, "delayed": 0}, (10, 60, 30, 0)
    parts = [depth_of(counts, {}, one, 5.0, 0.0).backlog_per_worker for one in in_hand]
    assert sum(parts) / len(parts) == pytest.approx(900 / 4)


def test_what_sqs_does_not_say_is_unknown_and_an_empty_queue_lets_nobody_wait():
    assert depth_of({}, {}, 5, 7.0, 1.0) == depth_of({}, {}, 0, 7.0, 1.0)
    unknown, empty = (
        depth_of({}, {}, 5, 7.0, 1.0),
        depth_of({"visible": 0, "in_flight": 3, "delayed": 1}, {}, 3, 7.0, 1.0),
    )
    assert (unknown.visible, unknown.backlog_per_worker, unknown.dead_letters) == (None, None, None)
    assert (empty.oldest_seconds, empty.backlog_per_worker, empty.delayed) == (0.0, 0.0, 1)


class Depth:
    """What SQS says of a queue."""

    def __init__(self, queue, **counts):
        self.calls, self.error, self.counts = 0, None, counts
        queue.attributes = self

    def __call__(self):
        self.calls += 1
        if self.error is not None:
            raise self.error
        parts = {"visible": "", "in_flight": "NotVisible", "delayed": "Delayed"}
        return {f"ApproximateNumberOfMessages{parts[name]}": str(number) for name, number in self.counts.items()}


@pytest.fixture
def seen(process):
    """A process whose metrics somebody sees, and what SQS says of its queue and of its dead letters."""

    def start(*sinks):
        one = process({"job": fine}, start=False)
        one.metrics = Metrics(*sinks, clock=one.clock.now)
        rig = one.rig.consumer
        depth = Depth(rig.queue, visible=40, in_flight=10, delayed=2)
        rig.dead_letters.url = f"{rig.queue.url}-dead"
        letters = Depth(rig.dead_letters, visible=3, in_flight=1, delayed=0)
        one.start()
        settle()
        return one, depth, letters

    return start


def test_sqs_is_asked_once_a_minute_for_the_queue_and_its_dead_letters(seen, clock):
    one, depth, letters = seen(MetricHistograms())
    clock.advance(10.0)
    [queue] = one.observer.take().queues
    assert (queue.depth.visible, queue.depth.in_flight, queue.depth.delayed, queue.depth.dead_letters) == (40, 10, 2, 4)
    assert queue.depth.oldest_seconds is None  # nothing has begun here
    clock.advance(600.0)
    assert (depth.calls, letters.calls) == (11, 11)


def test_where_nobody_sees_it_sqs_is_not_asked(seen, clock):
    one, depth, letters = seen()
    clock.advance(600.0)
    assert (depth.calls, letters.calls) == (0, 0)
    assert one.observer.take().queues[0].depth is None


def test_somebody_who_looks_makes_it_ask_at_most_once_a_minute(seen, clock):
    one, depth, letters = seen()
    for _ in range(30):
        one.observer.on_look()
        clock.advance(10.0)
    assert (depth.calls, letters.calls) == (5, 5)
    assert one.observer.take().queues[0].depth.visible == 40


def test_a_queue_that_denies_it_is_not_asked_again_and_the_log_says_what_to_allow(seen, clock, caplog):
    caplog.set_level(logging.INFO)
    one, depth, letters = seen(MetricHistograms())
    letters.error = AccessDenied("not allowed", "AccessDenied")
    clock.advance(300.0)
    assert letters.calls == 1
    assert depth.calls >= 5
    depth_now = one.observer.take().queues[0].depth
    assert (depth_now.visible, depth_now.dead_letters) == (40, None)
    [text] = [record.getMessage() for record in caplog.records if record.__dict__.get("event") == "queue.depth_unknown"]
    assert "allow sqs:GetQueueAttributes" in text


# --- the name of a process


def test_a_second_process_of_one_name_has_another_and_gives_it_back(tmp_path):
    name = f"web.{os.getpid()}"
    first = ProcessName(name)
    code = "import sys; from millpond.process.process_name import ProcessName; print(ProcessName(sys.argv[1]).text)"
    command = [sys.executable, "-c", code, name]
    other = lambda: subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()  # noqa: E731
    second = ProcessName(name)
    assert (first.text, second.text, other()) == (name, f"{name}_2", f"{name}_3")
    first.close()
    assert other() == name  # however the one before has ended
    second.close()
