"""One batch after another: what is done, what comes again and when, and that nothing of the engine is left behind."""

from __future__ import annotations

import time
from functools import partial

import gevent
import msgspec
import pytest
from gevent.event import Event
from gevent.monkey import get_original

from millpond.engine import lease_keeper
from millpond.engine.consumer import Consumer
from millpond.errors import AccessDenied, Discard, Interrupt, Reject, Retry, Unavailable
from millpond.hub import threads
from millpond.invocations import invocation
from millpond.invocations.records_queue import RecordsQueue
from millpond.sqs.queue import Entry
from millpond.sqs.sqs_queue import SqsQueue

pytestmark = pytest.mark.clock

native_sleep = get_original("time", "sleep")


def ok(payload: int) -> None:
    gevent.sleep(0.001)


def fail(payload: int) -> None:
    raise ValueError("not today")


def at_once(payload: int) -> None:
    raise Retry("again", after=0)


def reject(payload: int) -> None:
    raise Reject("no such customer")


def discard(payload: int) -> None:
    raise Discard("already there")


def slow(payload: int) -> None:
    gevent.sleep(30)


POINTER = '["software.amazon.payloadoffloading.PayloadS3Pointer",{"s3BucketName":"b","s3Key":"k"}]'
ALL = {"ok": ok, "fail": fail, "at_once": at_once, "reject": reject, "discard": discard, "slow": slow}


# --- each record to its outcome


def test_ten_records_run_side_by_side(batches):
    inside, all_in = [], Event()

    def together(payload):
        inside.append(payload)
        if len(inside) == 10:
            all_in.set()
        assert all_in.wait(5)

    assert batches({"together": together}).run(*["together"] * 10) == set(range(10))


def test_each_record_has_its_own_outcome(batches):
    one = batches(ALL)
    types = ["ok", "fail", "reject", "discard", "at_once", "ok", "nobody's"]
    assert one.run(*types) == {0, 2, 3, 5, 6}
    assert one.visible() == [4]
    assert one.reasons() == ['no handler for type "nobody\'s"', "no such customer"]
    assert one.books.outcomes == {"succeeded": 2, "retried": 2, "dead_lettered": 2, "discarded": 1}


def test_nothing_is_deleted_here(batches):
    one = batches(ALL)
    one.run("ok", "reject")
    assert one.queue.attributes()["ApproximateNumberOfMessagesNotVisible"] == "2"


@pytest.mark.parametrize("failing", [0, 3, 9])
def test_what_stands_behind_a_failure_in_its_group_comes_again(batches, failing):
    one, groups = batches(ALL, fifo=True), "ababbabaab"
    done = one.run(*("at_once" if n == failing else "ok" for n in range(10)), groups=groups)
    behind = {n for n in range(failing, 10) if groups[n] == groups[failing]}
    assert done == set(range(10)) - behind
    assert one.visible() == sorted(behind)


def test_a_dead_letter_holds_up_nobody_of_its_group(batches):
    one = batches(ALL, fifo=True)
    assert one.run("ok", "reject", "ok", groups="aaa") == {0, 1, 2}


def test_a_last_receive_that_fails_is_a_dead_letter_with_its_reason(batches):
    one = batches(ALL, max_receive_count=1)
    assert one.run("fail", "ok") == {0, 1}
    (reason,) = one.reasons()
    assert "maxReceiveCount = 1 is reached" in reason


# --- the function's time


def test_a_handler_that_takes_all_the_time_has_failed(batches):
    one = batches(ALL)
    began = time.monotonic()
    assert one.run("ok", "slow", "ok", seconds=1.0) == {0, 2}
    assert time.monotonic() - began < 1.0
    assert one.books.causes == {"timed_out": 1}
    assert one.visible() == []  # under its back-off


def test_what_had_to_wait_for_its_turn_is_given_back_and_has_not_failed(batches):
    def half(payload):
        gevent.sleep(0.6)

    one = batches({"half": half}, concurrency=1)
    assert one.run("half", "half", "half", seconds=1.0) == {0}
    assert one.books.causes == {}
    assert one.books.outcomes["released"] == 2
    assert one.visible() == [1, 2]


def test_the_time_that_is_left_is_what_a_handler_sees(batches):
    seen = []
    one = batches({"looks": lambda payload, message: seen.append(message.seconds_left)}, takes_message=True)
    one.run("looks", seconds=2.0)
    one.run("looks", seconds=100.0)
    assert 1.3 < seen[0] < 1.6
    assert 59 < seen[1] <= 60


def test_a_handler_that_swallows_its_interrupts_keeps_no_answer_waiting(batches, lines):
    swallowed, free = [], Event()

    def deaf(payload):
        while not free.is_set():
            try:
                gevent.sleep(30)
            except Interrupt as interrupt:
                swallowed.append(type(interrupt).__name__)

    one = batches({"deaf": deaf, "ok": ok})
    began = time.monotonic()
    assert one.run("deaf", "ok", seconds=1.0) == {1}
    assert time.monotonic() - began < 1.05
    assert swallowed[0] == "TimeLimitExceeded"
    assert one.run("ok", "ok") == {0, 1}  # the next batch finds a whole pool
    free.set()
    gevent.sleep(1.1)  # the next interrupt lets it look
    assert not [line for line in lines if line["event"] == "lambda.crashed"]
    assert one.books.outcomes == {"succeeded": 3, "retried": 1}


def test_a_thread_that_runs_on_keeps_no_answer_waiting(batches, monkeypatch):
    monkeypatch.setattr(threads, "TURN_LOOK_SECONDS", 0.05)
    waits = partial(native_sleep, 0.2)
    one = batches(
        {"blocks": lambda payload: native_sleep(1.5), "ok": lambda payload: waits()}, options={"thread": True}
    )
    began = time.monotonic()
    assert one.run(*["blocks"] * 4, "ok", "ok", seconds=0.8) == set()  # those that stand in line do not begin
    assert time.monotonic() - began < 0.9
    assert one.books.outcomes == {"retried": 4, "released": 2}
    assert one.visible() == [4, 5]
    assert one.run(*["ok"] * 6, seconds=10.0) == set(range(6))  # more than there are threads: some stand in line


# --- what may not begin yet


def test_what_a_limit_holds_up_for_too_long_comes_again_later(batches, monkeypatch):
    monkeypatch.setattr(invocation, "HOLD_SECONDS", 0.2)
    one = batches({"half": lambda payload: gevent.sleep(0.5)}, options={"concurrency": 1})
    began = time.monotonic()
    assert one.run("half", "half", "half") == {0}
    assert time.monotonic() - began < 1.5
    assert one.books.causes == {"no_room": 2}
    assert one.visible() == []  # they come after a delay
    one.put("half", "half")
    made = one.make(20.0)
    gevent.sleep(0.05)  # the batch began a while ago when its messages are taken in hand
    assert len(made.run()) == 1
    assert one.visible() == []


def test_while_the_other_side_is_down_no_attempt_is_used_up_and_the_next_batch_knows(batches, monkeypatch):
    monkeypatch.setattr(invocation, "HOLD_SECONDS", 0.2)
    calls = []

    def down(payload):
        calls.append(payload)
        raise Unavailable("the server is down", after=30)

    one = batches({"down": down, "ok": ok})
    assert one.run("down", "ok") == {1}
    assert one.run("down", "ok") == {1}
    assert calls == [0]  # the second did not even begin
    assert set(one.books.causes) <= {"unavailable", "no_room"}
    assert one.visible() == []


# --- nothing is left behind


def test_no_greenlet_of_the_engine_outlives_the_invocation(batches):
    one = batches(ALL)
    one.run("ok", "fail", "reject", "slow", seconds=1.0)
    ended = one.invocation
    assert ended._greenlets
    assert all(greenlet.dead for greenlet in ended._greenlets)
    assert len(ended._pool._slots) == 0
    assert ended.spawn(lambda: None) is None


def test_what_still_asks_s3_at_the_end_never_begins(batches):
    asked, answer, begun = Event(), Event(), []

    class Hangs:
        def fetch(self, delivery, pointer):
            asked.set()
            answer.wait(10)
            return b'{"event_type": "seen", "payload": 1}'

    one = batches({"seen": begun.append})
    one.processor._large_bodies = Hangs()
    one.queue.send([Entry(POINTER)])
    assert one.make(0.6).run() == set()
    assert asked.is_set()
    answer.set()
    gevent.sleep(0.05)
    assert begun == []


def test_a_part_of_the_engine_that_fails_loses_nothing_that_is_done(batches, lines, monkeypatch, quiet_hub):
    def later(payload):
        gevent.sleep(0.2)
        raise Reject("no such customer")

    def breaks(*args):
        raise RuntimeError("a bug")

    alone = []

    def takes_long(payload):
        alone.append(payload)
        try:
            gevent.sleep(30)
        except BaseException:
            gevent.sleep(0.5)  # nothing waits for it

    one = batches({**ALL, "later": later, "alone": takes_long}, options={"concurrency": 4})
    monkeypatch.setattr("millpond.engine.message_sender.MessageSender.send", breaks)
    began = time.monotonic()
    assert one.run("ok", "later", *["alone"] * 6) == {0}
    assert time.monotonic() - began < 2
    assert alone == [2, 3, 4, 5]  # what stood in line behind these did not begin when they ended
    assert one.invocation.crashed
    (line,) = [line for line in lines if line["event"] == "lambda.crashed"]
    assert "RuntimeError: a bug" in line["message"]


def test_a_batch_that_cannot_even_begin_comes_again(batches, lines, monkeypatch):
    def breaks(*args):
        raise RuntimeError("a bug")

    monkeypatch.setattr("millpond.engine.consumer.Consumer.accept_last", breaks)
    assert batches(ALL).run("ok") == set()
    assert [line["event"] for line in lines if line["level"] == "critical"] == ["lambda.crashed"]


def test_a_timeout_that_is_left_running_ends_no_answer(batches, lines, monkeypatch):
    timeouts, accept_last = [], Consumer.accept_last

    def begin_timeout(consumer, messages):  # as a setup() can, which runs in this greenlet
        accept_last(consumer, messages)
        timeouts.append(gevent.Timeout.start_new(0.3))

    monkeypatch.setattr(Consumer, "accept_last", begin_timeout)
    assert batches(ALL).run("ok", "slow") == {0}
    timeouts.pop().close()
    assert [line["event"] for line in lines if line["level"] == "critical"] == ["lambda.crashed"]


def test_a_timeout_that_rings_as_the_invocation_closes_ends_no_answer_either(batches, monkeypatch):
    rings, end = [gevent.Timeout(1)], invocation.Pool.end

    def rung(pool, seconds):
        if rings:
            raise rings.pop()
        end(pool, seconds)

    monkeypatch.setattr(invocation.Pool, "end", rung)
    one = batches(ALL)
    assert one.run("ok", "slow", seconds=0.5) == {0}
    assert all(greenlet.dead for greenlet in one.invocation._greenlets)
    assert len(one.invocation._pool._slots) == 0


def test_a_right_that_is_missing_does_not_use_up_the_functions_time(batches, monkeypatch):
    def denied(self, changes):
        raise AccessDenied("not authorized to perform: sqs:ChangeMessageVisibility", "AccessDenied")

    monkeypatch.setattr(lease_keeper, "DENIED_SECONDS", 0.2)
    monkeypatch.setattr(SqsQueue, "change_visibility", denied)
    one = batches(ALL)
    began = time.monotonic()
    assert one.run("fail", "ok") == {1}
    assert time.monotonic() - began < 3
    assert one.books.abandoned == 1


def test_what_could_not_be_settled_in_time_is_named_in_the_log(batches, lines, monkeypatch):
    """Where it had succeeded, only this line says whose effect may come twice."""
    monkeypatch.setattr(SqsQueue, "change_visibility", lambda self, changes: gevent.sleep(60))
    one = batches(ALL)
    assert one.run("fail", "ok", seconds=0.6) == {1}
    (line,) = [line for line in lines if line["event"] == "message.unsettled"]
    assert (line["event_id"], line["outcome"]) == ("e0", "retried")
    assert "before the function answered" in line["message"]


# --- bodies in S3


class Bodies:
    """Fulfils LargeBodies and BodyStore: the same body behind every pointer. `log` has what happens, in order."""

    def __init__(self, log):
        self.log = log

    def fetch(self, delivery, pointer):
        delivery.bodies = (pointer,)
        return b'{"event_type": "%s", "payload": 0}' % pointer.key.encode()

    def remove(self, bucket, key):
        self.log.append(f"body of {key}")


@pytest.fixture
def with_bodies(batches, monkeypatch):
    """with_bodies(key, ...) -> what is deleted in one batch of pointers to these types of bodies, in order."""

    def run(*keys, deletes=True):
        deleted, delete = [], SqsQueue.delete
        one = batches(ALL)
        bodies = one.processor._large_bodies = Bodies(deleted)
        one.queue.send([Entry(POINTER.replace('"k"', f'"{key}"')) for key in keys])
        monkeypatch.setattr(
            SqsQueue, "delete", lambda self, handles: deleted.append(len(handles)) or delete(self, handles)
        )
        messages = one.receive()
        done = invocation.Invocation(one.source, one.processor, messages, 10, 1.0, bodies if deletes else None).run()
        return len(done), deleted

    return run


def test_a_body_goes_after_its_message(with_bodies):
    assert with_bodies("ok", "fail", "ok", "reject", "slow") == (3, [3, "body of ok", "body of ok"])


def test_a_body_stays_where_nobody_asked_for_its_end(with_bodies):
    assert with_bodies("ok", "fail", deletes=False) == (1, [])


def test_a_body_stays_where_its_message_may_come_again(with_bodies, monkeypatch):
    def refuses(self, handles):
        raise AccessDenied("not authorized to perform: sqs:DeleteMessage", "AccessDenied")

    monkeypatch.setattr(RecordsQueue, "delete_now", refuses)
    assert with_bodies("ok", "ok") == (2, [])


# --- from one batch to the next


def test_an_event_that_was_done_is_not_done_again(batches):
    runs = []
    one = batches({"once": runs.append}, idempotent=True)
    assert one.run("once") == {0}
    assert one.run("once") == {0}
    assert runs == [0]
    assert one.books.causes == {"duplicate": 1}


def test_how_a_message_ended_before_is_known_in_the_next_batch(batches):
    one = batches(ALL)
    one.run("at_once", "at_once")
    assert len(one.source.seen) == 2
    one.make(20.0).run()
    assert sorted(seen.failures for seen in one.source.seen.values()) == [2, 2]


def test_a_message_that_comes_twice_in_a_batch_runs_once(batches):
    runs = []
    one = batches({"once": runs.append})
    one.put("once")
    (message,) = one.receive()
    twice = [message, msgspec.structs.replace(message, receipt_handle="another", receive_count=2)]
    assert invocation.Invocation(one.source, one.processor, twice, 10, 5.0).run() == {message.message_id}
    assert runs == [0]
