"""Report: what a process logs of its work, what it calls left, and the exit code."""

from signal import SIGTERM

import pytest

from millpond.errors import (
    CRASHED,
    FINISHED,
    LEFT,
    AccessDenied,
    Reject,
    Unreachable,
)
from tests.handlers import Gate, fine
from tests.process.running import events


def test_the_progress_is_told_while_there_is_work_and_not_otherwise(process, clock, caplog):
    caplog.set_level("INFO")
    gate = Gate()
    one = process({"job": gate})
    clock.advance(31)
    assert "worker.progress" not in events(caplog)
    one.rig.put("job")
    clock.advance(31)
    assert "worker.progress" in events(caplog)
    gate.event.set()


def test_a_worker_that_is_stopped_before_it_has_a_queue_says_so_too(process, clock, caplog):
    caplog.set_level("INFO")
    one = process({"job": fine}, start=False)
    one.core.stop("SIGTERM")
    one.start(rigs=[])
    clock.advance(0.1)
    [told] = [record for record in caplog.records if getattr(record, "event", "") == "worker.stopped"]
    assert (told.fields["why"], told.fields["exit_code"]) == ("SIGTERM", one.exit_code) == ("SIGTERM", FINISHED)


def test_until_empty_says_what_is_left_with_other_consumers(process, clock, caplog):
    one = process({"job": fine}, until_empty=True, wait_seconds=2)
    counts = {"ApproximateNumberOfMessagesNotVisible": "1"}
    one.rig.queue.attributes = lambda: counts
    clock.advance(10)
    assert one.exit_code == LEFT
    assert "queue.left" in events(caplog)


@pytest.mark.parametrize("count", ["9" * 5_000, "-1", "", "NaN", "soon", "1e3", None])
def test_until_empty_ends_in_order_whatever_sqs_says_is_left(process, clock, count):
    one = process({"job": fine}, until_empty=True, wait_seconds=2)
    one.rig.queue.attributes = lambda: {"ApproximateNumberOfMessages": count}
    clock.advance(10)
    assert one.exit_code == FINISHED


def test_until_empty_says_what_is_left_after_a_signal_too(process, clock, caplog):
    one = process({"job": fine}, until_empty=True, wait_seconds=2)
    one.rig.queue.attributes = lambda: {"ApproximateNumberOfMessages": "7"}
    clock.advance(1)
    one.signal(SIGTERM)
    begun = clock.now()
    clock.advance(10)
    assert one.exit_code == LEFT
    assert events(caplog).count("queue.left") == 1
    assert one.ended_at <= begun + 10


def test_until_empty_asks_again_for_counts_that_lag_behind(process, clock):
    one = process({"job": fine}, until_empty=True, wait_seconds=2)
    answers = [{"ApproximateNumberOfMessages": "1"}, {"ApproximateNumberOfMessagesDelayed": "1"}]
    one.rig.queue.attributes = lambda: answers.pop(0) if answers else {"ApproximateNumberOfMessages": "0"}
    clock.advance(10)
    assert one.exit_code == FINISHED


def test_until_empty_is_exit_1_where_a_message_is_a_dead_letter(process, clock):
    def reject(payload, message):
        raise Reject("no")

    one = process({"job": reject}, until_empty=True, wait_seconds=2)
    one.rig.put("job")
    clock.advance(10)
    assert len(one.rig.dead.messages) == 1
    assert one.exit_code == LEFT


def test_what_could_not_be_given_back_is_exit_1(process, clock):
    gate = Gate()
    one = process({"job": gate}, drain_seconds=10, wait_seconds=1)
    one.rig.queue.script["change_visibility"] = [Unreachable("down")] * 100
    (message_id,) = one.rig.put("job")
    clock.advance(0.5)
    one.signal(SIGTERM)
    clock.advance(10)
    assert one.exit_code == LEFT
    assert one.rig.outcomes() == {}
    assert message_id in one.rig.consumer.hand.deliveries


def test_the_last_line_counts_redeliveries_and_dead_follow_ups_where_there_was_any(process, clock, caplog):
    caplog.set_level("INFO")

    def handle(payload, message):
        message.follow_up("rest", reject="550")

    one = process({"job": handle}, {"job": fine}, wait_seconds=1)
    one.rig.put("job")
    clock.advance(1)
    one.rig.books.receive(1)
    one.rig.books.count_redelivery()
    one.signal(SIGTERM)
    clock.advance(5)
    odd, plain = (record.fields for record in caplog.records if getattr(record, "event", "") == "worker.stopped")
    assert (odd["redelivered"], odd["follow_ups_dead_lettered"], odd["succeeded"], odd["received"]) == (1, 1, 1, 1)
    assert plain.keys().isdisjoint({"redelivered", "follow_ups_dead_lettered"})
    assert (plain["received"], plain["in_hand"], plain["abandoned"], plain["stuck"], plain["exit_code"]) == (0,) * 5
    assert plain["seconds"] == pytest.approx(2, abs=1.01)


@pytest.mark.parametrize(
    ("in_memory", "waiting", "rejected", "told"),
    [
        (
            True,
            2,
            1,
            ["3 waiting messages and 1 dead letter"],
        ),
        (
            True,
            0,
            1,
            ["1 waiting message and 1 dead letter"],
        ),
        (
            True,
            2,
            0,
            ["3 waiting messages and 0 dead letters"],
        ),
        (
            True,
            -1,
            2,
            ["0 waiting messages and 2 dead letters"],
        ),
        (True, -1, 0, []),
        (False, 2, 1, []),
    ],
)
def test_what_ends_with_a_queue_in_memory_is_told(process, clock, caplog, in_memory, waiting, rejected, told):
    def handle(payload, message):
        raise Reject("no")

    one = process({"job": handle}, wait_seconds=1)
    one.rig.consumer.in_memory = in_memory
    parts = {"": waiting, "Delayed": 1, "NotVisible": 0} if waiting >= 0 else {}
    one.rig.queue.attributes = lambda: {f"ApproximateNumberOfMessages{part}": str(n) for part, n in parts.items()}
    if rejected:
        one.rig.put("job", None, rejected)
    clock.advance(1)
    one.signal(SIGTERM)
    clock.advance(5)
    lines = [record.getMessage() for record in caplog.records if getattr(record, "event", "") == "local.gone"]
    assert lines == [f"{gone} are gone: the local queue was in the memory of this process" for gone in told]


def test_a_crash_asks_no_queue_what_is_left(process, clock):
    """An answer can take 10 s, and nothing is drained: the process ends at once, and its last lines are written."""
    one = process({"job": fine}, until_empty=True)
    one.rig.queue.attributes = lambda: pytest.fail("SQS was asked after a crash")
    clock.advance(1)
    one.core.crash(ValueError("a poller"))
    clock.advance(1)
    assert one.exit_code == CRASHED


def test_what_was_not_settled_is_left_whatever_the_queues_would_say(process, clock):
    gate = Gate()
    one = process({"job": gate}, until_empty=True)
    one.rig.put("job")
    clock.advance(1)
    one.rig.queue.script["change_visibility"] = [AccessDenied("denied", "AccessDenied")] * 100
    one.rig.queue.attributes = lambda: pytest.fail("SQS was asked though something is left")
    one.signal(SIGTERM)
    clock.advance(60)
    assert one.exit_code == LEFT
