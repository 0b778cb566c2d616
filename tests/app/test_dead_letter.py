import json

from millpond.app.dead_letter import MAX_VALUE_BYTES, ReasonAttribute, copy, reason_text
from millpond.sqs.limits import MAX_BYTES
from millpond.sqs.queue import Attribute, Received


def a_reason(**more):
    values = {
        "reason": "why",
        "error": "ValueError: x",
        "handler": "handlers.job.run",
        "attempt": 3,
        "message_id": "m1",
        "event_id": "e1",
        "queue": "q",
        "failed_at": "2026-01-01T00:00:00.000Z",
    }
    return ReasonAttribute(**(values | more))


def received(body="b", **attributes):
    return Received("m1", "h", body, 3, 1, "tenant", "Root=1", attributes)


def test_a_copy_keeps_body_attributes_trace_and_group_and_tells_the_reason():
    entry = copy(received(a=Attribute("Number", "1")), a_reason())
    assert (entry.body, entry.group_id, entry.trace_header) == ("b", "tenant", "Root=1")
    assert entry.attributes["a"] == Attribute("Number", "1")
    assert json.loads(entry.attributes["millpond"].value)["reason"] == "why"


def test_a_reason_is_ascii_json_of_a_kilobyte_at_most():
    text = reason_text(a_reason(error="é" * 5_000, reason="x" * 5_000, event_id="\x00" * 5_000))
    assert len(text) <= MAX_VALUE_BYTES
    assert text.isascii()
    assert json.loads(text)["attempt"] == 3


def test_a_copy_with_ten_attributes_of_its_own_goes_without_the_reason():
    ten = {f"a{n}": Attribute("String", "v") for n in range(10)}
    assert dict(copy(received(**ten), a_reason()).attributes) == ten


def test_a_copy_that_would_pass_a_megabyte_goes_without_the_reason():
    assert "millpond" not in copy(received("x" * (MAX_BYTES - 100)), a_reason()).attributes


def test_a_letter_that_dies_again_has_only_its_newest_reason():
    entry = copy(received(millpond=Attribute("String", "old")), a_reason())
    assert json.loads(entry.attributes["millpond"].value)["reason"] == "why"
    assert len(entry.attributes) == 1
