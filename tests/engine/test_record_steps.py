"""Messages of several records, and types that find their handler by a prefix, from the receive to the delete."""

from __future__ import annotations

import json
import logging
import threading
from time import thread_time
from typing import Any

import msgspec
import pytest

from millpond.app.config import RetrySettings
from millpond.app.envelope import S3_TEST_EVENT
from millpond.app.routing import Route
from millpond.claims.claim import key_of
from millpond.claims.memory import MemoryClaims
from millpond.engine.delivery_state import SETTLING
from millpond.engine.processor import Processor
from millpond.errors import Discard, Reject, Retry, Stopped, Unavailable
from millpond.hub.clock import SystemClock
from millpond.hub.pool import TURN_SECONDS
from millpond.observe import log
from millpond.sqs.queue import Attribute
from tests.engine.test_processor import delivery_of
from tests.observe.test_metrics import Server, metrics_to
from tests.rig import Rig
from tests.virtual import VirtualClock

PUT, COPY, REMOVED = "s3:ObjectCreated:Put", "s3:ObjectCreated:Copy", "s3:ObjectRemoved:Delete"


@pytest.fixture
def clock():
    return VirtualClock()


def body(*types: str, keys: str = "abcdefgh") -> str:
    """A notification with a record of each type, whose object is named by its place."""
    records = [
        {
            "eventSource": "aws:s3",
            "eventName": event_type.removeprefix("s3:"),
            "s3": {"bucket": {"name": "b"}, "object": {"key": keys[number], "sequencer": f"0{number}"}},
        }
        for number, event_type in enumerate(types)
    ]
    return json.dumps({"Records": records})


class Handler:
    """Notes each call by the key of its object; `raises` has what the call for a key raises, once for each time."""

    def __init__(self, clock: VirtualClock, seconds: float = 0.0) -> None:
        self.calls: list[str] = []
        self.messages: list[Any] = []
        self.lines: list[dict[str, object]] = []
        self.raises: dict[str, list[BaseException]] = {}
        self.leaves_behind = ""
        self._clock = clock
        self._seconds = seconds

    def __call__(self, record: Any, message: Any) -> None:
        key = record["s3"]["object"]["key"]
        self.calls.append(key)
        self.messages.append(message)
        worked_on = log.delivery.get()
        self.lines.append(worked_on.identity() if worked_on is not None else {})
        if key in self.leaves_behind:
            message.follow_up({"key": key})
        if self._seconds:
            self._clock.sleep(self._seconds)
        for error in self.raises.get(key, [])[:1]:
            self.raises[key].pop(0)
            raise error


def take(rig: Rig, clock: VirtualClock, text: str, seconds: float = 200.0) -> str:
    """Put a message in, and let the rig work on it."""
    [message_id] = rig.queue.put(text)
    rig.consumer.pollers.start()
    clock.advance(seconds)
    assert rig.crashes == []
    return message_id


def take_once(rig: Rig, clock: VirtualClock, text: str, seconds: float) -> None:
    """The same, but the queue does not bring it again."""
    rig.queue.put(text)
    rig.consumer.pollers.start()
    clock.advance(0)
    rig.queue.messages.clear()
    clock.advance(seconds)


def test_each_record_is_one_call_in_order_and_the_message_is_deleted_when_all_have_returned(clock):
    handler = Handler(clock)
    rig = Rig(clock, {PUT: handler, REMOVED: handler})
    message_id = take(rig, clock, body(PUT, REMOVED, PUT))
    assert handler.calls == ["a", "b", "c"]
    assert [message.event_type for message in handler.messages] == [PUT, REMOVED, PUT]
    assert len({message.event_id for message in handler.messages}) == 3
    assert {message.id for message in handler.messages} == {message_id}
    assert {message.body for message in handler.messages} == {body(PUT, REMOVED, PUT)}
    assert (rig.outcomes(), rig.queue.deleted[message_id]) == ({message_id: "succeeded"}, 1)
    assert [line["event_id"] for line in handler.lines] == [message.event_id for message in handler.messages]


def test_no_handler_is_called_before_all_payloads_fit(clock):
    handler = Handler(clock)
    rig = Rig(clock, {PUT: handler, REMOVED: handler})

    def decode(payload: Any) -> Any:
        raise ValueError("it does not fit")

    rig.reroute(REMOVED, decode=decode)
    take(rig, clock, body(PUT, PUT, REMOVED))
    assert handler.calls == []
    [reason] = rig.letters()
    assert reason.startswith(f"record 3 of 3 (tests.{REMOVED}): the payload does not fit: ValueError")


def test_no_handler_is_called_where_a_record_has_none(clock):
    handler = Handler(clock)
    rig = Rig(clock, {PUT: handler})
    take(rig, clock, body(PUT, REMOVED))
    assert (handler.calls, rig.letters()) == ([], [f"no handler for type '{REMOVED}'"])


def test_a_message_of_which_a_record_fails_is_retried_as_a_whole(clock):
    handler = Handler(clock)
    handler.raises = {"b": [Retry("not yet", after=5)]}
    rig = Rig(clock, {PUT: handler})
    message_id = take(rig, clock, body(PUT, PUT, PUT))
    assert handler.calls == ["a", "b", "a", "b", "c"]
    assert [outcome.name for _, outcome in rig.ended] == ["retried", "succeeded"]
    assert rig.ended[0][1].reason == "record 2 of 3: not yet"
    assert rig.queue.deleted[message_id] == 1


def test_a_record_that_always_fails_makes_the_message_a_dead_letter_with_its_body_whole(clock):
    handler = Handler(clock)
    handler.raises = {"b": [OSError("down")] * 9}
    rig = Rig(clock, {PUT: handler}, back_off=(1, 1), options={PUT: {"breaker": None}})
    take(rig, clock, body(PUT, PUT, PUT))
    assert handler.calls == ["a", "b"] * 3
    [reason] = rig.letters()
    assert reason == "record 2 of 3: failed 3 times; max_attempts = 3"
    assert [one.entry.body for one in rig.dead.messages.values()] == [body(PUT, PUT, PUT)]


def test_the_follow_ups_of_all_records_are_sent_and_each_has_the_id_of_its_record(clock):
    handler = Handler(clock)
    handler.leaves_behind = "ac"
    rig = Rig(clock, {PUT: handler, COPY: handler})
    rig.reroute(COPY, call=lambda record: None, takes_message=False)
    message_id = take(rig, clock, body(PUT, COPY, PUT), seconds=1)
    assert handler.calls[:2] == ["a", "c"]
    [outcome] = [outcome for one, outcome in rig.ended if one == message_id]
    first, third = handler.messages[:2]
    assert [follow_up.event_id for follow_up in outcome.follow_ups] == [f"{first.event_id}/1", f"{third.event_id}/1"]
    assert rig.queue.deleted[message_id] == 1


def test_the_follow_ups_of_two_records_of_one_event_have_ids_of_their_own(clock):
    handler = Handler(clock)
    handler.leaves_behind = "a"
    rig = Rig(clock, {PUT: handler})
    record = json.loads(body(PUT))["Records"][0]
    message_id = take(rig, clock, json.dumps({"Records": [record] * 3}), seconds=0.05)
    [outcome] = [outcome for one, outcome in rig.ended if one == message_id]
    assert len(outcome.follow_ups) == 3
    assert len({follow_up.event_id for follow_up in outcome.follow_ups}) == 3
    assert len({follow_up.dedup_id(message_id) for follow_up in outcome.follow_ups}) == 3


def test_what_is_rejected_is_a_dead_letter_at_once_and_no_further_record_begins(clock):
    handler = Handler(clock)
    handler.raises = {"b": [Reject("no such customer")]}
    handler.leaves_behind = "ab"
    rig = Rig(clock, {PUT: handler})
    take(rig, clock, body(PUT, PUT, PUT), seconds=1)
    assert handler.calls[:2] == ["a", "b"]
    assert "c" not in handler.calls
    assert rig.letters() == ["record 2 of 3: no such customer"]
    [outcome] = [outcome for _, outcome in rig.ended if outcome.name == "dead_lettered"]
    assert len(outcome.follow_ups) == 2


def test_a_record_that_is_discarded_is_done_and_so_is_a_message_of_which_all_are(clock):
    handler = Handler(clock)
    handler.raises = {"a": [Discard("too old")] * 2, "b": [Discard("too old")]}
    rig = Rig(clock, {PUT: handler})
    both = take(rig, clock, body(PUT, PUT))
    one = take(rig, clock, body(PUT, PUT))
    assert rig.outcomes() == {both: "discarded", one: "succeeded"}
    assert handler.calls == ["a", "b", "a", "b"]


def test_each_record_has_the_time_limit_of_its_handler_and_the_message_the_time_of_all(clock, caplog):
    caplog.set_level(logging.INFO)
    handler = Handler(clock, seconds=40)
    rig = Rig(clock, {PUT: handler}, timeout=60)
    message_id = take(rig, clock, body(PUT, PUT, PUT))
    assert rig.outcomes() == {message_id: "succeeded"}
    handler = Handler(clock, seconds=61)
    rig = Rig(clock, {PUT: handler}, timeout=60, back_off=(500, 500))
    take(rig, clock, body(PUT, PUT), seconds=100)
    [(_, outcome)] = rig.ended
    assert (outcome.name, outcome.cause, handler.calls) == ("retried", "timed_out", ["a"])
    assert outcome.reason.startswith("record 1 of 2: the handler ran past its time limit of 60 s")


def test_the_books_have_the_time_from_the_first_record_to_the_last(clock):
    server = Server()
    metrics = metrics_to(server)
    rig = Rig(clock, {PUT: Handler(clock, seconds=2)}, metrics=metrics)
    take(rig, clock, body(PUT, PUT, PUT))
    metrics.close()
    lines = server.lines()
    server.close()
    assert "mill.q.duration:6000.000|ms" in lines
    assert "mill.q.latency:0.000|ms" in lines


def test_a_drain_interrupts_the_record_that_runs_and_begins_no_further_one(clock):
    handler = Handler(clock, seconds=10)
    rig = Rig(clock, {PUT: handler})
    take(rig, clock, body(PUT, PUT, PUT), seconds=15)
    rig.consumer.drain(clock.now() + 20)
    rig.consumer.interrupt(Stopped)
    clock.advance(5)
    assert handler.calls == ["a", "b"]
    assert [outcome.name for _, outcome in rig.ended] == ["released"]


@pytest.mark.parametrize("failing", ["a", "b"])
def test_what_one_type_waits_for_opens_no_breaker_of_another(clock, failing):
    handler = Handler(clock)
    handler.raises = {failing: [Unavailable("down")] * 2}
    rig = Rig(clock, {PUT: handler, REMOVED: handler})
    message_id = take(rig, clock, body(PUT, REMOVED), seconds=0.5)
    gates = {gate.event_type: gate.is_shut for gate in rig.processor.gates}
    assert gates == {PUT: failing == "a", REMOVED: False}
    clock.advance(300)
    assert rig.outcomes()[message_id] == "succeeded"
    assert handler.calls[-2:] == ["a", "b"]


def test_a_message_of_several_records_takes_one_place_at_the_gate_of_its_first_type(clock):
    handler = Handler(clock, seconds=5)
    rig = Rig(clock, {PUT: handler}, options={PUT: {"concurrency": 1}})
    rig.queue.put(body(PUT, PUT))
    take(rig, clock, body(PUT, PUT, keys="xyz"), seconds=12)
    assert handler.calls in (["a", "b", "x"], ["x", "y", "a"])
    clock.advance(20)
    assert sorted(handler.calls) == ["a", "b", "x", "y"]
    assert set(rig.outcomes().values()) == {"succeeded"}


def test_the_records_of_idempotent_handlers_have_one_claim_by_the_message(clock):
    store = MemoryClaims(1_000)
    handler = Handler(clock)
    handler.raises = {"b": [OSError("down")]}
    rig = Rig(clock, {PUT: handler}, store=store)
    message_id = take(rig, clock, body(PUT, PUT))
    record = store.read(key_of(PUT, message_id))
    assert record is not None
    assert (record.failures, record.done_at is not None) == (1, True)
    assert (handler.calls, rig.outcomes()[message_id]) == (["a", "b", "a", "b"], "succeeded")


@pytest.mark.parametrize("raises", [None, Retry("not yet", after=5)])
def test_each_record_of_a_handler_with_a_thread_has_it_for_itself(raises):
    clock, threads = SystemClock(), []

    def run(record: Any, message: Any) -> None:
        threads.append((threading.get_native_id(), record["s3"]["object"]["key"]))
        if raises is not None and len(threads) == 2:
            raise raises

    route = Route(PUT, "tests.put", msgspec.json.decode, run, thread=True)
    delivery = delivery_of(body(PUT, PUT, PUT), clock=clock)
    outcome = Processor({PUT: route}, RetrySettings(), clock).process(delivery)
    assert (outcome.name, outcome.reason) == (("retried", "record 2 of 3: not yet") if raises else ("succeeded", ""))
    assert [key for _, key in threads] == ["a", "b", "c"][: 2 if raises else 3]
    assert threading.get_native_id() not in {thread for thread, _ in threads}


def test_a_message_whose_slot_was_written_off_begins_no_further_record(clock):
    calls: list[str] = []

    def write_off(record: Any, message: Any) -> None:
        calls.append(record["s3"]["object"]["key"])
        delivery.state = SETTLING

    delivery = delivery_of(body(PUT, PUT), clock=clock)
    processor = Processor({PUT: Route(PUT, "tests.put", msgspec.json.decode, write_off)}, RetrySettings(), clock)
    assert (processor.process(delivery).name, calls) == ("released", ["a"])


def without_beats(clock: VirtualClock, handler: Any, *kinds: str) -> Rig:
    """A rig whose leases are lost after ten seconds; `kinds`: what PUT and COPY are to do then."""
    rig = Rig(clock, {PUT: handler, COPY: handler}, visibility_seconds=10)
    rig.queue.on_call = lambda name: clock.sleep(1_000) if name == "change_visibility" else None
    for event_type, kind in zip((PUT, COPY), kinds, strict=True):
        rig.reroute(event_type, on_lease_lost=kind)
    return rig


@pytest.mark.parametrize("kind", ["finish", "interrupt"])
def test_where_the_lease_is_lost_while_a_record_finishes_no_further_one_begins(clock, kind):
    handler = Handler(clock, seconds=15)
    rig = without_beats(clock, handler, "finish", kind)
    take_once(rig, clock, body(PUT, COPY), seconds=40)
    assert handler.calls == ["a"]
    assert [outcome.name for _, outcome in rig.ended] == ["lease_lost"]


@pytest.mark.parametrize(("kinds", "ended"), [(("finish", "interrupt"), "a"), (("interrupt", "finish"), "ab")])
def test_whether_a_record_may_finish_is_said_by_its_own_handler(clock, kinds, ended):
    done: list[str] = []

    def work(record: Any, message: Any) -> None:
        clock.sleep(7)
        done.append(record["s3"]["object"]["key"])

    rig = without_beats(clock, work, *kinds)
    take_once(rig, clock, body(PUT, COPY), seconds=19)
    assert "".join(done) == ended


def spin() -> None:
    """Take a slot's turn, without a wait."""
    until = thread_time() + 1.2 * TURN_SECONDS
    while thread_time() < until:
        pass


def test_others_have_their_turn_between_records_that_never_wait():
    clock, turns = SystemClock(), []

    def compute(record: Any, message: Any) -> None:
        spin()
        turns.append("record")

    clock.timer(0.001, lambda: turns.append("other"))
    delivery = delivery_of(body(PUT, PUT, PUT), clock=clock)
    processor = Processor({PUT: Route(PUT, "tests.put", msgspec.json.decode, compute)}, RetrySettings(), clock)
    assert processor.process(delivery).name == "succeeded"
    assert turns == ["record", "other", "record", "record"]


def test_a_message_that_is_given_back_between_two_records_begins_no_further_one(clock):
    handler = Handler(clock)

    def compute(record: Any, message: Any) -> None:
        handler(record, message)
        clock.soon(drain)
        spin()

    def drain() -> None:
        rig.consumer.drain(clock.now() + 20)
        rig.consumer.interrupt(Stopped)

    rig = Rig(clock, {PUT: compute})
    take_once(rig, clock, body(PUT, PUT), seconds=5)
    assert handler.calls == ["a"]
    assert [outcome.name for _, outcome in rig.ended] == ["released"]


# --- what others put around a payload


def test_the_handler_has_the_attributes_of_sns_and_the_body_as_it_came_and_the_dead_letter_has_it_too(clock):
    messages: list[Any] = []
    rig = Rig(clock, {"job": lambda payload, message: messages.append(message), "no": lambda payload, message: 1 / 0})
    for event_type in ("job", "no"):
        own = json.dumps({"event_type": event_type, "payload": 1})
        attributes = {"tenant": {"Type": "String", "Value": "north"}, "key": {"Type": "Binary", "Value": "AAE="}}
        text = json.dumps({"Type": "Notification", "Message": own, "MessageAttributes": attributes})
        rig.queue.put(text, attributes={"shard": Attribute("String", "3")})
    rig.consumer.pollers.start()
    clock.advance(200)
    [message] = messages
    assert message.attributes == {"shard": "3", "tenant": "north", "key": b"\0\x01"}
    assert json.loads(message.body)["MessageAttributes"] == attributes
    [letter] = rig.dead.messages.values()
    assert (letter.entry.body, set(letter.entry.attributes)) == (text, {"shard", "millpond"})


def test_the_id_of_a_cloudevent_is_its_sources_own_and_events_of_two_sources_both_run(clock):
    messages: list[Any] = []
    rig = Rig(clock, {"opened": lambda payload, message: messages.append(message)}, store=MemoryClaims(1_000))
    event = {"specversion": "1.0", "type": "opened", "id": "1"}
    for source in ("/shops/7", "/shops/8", "/shops/7"):
        rig.queue.put(json.dumps({**event, "source": source}))
    rig.consumer.pollers.start()
    clock.advance(60)
    assert [message.event_id for message in messages] == ["1", "1"]
    assert sorted(rig.outcomes().values()) == ["discarded", "succeeded", "succeeded"]


# --- types


def test_the_longest_prefix_takes_a_type_and_its_own_handler_comes_before_any(clock):
    any_event, created, put = Handler(clock), Handler(clock), Handler(clock)
    rig = Rig(clock, {"s3:*": any_event, "s3:ObjectCreated:*": created, PUT: put})
    take(rig, clock, body(PUT, COPY, REMOVED))
    assert (put.calls, created.calls, any_event.calls) == (["a"], ["b"], ["c"])
    assert [message.event_type for message in created.messages + any_event.messages] == [COPY, REMOVED]


def test_metrics_gates_and_settings_go_by_the_handlers_own_name_and_claims_by_the_type(clock):
    server, store = Server(), MemoryClaims(1_000)
    metrics = metrics_to(server)
    handler = Handler(clock, seconds=5)
    rig = Rig(clock, {"s3:Object*": handler}, metrics=metrics, store=store, options={"s3:Object*": {"concurrency": 1}})
    rig.queue.put(body(PUT))
    take(rig, clock, body(REMOVED, keys="xyz"), seconds=6)
    assert len(handler.calls) == 2
    assert len([outcome for _, outcome in rig.ended if outcome.name == "succeeded"]) == 1
    clock.advance(10)
    metrics.close()
    lines = server.lines()
    server.close()
    assert "mill.q.type.s3_Object_.succeeded:2|c" in lines
    assert not [line for line in lines if "unknown" in line]
    claimed = {
        message.event_type: store.read(key_of(message.event_type, message.event_id)) for message in handler.messages
    }
    assert {event_type: record is not None for event_type, record in claimed.items()} == {PUT: True, REMOVED: True}


S3_TEST = json.dumps({"Service": "Amazon S3", "Event": "s3:TestEvent", "Bucket": "b"})


def test_the_test_of_s3_is_deleted_with_a_plain_line_and_is_no_dead_letter(clock, caplog):
    caplog.set_level(logging.INFO)
    rig = Rig(clock, {"s3:*": Handler(clock)})
    message_id = take(rig, clock, S3_TEST)
    assert rig.outcomes() == {message_id: "discarded"}
    assert (rig.letters(), rig.queue.deleted[message_id], rig.books.causes["test_event"]) == ([], 1, 1)
    [line] = [one for one in caplog.records if getattr(one, "event", "") == "message.discarded"]
    assert (line.levelname, line.getMessage()) == (
        "INFO",
        "S3 tests whether it can reach this queue: nothing to do, the message was deleted",
    )


def test_who_wants_the_test_of_s3_has_a_handler_for_it_alone(clock):
    calls: list[Any] = []
    rig = Rig(clock, {S3_TEST_EVENT: lambda payload, message: calls.append(payload["Bucket"])})
    assert rig.outcomes() == {} != {take(rig, clock, S3_TEST): "succeeded"}
    assert calls == ["b"]


def test_what_only_calls_itself_the_test_of_s3_is_a_dead_letter(clock):
    rig = Rig(clock, {"s3:*": Handler(clock)})
    rig.put(S3_TEST_EVENT)
    rig.consumer.pollers.start()
    clock.advance(1)
    assert rig.letters() == [f"no handler for type '{S3_TEST_EVENT}'"]
