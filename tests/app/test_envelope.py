import pytest

from millpond.app.envelope import Envelope, Undecodable, early_seconds, located
from millpond.app.opener import Opener
from millpond.sqs.queue import NO_ATTRIBUTES, Attribute, Received

TYPE = {"event_type": Attribute("String", "raw.type")}


def unwrap(body, attributes=NO_ATTRIBUTES, default_type="") -> Envelope:
    return Opener(default_type).open(Received("m1", "h1", body, attributes=attributes))


def test_an_envelope_speaks_for_itself_and_unknown_keys_are_ignored():
    envelope = unwrap('{"event_type":"a","event_id":"e1","payload":{"x": 1},"v":2}', TYPE, "default")
    assert (envelope.event_type, envelope.event_id, bytes(envelope.payload)) == ("a", "e1", b'{"x": 1}')
    assert envelope.path == "$.payload"


@pytest.mark.parametrize("event_id", ["", ',"event_id":null', ',"event_id":""'])
def test_without_an_event_id_the_messages_own_id_is_it(event_id):
    assert unwrap('{"event_type":"a","payload":1' + event_id + "}").event_id == "m1"


def test_a_number_is_taken_for_an_event_id():
    assert unwrap('{"event_type":"a","event_id":7,"payload":1}').event_id == "7"


@pytest.mark.parametrize("body", ["plain text", "{}", "[1]", '{"event_type":"a"}', '{"event_type":5,"payload":1}', ""])
def test_any_other_body_is_the_payload_of_the_type_that_is_named_for_it(body):
    by_attribute = unwrap(body, TYPE, "default")
    by_queue = unwrap(body, {}, "default")
    assert (by_attribute.event_type, by_queue.event_type) == ("raw.type", "default")
    assert bytes(by_attribute.payload) == body.encode()
    assert by_attribute.path == "$"


@pytest.mark.parametrize("body", ["plain text", "[" * 200_000, '{"type":"a"}', "\x00", '"\ud800"'])
def test_a_body_that_names_no_type_is_undecodable_and_says_why(body):
    with pytest.raises(Undecodable, match=r"names no type: .*; correct its sender, or set"):
        unwrap(body)


def test_the_last_of_duplicate_keys_counts():
    assert unwrap('{"event_type":"a","event_type":"b","payload":1}').event_type == "b"


def test_a_lone_surrogate_is_undecodable_also_where_the_type_is_known():
    with pytest.raises(Undecodable, match="not Unicode"):
        unwrap("\ud800", {}, "a")


def test_a_path_is_seen_from_the_body():
    assert located("Expected `str`, got `int` - at `$.to[0]`", "$.payload") == (
        "Expected `str`, got `int` - at `$.payload.to[0]`"
    )
    assert located("Object missing required field `to`", "$.payload").endswith("- at `$.payload`")


@pytest.mark.parametrize(
    ("not_before", "sent", "receives", "seconds"),
    [
        (1_100, 1_000, 1, 100),
        (1_100, 1_000, 2, 100),
        (5_000, 1_000, 1, 900),
        (5_000, 200, 1, 100),  # its 900 s are from when it was sent
        (5_000, 100, 1, 0),
        (1_000, 1_000, 1, 0),
        (1_100, 0, 1, 100),  # SQS did not say when it was sent
        (1_100, 0, 2, 0),  # nor then: it may have waited already
        (0, 1_000, 1, 0),
    ],
)
def test_a_message_waits_until_the_moment_that_it_names_and_never_past_900_seconds_after_it_was_sent(
    not_before, sent, receives, seconds
):
    envelope = unwrap(f'{{"not_before":{not_before * 1_000},"event_type":"a","payload":1}}')
    received = Received("m1", "h1", "", receives, sent * 1_000)
    assert early_seconds(envelope, received, 1_000.0) == seconds
