"""Events as AWS documents them, and everything else that can come instead: no record is lost."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tests.chance  # noqa: F401  no example has a deadline
from millpond.app.config import load
from millpond.engine.books import Books
from millpond.hub.clock import SystemClock
from millpond.invocations.event import EventError, read_records, source_of
from millpond.invocations.event_source import EventSource, named_by
from millpond.observe import log
from millpond.observe.metrics import Metrics
from millpond.sqs.queue import Attribute

#: The examples of https://docs.aws.amazon.com/lambda/latest/dg/with-sqs.html, with a binary attribute and a trace.
EVENTS = json.loads((Path(__file__).parent / "events.json").read_text())


@pytest.fixture
def event() -> Any:
    return copy.deepcopy(EVENTS["standard"])


def test_the_documented_event_is_read(event):
    first, second = (record.received for record in read_records(event))
    assert first.message_id == "059f36b4-87a3-44ab-83d2-661975830a7d"
    assert first.receipt_handle == "AQEBwJnKyrHigUMZj6rYigCgxlaS3SLy0a..."
    assert (first.body, first.receive_count, first.sent_ms, first.flaw) == ("Test message.", 1, 1545082649183, "")
    assert first.attributes == {"myAttribute": Attribute("String", "myValue")}
    assert (second.receive_count, second.trace_header[:10]) == (3, "Root=1-575")
    assert second.attributes == {"picture": Attribute("Binary.png", b"\x00\x01\x02\xff")}


def test_the_documented_event_of_a_fifo_queue_is_read():
    records = read_records(EVENTS["fifo"])
    assert records[0].received.group_id == "1"
    assert source_of(records) == "arn:aws:sqs:us-east-2:123456789012:fifo.fifo"


@pytest.mark.parametrize(
    ("wrong", "found"),
    [
        (None, "is no object"),
        ([], "is no object"),
        ({}, "has the keys"),
        ({"detail-type": "x", "source": "aws.s3"}, "has the keys detail-type, source"),
        ({"Records": {}}, "has the keys Records"),
        ({"Records": [7]}, "record 0 of the event is no object"),
        ({"Records": [{}]}, "record 0 has no messageId"),
        ({"Records": [{"messageId": 7}]}, "record 0 has no messageId"),
        ({"Records": [{"eventSource": "aws:kinesis"}]}, "record 0 comes from aws:kinesis"),
        ({"Records": [{"EventSource": "aws:sns", "Sns": {}}]}, "record 0 comes from aws:sns"),
    ],
)
def test_an_event_that_cannot_be_answered_for_is_refused(wrong, found):
    with pytest.raises(EventError, match=found):
        read_records(wrong)


def test_a_record_without_a_receipt_handle_is_kept_for_the_answer(event):
    del event["Records"][0]["receiptHandle"]
    records = read_records(event)
    assert [record.received is None for record in records] == [True, False]
    assert records[0].message_id == "059f36b4-87a3-44ab-83d2-661975830a7d"


@pytest.mark.parametrize(
    ("key", "value", "flaw"),
    [
        ("body", None, "is not a text"),
        ("body", {"a": 1}, "is not a text"),
        ("body", "\ud83d", "half a character"),
        ("messageAttributes", {"a": {"dataType": "String"}}, "its attribute a cannot be read"),
        ("messageAttributes", {"a": 7}, "its attribute a cannot be read"),
        ("messageAttributes", {"a": {"dataType": "Binary", "binaryValue": "?"}}, "its attribute a cannot be read"),
    ],
)
def test_what_is_wrong_with_one_message_is_its_flaw(event, key, value, flaw):
    event["Records"][0][key] = value
    first, second = (record.received for record in read_records(event))
    assert flaw in first.flaw
    assert second.flaw == ""


@pytest.mark.parametrize("key", ["attributes", "messageAttributes"])
@pytest.mark.parametrize("value", [None, [], "x", 7])
def test_what_is_no_object_counts_as_empty(event, key, value):
    event["Records"][0][key] = value
    assert read_records(event)[0].received.flaw == ""


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
KEYS = sorted(EVENTS["standard"]["Records"][0])
RECORD = st.fixed_dictionaries({}, optional={key: JSON | st.just("aws:sqs") for key in KEYS})


@settings(max_examples=80)
@given(JSON | st.fixed_dictionaries({"Records": st.lists(RECORD | JSON, max_size=3)}))
def test_every_event_is_refused_or_every_record_of_it_has_its_id(event):
    try:
        records = read_records(event)
    except EventError:
        return
    assert [record.message_id for record in records] == [one["messageId"] for one in event["Records"]]
    assert all(record.received is None or record.received.receipt_handle for record in records)


# --- whose records they are


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    config = tmp_path_factory.mktemp("sources") / "config.toml"
    config.write_text("".join(f'[queues.{name}]\nurl = "{url}"\n' for name, url in URLS.items()))
    read = load(config, {"AWS_REGION": "eu-west-1"})
    books = Books("q", [], Metrics(), log.Allowance(0), SystemClock())
    return {name: EventSource(name, read, books, SystemClock()) for name in URLS}


URLS = {
    "ireland": "https://sqs.eu-west-1.amazonaws.com/123456789012/emails",
    "ohio": "https://sqs.us-east-2.amazonaws.com/123456789012/emails",
    "other": "https://sqs.eu-west-1.amazonaws.com/999999999999/emails",
    "local": "http://127.0.0.1:9324/000000000000/emails/",
}


@pytest.mark.parametrize(
    ("arn", "name"),
    [
        ("arn:aws:sqs:eu-west-1:123456789012:emails", "ireland"),
        ("arn:aws-cn:sqs:us-east-2:123456789012:emails", "ohio"),
        ("arn:aws:sqs:eu-west-1:999999999999:emails", "other"),
        ("arn:aws:sqs:us-east-1:000000000000:emails", "local"),
        ("arn:aws:sqs:eu-west-1:123456789012:email", None),
        ("arn:aws:sqs:sa-east-1:123456789012:emails", None),
        ("arn:aws:sqs", None),
        ("", None),
    ],
)
def test_an_arn_names_its_queue(sources, arn, name):
    found = named_by(arn, sources)
    assert (found and found.name) == name


def test_without_an_arn_the_only_queue_is_meant(sources):
    assert named_by("", {"ohio": sources["ohio"]}).name == "ohio"


def test_records_of_two_queues_are_refused(event):
    event["Records"][0]["eventSourceARN"] = "arn:aws:sqs:us-east-2:123456789012:another"
    with pytest.raises(EventError, match="come from one queue"):
        source_of(read_records(event))
