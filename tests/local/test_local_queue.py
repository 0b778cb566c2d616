"""The semantics of one queue, on a clock that the test turns."""

from __future__ import annotations

from time import process_time

import pytest

from millpond.local.attributes import LocalQueueSettings, RedrivePolicy, arn
from millpond.local.local_poll import LocalPoll, Receipt
from millpond.local.local_queue import MAX_HOLD_SECONDS, MAX_IN_FLIGHT, Counts, LocalQueue
from millpond.local.sqs_error import SqsError
from millpond.local.stored import StoredMessage

START = 1_700_000_000.0


def a_queue(name: str = "q", **settings: object) -> LocalQueue:
    return LocalQueue(name, LocalQueueSettings(**settings), START)


def send(queue: LocalQueue, *bodies: str, now: float = START, delay: int = 0) -> list[StoredMessage]:
    messages = [StoredMessage(f"id-{body}", body, "md5", now) for body in bodies]
    queue.send([(message, delay) for message in messages], now)
    return messages


def receive(queue: LocalQueue, now: float = START, count: int = 10, visibility: int | None = 30) -> list[Receipt]:
    poll = LocalPoll(count, visibility, 0)
    queue.receive(poll, now)
    assert poll.receipts is not None
    return poll.receipts


def wait(queue: LocalQueue, now: float = START, count: int = 10, visibility: int | None = 30) -> LocalPoll:
    poll = LocalPoll(count, visibility, 20)
    queue.receive(poll, now)
    return poll


def bodies(receipts: list[Receipt] | None) -> list[str]:
    assert receipts is not None
    return [receipt.message.body for receipt in receipts]


def test_a_received_message_is_invisible_until_its_timeout_and_then_visible_with_a_higher_count() -> None:
    queue = a_queue()
    send(queue, "a")
    first = receive(queue, visibility=30)[0]
    assert receive(queue, START + 29.9) == []
    second = receive(queue, START + 30)[0]
    assert (first.receive_count, second.receive_count) == (1, 2)
    assert first.handle != second.handle
    assert second.message.first_received == START


def test_the_queues_own_visibility_counts_where_the_receive_names_none() -> None:
    queue = a_queue(visibility_seconds=7)
    send(queue, "a")
    receive(queue, visibility=None)
    assert receive(queue, START + 6.9) == []
    assert bodies(receive(queue, START + 7)) == ["a"]


def test_a_receive_with_visibility_zero_gives_each_message_once_and_leaves_it_visible() -> None:
    queue = a_queue()
    send(queue, "a", "b")
    assert bodies(receive(queue, count=10, visibility=0)) == ["a", "b"]
    assert queue.counts(START) == Counts(2, 0, 0)


def test_a_change_counts_from_now_and_is_forgotten_by_the_next_receive() -> None:
    queue = a_queue()
    send(queue, "a")
    handle = receive(queue, visibility=30)[0].handle
    queue.change_visibility(handle, 60, START + 10)
    assert receive(queue, START + 69.9) == []
    assert bodies(receive(queue, START + 70, visibility=30)) == ["a"]
    assert bodies(receive(queue, START + 100, visibility=30)) == ["a"]


def test_a_shorter_visibility_is_obeyed_although_the_longer_one_was_planned_first() -> None:
    queue = a_queue()
    send(queue, "a")
    handle = receive(queue, visibility=600)[0].handle
    queue.change_visibility(handle, 5, START)
    assert bodies(receive(queue, START + 5, visibility=1000)) == ["a"]
    assert receive(queue, START + 600) == []  # the first plan is void


def test_an_extension_after_the_timeout_answers_well_and_does_nothing() -> None:
    queue = a_queue()
    send(queue, "a")
    handle = receive(queue, visibility=30)[0].handle
    queue.change_visibility(handle, 300, START + 31)
    assert bodies(receive(queue, START + 31)) == ["a"]


def test_twelve_hours_count_from_the_receive_and_beyond_them_is_an_error_not_a_clamp() -> None:
    queue = a_queue()
    send(queue, "a")
    handle = receive(queue, visibility=30)[0].handle
    with pytest.raises(SqsError, match=r"Total VisibilityTimeout .* beyond the limit \[43200 seconds\]") as caught:
        queue.change_visibility(handle, MAX_HOLD_SECONDS, START + 5)
    assert caught.value.code == "InvalidParameterValue"
    assert bodies(receive(queue, START + 30)) == ["a"]  # the refused change changed nothing


def test_up_to_twelve_hours_is_allowed_and_extensions_do_not_reset_them() -> None:
    queue = a_queue()
    send(queue, "a")
    handle = receive(queue, visibility=30)[0].handle
    queue.change_visibility(handle, MAX_HOLD_SECONDS - 5, START + 5)
    with pytest.raises(SqsError, match="43200"):
        queue.change_visibility(handle, 2, START + MAX_HOLD_SECONDS - 1)
    assert bodies(receive(queue, START + MAX_HOLD_SECONDS)) == ["a"]


def test_twelve_hours_count_from_the_latest_receive() -> None:
    queue = a_queue()
    send(queue, "a")
    receive(queue, visibility=30)
    handle = receive(queue, START + MAX_HOLD_SECONDS, visibility=30)[0].handle
    queue.change_visibility(handle, MAX_HOLD_SECONDS, START + MAX_HOLD_SECONDS)
    assert receive(queue, START + 2 * MAX_HOLD_SECONDS - 1) == []


def test_an_expired_handle_still_deletes_a_message_that_nobody_received_since() -> None:
    queue = a_queue()
    send(queue, "a")
    handle = receive(queue)[0].handle
    queue.delete(handle, START + 31)
    assert queue.counts(START + 31) == Counts(0, 0, 0)
    assert receive(queue, START + 31) == []


def test_an_old_handle_does_not_delete_and_cannot_extend_what_was_received_again() -> None:
    queue = a_queue()
    send(queue, "a")
    old = receive(queue)[0].handle
    new = receive(queue, START + 30, visibility=30)[0].handle
    queue.delete(old, START + 31)
    assert queue.counts(START + 31) == Counts(0, 1, 0)
    with pytest.raises(SqsError, match="not available for visibility timeout change"):
        queue.change_visibility(old, 60, START + 31)
    queue.delete(new, START + 31)
    assert queue.counts(START + 31) == Counts(0, 0, 0)


def test_a_deleted_message_can_be_deleted_again_but_not_extended() -> None:
    queue = a_queue()
    send(queue, "a")
    handle = receive(queue)[0].handle
    queue.delete(handle, START)
    queue.delete(handle, START)
    with pytest.raises(SqsError) as caught:
        queue.change_visibility(handle, 60, START)
    assert caught.value.code == "InvalidParameterValue"
    assert caught.value.text == (
        f"Value {handle} for parameter ReceiptHandle is invalid. Reason: Message does not exist or is not available "
        "for visibility timeout change."
    )


def test_a_handle_over_twelve_hours_old_deletes_nothing() -> None:
    queue = a_queue()
    send(queue, "a")
    handle = receive(queue)[0].handle
    with pytest.raises(SqsError, match="The receipt handle has expired"):
        queue.delete(handle, START + MAX_HOLD_SECONDS + 1)
    assert queue.counts(START + MAX_HOLD_SECONDS + 1) == Counts(1, 0, 0)


def test_what_is_no_handle_of_this_queue_is_refused_by_delete_and_change() -> None:
    queue, other = a_queue(), a_queue("other")
    send(queue, "a")
    foreign = receive(queue)[0].handle
    for handle in ("garbage", "", foreign, foreign + "0" * 5000, f"{foreign}-1", foreign.replace("-", "-x", 1)):
        with pytest.raises(SqsError) as deleting:
            other.delete(handle, START)
        with pytest.raises(SqsError) as changing:
            other.change_visibility(handle, 0, START)
        assert deleting.value.code == changing.value.code == "ReceiptHandleIsInvalid"
    assert queue.counts(START) == Counts(0, 1, 0)


def test_a_delayed_message_is_counted_as_delayed_and_comes_when_its_delay_is_over() -> None:
    queue = a_queue()
    send(queue, "late", delay=900)
    assert queue.counts(START) == Counts(0, 0, 1)
    assert receive(queue, START + 899.9) == []
    assert bodies(receive(queue, START + 900)) == ["late"]


def test_messages_past_the_retention_period_are_gone_whatever_they_are() -> None:
    queue = a_queue(retention_seconds=60)
    send(queue, "in flight", "visible")
    send(queue, "delayed", delay=600)
    handle = receive(queue, count=1, visibility=600)[0].handle
    send(queue, "young", now=START + 1)
    assert queue.counts(START + 60) == Counts(1, 0, 0)
    queue.delete(handle, START + 60)  # as for any message that is gone
    assert bodies(receive(queue, START + 600)) == []


def test_a_new_retention_period_counts_for_the_messages_that_are_there() -> None:
    queue = a_queue(retention_seconds=600)
    send(queue, "a")
    queue.settings = LocalQueueSettings(retention_seconds=60)
    assert queue.counts(START + 59) == Counts(1, 0, 0)
    assert queue.counts(START + 60) == Counts(0, 0, 0)


def test_a_purge_takes_everything_and_is_allowed_once_a_minute() -> None:
    queue = a_queue()
    send(queue, "in flight", "visible")
    send(queue, "delayed", delay=600)
    receive(queue, count=1)
    queue.purge(START)
    assert queue.counts(START) == Counts(0, 0, 0)
    assert receive(queue, START + 601) == []
    with pytest.raises(SqsError) as caught:
        queue.purge(START + 59)
    assert (caught.value.status, caught.value.shape) == (403, "PurgeQueueInProgress")
    queue.purge(START + 60)


def test_a_waiting_poll_is_answered_by_the_send_with_up_to_ten_of_its_messages() -> None:
    queue = a_queue()
    poll = wait(queue, count=3)
    assert poll.receipts is None
    send(queue, "a", "b", "c", "d")
    assert bodies(poll.receipts) == ["a", "b", "c"]
    assert queue.counts(START) == Counts(1, 3, 0)


def test_waiting_polls_are_answered_in_the_order_in_which_they_came() -> None:
    queue = a_queue()
    first, second, third = wait(queue), wait(queue), wait(queue)
    answered: list[LocalPoll] = []
    for poll in (first, second, third):
        poll.on_answer = lambda poll=poll: answered.append(poll)
    send(queue, "a")
    send(queue, "b")
    assert answered == [first, second]
    assert third.receipts is None
    assert (bodies(first.receipts), bodies(second.receipts)) == (["a"], ["b"])


def test_a_poll_that_leaves_is_answered_with_nothing_and_takes_nothing_later() -> None:
    queue = a_queue()
    gone, stays = wait(queue), wait(queue)
    queue.leave(gone)
    assert gone.receipts == []
    send(queue, "a")
    assert (gone.receipts, bodies(stays.receipts)) == ([], ["a"])


def test_a_poll_that_has_its_answer_keeps_it_when_it_leaves() -> None:
    queue = a_queue()
    poll = wait(queue)
    send(queue, "a")
    queue.leave(poll)
    assert bodies(poll.receipts) == ["a"]


def test_closing_answers_every_waiting_poll() -> None:
    queue = a_queue()
    polls = [wait(queue) for _ in range(3)]
    queue.close_polls()
    assert [poll.receipts for poll in polls] == [[], [], []]


def test_time_alone_answers_a_waiting_poll_when_the_alarm_rings() -> None:
    alarms: list[float] = []
    queue = LocalQueue("q", LocalQueueSettings(), START, lambda _, time: alarms.append(time))
    send(queue, "delayed", delay=40)
    send(queue, "received")
    receive(queue, visibility=30)
    assert alarms == []  # nobody waits yet
    first, second = wait(queue), wait(queue)
    assert alarms == [START + 30]
    queue.advance(START + 30)
    assert bodies(first.receipts) == ["received"]
    assert alarms == [START + 30, START + 40]
    queue.advance(START + 40)
    assert bodies(second.receipts) == ["delayed"]


def test_the_alarm_is_moved_when_something_becomes_visible_earlier() -> None:
    alarms: list[float] = []
    queue = LocalQueue("q", LocalQueueSettings(), START, lambda _, time: alarms.append(time))
    send(queue, "a")
    handle = receive(queue, visibility=30)[0].handle
    poll = wait(queue)
    queue.change_visibility(handle, 5, START)
    assert alarms == [START + 30, START + 5]
    queue.change_visibility(handle, 0, START + 1)
    assert bodies(poll.receipts) == ["a"]


def test_what_a_poll_takes_sets_the_alarm_for_the_poll_behind_it() -> None:
    alarms: list[float] = []
    queue = LocalQueue("q", LocalQueueSettings(), START, lambda _, time: alarms.append(time))
    _, behind = wait(queue, visibility=5), wait(queue)
    send(queue, "a")
    assert alarms == [START + 5]
    queue.advance(START + 5)
    assert bodies(behind.receipts) == ["a"]


def with_dead_letters(max_receive_count: int) -> tuple[LocalQueue, LocalQueue]:
    queue, dead = a_queue(redrive=RedrivePolicy(arn("dead"), max_receive_count)), a_queue("dead")
    queue.dead_letters = dead
    return queue, dead


def test_the_receive_that_would_be_one_too_many_moves_the_message_to_the_dead_letter_queue() -> None:
    queue, dead = with_dead_letters(2)
    message = send(queue, "a")[0]
    receive(queue, START, visibility=10)
    receive(queue, START + 10, visibility=10)
    assert queue.counts(START + 20) == Counts(1, 0, 0)  # it is moved by a receive, not by time
    assert receive(queue, START + 20) == []
    assert queue.counts(START + 20) == Counts(0, 0, 0)
    letter = receive(dead, START + 21)[0]
    assert letter.message is message
    assert (letter.receive_count, message.source_arn, message.sent) == (3, queue.arn, START)
    assert message.first_received == START


def test_the_handle_from_before_the_move_is_that_of_a_message_that_is_gone() -> None:
    queue, dead = with_dead_letters(1)
    send(queue, "a")
    handle = receive(queue, visibility=10)[0].handle
    receive(queue, START + 10)
    queue.delete(handle, START + 10)
    assert dead.counts(START + 10) == Counts(1, 0, 0)
    with pytest.raises(SqsError, match="not available"):
        queue.change_visibility(handle, 1, START + 10)


def test_a_moved_message_wakes_a_poll_of_the_dead_letter_queue_and_the_rest_is_still_received() -> None:
    queue, dead = with_dead_letters(1)
    send(queue, "spent")
    receive(queue, visibility=10)
    poll = wait(dead)
    send(queue, "fresh", now=START + 5)
    assert bodies(receive(queue, START + 10)) == ["fresh"]
    assert bodies(poll.receipts) == ["spent"]


def test_polls_that_a_spent_message_leaves_empty_keep_their_places_in_line() -> None:
    queue, _ = with_dead_letters(1)
    send(queue, "spent")
    receive(queue, visibility=10)
    first, second = wait(queue), wait(queue)
    queue.advance(START + 10)
    assert first.receipts is second.receipts is None
    send(queue, "a", now=START + 11)
    send(queue, "b", now=START + 11)
    assert (bodies(first.receipts), bodies(second.receipts)) == (["a"], ["b"])


def test_a_dead_letter_is_as_old_as_it_was_in_its_first_queue() -> None:
    queue, dead = with_dead_letters(1)
    dead.settings = LocalQueueSettings(retention_seconds=60)
    send(queue, "a")
    receive(queue, visibility=10)
    receive(queue, START + 50)
    assert dead.counts(START + 59) == Counts(1, 0, 0)
    assert dead.counts(START + 60) == Counts(0, 0, 0)


def test_each_queue_of_a_chain_counts_its_own_receives() -> None:
    queue, dead = with_dead_letters(2)
    dead.settings, dead.dead_letters = LocalQueueSettings(redrive=RedrivePolicy(arn("last"), 1)), a_queue("last")
    send(queue, "a")
    for now in (START, START + 1):
        receive(queue, now, visibility=1)
    receive(queue, START + 2)
    assert receive(dead, START + 3, visibility=1)[0].receive_count == 3
    assert receive(dead, START + 4) == []
    assert receive(dead.dead_letters, START + 5)[0].receive_count == 4


def test_two_queues_that_are_each_others_dead_letter_queue_do_not_play_ball() -> None:
    ping, pong = with_dead_letters(1)
    pong.settings, pong.dead_letters = LocalQueueSettings(redrive=RedrivePolicy(arn("q"), 1)), ping
    send(ping, "a")
    send(pong, "b")
    receive(ping, visibility=1)
    receive(pong, visibility=1)
    polls = [wait(ping, START + 0.5, visibility=600), wait(pong, START + 0.5, visibility=600)]
    polls += [wait(ping, START + 0.5, visibility=600), wait(pong, START + 0.5, visibility=600)]
    ping.advance(START + 1)
    pong.advance(START + 1)
    assert sorted(body for poll in polls if poll.receipts for body in bodies(poll.receipts)) == ["a", "b"]


def test_a_queue_that_is_its_own_dead_letter_queue_answers_its_poll_once() -> None:
    queue = a_queue(redrive=RedrivePolicy(arn("q"), 1))
    queue.dead_letters = queue
    send(queue, "a")
    receive(queue, visibility=1)
    poll, other = wait(queue), wait(queue)
    queue.advance(START + 1)
    assert bodies((poll.receipts or []) + (other.receipts or [])) == ["a"]
    assert (poll.receipts is None) != (other.receipts is None)


@pytest.mark.slow
def test_beyond_120_000_in_flight_a_receive_is_refused_and_a_long_poll_waits_for_room() -> None:
    queue = a_queue()
    queue.send([(StoredMessage(str(n), "b", "m", START), 0) for n in range(MAX_IN_FLIGHT + 5)], START)
    first = receive(queue, count=5, visibility=600)[0]
    while queue.counts(START).in_flight < MAX_IN_FLIGHT - 5:
        receive(queue, visibility=600)
    assert len(receive(queue, visibility=600)) == 5
    with pytest.raises(SqsError) as caught:
        receive(queue)
    assert (caught.value.code, caught.value.status) == ("OverLimit", 403)
    poll = wait(queue)
    assert poll.receipts is None
    queue.delete(first.handle, START)
    assert poll.receipts is not None
    assert len(poll.receipts) == 1


def seconds_of_cpu_for_1000_calls_each(total: int) -> float:
    queue = a_queue()
    queue.send([(StoredMessage(str(n), "b", "m", START), n % 2 * 900) for n in range(total)], START)
    receipts = [receipt for _ in range(100) for receipt in receive(queue, visibility=600)]
    started = process_time()
    for receipt in receipts[:1000]:
        queue.change_visibility(receipt.handle, 700, START + 1)
        queue.delete(receipt.handle, START + 1)
        queue.counts(START + 1)
        receive(queue, START + 1, count=1)
        send(queue, "more", now=START + 1)
    return process_time() - started


@pytest.mark.slow
def test_no_call_scans_a_queue_of_100_000_messages() -> None:
    few, many = seconds_of_cpu_for_1000_calls_each(2_000), seconds_of_cpu_for_1000_calls_each(200_000)
    assert many < 20 * few  # a scan would make it 100 times


def test_the_memory_of_deleted_messages_is_given_back() -> None:
    queue = a_queue()
    for _ in range(50):
        send(queue, *map(str, range(100)))
        for receipt in [d for _ in range(10) for d in receive(queue, visibility=43_200)]:
            queue.change_visibility(receipt.handle, 40_000, START)
            queue.delete(receipt.handle, START)
    send(queue, "long")
    handle = receive(queue, visibility=30)[0].handle
    for more in range(1000):
        queue.change_visibility(handle, 30 + more, START)
    assert len(queue._in_flight._heap) < 200
    queue.delete(handle, START)
    send(queue, *map(str, range(1000)))
    handles = [d.handle for _ in range(100) for d in receive(queue, visibility=1)]
    queue.counts(START + 1)
    for handle in handles:
        queue.delete(handle, START + 1)  # visible again, so nobody takes their places out of the line
    kept = [len(queue._in_flight._heap), len(queue._ages._heap), len(queue._visible), len(queue._messages)]
    assert max(kept) < 200
