"""What is known of a letter, whoever has put it there."""

from __future__ import annotations

import json

import pytest

from millpond.app.dead_letter import ReasonAttribute, ReplayMark, copy, replay_mark
from millpond.app.opener import Opener
from millpond.dead_letters.letter import NO_TYPE, Origin, letter_of
from millpond.dead_letters.letter_lines import line_of
from millpond.sqs.queue import Attribute, Received
from tests.dead_letters.letters import body_of, letter, received_of


def of(body, system=None, **attributes):
    received = Received("the-id", "h", body, 4, 1_700_000_000_000, attributes=attributes)
    return letter_of(received, system or {}, Opener())


def test_a_workers_letter_has_its_reason():
    found = letter("e7", error="ValueError: 7 is bad\nmore")
    assert (found.origin, found.event_type, found.event_id) == (Origin.WORKER, "email.send", "e7")
    assert (found.attempts, found.problem, found.reason.queue) == (7, "ValueError: 7 is bad\nmore", "emails")


def test_a_letter_that_sqs_moved_says_so():
    found = of(body_of("e1"), {"DeadLetterQueueSourceArn": "arn:aws:sqs:eu-west-1:1:emails"})
    assert (found.origin, found.source, found.attempts) == (Origin.SQS, "arn:aws:sqs:eu-west-1:1:emails", 4)
    assert found.failed_at == 1_700_000_000
    assert found.problem.startswith("SQS moved it")


@pytest.mark.parametrize("body", ["no JSON", "[" * 5_000, '{"a": 1}', "\ud800", "{}", "1" * 5_000])
def test_a_letter_that_does_not_decode_is_a_letter_all_the_same(body):
    found = of(body)
    assert (found.origin, found.event_type, found.event_id) == (Origin.OTHER, NO_TYPE, "the-id")
    assert found.unreadable
    assert "no reason was left" in found.problem


@pytest.mark.parametrize("value", ["why", "[]", '{"reason": 1}', '{"attempt": "x", "reason": "r"}', "[" * 500, b"\xff"])
def test_an_attribute_that_others_have_written_is_no_reason(value):
    found = of(body_of("e1"), millpond=Attribute("String", value))
    assert (found.origin, found.mark, found.event_type) == (Origin.OTHER, None, "email.send")


@pytest.mark.parametrize("system", [{"ApproximateFirstReceiveTimestamp": "9" * 40}, {"DeadLetterQueueSourceArn": 7}])
def test_numbers_and_names_of_another_server_do_no_harm(system):
    assert of(body_of("e1"), system).failed_at == 1_700_000_000


def test_a_letter_is_named_by_the_beginning_of_its_id_its_event_id_or_its_originals_id():
    found = letter("e7", message_id="12345678-aa")
    assert all(map(found.matches_id, ("12345678", "12345678-aa", "e7", "m-e7")))
    assert not any(map(found.matches_id, ("123", "2345", "e")))


def test_the_mark_of_a_replay_goes_on_to_the_next_letter_and_nothing_else_does():
    mark = ReplayMark(replays=2, alike=1, failed_as="abc", run="r1")
    text = json.dumps({"replay": {"replays": 2, "alike": 1, "failed_as": "abc", "run": "r1"}, "reason": "old"})
    received = received_of("e1", attributes={"millpond": Attribute("String", text)})
    reason = ReasonAttribute.of(received, 0.0, reason="new", error="", handler="", event_id="", queue="q")
    entry = copy(received, reason)
    assert replay_mark(entry.attributes) == mark
    assert json.loads(entry.attributes["millpond"].value)["reason"] == "new"


def test_a_message_that_was_never_replayed_has_no_word_of_it():
    assert "replay" not in letter("e1").received.attributes["millpond"].value


@pytest.mark.parametrize(
    "mark", [{"replays": 0}, {"replays": 10**9}, {"replays": 1, "run": "x" * 99}, {"replays": 1, "alike": -1}, 7, []]
)
def test_a_mark_that_no_replay_has_left_does_not_go_on(mark):
    assert replay_mark({"millpond": Attribute("String", json.dumps({"replay": mark}))}) is None


@pytest.mark.parametrize(
    "moment", ["9999-12-31T23:59:59-23:59", "0001-01-01T00:00:00+23:59", "1969-12-31T00:00:00Z", "NaN"]
)
def test_a_moment_that_no_clock_has_is_not_believed_and_an_export_has_the_letter(moment):
    """One such letter of another program would end the export of all."""
    value = json.dumps({"reason": "r", "queue": "emails", "failed_at": moment})
    attributes = {"millpond": Attribute("String", value)}
    found = letter_of(Received("m", "h", "body", sent_ms=1_700_000_000_000, attributes=attributes), {}, Opener())
    assert found.failed_at == 1_700_000_000
    assert b'"failed_at":"2023-11-14T22:13:20.000Z"' in line_of(found)
