"""The trace of a message: in its lines, and in what its handler sends and leaves behind. No OpenTelemetry here."""

import contextvars
import json
import logging
import threading

import pytest

from millpond.errors import Reject
from millpond.foreign.trace_context import TraceContext
from millpond.producer import Producer
from millpond.sqs.limits import MAX_BYTES
from millpond.sqs.queue import Attribute, Entry, Failure
from tests.foreign.test_trace_context import HEADER, PARENT, ROOT_ID, TRACE_ID
from tests.rig import Rig

STATE = "congo=t61"
NAMED = {"traceparent": Attribute("String", PARENT), "tracestate": Attribute("String", STATE)}
OTHER = {"customer": Attribute("String", "7")}
REFUSED = Failure("InvalidMessageContents", "no", sender_fault=True)

pytestmark = pytest.mark.usefixtures("no_core_greenlet_died")


@pytest.fixture
def run(clock):
    """Run one message of the type "job" through its handler, and whatever that leaves behind."""

    def run(handle, settings=None, **message):
        rig = Rig(clock, {"job": handle, "other": handle}, **(settings or {}))
        rig.put("job", **message)
        rig.consumer.pollers.start()
        clock.advance(1)
        return rig

    return run


def entries_of(queue):
    """Those that were sent to it."""
    return [entry for batch in queue.batches["send"] for entry in batch]


def leave_one_behind(payload, message):
    if not payload:
        message.follow_up("more")


@pytest.mark.parametrize(
    ("message", "trace_id"),
    [
        ({"trace_header": HEADER}, ROOT_ID),
        ({"attributes": NAMED}, TRACE_ID),
        ({"attributes": NAMED, "trace_header": HEADER}, TRACE_ID),
        ({"attributes": OTHER, "trace_header": "Sampled=0"}, None),
        ({}, None),
    ],
)
def test_each_line_of_a_message_has_its_trace_id(run, json_lines, message, trace_id):
    def handle(payload, message):
        logging.getLogger("work").warning("at work")
        raise Reject("no such customer")

    run(handle, **message)
    of_handler, of_engine = json_lines
    assert (of_handler["message"], of_engine["event"]) == ("at work", "message.dead_lettered")
    assert of_handler.get("trace_id") == of_engine.get("trace_id") == trace_id
    assert ("trace_id" in of_engine) is (trace_id is not None)


def test_a_follow_up_is_a_part_of_the_trace_and_has_no_other_attribute(run):
    rig = run(leave_one_behind, attributes={**NAMED, **OTHER}, trace_header=HEADER)
    [entry] = entries_of(rig.queue)
    assert (entry.attributes, entry.trace_header) == (NAMED, HEADER)
    assert [outcome.name for _, outcome in rig.ended] == ["succeeded"] * 2


def test_without_a_trace_a_follow_up_is_what_it_was(run):
    rig = run(leave_one_behind, attributes=OTHER)
    [entry] = entries_of(rig.queue)
    assert entry == Entry(entry.body)


def test_a_follow_up_that_a_thread_leaves_behind_is_a_part_of_the_trace(run):
    def handle(payload, message):
        if not payload:
            outside = contextvars.Context()
            thread = threading.Thread(target=outside.run, args=[message.follow_up, "more"])
            thread.start()
            thread.join()

    [entry] = entries_of(run(handle, attributes=NAMED).queue)
    assert entry.attributes == NAMED


def test_a_follow_up_for_which_the_trace_has_no_room_goes_without_its_attributes(run):
    def handle(payload, message):
        if not payload:
            room = message.max_bytes - len(json.dumps({"event_type": "job", "event_id": "m1/1", "payload": ""}))
            message.follow_up("x" * room)

    [entry] = entries_of(run(handle, attributes=NAMED, trace_header=HEADER).queue)
    assert entry.size > MAX_BYTES - 100
    assert (entry.attributes, entry.trace_header) == ({}, HEADER)


def test_the_dead_letter_of_a_follow_up_has_the_trace_and_its_reason(run):
    def handle(payload, message):
        message.follow_up("more", reject="not here")

    [letter] = entries_of(run(handle, attributes={**NAMED, **OTHER}, trace_header=HEADER).dead)
    assert letter.trace_header == HEADER
    assert {**letter.attributes, "millpond": None} == {**NAMED, "millpond": None}
    assert json.loads(letter.attributes["millpond"].value)["reason"] == "not here"


def test_a_follow_up_that_its_queue_refuses_keeps_the_trace_as_a_dead_letter(clock):
    rig = Rig(clock, {"job": leave_one_behind})
    rig.queue.script["send"] = [REFUSED]
    rig.queue.put('{"event_type": "job", "payload": ""}', attributes=NAMED, trace_header=HEADER)
    rig.consumer.pollers.start()
    clock.advance(10)
    [letter] = entries_of(rig.dead)
    assert letter.trace_header == HEADER
    assert letter.attributes.items() >= NAMED.items()


def test_on_a_fifo_queue_a_trace_changes_no_deduplication_id(run):
    ids = []
    for message in ({}, {"attributes": NAMED, "trace_header": HEADER}):
        rig = run(leave_one_behind, {"fifo": True}, group_id="a", **message)
        [entry] = entries_of(rig.queue)
        ids.append(entry.dedup_id)
        assert entry.attributes == message.get("attributes", {})
    assert ids[0] == ids[1] != ""


def test_what_a_producer_sends_inside_a_handler_is_a_part_of_the_trace(run, monkeypatch):
    sent = []

    class Elsewhere:
        def send(self, entries, seconds):
            sent.extend(entries)
            return [None] * len(entries)

    monkeypatch.setattr(Producer, "_queue", lambda self, end: Elsewhere())
    producer = Producer("https://sqs.eu-west-1.amazonaws.com/1/orders")

    def handle(payload, message):
        producer.send_many([("order", 1), ("order", "x" * (MAX_BYTES - 120))])

    run(handle, attributes=NAMED, trace_header=HEADER)
    assert [entry.trace_header for entry in sent] == [HEADER] * 2
    assert [entry.attributes for entry in sent] == [NAMED, {}]
    producer.send("order", 2)
    assert (sent[-1].trace_header, sent[-1].attributes) == ("", {})


def test_an_attribute_of_the_message_itself_counts_before_that_of_the_trace():
    own = {"traceparent": Attribute("String", "mine")}
    traced = Entry("x", attributes=own).with_trace(TraceContext(TRACE_ID, "", (("traceparent", PARENT),)), MAX_BYTES)
    assert traced.attributes == own


# --- in the envelopes of others

OUTER = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
CLOUD = {"specversion": "1.0", "type": "job", "source": "/carts", "id": "e-1", "data": None}


def put_body(clock, body, handle=leave_one_behind, **message):
    rig = Rig(clock, {"job": handle, "s3:ObjectCreated:Put": handle})
    rig.queue.put(json.dumps(body), **message)
    rig.consumer.pollers.start()
    clock.advance(1)
    return rig


def sns(message, **attributes):
    given = {name: {"Type": "String", "Value": value} for name, value in attributes.items()}
    return {"Type": "Notification", "MessageId": "s-1", "Message": json.dumps(message), "MessageAttributes": given}


@pytest.mark.parametrize(
    "body",
    [
        CLOUD | {"traceparent": PARENT, "tracestate": STATE},
        sns({"event_type": "job", "payload": None}, traceparent=PARENT, tracestate=STATE),
        sns(CLOUD | {"traceparent": PARENT, "tracestate": STATE}),
        sns(CLOUD | {"traceparent": OUTER, "tracestate": "a=1"}, traceparent=PARENT, tracestate=STATE),
    ],
)
def test_the_trace_of_an_envelope_goes_on(clock, body, json_lines):
    rig = put_body(clock, body)
    [entry] = entries_of(rig.queue)
    assert entry.attributes == NAMED


def test_a_trace_of_the_message_itself_counts_before_that_of_a_cloudevent_which_began_elsewhere(clock):
    rig = put_body(clock, CLOUD | {"traceparent": OUTER, "tracestate": "a=1"}, attributes=NAMED)
    [entry] = entries_of(rig.queue)
    assert entry.attributes == NAMED


@pytest.mark.parametrize("wrap", [lambda event: event, sns])
def test_a_tracestate_does_not_go_with_the_traceparent_of_another(clock, wrap):
    alone = {"traceparent": NAMED["traceparent"]}
    rig = put_body(clock, wrap(CLOUD | {"traceparent": OUTER, "tracestate": "a=1"}), attributes=alone)
    [entry] = entries_of(rig.queue)
    assert entry.attributes == alone
    rig = put_body(clock, sns(CLOUD, traceparent=PARENT), attributes={"tracestate": Attribute("String", "a=1")})
    [entry] = entries_of(rig.queue)
    assert entry.attributes == alone


@pytest.mark.parametrize("odd", [None, 5, ["x"], {"a": 1}, "x"])
def test_a_cloudevent_whose_trace_is_none_is_handled_all_the_same(clock, odd):
    seen = []

    def handle(payload, message):
        seen.append(message.attributes)
        leave_one_behind(payload, message)

    rig = put_body(clock, CLOUD | {"traceparent": odd, "tracestate": odd}, handle)
    assert seen[0] == ({"traceparent": odd, "tracestate": odd} if isinstance(odd, str) else {})
    assert [outcome.name for _, outcome in rig.ended] == ["succeeded"] * 2
    [entry] = entries_of(rig.queue)
    assert entry.attributes == {}
