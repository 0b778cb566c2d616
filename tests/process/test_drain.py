"""Drain: what a process waits for at its end, whom it interrupts, what it gives back, and its teardowns."""

import math
from signal import SIGTERM

import pytest
from gevent.event import Event

from millpond.engine.settler import GIVE_UP_SECONDS
from millpond.errors import (
    FINISHED,
    LEFT,
    AccessDenied,
    Reject,
    Retry,
    Stopped,
    Throttled,
    Unreachable,
)
from millpond.process.drain import reserve_seconds
from tests.handlers import Gate, fine
from tests.process.running import LONG, Stubborn, die, events


@pytest.mark.parametrize(
    ("after", "jobs", "told"),
    [
        (
            0.5,
            0,
            "nothing is in hand; SQS may hold the worker's long poll open for 20 s, and the worker waits for it "
            "for at most 10 s",
        ),
        (
            19.4,
            0,
            "nothing is in hand; SQS may hold the worker's long poll open for 1 s, and the worker waits for it "
            "for at most 10 s",
        ),
        (0.5, 1, "the worker finishes 1 message in hand, for at most 10 s"),  # its permit was the last: no poll is open
    ],
)
def test_what_a_drain_has_to_wait_for_is_told_as_it_begins(process, clock, caplog, after, jobs, told):
    caplog.set_level("INFO")
    gate = Gate()
    one = process({"job": gate}, wait_seconds=20, concurrency=1)
    one.rig.put("job", number=jobs)
    clock.advance(after)
    one.signal(SIGTERM)
    texts = [record.getMessage() for record in caplog.records if getattr(record, "event", "") == "worker.draining"]
    assert texts == [f"SIGTERM: {told}"]
    gate.event.set()


def test_the_local_queue_is_told_to_answer_its_polls_when_the_drain_begins(process, clock):
    one = process({"job": fine}, start=False)
    told = []
    one.start(close_local_polls=lambda: told.append(clock.now()))
    clock.advance(1)
    assert told == []
    one.signal(SIGTERM)
    assert told == [clock.now()]


def test_what_was_not_started_is_held_until_the_last_open_poll_is_back_or_that_poll_would_fetch_it(process, clock):
    gate = Gate()
    one = process({"job": gate}, drain_seconds=LONG, concurrency=1, prefetch=2, wait_seconds=20)
    running, waiting = one.rig.put("job", {}, 2)
    clock.advance(5)  # one runs, one is ready, and a poll with the last permit is open for 15 s more
    one.signal(SIGTERM)
    clock.advance(14)
    assert one.rig.outcomes() == {}
    clock.advance(1.5)
    assert one.rig.outcomes() == {waiting: "released"}
    assert one.rig.ended[0][1].delay_seconds == 0
    assert one.rig.queue.visible() == [waiting]
    assert one.rig.queue.messages[waiting].receives == 1
    assert gate.inside == [running]
    gate.event.set()
    clock.advance(1)
    assert one.exit_code == FINISHED
    assert one.rig.queue.deleted == {running: 1}


def test_what_was_not_started_goes_back_while_handlers_still_run(process, clock):
    """It need not wait for a slot of the pool, which may be a long time in coming."""
    gate = Gate()
    one = process({"job": gate}, drain_seconds=LONG, concurrency=1, prefetch=3, wait_seconds=1)
    running, *waiting = one.rig.put("job", {}, 4)
    clock.advance(0.5)
    one.signal(SIGTERM)
    clock.advance(2)
    assert one.rig.outcomes() == dict.fromkeys(waiting, "released")
    assert sorted(one.rig.queue.visible()) == waiting
    assert gate.inside == [running]
    gate.event.set()
    clock.advance(1)


def test_a_queues_messages_wait_for_its_own_polls_not_for_those_of_another(process, clock):
    gate = Gate()
    one = process({"job": gate}, {"job": gate}, drain_seconds=LONG, concurrency=2, prefetch=4, wait_seconds=20)
    early, late = one.rigs
    ready = early.put("job", {}, 6)[2:]  # all its permits: no poll of this queue is open
    clock.advance(1)
    one.signal(SIGTERM)
    clock.advance(0.5)
    assert early.outcomes() == dict.fromkeys(ready, "released")
    assert late.consumer.pollers.open_until() > clock.now() + 15
    gate.event.set()
    clock.advance(10)
    assert one.exit_code is None  # ... and the service waits for both
    clock.advance(10)
    assert one.exit_code == FINISHED


def test_handlers_finish_within_the_drain_and_are_interrupted_a_reserve_before_its_end(process, clock):
    quick, slow = Gate(), Gate()
    one = process({"quick": quick, "slow": slow}, drain_seconds=10, wait_seconds=1)
    (done,) = one.rig.put("quick")
    (cut,) = one.rig.put("slow")
    clock.advance(0.5)
    one.signal(SIGTERM)
    begun = clock.now()
    clock.advance(5)
    quick.event.set()
    clock.advance(3 - reserve_seconds(10) + 1.9)
    assert one.rig.outcomes() == {done: "succeeded"}
    assert slow.inside == [cut]
    clock.advance(0.2)
    assert slow.thrown == [Stopped]
    clock.advance(1)
    assert one.rig.outcomes() == {done: "succeeded", cut: "released"}
    assert one.rig.queue.visible() == [cut]
    assert one.core.pool.written_off == 0
    assert one.exit_code == FINISHED
    assert one.ended_at <= begun + 10


@pytest.mark.parametrize(("drain_seconds", "seconds"), [(5, 4), (10, 8), (15, 12), (25, 22), (45, 42)])
def test_a_handler_has_the_drain_but_for_a_fifth_of_it_or_three_seconds(process, clock, drain_seconds, seconds):
    slow = Gate()
    one = process({"slow": slow}, drain_seconds=drain_seconds, wait_seconds=1)
    one.rig.put("slow")
    clock.advance(0.5)
    one.signal(SIGTERM)
    clock.advance(seconds - 0.1)
    assert slow.thrown == []
    clock.advance(0.2)
    assert slow.thrown == [Stopped]


def test_what_was_not_started_goes_back_at_the_end_of_the_drain_though_a_poll_is_still_open(process, clock):
    gate = Gate()
    one = process({"job": gate}, drain_seconds=10, concurrency=1, prefetch=2, wait_seconds=20)
    ids = one.rig.put("job", {}, 2)
    clock.advance(1)
    one.signal(SIGTERM)
    clock.advance(7.9)
    assert one.rig.outcomes() == {}
    clock.advance(2.1)
    assert one.rig.outcomes() == dict.fromkeys(ids, "released")
    left = one.rig.consumer.pollers.open_until() - clock.now()
    assert left > 5
    assert all(one.rig.queue.messages[message_id].visible_at > clock.now() + left for message_id in ids)
    assert one.exit_code == FINISHED


def test_a_handler_that_swallows_interrupts_is_written_off_and_the_process_ends_in_time(process, clock):
    one = process({"job": Stubborn()}, drain_seconds=10, wait_seconds=1)
    (stuck,) = one.rig.put("job")
    clock.advance(0.5)
    one.signal(SIGTERM)
    begun = clock.now()
    clock.advance(10)
    assert one.rig.outcomes() == {stuck: "released"}
    assert one.exit_code == FINISHED
    assert one.ended_at <= begun + 10
    assert one.core.pool.written_off == 1


@pytest.mark.parametrize("where", ["queue", "dead"])
def test_a_call_that_hangs_at_the_end_holds_the_process_no_longer_than_the_drain(process, clock, where):
    """A settling call takes no longer than what is left of the drain: the first of these would take ten seconds."""

    gate = Event()

    def handle(payload, message):
        gate.wait()
        if where == "dead":
            raise Reject("no")

    one = process({"job": handle}, drain_seconds=4, wait_seconds=1)
    queue, call = (one.rig.queue, "delete") if where == "queue" else (one.rig.dead, "send")
    queue.gates[call] = Event()
    one.rig.put("job")
    clock.advance(0.5)
    one.signal(SIGTERM)
    begun = clock.now()
    gate.set()
    clock.advance(3.9)
    assert queue.calls[call] == 1
    clock.advance(1.1)
    assert one.exit_code == LEFT
    assert one.ended_at <= begun + 4
    assert queue.calls[call] > 1 or where == "dead"  # given up when the drain was over, not after ten seconds


def test_the_log_names_a_message_that_was_done_and_is_not_deleted_when_the_drain_ends(process, clock, caplog):
    """A customer was charged, the table of claims was down, Ctrl-C: in_hand=1, and no line said which event it was."""
    gate = Event()
    one = process({"job": lambda payload, message: gate.wait()}, drain_seconds=4, wait_seconds=1)
    one.rig.queue.gates["delete"] = Event()
    (done,) = one.rig.put("job")
    clock.advance(0.5)
    one.signal(SIGTERM)
    gate.set()
    clock.advance(5)
    assert one.exit_code == LEFT
    (line,) = [record for record in caplog.records if getattr(record, "event", "") == "message.unsettled"]
    assert line.levelname == "ERROR"
    assert (line.fields["message_id"], line.fields["outcome"]) == (done, "succeeded")


def test_what_the_end_of_a_drain_itself_kills_is_no_crash(process, clock, caplog):
    one = process({"job": Stubborn()}, drain_seconds=10, wait_seconds=1)
    one.rig.put("job")
    clock.advance(1)
    one.signal(SIGTERM)
    clock.advance(10)
    assert one.exit_code == FINISHED
    assert "worker.crashed" not in events(caplog)


def test_teardown_is_called_once_the_last_handler_has_ended(process, clock):
    gate = Gate()
    one = process({"job": gate}, drain_seconds=LONG, wait_seconds=1, start=False)
    torn = []
    one.start(teardowns=[lambda: torn.append(len(one.rig.ended)), lambda: torn.append("second")])
    one.rig.put("job")
    clock.advance(1)
    one.signal(SIGTERM)
    clock.advance(5)
    assert torn == []
    gate.event.set()
    clock.advance(1)
    assert torn == [1, "second"]
    assert one.exit_code == FINISHED


@pytest.mark.usefixtures("quiet_hub")
def test_a_teardown_that_hangs_or_raises_neither_holds_the_exit_nor_stops_the_others(process, clock):
    one = process({"job": fine}, drain_seconds=10, wait_seconds=1, start=False)
    torn = []
    one.start(teardowns=[Event().wait, die, lambda: torn.append(True)])
    clock.advance(0.5)
    one.signal(SIGTERM)
    begun = clock.now()
    clock.advance(9)
    assert torn == [True]
    assert one.exit_code is None  # the rest of the drain is its
    clock.advance(1)
    assert one.exit_code == FINISHED
    assert one.ended_at <= begun + 10


def test_a_teardown_gets_a_moment_even_when_the_drain_is_over(process, clock):
    one = process({"job": Stubborn()}, drain_seconds=1, wait_seconds=1, start=False)
    torn = []
    one.start(teardowns=[lambda: clock.sleep(0.05) or torn.append(clock.now())])
    one.rig.queue.script["change_visibility"] = [Unreachable("down")] * 100
    one.rig.put("job")
    clock.advance(0.5)
    one.signal(SIGTERM)
    clock.advance(2)
    assert one.exit_code == LEFT
    assert torn[0] <= one.ended_at


@pytest.mark.parametrize("drain_seconds", [25, math.inf])
@pytest.mark.parametrize("call", ["delete", "change_visibility"])
def test_a_drain_ends_in_seconds_with_exit_1_where_what_is_to_be_settled_is_denied(process, clock, call, drain_seconds):
    def handle(payload, message):
        if call == "change_visibility":
            raise Retry("later", after=5)

    one = process({"job": handle}, wait_seconds=1, drain_seconds=drain_seconds, visibility_seconds=60)
    one.rig.queue.script[call] = [AccessDenied("no", "AccessDenied")] * 1_000
    one.rig.put("job")
    clock.advance(5)
    begun = clock.now()
    one.signal(SIGTERM)
    clock.advance(20)
    assert one.exit_code == LEFT
    assert one.ended_at <= begun + 6
    assert one.rig.books.abandoned == 1


def test_a_drain_that_waits_until_all_is_done_gives_a_delete_up_after_five_minutes(process, clock):
    one = process({"job": fine}, wait_seconds=1, drain_seconds=math.inf)
    one.rig.queue.script["delete"] = [Throttled("slow")] * 10_000
    one.rig.put("job")
    clock.advance(5)
    one.signal(SIGTERM)
    clock.advance(GIVE_UP_SECONDS - 5)
    assert one.exit_code is None
    clock.advance(15)
    assert one.exit_code == LEFT


def test_a_handler_that_was_interrupted_has_half_of_what_is_left_to_clean_up(process, clock):
    def handle(payload, message):
        try:
            Event().wait()
        finally:
            clock.sleep(0.45 * reserve_seconds(20.0))

    one = process({"job": handle}, drain_seconds=20.0, wait_seconds=1)
    one.rig.put("job")
    clock.advance(5)
    one.signal(SIGTERM)
    clock.advance(20 - 0.48 * reserve_seconds(20.0))
    assert one.rig.ended[0][1].name == "released"
    assert one.core.pool.written_off == 0


def test_the_last_of_all_open_polls_is_what_a_drain_may_wait_for(process, clock, caplog):
    caplog.set_level("INFO")
    one = process({"job": fine}, {"job": fine}, drain_seconds=25.0, wait_seconds=20)
    clock.advance(5)
    one.rigs[1].put("job")
    clock.advance(1)
    one.signal(SIGTERM)
    (told,) = [record.getMessage() for record in caplog.records if getattr(record, "event", "") == "worker.draining"]
    assert "SQS may hold the worker's long poll open for 19 s" in told


def test_a_drain_does_not_speak_of_a_poll_that_the_local_queue_answers_at_once(process, clock, caplog):
    caplog.set_level("INFO")
    one = process({"job": fine})
    one.rig.consumer.in_memory = True
    clock.advance(1)
    one.signal(SIGTERM)
    [told] = [record.getMessage() for record in caplog.records if getattr(record, "event", "") == "worker.draining"]
    assert told == "SIGTERM: nothing is in hand"
