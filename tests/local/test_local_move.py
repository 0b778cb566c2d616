"""One move task, on a clock that the test turns."""

from __future__ import annotations

import pytest

from millpond.local import operations
from millpond.local.account import Account
from millpond.local.attributes import FifoSettings, LocalQueueSettings, arn
from millpond.local.fifo import FifoQueue
from millpond.local.local_move import MAX_RATE, LocalMove, MoveStatus
from millpond.local.local_poll import LocalPoll, Receipt
from millpond.local.local_queue import Advancing, Counts, LocalQueue
from millpond.local.sqs_error import SqsError
from millpond.local.stored import StoredMessage

START = 1_700_000_000.0
TARGET = "arn:aws:sqs:us-east-1:000000000000:jobs"


def a_source(count: int = 0) -> LocalQueue:
    source = LocalQueue("dead", LocalQueueSettings(), START)
    source.send([(letter(f"m{n}"), 0) for n in range(count)], START)
    return source


def letter(body: str, group_id: str | None = None) -> StoredMessage:
    return StoredMessage(f"id-{body}", body, "md5", START, group_id=group_id, deduplication_id=body)


def receive(queue: LocalQueue, now: float = START, count: int = 1, visibility: int = 30) -> list[Receipt]:
    poll = LocalPoll(count, visibility, 0)
    queue.receive(poll, now)
    return poll.receipts or []


def bodies(queue: LocalQueue) -> list[str]:
    return [message.body for message in queue._messages.values()]


class Move:
    """A task and where it moves to."""

    def __init__(self, source: LocalQueue, rate: int | None = None, target: LocalQueue | None = None) -> None:
        self.source = source
        self.target = target or LocalQueue("jobs", LocalQueueSettings(), START)
        self.queues = {queue.arn: queue for queue in (self.source, self.target)}
        self.task = LocalMove(source, self.queues.get, START, destination_arn=self.target.arn, rate=rate)

    def run(self, seconds: float = 1e9) -> float:
        """Step as an alarm would that is never late; when the last step was."""
        now, again = START, self.task.step(START)
        while again is not None and again - START <= seconds:
            assert again > now
            now, again = again, self.task.step(again)
        return now


def test_a_rate_of_one_moves_the_first_letter_at_once_and_one_a_second() -> None:
    move = Move(a_source(4), rate=1)
    move.task.step(START)
    assert (move.task.moved, move.task.status) == (1, MoveStatus.RUNNING)
    assert move.task.step(START + 0.5) == START + 1
    assert move.task.moved == 1
    assert move.run() == START + 3
    assert (move.task.moved, move.task.status) == (4, MoveStatus.COMPLETED)
    assert bodies(move.target) == ["m0", "m1", "m2", "m3"]


@pytest.mark.parametrize(("rate", "expected"), [(7, 7), (100, 100), (500, 500), (None, MAX_RATE)])
def test_no_more_than_the_rate_are_moved_in_a_second_and_no_fewer(rate: int | None, expected: int) -> None:
    move = Move(a_source(2 * MAX_RATE), rate)
    move.run(0.999)
    assert expected * 0.95 <= move.task.moved <= expected


def test_a_task_that_was_held_up_does_not_catch_up_all_at_once() -> None:
    move = Move(a_source(2 * MAX_RATE), rate=100)
    move.task.step(START)
    again = move.task.step(START + 60)
    assert again is not None
    assert again > START + 60
    assert move.task.moved <= 26
    assert move.task.step(START + 60) is not None
    assert move.task.moved <= 27


def test_what_came_after_the_start_stays() -> None:
    move = Move(a_source(2), rate=1)
    move.source.send([(letter("late"), 0)], START)
    move.run()
    assert (move.task.moved, move.task.to_move) == (2, 2)
    assert bodies(move.source) == ["late"]


def test_what_is_in_flight_or_delayed_stays_and_what_is_deleted_is_not_missed() -> None:
    source = a_source(4)
    source.send([(letter("delayed"), 60)], START)
    assert [receipt.message.body for receipt in receive(source)] == ["m0"]
    move = Move(source, rate=1)
    held, gone = receive(source, count=2)
    source.delete(gone.handle, START)
    assert held.message.body == "m1"
    move.run()
    assert (move.task.moved, move.task.to_move, move.task.status) == (1, 3, MoveStatus.COMPLETED)
    assert bodies(move.target) == ["m3"]
    assert bodies(source) == ["m0", "m1", "delayed"]


def test_the_handle_of_a_letter_that_has_gone_deletes_nothing() -> None:
    source = a_source(1)
    handle = receive(source, visibility=0)[0].handle
    move = Move(source)
    move.run()
    source.delete(handle, START)
    assert bodies(move.target) == ["m0"]
    assert source.counts(START) == Counts(0, 0, 0)


def test_the_letter_has_the_delay_of_the_queue_that_it_comes_to() -> None:
    move = Move(a_source(1), target=LocalQueue("jobs", LocalQueueSettings(delay_seconds=5), START))
    move.run()
    assert move.target.counts(START) == Counts(0, 0, 1)
    assert move.target.counts(START + 5) == Counts(1, 0, 0)


def test_the_age_of_a_letter_is_counted_from_its_move() -> None:
    source = LocalQueue("dead", LocalQueueSettings(retention_seconds=1_000_000), START)
    source.send([(letter("old"), 0)], START)
    target = LocalQueue("jobs", LocalQueueSettings(retention_seconds=60), START)
    task = LocalMove(source, {source.arn: source, target.arn: target}.get, START + 1000, destination_arn=target.arn)
    task.step(START + 1000)
    assert target.counts(START + 1059.9).visible == 1
    assert target.counts(START + 1060).visible == 0


def test_a_letter_that_is_too_long_for_its_queue_stays_and_ends_the_task() -> None:
    source = a_source(1)
    source.send([(letter("x" * 2000), 0), (letter("after"), 0)], START)
    move = Move(source, target=LocalQueue("jobs", LocalQueueSettings(max_message_bytes=1024), START))
    move.run()
    assert (move.task.status, move.task.failure_reason) == (MoveStatus.FAILED, "InvalidParameterValue")
    assert bodies(move.target) == ["m0"]
    assert bodies(source) == ["x" * 2000, "after"]


def test_a_source_that_is_deleted_or_made_anew_ends_the_task() -> None:
    move = Move(a_source(2), rate=1)
    move.task.step(START)
    move.queues[move.source.arn] = a_source(2)
    move.run()
    assert (move.task.status, move.task.moved) == (MoveStatus.FAILED, 1)
    assert move.task.failure_reason == "AWS.SimpleQueueService.NonExistentQueue"


def test_a_task_is_cancelled_before_its_next_letter_and_only_while_it_runs() -> None:
    move = Move(a_source(3), rate=1)
    move.task.step(START)
    move.task.cancel()
    assert (move.task.status, move.task.is_active) == (MoveStatus.CANCELLING, True)
    with pytest.raises(SqsError, match="Only active tasks"):
        move.task.cancel()
    assert move.task.step(START + 1) is None
    assert (move.task.status, move.task.moved, move.task.is_active) == (MoveStatus.CANCELLED, 1, False)
    assert move.task.step(START + 2) is None


def test_a_fifo_letter_does_not_overtake_one_of_its_group_that_is_in_flight() -> None:
    settings = LocalQueueSettings(fifo=FifoSettings())
    source, target = FifoQueue("dead.fifo", settings, START), FifoQueue("jobs.fifo", settings, START)
    source.send([(letter(body, body[0]), 0) for body in ("a1", "b1", "a2", "b2")], START)
    move = Move(source, target=target, rate=1)
    assert [receipt.message.body for receipt in receive(source)] == ["a1"]
    move.run()
    assert bodies(target) == ["b1", "b2"]
    assert bodies(source) == ["a1", "a2"]


def test_a_waiting_poll_gets_the_letter() -> None:
    move = Move(a_source(1))
    poll = LocalPoll(10, 30, 20)
    move.target.receive(poll, START)
    move.run()
    assert poll.receipts is not None
    assert [receipt.message.body for receipt in poll.receipts] == ["m0"]


def test_5_000_letters_without_a_rate_are_moved_in_ten_seconds() -> None:
    move = Move(a_source(5_000))
    now = START
    while (again := move.task.step(now)) is not None:
        now = again
    assert move.task.moved == 5_000
    assert now - START == pytest.approx(10, abs=0.2)


# The account


def an_account(alarms: list[tuple[Advancing, float]]) -> tuple[Account, str, str]:
    """An account, the ARN of a dead-letter queue in it with three letters, and that of the queue that they go to."""
    account = Account(lambda: START, lambda asker, when: alarms.append((asker, when)))
    account.create_queue(operations.CreateQueue("dead"))
    policy = f'{{"deadLetterTargetArn": "{arn("dead")}", "maxReceiveCount": 1}}'
    account.create_queue(operations.CreateQueue("jobs", {"RedrivePolicy": policy}))
    for body in "abc":
        account.send_message(operations.SendMessage("dead", message_body=body))
    return account, arn("dead"), arn("jobs")


def test_a_task_that_is_cancelled_does_not_wait_for_its_next_letter() -> None:
    alarms: list[tuple[Advancing, float]] = []
    account, dead, jobs = an_account(alarms)
    started = account.start_message_move_task(operations.StartMessageMoveTask(dead, jobs, 1))
    asker, when = alarms.pop()
    assert when == START
    asker.advance(START)
    assert alarms.pop() == (asker, START + 1)
    cancelled = account.cancel_message_move_task(operations.CancelMessageMoveTask(started.task_handle))
    assert cancelled.approximate_number_of_messages_moved == 1
    assert alarms.pop() == (asker, START)
    asker.advance(START)
    assert not alarms
    assert account.list_message_move_tasks(operations.ListMessageMoveTasks(dead)).results[0].status == "CANCELLED"


def test_a_queue_that_is_deleted_leaves_no_task_behind() -> None:
    alarms: list[tuple[Advancing, float]] = []
    account, dead, jobs = an_account(alarms)
    account.start_message_move_task(operations.StartMessageMoveTask(dead, jobs, 1))
    account.delete_queue(operations.QueueRequest("dead"))
    assert not account._moves._tasks
    asker, _ = alarms.pop()
    asker.advance(START)
    assert not alarms
