"""What the log and a dead letter say of failures: what is known, and no more."""

import logging

import pytest

from millpond import Retry, Unavailable
from millpond.app.config import RetrySettings
from millpond.engine.attempts import Attempts
from millpond.engine.processor import Processor
from millpond.hub.threads import NoThread
from tests.engine.test_processor import delivery_of, raiser, route
from tests.engine.wired import fail, run
from tests.virtual import VirtualClock


@pytest.mark.parametrize(
    ("attempts", "failures", "used", "text"),
    [
        (Attempts(7, 7), 7, 7, "failed 7 times"),
        (Attempts(1), 1, 1, "failed 1 time"),
        (Attempts(4, 1, 3), 1, 1, "failed 1 time, received 4 times"),
        (Attempts(4), None, 4, "received 4 times; this worker saw 1 failure"),
        (Attempts(9, 2, 1), None, 8, "received 9 times, 1 of which was no failure; this worker saw 2 failures"),
        (Attempts(4, 1, 0, 1), 1, 1, "failed 1 time, received 4 times"),
        (Attempts(9, 1, 2, 5), 5, 5, "failed 5 times, received 9 times"),
    ],
)
def test_failures_are_named_where_they_are_known_and_receives_where_they_are_not(attempts, failures, used, text):
    assert (attempts.failures, attempts.used, str(attempts)) == (failures, used, text)


def lines(caplog):
    records = [record for record in caplog.records if getattr(record, "event", "") == "message.retried"]
    return [(record.levelname, record.getMessage(), record.fields.get("failures")) for record in records]


def test_a_failure_is_logged_with_its_number_and_the_next_attempt(clock, caplog):
    rig = run(clock, {"job": fail}, max_attempts=3, back_off=(20, 1_800), wait_seconds=1)
    rig.put("job")
    clock.advance(200)
    delays = [outcome.delay_seconds for _, outcome in rig.ended[:2]]
    assert lines(caplog) == [("WARNING", f"failure {n} of 3, next attempt in {delays[n - 1]} s", n) for n in (1, 2)]
    assert rig.letters() == ["failed 3 times; max_attempts = 3"]


@pytest.mark.parametrize("error", [Unavailable("down", after=5), NoThread("no thread was free")])
def test_what_was_no_failure_does_not_look_like_one_and_uses_up_no_attempt(clock, caplog, error):
    caplog.set_level(logging.INFO)

    def handle(payload, message):
        raise error if message.attempt < 4 else ValueError("boom")

    without = {"job": {"breaker": None}}  # else it is held
    rig = run(clock, {"job": handle}, max_attempts=7, back_off=(20, 1_800), wait_seconds=1, options=without)
    rig.put("job")
    while len(rig.ended) < 4:
        clock.advance(1)
    *put_off, failure = lines(caplog)
    assert [(level, failures) for level, _, failures in put_off] == [("INFO", None)] * 3
    assert all(text.startswith("put off, which is no failure: ") for _, text, _ in put_off)
    assert failure[1].startswith("failure 1 of 7, next attempt in ")
    assert 10 <= rig.ended[3][1].delay_seconds <= 20


def test_where_other_workers_may_have_had_a_message_no_number_of_failures_is_claimed(clock, caplog):
    rig = run(clock, {"job": fail}, max_attempts=5, back_off=(20, 20), wait_seconds=1)
    (one,) = rig.put("job")
    rig.queue.messages[one].receives = 3  # others had it, or a deploy gave it back
    clock.advance(60)
    ((_, text, failures),) = lines(caplog)
    assert text.startswith("attempt 4 of 5 failed (received 4 times; this worker saw 1 failure), next attempt in ")
    assert failures is None
    assert rig.letters() == ["received 5 times; this worker saw 2 failures; max_attempts = 5"]


def test_max_attempts_counts_failures_where_they_are_counted():
    processor = Processor({"job": route(raiser(Retry("not yet")))}, RetrySettings(3, 20, 1_800), VirtualClock())
    delivery = delivery_of(attempt=9)
    delivery.failures = 0
    outcome = processor.process(delivery)
    assert outcome.name == "retried"
    assert outcome.delay_seconds <= 20
    delivery = delivery_of(attempt=10)
    delivery.failures = 2
    assert processor.process(delivery).reason == "not yet (failed 3 times, received 10 times; max_attempts = 3)"


def test_what_cannot_be_a_dead_letter_is_no_attempt_to_come(clock, caplog):
    rig = run(clock, {"job": fail}, max_attempts=1, dead_letters=False, wait_seconds=1)
    rig.put("job")
    clock.advance(2)
    ((level, text, failures),) = lines(caplog)
    assert (level, failures) == ("WARNING", None)
    assert text.startswith("it cannot be sent to a dead-letter queue: this message is visible again in ")


def test_what_has_no_handler_and_no_dead_letter_queue_waits_for_the_longest_back_off_spread():
    processor = Processor({}, RetrySettings(3, 20, 1_800), VirtualClock())
    waits = {processor.retry_seconds(delivery_of()) for _ in range(100)}
    assert len(waits) > 10
    assert min(waits) >= 900
    assert max(waits) <= 1_800


def test_the_back_off_of_a_dead_letter_that_cannot_be_sent_counts_attempts_and_not_what_was_given_back():
    processor = Processor({"job": route(raiser(Retry("no")))}, RetrySettings(3, 20, 1_800), VirtualClock())
    delivery = delivery_of(attempt=6)
    delivery.spared = 5
    processor.process(delivery)
    assert 10 <= processor.retry_seconds(delivery) <= 20
    assert processor.retry_seconds(delivery_of(attempt=9)) >= 900
    delivery.spared = 0
    assert processor.retry_seconds(delivery, most=900) <= 900


def test_a_failure_that_turned_out_to_be_an_outage_is_said_to_be_none(clock, caplog):
    """The breaker opens by its failure, and there is no room to hold it: it goes back, and that is no failure."""
    rig = run(clock, {"job": raiser(ConnectionRefusedError("down"))}, wait_seconds=1)
    rig.consumer.hold_in_line = lambda delivery, line: False
    caplog.set_level(logging.INFO)
    rig.put("job", number=5)
    clock.advance(2)
    released = [record.fields for record in caplog.records if record.event == "message.released"]
    assert [fields["cause"] for fields in released] == ["no_room"]
    assert "failures" not in released[0]
    assert [failures for _, _, failures in lines(caplog)] == [1] * 4
