"""Answers with large messages: what of them stays in memory, and how much is counted."""

from __future__ import annotations

import json
import tracemalloc

import pytest

from millpond.app.dead_letter import ReasonAttribute, copy
from millpond.message import LargeMessage, Message
from millpond.sqs.answers import SHORT_BYTES, UNCOUNTED_BYTES, read_messages
from tests.rig import Rig
from tests.virtual import VirtualClock

MIB = 1_048_576
EMOJI = "\U0001f600"


def answer(*bodies, **more):
    messages = [{"MessageId": f"m{n}", "ReceiptHandle": "h", "Body": body} | more for n, body in enumerate(bodies)]
    return json.dumps({"Messages": messages}, ensure_ascii=False).encode("utf-8", "surrogatepass")


def with_emoji(size, start=""):
    """A text of this many bytes, one of its characters an emoji."""
    return start + EMOJI + "x" * (size - len(start) - len(EMOJI.encode()))


def test_ten_bodies_of_one_mib_with_an_emoji_each_take_a_mib_each():
    """As texts they took 40 MiB, all at once, and 10 more once they had been read as JSON."""
    wire = answer(*[with_emoji(MIB)] * 10)
    tracemalloc.start()
    received = read_messages(wire)
    now, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert {type(message.body) for message in received} == {bytes}
    assert all(message.text == with_emoji(MIB) and MIB < message.size < MIB + 200 for message in received)
    assert now < 10.1 * MIB
    assert peak < 20 * MIB


def test_a_plain_body_stays_a_text_however_long():
    [received] = read_messages(answer("x" * MIB))
    assert received.body == received.text == "x" * MIB


@pytest.mark.parametrize(
    ("bodies", "counted"),
    [
        ([with_emoji(UNCOUNTED_BYTES - 200)] * 10, False),
        ([with_emoji(UNCOUNTED_BYTES)] * 10, True),
        ([with_emoji(SHORT_BYTES - 200)], False),
        ([with_emoji(SHORT_BYTES)], True),
        ([with_emoji(100)] * 10, False),
        ([], False),
    ],
)
def test_small_messages_are_not_counted_and_stay_texts(bodies, counted):
    received = read_messages(answer(*bodies))
    assert [message.text for message in received] == bodies
    assert {message.size > 0 for message in received} <= {counted}
    assert {isinstance(message.body, bytes) for message in received} <= {counted}


def test_a_large_message_among_small_ones_is_counted_by_itself():
    received = read_messages(answer(*[with_emoji(100)] * 4, with_emoji(MIB), *[with_emoji(100)] * 5))
    sizes = [message.size for message in received]
    assert MIB < sizes.pop(4) < MIB + 200
    assert all(100 < size < 300 for size in sizes)


def test_attributes_are_counted_and_all_else_is_as_in_a_small_answer():
    attributes = {"a": {"DataType": "String", "StringValue": with_emoji(MIB // 2)}}
    system = {"ApproximateReceiveCount": "3", "SentTimestamp": "5", "MessageGroupId": "g", "AWSTraceHeader": "t"}
    [received] = read_messages(answer(EMOJI, MessageAttributes=attributes, Attributes=system))
    assert MIB // 2 < received.size < MIB // 2 + 400
    assert (received.text, received.attributes["a"].value) == (EMOJI, with_emoji(MIB // 2))
    assert (received.receive_count, received.sent_ms, received.group_id, received.trace_header) == (3, 5, "g", "t")


def test_a_large_answer_with_half_a_character_is_read_as_a_small_one_is():
    bodies = ["\ud800" + with_emoji(MIB // 2), with_emoji(MIB // 2)]
    escaped = answer(*bodies).replace(b"\xed\xa0\x80", b"\\ud800")
    received = read_messages(escaped)
    assert [message.text for message in received] == [bodies[0].replace("\ud800", "?"), bodies[1]]
    assert ["half a character" in message.flaw for message in received] == [True, False]
    assert all(MIB // 2 < message.size < MIB // 2 + 400 for message in received)


def test_a_handler_and_a_dead_letter_see_the_body_of_a_large_message_as_it_came():
    body = with_emoji(MIB, '{"event_type": "job", "payload": "').replace("xx", '"}', 1)
    body = body[: body.index('"}')] + "y" * 1_000_000 + '"}'
    [received] = read_messages(answer(body))
    assert isinstance(received.body, bytes)
    clock, seen = VirtualClock(), []
    rig = Rig(clock, {"job": lambda payload, message: seen.append((payload, message.body, message))})
    rig.permits.free -= 1
    rig.consumer._share.held += 1
    rig.consumer.accept([received])
    clock.advance(1)
    [(payload, text, message)] = seen
    assert (text, payload) == (body, json.loads(body)["payload"])
    assert (type(message), isinstance(message, Message), message.id) == (LargeMessage, True, "m0")
    assert (
        copy(received, ReasonAttribute.of(received, 0.0, reason="r", error="", handler="", event_id="", queue="q")).body
        == body
    )
