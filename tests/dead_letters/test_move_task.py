"""SQS's own move of a whole queue: what is asked, and what its states and refusals mean."""

from __future__ import annotations

import json

import pytest

from millpond.dead_letters import move_task
from millpond.dead_letters.move_task import follow_task, start_task
from millpond.dead_letters.sweep import Stop
from millpond.errors import AccessDenied, QueueError, Unreachable
from millpond.sqs.sqs_queue import SqsQueue


class ScriptedSqs:
    """Answers ListMessageMoveTasks with these states, one after another; an exception is raised."""

    def __init__(self, *states):
        self.states = list(states)
        self.requests = []
        self.refusal = None  # of the cancel

    def call(self, name, request, seconds, read):
        self.requests.append((name, request))
        if name == "GetQueueAttributes":
            return read(b'{"Attributes": {"QueueArn": "arn:dead"}}')
        if name == "CancelMessageMoveTask" and self.refusal:
            raise self.refusal
        if name != "ListMessageMoveTasks":
            return read(b'{"TaskHandle": "h"}')
        state = self.states.pop(0)
        if isinstance(state, Exception):
            raise state
        status, moved, *why = state
        fields = {
            "Status": status,
            "ApproximateNumberOfMessagesMoved": moved,
            **({"FailureReason": why[0]} if why else {}),
        }
        return read(json.dumps({"Results": [fields]}).encode())


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(move_task, "TASK_ASK_SECONDS", 0)


def followed(*states, stop=None, refusal=None):
    sqs, steps = ScriptedSqs(*states), []
    sqs.refusal = refusal
    done, has_failed = follow_task(SqsQueue("http://q/1/dead", sqs), "h", stop or Stop(), steps.append)
    return done, has_failed, steps, [name for name, _ in sqs.requests[1:]]


@pytest.mark.parametrize(("rate", "asked"), [(0, None), (50, 50), (900, 500)])
def test_it_starts_without_a_destination_at_a_rate_that_sqs_takes(rate, asked):
    sqs = ScriptedSqs()
    assert start_task(SqsQueue("http://q/1/dead", sqs), rate) == "h"
    name, request = sqs.requests[-1]
    assert (name, request["SourceArn"]) == ("StartMessageMoveTask", "arn:dead")
    assert request.get("MaxNumberOfMessagesPerSecond") == asked
    assert "DestinationArn" not in request


def test_it_is_followed_to_its_end():
    done, has_failed, steps, _ = followed(("RUNNING", 0), ("RUNNING", 40), Unreachable("blip"), ("COMPLETED", 100))
    assert (done.moved, done.stopped, has_failed, steps) == (100, "", False, [0, 40, 60])


def test_a_failure_has_its_reason():
    done, has_failed, _, _ = followed(("FAILED", 7, "CouldNotDetermineMessageSource"))
    assert (done.moved, has_failed) == (7, True)
    assert done.stopped == "SQS's move ended as FAILED: CouldNotDetermineMessageSource"


def test_a_stop_cancels_it_once():
    stop = Stop()
    stop.asked = True
    done, has_failed, _, names = followed(("CANCELLING", 5), ("CANCELLED", 6), stop=stop)
    assert (done.moved, done.stopped, has_failed) == (6, "interrupted", False)
    assert names == ["CancelMessageMoveTask", "ListMessageMoveTasks", "ListMessageMoveTasks"]


def test_a_stop_that_comes_when_it_has_just_ended_is_not_said_to_go_on():
    stop = Stop()
    stop.asked = True
    refusal = QueueError("InvalidParameterValue: Only active tasks can be cancelled.")
    done, has_failed, _, _ = followed(("COMPLETED", 100), stop=stop, refusal=refusal)
    assert (done.moved, done.stopped, has_failed) == (100, "", False)


def test_a_stop_that_may_not_cancel_it_says_that_it_goes_on():
    stop = Stop()
    stop.asked = True
    assert "it may go on" in followed(("RUNNING", 1), stop=stop, refusal=AccessDenied("no"))[0].stopped


def test_what_cannot_be_followed_is_said_to_go_on(monkeypatch):
    assert "it may go on" in followed(("RUNNING", 1), AccessDenied("no"))[0].stopped
    monkeypatch.setattr(move_task, "SILENT_SECONDS", -1)
    assert "it may go on" in followed(Unreachable("gone"))[0].stopped
