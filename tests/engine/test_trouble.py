"""A settling call that fails: what is logged of it, how often, and with which remedy."""

import pytest

from millpond.errors import (
    AccessDenied,
    QueueMissing,
    Unreachable,
)
from tests.engine.wired import BROKEN, GONE, run
from tests.handlers import fine

pytestmark = pytest.mark.usefixtures("no_core_greenlet_died")


@pytest.mark.parametrize(
    ("error", "remedy"),
    [
        (QueueMissing("gone", "QueueDoesNotExist"), "there is no such queue: make it again, or correct its URL"),
        (
            AccessDenied("no", "AccessDenied"),
            "allow sqs:DeleteMessage on that queue (and the use of its KMS key, where",
        ),
        (AccessDenied("none found", "NoCredentials"), "look at the credentials"),
        (Unreachable("down"), "the call is tried again"),
    ],
    ids=repr,
)
def test_a_settling_call_that_fails_is_told_with_its_remedy(clock, caplog, error, remedy):
    rig = run(clock, {"job": fine})
    rig.queue.script["delete"] = [error]
    rig.put("job")
    clock.advance(10)
    (told,) = [record.getMessage() for record in caplog.records if getattr(record, "event", "") == "settle.failed"]
    assert f"; {remedy}" in told


def test_a_lost_lease_is_no_trouble_of_the_queue(clock, caplog):
    rig = run(clock, {"job": fine})
    rig.queue.script["delete"] = [GONE]
    rig.put("job")
    clock.advance(1)
    assert rig.ended[0][1].name == "lease_lost"
    assert [record for record in caplog.records if getattr(record, "event", "") == "settle.failed"] == []


def test_what_is_told_of_a_failing_call_is_told_of_the_next_time_too_and_each_minute(clock, caplog):
    caplog.set_level("INFO")
    rig = run(clock, {"job": fine})

    def told():
        events = [getattr(record, "event", "") for record in caplog.records]
        return [event for event in events if event.startswith("settle.")]

    for _ in range(2):
        rig.queue.script["delete"] = [BROKEN] * 10_000
        rig.put("job")
        clock.advance(70)
        rig.queue.script["delete"].clear()
        clock.advance(70)
    assert told() == ["settle.failed", "settle.failed", "settle.resumed"] * 2


def test_a_call_that_fails_and_works_in_turns_is_told_once_a_minute_and_each_end_only_of_what_was_told(clock, caplog):
    caplog.set_level("INFO")
    rig = run(clock, {"job": fine})
    for _ in range(60):  # more than two minutes
        rig.queue.script["delete"] = [BROKEN]
        rig.put("job")
        clock.advance(2.5)
    rig.queue.script["delete"] = [BROKEN] * 10_000
    rig.put("job")
    clock.advance(70)  # one that lasts is told when the minute is over
    events = [getattr(record, "event", "") for record in caplog.records]
    told = [event for event in events if event.startswith("settle.")]
    assert told[:-1] == ["settle.failed", "settle.resumed"] * 3
    assert told[-1] == "settle.failed"
