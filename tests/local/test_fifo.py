"""The semantics of one FIFO queue, on a clock that the test turns."""

from __future__ import annotations

from collections.abc import Callable
from time import process_time

import pytest

from millpond.local import operations
from millpond.local.account import Account
from millpond.local.attributes import FifoSettings, LocalQueueSettings, RedrivePolicy, arn
from millpond.local.fifo import RECENT_SECONDS, FifoQueue
from millpond.local.local_poll import LocalPoll, Receipt
from millpond.local.local_queue import MAX_HOLD_SECONDS, MAX_IN_FLIGHT, Counts, LocalQueue
from millpond.local.sqs_error import SqsError
from millpond.local.stored import StoredMessage

START = 1_700_000_000.0


def a_queue(
    name: str = "q.fifo", alarm: Callable[[LocalQueue, float], object] | None = None, **settings: object
) -> FifoQueue:
    return FifoQueue(name, LocalQueueSettings(**{"fifo": FifoSettings(), **settings}), START, alarm)


def send(queue: FifoQueue, *bodies: str, now: float = START, delay: int = 0) -> list[StoredMessage]:
    """The group of each message is the letters that its body begins with."""
    messages = [
        StoredMessage(f"id-{b}", b, "md5", now, group_id=b.rstrip("0123456789"), deduplication_id=b) for b in bodies
    ]
    queue.send([(message, delay) for message in messages], now)
    return messages


def poll(
    queue: FifoQueue,
    now: float = START,
    count: int = 10,
    visibility: int | None = 30,
    attempt: str | None = None,
    wait: int = 20,
) -> LocalPoll:
    poll = LocalPoll(count, visibility, wait, attempt)
    queue.receive(poll, now)
    return poll


def receive(
    queue: FifoQueue, now: float = START, count: int = 10, visibility: int | None = 30, attempt: str | None = None
) -> list[Receipt]:
    receipts = poll(queue, now, count, visibility, attempt, wait=0).receipts
    assert receipts is not None
    return receipts


def bodies(receipts: list[Receipt] | None) -> list[str]:
    assert receipts is not None
    return [receipt.message.body for receipt in receipts]


def handles(receipts: list[Receipt]) -> list[str]:
    return [receipt.handle for receipt in receipts]


# Groups


def test_a_receive_is_filled_from_one_group_first_and_each_group_is_in_order() -> None:
    queue = a_queue()
    send(queue, "a1", "b1", "a2", "b2", "a3")
    assert bodies(receive(queue, count=4)) == ["a1", "a2", "a3", "b1"]


def test_a_group_with_a_message_in_flight_gives_no_later_one_and_the_others_do() -> None:
    queue = a_queue()
    send(queue, "a1", "a2", "b1")
    assert bodies(receive(queue, count=1)) == ["a1"]
    send(queue, "a3")
    assert bodies(receive(queue)) == ["b1"]
    assert receive(queue) == []
    assert queue.counts(START) == Counts(2, 2, 0)


def test_a_group_goes_on_when_all_that_is_in_flight_is_deleted() -> None:
    queue = a_queue()
    send(queue, "a1", "a2", "a3")
    first, second = handles(receive(queue, count=2))
    queue.delete(first, START)
    assert receive(queue) == []
    queue.delete(second, START)
    assert bodies(receive(queue)) == ["a3"]


def test_what_comes_back_comes_before_all_that_was_sent_after_it() -> None:
    queue = a_queue()
    send(queue, "a1", "a2", "a3")
    first, second = handles(receive(queue, count=2))
    queue.change_visibility(second, 0, START)
    assert receive(queue) == []  # the first one is still in flight
    queue.change_visibility(first, 0, START)
    send(queue, "a4")
    assert bodies(receive(queue, visibility=30)) == ["a1", "a2", "a3", "a4"]
    assert bodies(receive(queue, START + 30)) == ["a1", "a2", "a3", "a4"]


def test_a_message_in_flight_holds_back_those_behind_it_and_none_before_it() -> None:
    queue = a_queue()
    send(queue, "a1", "a2", "a3")
    middle = handles(receive(queue, visibility=10))[1]
    queue.change_visibility(middle, 40, START)
    assert bodies(receive(queue, START + 10, visibility=10)) == ["a1"]
    assert receive(queue, START + 19) == []
    assert bodies(receive(queue, START + 40)) == ["a1", "a2", "a3"]


def test_groups_take_turns() -> None:
    queue = a_queue()
    send(queue, "a1", "b1", "b2", "c1", "a2")
    assert bodies(receive(queue, count=3, visibility=0)) == ["a1", "a2", "b1"]
    assert bodies(receive(queue, count=10, visibility=0)) == ["c1", "a1", "a2", "b1", "b2"]  # as AWS did


def test_a_group_that_is_empty_is_forgotten_and_can_come_back() -> None:
    queue = a_queue()
    send(queue, "a1")
    queue.delete(handles(receive(queue))[0], START)
    assert not queue._groups
    assert not queue._ready
    send(queue, "a2")
    assert bodies(receive(queue)) == ["a2"]


def test_sequence_numbers_have_20_digits_and_grow() -> None:
    numbers = [message.sequence_number for message in send(a_queue(), "a1", "b1", "a2")]
    assert numbers == sorted(numbers)
    assert {len(number) for number in numbers} == {20}


def test_a_delayed_message_keeps_its_place_in_its_group() -> None:
    queue = a_queue()
    send(queue, "a1", delay=60)
    send(queue, "a2", "b1", delay=0)
    assert bodies(receive(queue, visibility=600)) == ["b1"]
    assert bodies(receive(queue, START + 60)) == ["a1", "a2"]


def test_a_message_past_the_retention_period_holds_nobody_back() -> None:
    queue = a_queue(retention_seconds=60)
    send(queue, "a1")
    receive(queue, visibility=600)
    send(queue, "a2", now=START + 30)
    assert bodies(receive(queue, START + 60)) == ["a2"]


@pytest.mark.slow
def test_the_limit_in_flight_is_no_error() -> None:
    queue = a_queue()
    groups = [
        StoredMessage(str(n), "b", "m", START, group_id=str(n), deduplication_id=str(n)) for n in range(MAX_IN_FLIGHT)
    ]
    queue.send([(message, 0) for message in groups], START)
    send(queue, "more1")
    while queue.counts(START).in_flight < MAX_IN_FLIGHT:
        last = receive(queue)[-1].handle
    assert receive(queue) == []
    waiting = poll(queue)
    assert waiting.receipts is None
    queue.delete(last, START)
    assert bodies(waiting.receipts) == ["more1"]


# Deduplication


def test_a_duplicate_is_told_what_the_original_was_told_and_is_not_there() -> None:
    queue = a_queue()
    original = send(queue, "a1")[0]
    told = (original.id, original.sequence_number)
    duplicate = StoredMessage("other", "another body", "md5", START, group_id="b", deduplication_id="a1")
    assert queue.admit(duplicate, 0, START + 1) == told
    queue.delete(handles(receive(queue, START + 1))[0], START + 1)
    assert queue.admit(duplicate, 0, START + RECENT_SECONDS - 0.1) == told  # although it is deleted
    assert receive(queue, START + RECENT_SECONDS - 0.1) == []


def test_five_minutes_after_the_original_it_is_a_new_message_however_many_duplicates_came() -> None:
    queue = a_queue()
    send(queue, "a1")
    send(queue, "a1", now=START + RECENT_SECONDS - 1)
    send(queue, "a1", now=START + RECENT_SECONDS)
    assert bodies(receive(queue, START + RECENT_SECONDS)) == ["a1", "a1"]


@pytest.mark.parametrize(("by_group", "found"), [(False, 1), (True, 2)])
def test_the_scope_that_the_queue_was_made_with_says_what_is_a_duplicate(by_group: bool, found: int) -> None:
    queue = a_queue(fifo=FifoSettings(deduplicates_by_group=by_group))
    queue.settings = LocalQueueSettings(
        fifo=FifoSettings(deduplicates_by_group=not by_group)
    )  # changes nothing, on AWS too
    for group in ("a", "b", "a"):
        queue.send([(StoredMessage(group, group, "md5", START, group_id=group, deduplication_id="same"), 0)], START)
    assert len(receive(queue)) == found


def test_a_purge_takes_the_locks_and_the_originals_too() -> None:
    queue = a_queue()
    send(queue, "a1", "a2")
    receive(queue, count=1)
    queue.purge(START)
    assert queue.counts(START) == Counts(0, 0, 0)
    send(queue, "a1")
    assert bodies(receive(queue)) == ["a1"]


# Receipt handles


def test_a_handle_is_good_until_its_visibility_timeout_and_no_longer() -> None:
    queue = a_queue()
    send(queue, "a1")
    handle = handles(receive(queue, visibility=30))[0]
    queue.change_visibility(handle, 30, START + 29)
    queue.change_visibility(handle, 30, START + 58)  # by the extension
    with pytest.raises(SqsError) as deleting:
        queue.delete(handle, START + 88)  # nobody has received it since
    assert (deleting.value.code, deleting.value.entry_code) == ("InvalidParameterValue", "ReceiptHandleIsInvalid")
    assert deleting.value.text == (
        f"Value {handle} for parameter ReceiptHandle is invalid. Reason: The receipt handle has expired."
    )
    with pytest.raises(SqsError, match=r"not available for visibility timeout change\.") as changing:
        queue.change_visibility(handle, 30, START + 88)
    assert changing.value.code == "InvalidParameterValue"
    assert queue.counts(START + 88) == Counts(1, 0, 0)


def test_a_handle_from_before_the_latest_receive_is_expired() -> None:
    queue = a_queue()
    send(queue, "a1")
    old = handles(receive(queue, visibility=0))[0]
    new = handles(receive(queue))[0]
    with pytest.raises(SqsError, match="The receipt handle has expired"):
        queue.delete(old, START)
    with pytest.raises(SqsError, match="not available"):
        queue.change_visibility(old, 30, START)
    queue.delete(new, START)
    queue.delete(new, START)  # deleted is deleted


def test_what_is_no_handle_of_this_queue_is_refused() -> None:
    with pytest.raises(SqsError) as caught:
        a_queue().delete("garbage", START)
    assert caught.value.code == "ReceiptHandleIsInvalid"


# Long polls


def test_a_waiting_poll_is_answered_when_a_delete_lets_the_group_go_on() -> None:
    queue = a_queue()
    send(queue, "a1", "a2")
    handle = handles(receive(queue, count=1))[0]
    waiting = poll(queue)
    send(queue, "a3")
    assert waiting.receipts is None
    queue.delete(handle, START)
    assert bodies(waiting.receipts) == ["a2", "a3"]


def test_a_waiting_poll_is_answered_when_a_visibility_change_lets_the_group_go_on() -> None:
    queue = a_queue()
    send(queue, "a1", "a2")
    handle = handles(receive(queue, count=1))[0]
    waiting = poll(queue)
    queue.change_visibility(handle, 0, START)
    assert bodies(waiting.receipts) == ["a1", "a2"]


def test_a_waiting_poll_is_answered_by_time_alone_and_the_alarm_rings_once_a_time() -> None:
    alarms: list[float] = []
    queue = a_queue(alarm=lambda _, time: alarms.append(time))
    send(queue, "a1", "a2", "a3")
    _, second = handles(receive(queue, count=2, visibility=30))
    queue.change_visibility(second, 5, START)
    waiting = poll(queue)
    queue.advance(START + 5)  # the second one is visible, and still behind the first
    assert waiting.receipts is None
    assert alarms == [START + 5, START + 30]
    queue.advance(START + 30)
    assert bodies(waiting.receipts) == ["a1", "a2", "a3"]


def test_each_waiting_poll_gets_a_group_of_its_own() -> None:
    queue = a_queue()
    first, second = poll(queue), poll(queue)
    send(queue, "a1")
    send(queue, "a2")
    assert second.receipts is None
    send(queue, "b1")
    assert (bodies(first.receipts), bodies(second.receipts)) == (["a1"], ["b1"])


# Receives that are tried again


def test_the_same_attempt_gets_the_same_messages_and_handles_and_hides_them_anew() -> None:
    queue = a_queue()
    send(queue, "a1", "a2", "b1")
    first = receive(queue, count=2, visibility=30, attempt="try")
    again = receive(queue, START + 20, count=10, visibility=30, attempt="try")
    assert [(d.handle, d.receive_count) for d in again] == [(d.handle, 1) for d in first]
    assert bodies(again) == ["a1", "a2"]
    assert bodies(receive(queue, START + 49, attempt="another")) == ["b1"]
    queue.delete(first[0].handle, START + 49)
    assert bodies(receive(queue, START + 50)) == ["a2"]


def test_an_attempt_that_got_nothing_or_whose_time_is_over_is_an_ordinary_receive() -> None:
    queue = a_queue()
    assert receive(queue, attempt="try") == []
    send(queue, "a1")
    assert receive(queue, visibility=30, attempt="try")[0].receive_count == 1
    assert receive(queue, START + 30, visibility=600, attempt="try")[0].receive_count == 2
    assert receive(queue, START + 29 + RECENT_SECONDS, visibility=600, attempt="try")[0].receive_count == 2
    assert receive(queue, START + 30 + RECENT_SECONDS, attempt="try") == []  # five minutes are over


@pytest.mark.parametrize("seconds", [None, 0, 60])
def test_an_attempt_whose_messages_were_deleted_or_changed_since_is_refused(seconds: int | None) -> None:
    queue = a_queue()
    send(queue, "a1", "a2")
    handle = receive(queue, visibility=30, attempt="try")[0].handle
    if seconds is None:
        queue.delete(handle, START + 1)
    else:
        queue.change_visibility(handle, seconds, START + 1)
    with pytest.raises(SqsError, match="not valid anymore since the receive call is not retryable") as caught:
        receive(queue, START + 1, attempt="try")
    assert caught.value.code == "InvalidParameterValue"


def test_an_attempt_finds_what_came_for_the_poll_that_nobody_reads_any_more() -> None:
    queue = a_queue()
    lost = poll(queue, attempt="try")
    send(queue, "a1")
    assert bodies(lost.receipts) == ["a1"]
    assert handles(receive(queue, START + 5, attempt="try")) == handles(lost.receipts or [])


def test_an_attempt_takes_the_place_of_the_poll_that_still_waits() -> None:
    queue = a_queue()
    lost, again = poll(queue, attempt="try"), poll(queue, attempt="try")
    assert (lost.receipts, again.receipts) == ([], None)
    send(queue, "a1")
    assert bodies(again.receipts) == ["a1"]


def test_an_attempt_that_shows_its_messages_at_once_wakes_a_poll() -> None:
    queue = a_queue()
    send(queue, "a1")
    receive(queue, attempt="try")
    waiting = poll(queue)
    assert bodies(receive(queue, START + 1, visibility=0, attempt="try")) == ["a1"]
    assert bodies(waiting.receipts) == ["a1"]


def test_an_attempt_does_not_hide_a_message_beyond_twelve_hours_from_its_receive() -> None:
    queue = a_queue()
    send(queue, "a1")
    receive(queue, visibility=MAX_HOLD_SECONDS, attempt="try")
    receive(queue, START + 60, visibility=MAX_HOLD_SECONDS, attempt="try")
    assert bodies(receive(queue, START + MAX_HOLD_SECONDS)) == ["a1"]


# Redrive


def with_dead_letters(max_receive_count: int) -> tuple[FifoQueue, FifoQueue]:
    queue, dead = a_queue(redrive=RedrivePolicy(arn("dead.fifo"), max_receive_count)), a_queue("dead.fifo")
    queue.dead_letters = dead
    return queue, dead


def test_a_dead_letter_lets_its_group_go_on_and_is_new_in_the_dead_letter_queue() -> None:
    queue, dead = with_dead_letters(1)
    message = send(queue, "a1", "a2")[0]
    send(dead, "a1", now=START)  # has the same deduplication id
    receive(queue, count=1, visibility=10)
    assert bodies(receive(queue, START + 10)) == ["a2"]
    assert (message.deduplication_id, message.sent) == ("id-a1", START + 10)
    letters = receive(dead, START + 10)
    assert bodies(letters) == ["a1", "a1"]
    assert letters[0].message.sequence_number < message.sequence_number
    assert (letters[1].receive_count, message.source_arn) == (2, queue.arn)


def test_a_poll_that_finds_dead_letters_gets_the_messages_behind_them() -> None:
    queue, dead = with_dead_letters(1)
    spent = [f"a{n}" for n in range(10)]
    send(queue, *spent, *(f"a{n}" for n in range(10, 25)))
    receive(queue, visibility=10)
    waiting, behind = poll(queue), poll(queue)
    queue.advance(START + 10)
    assert bodies(waiting.receipts) == [f"a{n}" for n in range(10, 20)]
    assert behind.receipts is None
    assert bodies(receive(dead, START + 10)) == spent


def test_a_queue_that_is_its_own_dead_letter_queue_answers_its_poll_once() -> None:
    queue = a_queue(redrive=RedrivePolicy(arn("q.fifo"), 1))
    queue.dead_letters = queue
    send(queue, "a1", "a2", "b1")
    receive(queue, visibility=1)
    polls = [poll(queue, count=1, visibility=600) for _ in range(4)]
    queue.advance(START + 1)
    assert sorted(body for p in polls if p.receipts for body in bodies(p.receipts)) == ["a1", "b1"]


# The account


def test_duplicates_within_one_batch_are_one_message() -> None:
    account = Account(lambda: START, lambda _queue, _time: None)
    account.create_queue(operations.CreateQueue("q.fifo", {"FifoQueue": "true", "ContentBasedDeduplication": "true"}))
    entries = [operations.SendMessage(id=str(n), message_body=str(n % 2), message_group_id="g") for n in range(4)]
    sent = account.send_message_batch(operations.SendMessageBatch("q.fifo", entries)).successful
    told = [(entry.message_id, entry.sequence_number) for entry in sent if isinstance(entry, operations.Sent)]
    assert told[:2] == told[2:]
    _, answered = account.receive_message(operations.ReceiveMessage("q.fifo", max_number_of_messages=10))
    assert bodies(answered.receipts) == ["0", "1"]


# Cost


def seconds_of_cpu_for_1000_calls_each(groups: int, messages_each: int) -> float:
    queue = a_queue()
    send(queue, *(f"{group}g{n}" for n in range(messages_each) for group in range(groups)))
    for _ in range(100):
        receive(queue, visibility=600)
    started = process_time()
    for n in range(1000):
        waiting = poll(queue, START + 1, count=1, visibility=600)
        if waiting.receipts:
            queue.change_visibility(waiting.receipts[0].handle, 700, START + 1)
            queue.delete(waiting.receipts[0].handle, START + 1)
        queue.leave(waiting)
        queue.counts(START + 1)
        send(queue, f"new{n}", now=START + 1)
    return process_time() - started


@pytest.mark.slow
@pytest.mark.parametrize(("groups", "messages_each"), [(100_000, 1), (1, 100_000), (10, 10_000)])
def test_no_call_scans_a_queue_of_100_000_messages(groups: int, messages_each: int) -> None:
    few = seconds_of_cpu_for_1000_calls_each(max(1, groups // 100), max(1, messages_each // 100))
    assert seconds_of_cpu_for_1000_calls_each(groups, messages_each) < 10 * few  # a scan would make it 100 times


def test_what_is_over_is_forgotten() -> None:
    queue = a_queue()
    for second in range(2 * RECENT_SECONDS):
        send(queue, f"a{second}", now=START + second)
        receipt = receive(queue, START + second, attempt=str(second))[0]
        queue.delete(receipt.handle, START + second)
    assert len(queue._known._entries) == len(queue._attempts._entries) == RECENT_SECONDS
    assert not queue._messages
    assert not queue._groups
    assert not queue._visible
