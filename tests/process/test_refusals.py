"""Refusals: queues from which nothing can be received until a person mends it."""

from signal import SIGTERM

import pytest

from millpond.errors import (
    CRASHED,
    FINISHED,
    MISCONFIGURED,
    AccessDenied,
    QueueMissing,
    Throttled,
    Unreachable,
)
from tests.handlers import fine
from tests.process.running import LONG, two_queues


@pytest.mark.parametrize("crash_first", [True, False])
def test_a_crash_outweighs_a_refused_boot_whichever_comes_first(process, clock, crash_first):
    one = process({"job": fine}, drain_seconds=LONG, wait_seconds=1)
    steps = [lambda: one.core.stop("crash", CRASHED), lambda: one.refusals.note("q", AccessDenied("no"))]
    for step in steps if crash_first else reversed(steps):
        step()
    clock.advance(5)
    assert one.exit_code == CRASHED


@pytest.mark.parametrize("error", [AccessDenied("no right"), QueueMissing("no queue")])
def test_what_only_a_person_can_mend_ends_the_boot(process, clock, error, caplog):
    one = process({"job": fine}, wait_seconds=1)
    one.refusals.note("q", error)
    clock.advance(5)
    assert one.exit_code == MISCONFIGURED
    [told] = [record for record in caplog.records if getattr(record, "event", "") == "worker.refused"]
    assert (told.levelname, told.fields["queue"]) == ("CRITICAL", "q")
    assert told.getMessage() == f"no queue can be received from, so the worker stops: {error}"


def test_a_queue_that_is_denied_at_its_first_receive_stops_no_other_and_is_told_each_minute(process, clock, caplog):
    one, rigs = two_queues(process, "a")
    clock.advance(30)
    rigs["b"].put("job")
    clock.advance(160)
    assert one.exit_code is None
    assert len(rigs["b"].ended) == 1
    told = [record for record in caplog.records if getattr(record, "event", "") == "queue.refused"]
    assert {record.fields["queue"] for record in told} == {"a"}
    assert 3 <= len(told) <= 5
    rigs["a"].queue.script["receive"].clear()
    rigs["a"].put("job")
    clock.advance(120)
    assert len(rigs["a"].ended) == 1


def test_where_every_queue_is_denied_at_its_first_receive_the_boot_is_over(process, clock):
    one, _ = two_queues(process, "a", "b")
    clock.advance(30)
    assert one.exit_code == MISCONFIGURED


def test_a_queue_that_has_been_received_from_and_is_denied_later_ends_nothing(process, clock):
    one = process({"job": fine}, wait_seconds=1)
    clock.advance(10)
    one.rig.queue.script["receive"] += [AccessDenied("no right")] * 10
    clock.advance(600)
    assert one.exit_code is None
    one.rig.put("job")
    clock.advance(120)
    assert len(one.rig.ended) == 1


def test_an_outage_at_boot_does_not_end_it(process, clock):
    one = process({"job": fine}, wait_seconds=1)
    for error in (Unreachable("down"), Throttled("slow")):
        one.refusals.note("q", error)
    clock.advance(5)
    assert not one.core.stopping
    one.signal(SIGTERM)
    clock.advance(5)
    assert one.exit_code == FINISHED
