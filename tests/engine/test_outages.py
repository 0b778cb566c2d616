"""An hour in which a queue throttles, denies, is gone or answers garbage: the log, the cost, and how it ends."""

from __future__ import annotations

import pytest

from millpond.engine.trouble import EARLY, EARLY_IN_A_ROW, LOG_SECONDS
from millpond.errors import AccessDenied, QueueMissing, Throttled, Unreachable
from millpond.hub.backoff import MAX_CALL_DELAY_SECONDS
from tests.engine.wired import run
from tests.handlers import fine

pytestmark = pytest.mark.usefixtures("no_core_greenlet_died")

HOUR = 3_600
NONSENSE = "ReceiveMessage: the answer is not from SQS: ValueError: it is text/html, not JSON"
OUTAGES = {
    "throttled": (Throttled("slow down", "RequestThrottled"), "this one is made less often until it is taken"),
    "denied": (AccessDenied("no", "AccessDenied"), "allow sqs:ReceiveMessage on that queue"),
    "without keys": (AccessDenied("none found", "NoCredentials"), "look at the credentials"),
    "gone": (QueueMissing("gone", "QueueDoesNotExist"), "make it again, or correct its URL"),
    "garbage": (Unreachable(NONSENSE), "look at the network, and at what stands between the worker and SQS"),
    "broken": (Unreachable("HTTP 500", "InternalError"), "the call is tried again"),
    "key throttled": (Throttled("kms", "KMS.ThrottlingException"), "raise the queue's KmsDataKeyReusePeriodSeconds"),
    "full": (Throttled("in flight", "OverLimit"), "too many of its messages are in flight"),
}


@pytest.fixture
def events(caplog):
    """The lines so far that have these events, in order; (event, text, fields)."""
    caplog.set_level("INFO")

    def of(*names):
        return [record for record in caplog.records if getattr(record, "event", "") in names]

    return of


def fail_for(rig, name, error, seconds):
    """Every call of this name fails for so long."""
    end = rig.clock.now() + seconds
    before = rig.queue.on_call

    def on_call(called):
        before(called)
        if called == name and rig.clock.now() < end:
            raise error

    rig.queue.on_call = on_call


@pytest.mark.parametrize(("error", "remedy"), OUTAGES.values(), ids=OUTAGES)
def test_a_queue_that_fails_for_an_hour_is_logged_each_minute_and_received_from_within_ten_seconds_of_its_return(
    clock, events, error, remedy
):
    rig = run(clock, {"job": fine})
    clock.advance(1)
    fail_for(rig, "receive", error, HOUR)
    rig.put("job")  # it ends the poll that is open
    calls = rig.queue.calls["receive"]
    clock.advance(HOUR - 0.001)
    lines = events("receive.failed")
    assert HOUR / (LOG_SECONDS + MAX_CALL_DELAY_SECONDS) <= len(lines) <= HOUR / LOG_SECONDS
    assert all(remedy in line.getMessage() for line in lines)
    assert {line.levelname for line in lines} == {"WARNING"}
    assert [line.fields["in_a_row"] for line in lines[:1]] == [1]
    assert rig.queue.calls["receive"] - calls <= HOUR / (0.5 * MAX_CALL_DELAY_SECONDS) + 10
    rig.put("job")
    ended = len(rig.ended)
    clock.advance(MAX_CALL_DELAY_SECONDS + 0.1)
    assert len(rig.ended) == ended + 1
    assert len(events("receive.resumed")) == 1
    assert events("receive.resumed")[0].fields["call"] == "sqs:ReceiveMessage"


def test_receives_that_come_back_empty_at_once_for_an_hour_are_logged_each_minute(clock, events):
    """A proxy that answers 200 with {} to everything: the queue looked empty, and nothing said why."""
    rig = run(clock, {"job": fine})
    clock.advance(1)
    real, end = rig.queue.receive, clock.now() + HOUR
    rig.queue.receive = lambda *args: real(*args) if clock.now() >= end else rig.queue._enter("receive", []) or []
    rig.put("job")
    clock.advance(HOUR)
    lines = events("receive.failed")
    assert HOUR / (LOG_SECONDS + MAX_CALL_DELAY_SECONDS) <= len(lines) <= HOUR / LOG_SECONDS
    assert all(str(EARLY) in line.getMessage() for line in lines)
    assert [line.fields["in_a_row"] for line in lines[:1]] == [EARLY_IN_A_ROW]
    rig.put("job")
    clock.advance(MAX_CALL_DELAY_SECONDS + 0.1)
    assert len(rig.ended) == 2
    assert len(events("receive.resumed")) == 1


def test_a_receive_that_comes_back_empty_at_once_now_and_then_is_not_logged(clock, events):
    rig = run(clock, {"job": fine})
    real, answers = rig.queue.receive, []

    def receive(*args):
        answers.append(1)
        return [] if len(answers) % EARLY_IN_A_ROW else real(*args)

    rig.queue.receive = receive
    clock.advance(HOUR)
    assert len(answers) > 100
    assert events("receive.failed", "receive.resumed") == []


@pytest.mark.parametrize("wait_seconds", [1, 20])
def test_a_receive_that_fails_once_is_logged_at_once_with_its_end(clock, events, wait_seconds):
    rig = run(clock, {"job": fine}, wait_seconds=wait_seconds)
    rig.queue.script["receive"] = [Unreachable("reset")]
    rig.put("job")
    clock.advance(1)
    failed, resumed = events("receive.failed", "receive.resumed")
    assert (failed.event, resumed.event) == ("receive.failed", "receive.resumed")
    assert "ReceiveMessage on http://queue.test/000000000000/q fails: reset (1 in a row); " in failed.getMessage()


@pytest.mark.parametrize("name", ["delete", "change_visibility"])
def test_settling_that_is_throttled_for_an_hour_backs_off_and_goes_on_within_seconds_of_its_end(clock, events, name):
    """One message is done or put off, nine are at work under their beats: what SQS throttles loses only its leases."""

    def work(payload, message):
        clock.sleep(30 if payload else 0)

    rig = run(clock, {"job": work}, visibility_seconds=30)
    fail_for(rig, name, Throttled("slow down", "RequestThrottled"), HOUR)
    rig.put("job")
    rig.put("job", payload=1, number=9)
    clock.advance(HOUR - 0.001)
    lines = events("settle.failed")
    assert HOUR / (LOG_SECONDS + MAX_CALL_DELAY_SECONDS) <= len(lines) <= HOUR / LOG_SECONDS + 1
    assert all("is made less often until it is taken" in line.getMessage() for line in lines)
    assert rig.queue.calls[name] <= 2 * HOUR  # of ten messages; each batch of ten backs off to 1 to 2 s
    clock.advance(100)
    assert rig.queue.messages == {}
    assert len(events("settle.resumed")) == 1
