"""What a body is: each vendor's own example, which envelope counts before which, and bodies that are nearly one."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from millpond.app.envelope import Envelope, Pointer, Records, Undecodable, Unwrapped, marks_of
from millpond.app.opener import MAX_LAYERS, Opener
from millpond.app.vendors import MAX_S3_RECORDS
from millpond.sqs.queue import NO_ATTRIBUTES, Attribute, Received

FOLDER = Path(__file__).parent / "envelopes"
NAMED = {"event_type": Attribute("String", "named")}
OWN = {"event_type": "job", "event_id": "e1", "payload": {"a": 1}}
POINTER = ["software.amazon.payloadoffloading.PayloadS3Pointer", {"s3BucketName": "b", "s3Key": "k"}]


def golden(name: str) -> str:
    return (FOLDER / f"{name}.json").read_text()


def opened(body: Any, attributes: Any = NO_ATTRIBUTES, default_type: str = "", kind: Any = "auto") -> Any:
    text = body if isinstance(body, str | bytes) else json.dumps(body)
    return Opener(default_type, kind).open(Received("m1", "h1", text, attributes=attributes))


def of(envelope: Envelope) -> tuple[str, str, str]:
    return envelope.event_type, str(envelope.event_id), envelope.path


def payload(envelope: Envelope) -> Any:
    return msgspec.json.decode(envelope.payload)


def sns(message: Any, **more: Any) -> dict[str, Any]:
    text = message if isinstance(message, str) else json.dumps(message)
    return {"Type": "Notification", "MessageId": "n1", "TopicArn": "arn:aws:sns:::t", "Message": text} | more


def s3(*names: str) -> dict[str, Any]:
    return {"Records": [{"eventSource": "aws:s3", "eventName": name, "n": n} for n, name in enumerate(names)]}


def in_base64(body: Any) -> str:
    return base64.b64encode(json.dumps(body).encode()).decode()


# --- each vendor's own example


@pytest.mark.parametrize(
    ("name", "event_type", "event_id", "place"),
    [
        ("sns", "order.placed", "7f1c6ac2-0f53-5a06-8c8e-340e6d6d8c1f", "$.Message.payload"),
        ("sns_text", "greeting", "63a3f6b6-0000-4a47-aef9-fcf5cf758c76", "$.Message"),
        (
            "eventbridge_ec2",
            "EC2 Instance State-change Notification",
            "7bf73129-1428-0000-a780-95db273d1602",
            "$.detail",
        ),
        ("eventbridge_schedule", "Scheduled Event", "53dc4d37-cffa-0000-80c9-8b7d4a4d2eaa", "$.detail"),
        ("eventbridge_s3", "Object Created", "17793124-05d4-0000-2fde-7ededc63b103", "$.detail"),
        ("s3_put", "s3:ObjectCreated:Put", "s3-0055AED6DCD90281E5-2002ca1f7390c3d29ced86c58283406e", "$.Records[0]"),
        ("s3_restore", "s3:ObjectRestore:Completed", "m1", "$.Records[0]"),
        ("s3_minio", "s3:ObjectCreated:Put", "s3-16E0C5B5B0F1A1B2-3854effb2fec08d68840dbacd79c29ed", "$.Records[0]"),
        ("s3_test", "s3:TestEvent", "m1", "$"),
        ("cloudevents", "com.example.order.placed", "C234-1234-1234", "$.data"),
        ("cloudevents_base64", "com.example.order.placed", "D234-1234-1234", "$.data_base64"),
        ("cloudevents_xml", "com.example.order.placed", "B234-1234-1234", "$.data"),
        ("cloudevents_bare", "com.example.shop.opened", "E234-1234-1234", "$.data"),
    ],
)
@pytest.mark.parametrize("around", ["nothing", "base64", "a byte-order mark", "SNS"])
def test_each_vendors_example_is_known_by_its_marks_and_has_type_id_and_place(
    name, event_type, event_id, place, around
):
    body = golden(name)
    if around == "SNS":
        body, place = json.dumps(sns(body)), place.replace("$", "$.Message")
        event_id = "n1" if event_id == "m1" else event_id
    elif around == "base64":
        body = base64.urlsafe_b64encode(body.encode()).decode().rstrip("=")
    elif around == "a byte-order mark":
        body = "\ufeff" + body
    envelope = opened(body)
    assert of(envelope) == (event_type, event_id, place)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("sns", b'{"number": "A-1"}'),
        ("sns_text", b"Hello world!"),
        ("eventbridge_ec2", b'{"instance-id": "i-1234567890abcdef0", "state": "pending"}'),
        ("eventbridge_schedule", b"{}"),
        ("cloudevents", b'{"number": "A-1", "cents": 1250}'),
        ("cloudevents_base64", b'{"number": "A-1"}'),
        ("cloudevents_xml", rb'"<order number=\"A-1\"/>"'),
        ("cloudevents_bare", b"null"),
    ],
)
def test_the_payload_is_the_text_that_stood_in_the_envelope(name, text):
    assert bytes(opened(golden(name)).payload) == text


@pytest.mark.parametrize("name", ["s3_put", "s3_restore", "s3_minio"])
def test_the_payload_of_a_notification_is_its_record(name):
    assert payload(opened(golden(name))) == json.loads(golden(name))["Records"][0]


def test_the_attributes_of_sns_are_the_messages_and_those_of_the_receive_stay():
    received = {"shard": Attribute("String", "3"), "tenant": Attribute("String", "south")}
    assert opened(golden("sns"), received).attributes == {
        "shard": Attribute("String", "3"),
        "tenant": Attribute("String", "north"),
        "sizes": Attribute("String.Array", '["s", 5, true, null]'),
        "cents": Attribute("Number", "1250"),
        "key": Attribute("Binary", b"\x00\x01\x02\xff"),
    }


def test_the_trace_of_a_cloudevent_is_an_attribute_and_one_of_the_message_counts_before_it():
    ours = {"traceparent": Attribute("String", "ours")}
    found = opened(golden("cloudevents")).attributes
    assert {name: one.value[:6] for name, one in found.items()} == {"traceparent": "00-0af", "tracestate": "rojo=0"}
    assert opened(golden("cloudevents"), ours).attributes["traceparent"].value == "ours"


@pytest.mark.parametrize("name", ["pointer", "pointer_of_first_clients"])
@pytest.mark.parametrize("kind", ["auto", "millpond", "s3", "none"])
@pytest.mark.parametrize("default_type", ["", "job"])
def test_a_pointer_is_followed_whatever_names_a_type_and_its_body_is_read_as_the_queues_are(name, kind, default_type):
    pointer = opened(golden(name), NAMED if default_type else NO_ATTRIBUTES, default_type, kind)
    assert isinstance(pointer, Pointer)
    assert (pointer.bucket, pointer.key, of(pointer)) == ("bodies", "7a3c6ac2-0f53", ("", "m1", "$"))
    if kind == "s3":
        assert pointer.opened(json.dumps(s3("ObjectCreated:Put"))).event_type == "s3:ObjectCreated:Put"
    elif kind != "none":
        assert of(pointer.opened(json.dumps(OWN).encode())) == ("job", "e1", "$.payload")
    elif default_type:
        assert of(pointer.opened(json.dumps(OWN))) == ("named", "m1", "$")


def test_what_a_pointer_within_sns_leads_to_has_the_attributes_and_the_id_of_sns():
    pointer = opened(sns(POINTER, MessageAttributes={"tenant": {"Type": "String", "Value": "north"}}))
    found = pointer.opened(b'{"event_type": "job", "payload": 1}')
    assert of(found) == ("job", "n1", "$.Message.payload")
    assert found.attributes == {"tenant": Attribute("String", "north")}


# --- several records


def test_each_record_is_an_envelope_of_its_own_and_the_whole_has_the_type_of_the_first():
    whole = opened(s3("ObjectCreated:Put", "ObjectRemoved:Delete", "ObjectCreated:Put"))
    assert isinstance(whole, Records)
    assert of(whole) == ("s3:ObjectCreated:Put", "m1", "$")
    assert [of(record) for record in whole.records] == [
        ("s3:ObjectCreated:Put", "m1#1", "$.Records[0]"),
        ("s3:ObjectRemoved:Delete", "m1#2", "$.Records[1]"),
        ("s3:ObjectCreated:Put", "m1#3", "$.Records[2]"),
    ]
    assert [payload(record)["n"] for record in whole.records] == [0, 1, 2]


@pytest.mark.parametrize("around", [lambda body: body, sns])
def test_more_records_than_one_message_can_work_off_are_undecodable_before_any_is_opened(around):
    assert len(opened(around(s3(*["x"] * MAX_S3_RECORDS))).records) == MAX_S3_RECORDS
    with pytest.raises(
        Undecodable, match=f"has {MAX_S3_RECORDS + 1:,} records: {MAX_S3_RECORDS:,} are handled at most"
    ):
        opened(around(s3(*["x"] * MAX_S3_RECORDS, "")))


def test_an_event_that_s3_sends_twice_has_one_id_and_each_write_of_a_key_another():
    def record(**changes: str) -> str:
        values = {"name": "b", "key": "k", "sequencer": "01"} | changes
        entity = {
            "bucket": {"name": values["name"]},
            "object": {"key": values["key"], "sequencer": values["sequencer"]},
        }
        body = {"Records": [{"eventSource": "aws:s3", "eventName": "ObjectCreated:Put", "s3": entity}]}
        return str(opened(body).event_id)

    others = [record(name="c"), record(key="l"), record(sequencer="02"), record(name="bk", key="")]
    assert record() == record()
    assert len({record(), *others}) == 5


# --- what counts before what


EXPLICIT = [golden(name) for name in ("sns", "eventbridge_ec2", "s3_put", "s3_test", "cloudevents")] + [
    in_base64(OWN),
    "plain",
    "[1]",
    '{"event_type": 5}',
]


@pytest.mark.parametrize("body", EXPLICIT)
def test_where_attribute_or_queue_name_the_type_any_other_body_stays_its_payload(body):
    by_attribute, by_queue = opened(body, NAMED, "default"), opened(body, default_type="default")
    assert of(by_attribute) == ("named", "m1", "$")
    assert of(by_queue) == ("default", "m1", "$")
    assert bytes(by_attribute.payload) == bytes(by_queue.payload) == body.encode()


@pytest.mark.parametrize("kind", ["auto", "millpond", "sns", "eventbridge", "s3", "cloudevents"])
def test_our_own_envelope_speaks_for_itself_in_every_queue_but_one_of_bare_payloads(kind):
    assert of(opened(OWN, NAMED, "default", kind)) == ("job", "e1", "$.payload")
    assert of(opened(OWN, NAMED, "default", "none")) == ("named", "m1", "$")


@pytest.mark.parametrize(
    ("name", "kind", "event_type"),
    [
        ("sns", "sns", "order.placed"),
        ("eventbridge_ec2", "eventbridge", "EC2 Instance State-change Notification"),
        ("s3_put", "s3", "s3:ObjectCreated:Put"),
        ("cloudevents", "cloudevents", "com.example.order.placed"),
    ],
)
def test_a_pinned_envelope_is_opened_also_where_attribute_and_queue_name_a_type(name, kind, event_type):
    for body in (golden(name), "\ufeff" + golden(name), base64.encodebytes(golden(name).encode()).decode()):
        assert opened(body, NAMED, "default", kind).event_type == event_type


def test_what_a_pinned_sns_queue_carries_is_the_payload_of_the_type_that_is_named_for_it():
    assert of(opened(sns("plain"), default_type="greeting", kind="sns")) == ("greeting", "n1", "$.Message")
    assert of(opened(sns(s3("ObjectCreated:Put")), kind="sns")) == (
        "s3:ObjectCreated:Put",
        "n1",
        "$.Message.Records[0]",
    )
    assert of(opened(sns(OWN), default_type="greeting", kind="sns")) == ("job", "e1", "$.Message.payload")


def test_the_attribute_that_sns_brings_names_the_type_as_one_of_the_message_does():
    attribute = {"MessageAttributes": {"event_type": {"Type": "String", "Value": "greeting"}}}
    assert of(opened(sns(json.loads(golden("eventbridge_ec2")), **attribute))) == ("greeting", "n1", "$.Message")
    assert opened(sns("plain", **attribute), NAMED, kind="sns").event_type == "greeting"


def test_our_own_envelope_takes_nothing_else_from_its_sender():
    written = OWN | {
        "records": [OWN],
        "attributes": {"a": 1},
        "place": "$.x",
        "source": "x",
        "bucket": "b",
        "kind": "s3",
    }
    envelope = opened(written)
    assert type(envelope) is Envelope
    assert (envelope.records, dict(envelope.attributes), envelope.source, envelope.path) == ((), {}, "", "$.payload")


@pytest.mark.parametrize("event_id", [None, "", 7])
def test_our_own_envelope_in_another_has_its_own_id_or_that_of_the_other(event_id):
    found = opened(sns(OWN | {"event_id": event_id, "not_before": 5}))
    assert of(found) == ("job", "7" if event_id == 7 else "n1", "$.Message.payload")
    assert bytes(found.not_before) == b"5"


# --- base64, the byte-order mark, layers


@pytest.mark.parametrize(
    "encode",
    [base64.b64encode, base64.urlsafe_b64encode, base64.encodebytes, lambda text: base64.b64encode(text).rstrip(b"=")],
)
@pytest.mark.parametrize("filler", ["", "?", "??", "\u00ff~"])
def test_base64_is_understood_in_each_of_its_alphabets_with_line_ends_and_without_padding(encode, filler):
    text = json.dumps(OWN | {"payload": "?>" * 60 + filler}, ensure_ascii=False)
    envelope = opened(encode(text.encode()).decode())
    assert of(envelope) == ("job", "e1", "$.payload")
    assert payload(envelope) == "?>" * 60 + filler


@pytest.mark.parametrize("body", ["\ufeff" + json.dumps(OWN), b"\xef\xbb\xbf" * 3 + json.dumps(OWN).encode()])
def test_a_byte_order_mark_is_no_part_of_the_body(body):
    assert of(opened(body)) == ("job", "e1", "$.payload")
    bare = opened("\ufeff[1]" if isinstance(body, str) else b"\xef\xbb\xbf[1]", default_type="job")
    assert bytes(bare.payload) == b"[1]"


def test_a_hundred_thousand_marks_and_a_mebibyte_of_base64_take_no_time():
    for body in ("\ufeff" * 100_000, b"\xef\xbb\xbf" * 100_000, "A" * 2**20, "e" + "A" * 2**20, " " * 2**20 + "!"):
        with pytest.raises(Undecodable, match="names no type"):
            opened(body)


def layered(body: Any, layers: int) -> Any:
    for _ in range(layers):
        body = sns(body)
    return body


def test_envelopes_around_each_other_have_a_limit():
    assert opened(layered(OWN, MAX_LAYERS)).event_type == "job"
    with pytest.raises(Undecodable, match="more than 5 envelopes"):
        opened(layered(OWN, MAX_LAYERS + 1))
    pointer = opened(layered(POINTER, MAX_LAYERS))
    with pytest.raises(Undecodable, match="more than 5 envelopes"):
        pointer.opened(json.dumps(OWN))


def test_a_pointer_that_leads_to_pointers_has_an_end():
    pointer = opened(POINTER)
    for _ in range(MAX_LAYERS):
        pointer = pointer.opened(json.dumps(POINTER))
    with pytest.raises(Undecodable, match="more than 5 envelopes"):
        pointer.opened(json.dumps(POINTER))


# --- nearly an envelope


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ({"Type": "Notification", "MessageId": "n1"}, "no complete SNS notification: .* `Message`"),
        ({"TopicArn": "arn", "MessageId": "n1"}, "no complete SNS notification: .* `Message`"),
        (sns("x", Message=5), r"no complete SNS notification: Expected `str`, got `int` - at `\$.Message`"),
        (sns("x", MessageAttributes={"a": {"Type": "String"}}), "no complete SNS notification: .* `Value`"),
        (sns("x", MessageAttributes={"a": {"Type": "Binary", "Value": "!"}}), "`MessageAttributes.a` is not base64"),
        (sns("x", Type="Other"), "no complete SNS notification: its `Type` is not Notification"),
        (
            golden("sns_confirmation"),
            "SNS asks to confirm a subscription .SubscriptionConfirmation.: open its SubscribeURL",
        ),
        ({"detail-type": "x"}, "no complete EventBridge event: .* `detail`"),
        ({"detail-type": None, "detail": {}}, r"no complete EventBridge event: .* `\$.detail-type`"),
        ({"Records": []}, "the S3 notification has no record"),
        ({"Records": [{"eventSource": "aws:s3"}]}, "no complete S3 notification: .* `eventName`"),
        (
            {"Records": [*s3("ObjectCreated:Put")["Records"], {}]},
            "no complete S3 notification: record 2: .* `eventName`",
        ),
        (
            {"Records": [*s3("ObjectCreated:Put")["Records"], 5]},
            "no complete S3 notification: record 2: Expected `object`",
        ),
        ({"specversion": "1.0"}, "no complete CloudEvent: .* `type`"),
        ({"specversion": "0.3", "type": "a"}, "the CloudEvent is of another version than 1.0"),
        ({"specversion": "1.0", "type": "a", "data_base64": "e!"}, "`data_base64` is not base64"),
        ({"specversion": "1.0", "type": "a", "data_base64": "e30", "data": 1}, "`data_base64` is not base64"),
        ([POINTER[0], {}], "no complete pointer of the extended client: .* `s3BucketName`"),
        ([POINTER[0], {"s3BucketName": "b"}], "no complete pointer of the extended client: .* `s3Key`"),
    ],
)
@pytest.mark.parametrize("within", ["nothing", "SNS"])
def test_what_nearly_is_an_envelope_says_what_it_lacks(body, reason, within):
    with pytest.raises(Undecodable, match=reason):
        opened(sns(body) if within == "SNS" else body)


@pytest.mark.parametrize(
    "body",
    [
        {"Records": [{"eventSource": "aws:ses"}]},
        {"Records": [5]},
        {"Records": {}},
        {"Type": "Other", "Message": "x"},
        {"Event": "s3:Other"},
        {"type": "a", "data": {}},
        {"detail": {}, "source": "a"},
        ["software.amazon.Other", {"s3BucketName": "b", "s3Key": "k"}],
        [POINTER[0]],
        {},
    ],
)
def test_what_has_the_marks_of_none_names_no_type(body):
    with pytest.raises(Undecodable, match="names no type: its body is not JSON with event_type and payload"):
        opened(body)


PINNED = [
    ("millpond", "no envelope of millpond, as its queue's `envelope` says"),
    ("sns", "no complete SNS notification"),
    ("eventbridge", "no complete EventBridge event"),
    ("s3", "no complete S3 notification"),
    ("cloudevents", "no complete CloudEvent"),
]


@pytest.mark.parametrize(("kind", "reason"), PINNED)
def test_a_body_that_does_not_fit_the_pinned_envelope_says_what_it_lacks(kind, reason):
    for body in ({"a": 1}, {}, in_base64({"a": 1})):
        with pytest.raises(Undecodable, match=reason):
            opened(body, NAMED, "default", kind)
    for body in ("plain", "[1]", "[" * 100_000, '"\ud800"', ""):
        with pytest.raises(Undecodable, match=f"no envelope of {kind}, as its queue's `envelope` says: \\w+Error"):
            opened(body, NAMED, "default", kind)


def test_no_reason_quotes_a_value_of_the_body():
    for body in (
        sns("4711", Message=4711),
        {"detail-type": 4711, "detail": {}},
        {"specversion": "4711", "type": "a"},
        {"specversion": "1.0", "type": "a", "data_base64": "4711!"},
        {"Records": [{"eventSource": "aws:s3", "eventName": 4711}]},
    ):
        with pytest.raises(Undecodable) as raised:
            opened(body)
        assert "4711" not in str(raised.value)


def test_in_a_queue_of_payloads_a_mark_shows_our_own_envelope_and_means_nothing_beside_another_body():
    marked = {**NAMED, **marks_of("none")}
    assert marks_of("auto") == marks_of("millpond") == {}
    assert of(opened(OWN, marked, kind="none")) == ("job", "e1", "$.payload")
    for body in ("plain", golden("sns"), '{"event_type": "job"}', in_base64(OWN)):
        assert of(opened(body, marked, kind="none")) == ("named", "m1", "$")
    assert isinstance(opened(POINTER, marked, kind="none"), Pointer)


def test_a_bare_payload_is_unwrapped_from_nothing():
    found = opened("plain", NAMED)
    assert type(found) is Unwrapped
    assert found.attributes == NAMED


@pytest.mark.parametrize(
    ("body", "wrong"),
    [
        ('{"event_type": "a"}', "Object missing required field `payload`"),
        ('{"event_type": 7, "payload": {}}', "Expected `str`, got `int` - at `$.event_type`"),
    ],
)
def test_an_envelope_of_our_own_that_is_not_whole_is_not_said_to_name_no_type(body, wrong):
    with pytest.raises(Undecodable) as caught:
        opened(json.loads(body))
    assert str(caught.value) == f"the body is no complete envelope with event_type and payload: {wrong}"
