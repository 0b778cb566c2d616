"""Move tasks as boto3 sees them: AWS's answers and refusals, as localstack recorded them (test_sqs_move_task)."""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from typing import Any

import gevent
import pytest

from tests.local.sdk_calls import NewQueue, attributes, error_of, moto_differs, receive, receive_one, text

pytestmark = moto_differs("it has no move tasks")

FORMAT = "arn:<partition>:<service>:<region>:<account-id>:<resource-id>"
MISSING = "The resource that you specified for the {} parameter doesn't exist."


class Pair:
    """A queue and its dead-letter queue, which gets a message at its second receive."""

    def __init__(self, sqs: Any, new_queue: NewQueue, **more: str) -> None:
        self.sqs = sqs
        self.dead_url = new_queue()
        self.dead = self.arn(self.dead_url)
        policy = json.dumps({"deadLetterTargetArn": self.dead, "maxReceiveCount": 1})
        self.url = new_queue(RedrivePolicy=policy, **more)

    def arn(self, url: str) -> str:
        return attributes(self.sqs, url)["QueueArn"]

    def fail(self, *bodies: str, **more: Any) -> list[str]:
        """Send these, and let SQS move them; the ids that they had."""
        ids = [self.sqs.send_message(QueueUrl=self.url, MessageBody=body, **more)["MessageId"] for body in bodies]
        receive(self.sqs, self.url, MaxNumberOfMessages=10, VisibilityTimeout=0)
        assert receive(self.sqs, self.url, MaxNumberOfMessages=10) == []
        return ids

    def start(self, **more: Any) -> str:
        return self.sqs.start_message_move_task(SourceArn=self.dead, **more)["TaskHandle"]

    def tasks(self, **more: Any) -> list[dict[str, Any]]:
        return self.sqs.list_message_move_tasks(SourceArn=self.dead, **more)["Results"]

    def ended(self) -> dict[str, Any]:
        """The last task, once it is over."""
        with gevent.Timeout(10):
            while (task := self.tasks()[0])["Status"] in ("RUNNING", "CANCELLING"):
                gevent.sleep(0.01)
        return task


@pytest.fixture
def pair(sqs: Any, new_queue: NewQueue) -> Pair:
    return Pair(sqs, new_queue)


@pytest.fixture
def fifo_pair(sqs: Any, new_fifo_queue: NewQueue) -> Pair:
    return Pair(sqs, new_fifo_queue, ContentBasedDeduplication="true")


def all_bodies(sqs: Any, url: str) -> list[str]:
    found: list[str] = []
    while messages := receive(sqs, url, MaxNumberOfMessages=10):
        found += [message["Body"] for message in messages]
    return found


def test_letters_go_back_to_the_queue_that_each_came_from(sqs: Any, pair: Pair, new_queue: NewQueue) -> None:
    policy = json.dumps({"deadLetterTargetArn": pair.dead, "maxReceiveCount": 1})
    other_url = new_queue(RedrivePolicy=policy)
    pair.fail("a", "b")
    sqs.send_message(QueueUrl=other_url, MessageBody="c")
    assert len(receive(sqs, other_url, VisibilityTimeout=0) + receive(sqs, other_url)) == 1
    pair.start()
    task = pair.ended()
    assert task.pop("StartedTimestamp") > 1_700_000_000_000
    assert task == {
        "Status": "COMPLETED",
        "SourceArn": pair.dead,
        "ApproximateNumberOfMessagesMoved": 3,
        "ApproximateNumberOfMessagesToMove": 3,
    }
    assert all_bodies(sqs, pair.url) == ["a", "b"]
    assert all_bodies(sqs, other_url) == ["c"]
    assert receive(sqs, pair.dead_url) == []


def test_a_letter_comes_as_a_new_message_with_what_its_sender_gave_it(sqs: Any, pair: Pair) -> None:
    trace = {"AWSTraceHeader": text("Root=1-5759e988-bd862e3fe1be46a994272793")}
    ids = pair.fail("a", MessageAttributes={"kind": text("x")}, MessageSystemAttributes=trace, MessageGroupId="tenant")
    seen = receive_one(sqs, pair.dead_url, VisibilityTimeout=0, MessageSystemAttributeNames=["All"])
    assert (seen["MessageId"], seen["Attributes"]["ApproximateReceiveCount"]) == (ids[0], "2")
    gevent.sleep(0.002)  # a timestamp has milliseconds
    pair.start()
    pair.ended()
    message = receive_one(sqs, pair.url, MessageSystemAttributeNames=["All"], MessageAttributeNames=["All"])
    assert message["MessageId"] != ids[0]
    assert message["Body"] == "a"
    assert message["MessageAttributes"] == {"kind": text("x")}
    assert message["MD5OfMessageAttributes"]
    before, after = seen["Attributes"], message["Attributes"]
    assert int(after.pop("SentTimestamp")) > int(before["ApproximateFirstReceiveTimestamp"])
    assert int(after.pop("ApproximateFirstReceiveTimestamp")) > int(before["ApproximateFirstReceiveTimestamp"])
    assert after == {
        "SenderId": before["SenderId"],
        "ApproximateReceiveCount": "1",
        "MessageGroupId": "tenant",
        "AWSTraceHeader": "Root=1-5759e988-bd862e3fe1be46a994272793",
    }


def test_a_letter_that_fails_again_comes_back_and_can_go_again(sqs: Any, pair: Pair) -> None:
    pair.fail("a")
    for _ in range(2):
        pair.start()
        assert pair.ended()["ApproximateNumberOfMessagesMoved"] == 1
        assert receive_one(sqs, pair.url, VisibilityTimeout=0)["Body"] == "a"
        assert receive(sqs, pair.url) == []  # moved again at its second receive there: the count began anew
        assert attributes(sqs, pair.dead_url)["ApproximateNumberOfMessages"] == "1"


def test_a_letter_that_a_program_sent_has_no_source_and_ends_the_task(sqs: Any, pair: Pair) -> None:
    pair.fail("first")
    sqs.send_message(QueueUrl=pair.dead_url, MessageBody="sent")
    pair.fail("last")
    pair.start(MaxNumberOfMessagesPerSecond=500)
    task = pair.ended()
    assert (task["Status"], task["FailureReason"]) == ("FAILED", "CouldNotDetermineMessageSource")
    assert (task["ApproximateNumberOfMessagesMoved"], task["ApproximateNumberOfMessagesToMove"]) == (1, 3)
    assert "TaskHandle" not in task
    assert all_bodies(sqs, pair.url) == ["first"]
    assert all_bodies(sqs, pair.dead_url) == ["sent", "last"]


def test_with_a_destination_letters_of_any_kind_go_there(sqs: Any, pair: Pair, queue_url: str) -> None:
    pair.fail("moved")
    sqs.send_message(QueueUrl=pair.dead_url, MessageBody="sent")
    pair.start(DestinationArn=pair.arn(queue_url), MaxNumberOfMessagesPerSecond=100)
    task = pair.ended()
    assert (task["Status"], task["DestinationArn"]) == ("COMPLETED", pair.arn(queue_url))
    assert task["MaxNumberOfMessagesPerSecond"] == 100
    assert all_bodies(sqs, queue_url) == ["moved", "sent"]
    assert all_bodies(sqs, pair.dead_url) == []


def test_a_long_poll_on_the_destination_gets_the_letter(sqs: Any, pair: Pair) -> None:
    pair.fail("a")
    poll = gevent.spawn(receive_one, sqs, pair.url)
    pair.start()
    assert poll.get(timeout=4)["Body"] == "a"


def test_a_task_that_runs_shows_its_handle_and_can_be_cancelled(sqs: Any, pair: Pair) -> None:
    pair.fail("a", "b", "c")
    handle = pair.start(MaxNumberOfMessagesPerSecond=1)
    assert json.loads(b64decode(handle)).keys() == {"taskId", "sourceArn"}
    assert receive_one(sqs, pair.url)["Body"] == "a"
    running = pair.tasks()[0]
    assert (running["Status"], running["TaskHandle"]) == ("RUNNING", handle)
    cancelled = sqs.cancel_message_move_task(TaskHandle=handle)
    assert cancelled["ApproximateNumberOfMessagesMoved"] == 1
    task = pair.ended()
    assert (task["Status"], task["ApproximateNumberOfMessagesMoved"]) == ("CANCELLED", 1)
    assert "TaskHandle" not in task
    assert all_bodies(sqs, pair.dead_url) == ["b", "c"]
    assert error_of(sqs.cancel_message_move_task, TaskHandle=handle)["Message"] == "Only active tasks can be cancelled."


def test_a_queue_has_one_task_at_a_time(sqs: Any, pair: Pair) -> None:
    pair.fail("a", "b")
    handle = pair.start(MaxNumberOfMessagesPerSecond=1)
    assert refused(error_of(pair.start)) == (
        "InvalidParameterValue",
        400,
        "There is already a task running. Only one active task is allowed for a source queue arn at a given time.",
    )
    sqs.cancel_message_move_task(TaskHandle=handle)
    pair.ended()
    pair.start()
    assert pair.ended()["Status"] == "COMPLETED"
    assert [task["Status"] for task in pair.tasks(MaxResults=10)] == ["COMPLETED", "CANCELLED"]


def test_the_last_task_alone_is_listed_if_no_more_are_asked_for(pair: Pair) -> None:
    assert pair.tasks() == []
    for rate in range(1, 13):
        pair.start(MaxNumberOfMessagesPerSecond=rate)
        assert pair.ended()["ApproximateNumberOfMessagesToMove"] == 0
    assert [task["MaxNumberOfMessagesPerSecond"] for task in pair.tasks()] == [12]
    assert [task["MaxNumberOfMessagesPerSecond"] for task in pair.tasks(MaxResults=10)] == list(range(12, 2, -1))


def test_a_task_fails_when_its_destination_is_deleted(sqs: Any, pair: Pair, queue_url: str) -> None:
    pair.fail("a", "b")
    pair.start(DestinationArn=pair.arn(queue_url), MaxNumberOfMessagesPerSecond=1)
    assert receive_one(sqs, queue_url)["Body"] == "a"
    sqs.delete_queue(QueueUrl=queue_url)
    task = pair.ended()
    assert (task["Status"], task["FailureReason"]) == ("FAILED", "AWS.SimpleQueueService.NonExistentQueue")
    assert all_bodies(sqs, pair.dead_url) == ["b"]


def test_a_dead_letter_queue_made_anew_has_no_tasks(sqs: Any, pair: Pair) -> None:
    pair.fail("a", "b")
    handle = pair.start(MaxNumberOfMessagesPerSecond=1)
    sqs.delete_queue(QueueUrl=pair.dead_url)
    assert error_of(pair.tasks)["Code"] == "ResourceNotFoundException"
    sqs.create_queue(QueueName=pair.dead_url.rpartition("/")[2])
    assert pair.tasks() == []
    assert error_of(sqs.cancel_message_move_task, TaskHandle=handle)["Message"] == "Task does not exist."


def test_fifo_letters_keep_their_group_and_their_order(sqs: Any, fifo_pair: Pair) -> None:
    for body in ("a1", "b1", "a2", "a3"):
        fifo_pair.fail(body, MessageGroupId=body[0])
    fifo_pair.start()
    assert fifo_pair.ended()["ApproximateNumberOfMessagesMoved"] == 4
    messages = receive(sqs, fifo_pair.url, MaxNumberOfMessages=10, MessageSystemAttributeNames=["MessageGroupId"])
    found = [(message["Attributes"]["MessageGroupId"], message["Body"]) for message in messages]
    assert sorted(found) == [("a", "a1"), ("a", "a2"), ("a", "a3"), ("b", "b1")]
    assert [body for group, body in found if group == "a"] == ["a1", "a2", "a3"]


def refused(error: dict[str, Any]) -> tuple[str, int, str]:
    return error["Code"], error["status"], error["Message"]


def test_a_fifo_letter_is_no_duplicate_of_what_its_queue_has_seen(sqs: Any, fifo_pair: Pair) -> None:
    """A worker's copy has an id of its own choice, which the queue may have taken a minute ago."""
    known = {"MessageGroupId": "g", "MessageDeduplicationId": "d"}
    sqs.send_message(QueueUrl=fifo_pair.url, MessageBody="first", **known)
    sqs.send_message(QueueUrl=fifo_pair.dead_url, MessageBody="letter", **known)
    fifo_pair.start(DestinationArn=fifo_pair.arn(fifo_pair.url))
    assert fifo_pair.ended()["ApproximateNumberOfMessagesMoved"] == 1
    assert all_bodies(sqs, fifo_pair.url) == ["first", "letter"]


def test_a_source_that_is_nobodys_dead_letter_queue_is_refused(sqs: Any, pair: Pair) -> None:
    error = error_of(sqs.start_message_move_task, SourceArn=pair.arn(pair.url), DestinationArn=pair.dead)
    text = "Source queue must be configured as a Dead Letter Queue."
    assert refused(error) == ("InvalidParameterValue", 400, text)


@pytest.mark.parametrize("name", ["SourceArn", "DestinationArn"])
def test_a_queue_that_is_not_there_is_refused(sqs: Any, pair: Pair, name: str) -> None:
    arns = {"SourceArn": pair.dead, name: f"{pair.dead}-missing"}
    expected = ("ResourceNotFoundException", 404, MISSING.format(name))
    assert refused(error_of(sqs.start_message_move_task, **arns)) == expected
    with pytest.raises(sqs.exceptions.ResourceNotFoundException):
        sqs.list_message_move_tasks(SourceArn=f"{pair.dead}-missing")


@pytest.mark.parametrize("name", ["SourceArn", "DestinationArn"])
@pytest.mark.parametrize("wrong", ["", "jobs", "arn:aws:sqs:jobs", "http://127.0.0.1:9324/000000000000/jobs"])
def test_what_is_no_arn_is_refused(sqs: Any, pair: Pair, name: str, wrong: str) -> None:
    error = error_of(sqs.start_message_move_task, **{"SourceArn": pair.dead, name: wrong})
    assert refused(error) == ("InvalidParameterValue", 400, f"You must use this format to specify the {name}: {FORMAT}")


def test_a_destination_that_cannot_be_is_refused(sqs: Any, pair: Pair, new_fifo_queue: NewQueue) -> None:
    same = "Source queue arn and destination queue arn cannot be the same."
    kinds = "The source queue and destination queue must be of the same queue type."
    assert error_of(pair.start, DestinationArn=pair.dead)["Message"] == same
    assert error_of(pair.start, DestinationArn=pair.arn(new_fifo_queue()))["Message"] == kinds
    assert pair.tasks() == []


@pytest.mark.parametrize("wrong", [-1, 0, 501])
def test_a_rate_out_of_range_is_refused(pair: Pair, wrong: int) -> None:
    error = error_of(pair.start, MaxNumberOfMessagesPerSecond=wrong)
    assert error["Code"] == "InvalidParameterValue"
    assert error["Message"].endswith(
        "MaxNumberOfMessagesPerSecond is invalid. Reason: You must enter a number that's between 1 and 500."
    )


@pytest.mark.parametrize("wrong", [-1, 0, 11])
def test_a_number_of_results_out_of_range_is_refused(pair: Pair, wrong: int) -> None:
    assert error_of(pair.tasks, MaxResults=wrong)["Message"].endswith("between 1 and 10.")


def a_handle(source_arn: str) -> str:
    return b64encode(json.dumps({"taskId": "10f57157", "sourceArn": source_arn}).encode()).decode()


def test_a_wrong_handle_is_refused(sqs: Any, pair: Pair) -> None:
    invalid = ("InvalidParameterValue", 400, "Value for parameter TaskHandle is invalid.")
    for wrong in ("foobared", "é", b64encode(b"[]").decode(), b64encode(b"\xff").decode()):
        assert refused(error_of(sqs.cancel_message_move_task, TaskHandle=wrong)) == invalid
    assert error_of(sqs.cancel_message_move_task, TaskHandle="")["Code"] == "MissingParameter"
    gone = error_of(sqs.cancel_message_move_task, TaskHandle=a_handle(f"{pair.dead}-missing"))
    assert refused(gone) == ("ResourceNotFoundException", 404, MISSING.format("SourceArn"))
    pair.fail("a", "b")
    pair.start(MaxNumberOfMessagesPerSecond=1)
    unknown = error_of(sqs.cancel_message_move_task, TaskHandle=a_handle(pair.dead))
    assert refused(unknown) == ("ResourceNotFoundException", 404, "Task does not exist.")
    assert pair.tasks()[0]["Status"] == "RUNNING"
