"""The envelopes of others: by which marks each is known, and what stands in it."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from hashlib import sha256
from typing import Any, TypeVar

import msgspec
from msgspec import field

from millpond.app.envelope import S3_TEST_EVENT, Envelope, EnvelopeKind, Pointer, Records, Undecodable, Unwrapped
from millpond.foreign.secrets import Unshown
from millpond.foreign.text import shown
from millpond.foreign.trace_context import TRACEPARENT, TRACESTATE
from millpond.sqs.queue import Attribute

#: How the extended clients of SQS and SNS name a pointer; the second one is of their first versions.
POINTER_NAMES = (
    "software.amazon.payloadoffloading.PayloadS3Pointer",
    "com.amazon.sqs.javamessaging.MessageS3Pointer",
)
UNREADABLE_JSON = (msgspec.MsgspecError, ValueError, RecursionError)
#: S3 sends one record. 500,000 in a body of 13 MB held the hub for 4 s, and took 200 MB.
MAX_S3_RECORDS = 1_000
_NOTIFICATION, _CONFIRMATIONS = "Notification", ("SubscriptionConfirmation", "UnsubscribeConfirmation")
_NULL = msgspec.Raw(b"null")


class Parcel(Unshown, msgspec.Struct, frozen=True):
    """A text that is to be opened, and what is known of it from what was around it.

    `event_id`: where it names none itself; `place`: of the text in the body; `layers`: how often was opened so far.
    """

    text: str | bytes
    event_id: str
    attributes: Mapping[str, Attribute]
    kind: EnvelopeKind
    place: str = "$"
    layers: int = 0

    def within(self, text: str | bytes) -> Parcel:
        """What stands in its place once it is opened."""
        return msgspec.structs.replace(self, text=text, layers=self.layers + 1)

    @property
    def raw(self) -> msgspec.Raw:
        return msgspec.Raw(self.text.encode() if isinstance(self.text, str) else self.text)


class SnsAttribute(msgspec.Struct):
    data_type: str = field(name="Type")
    value: str = field(name="Value")


class SnsNotification(msgspec.Struct, kw_only=True):
    """https://docs.aws.amazon.com/sns/latest/dg/sns-message-and-json-formats.html"""

    type: str = field(name="Type", default=_NOTIFICATION)
    message_id: str = field(name="MessageId", default="")
    message: str = field(name="Message")
    attributes: dict[str, SnsAttribute] = field(name="MessageAttributes", default_factory=dict)


class EventBridgeEvent(msgspec.Struct, kw_only=True):
    """https://docs.aws.amazon.com/eventbridge/latest/ref/overiew-event-structure.html"""

    detail_type: str = field(name="detail-type")
    detail: msgspec.Raw
    id: str = ""


class CloudEvent(msgspec.Struct, kw_only=True):
    """https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/formats/json-format.md"""

    specversion: str
    type: str
    source: str = ""
    id: str = ""
    data: msgspec.Raw = _NULL
    data_base64: str | None = None
    traceparent: Any = ""  # an extension of others can be of any type
    tracestate: Any = ""


class S3Bucket(msgspec.Struct, frozen=True):
    name: str = ""


class S3Object(msgspec.Struct, frozen=True):
    key: str = ""
    sequencer: str = ""


class S3Entity(msgspec.Struct, frozen=True):
    bucket: S3Bucket = S3Bucket()
    object: S3Object = S3Object()


class S3Event(msgspec.Struct):
    """https://docs.aws.amazon.com/AmazonS3/latest/userguide/notification-content-structure.html"""

    name: str = field(name="eventName")
    s3: S3Entity = S3Entity()


class S3Notification(msgspec.Struct):
    records: list[msgspec.Raw] = field(name="Records")


class S3Mark(msgspec.Struct):
    """What shows that a record is one of S3's, or of a server that speaks as S3 does."""

    source: str = field(name="eventSource", default="")
    s3: msgspec.Raw = msgspec.Raw()

    @property
    def is_there(self) -> bool:
        return self.source.endswith(":s3") or bool(self.s3)


class S3Pointer(msgspec.Struct):
    bucket: str = field(name="s3BucketName")
    key: str = field(name="s3Key")


Fields = dict[str, msgspec.Raw]
Content = TypeVar("Content")
_fields = msgspec.json.Decoder(Fields).decode
_list = msgspec.json.Decoder(list[msgspec.Raw]).decode
_s3_mark = msgspec.json.Decoder(S3Mark).decode
_pair = msgspec.json.Decoder(tuple[str, msgspec.Raw]).decode


def fields_of(text: str | bytes) -> Fields | None:
    """The fields of a JSON object; None where the text is something else."""
    try:
        return _fields(text)
    except UNREADABLE_JSON:
        return None


def kind_of(fields: Fields | None) -> EnvelopeKind:
    """Whose envelope has these fields; "none" where they are the marks of no envelope."""
    if fields is None:
        return "none"
    if _type_of_sns(fields) in (_NOTIFICATION, *_CONFIRMATIONS) or {"TopicArn", "MessageId"} <= fields.keys():
        return "sns"
    if "detail-type" in fields:
        return "eventbridge"
    if _is_s3(fields):
        return "s3"
    return "cloudevents" if "specversion" in fields else "none"


def _type_of_sns(fields: Fields) -> str:
    return bytes(fields.get("Type", b"")).decode("utf-8", "replace").strip('"')


def _is_s3(fields: Fields) -> bool:
    if _is_s3_test(fields):
        return True
    try:
        records = _list(fields["Records"])
        return not records or _s3_mark(records[0]).is_there
    except (KeyError, *UNREADABLE_JSON):
        return False


def _is_s3_test(fields: Fields) -> bool:
    return "Records" not in fields and bytes(fields.get("Event", b"")) == f'"{S3_TEST_EVENT}"'.encode()


def pointer_in(parcel: Parcel) -> Pointer | None:
    """The pointer that stands in a body's place, if one does. Raises Undecodable where it leads nowhere."""
    try:
        name, place = _pair(parcel.text)
    except UNREADABLE_JSON:
        return None
    if name not in POINTER_NAMES:
        return None
    found = _read(S3Pointer, place, "pointer of the extended client")
    return Pointer(
        "", _NULL, parcel.event_id, place=parcel.place, attributes=parcel.attributes, bucket=found.bucket, key=found.key
    )


def open_sns(parcel: Parcel, fields: Fields) -> Parcel:
    """The text that was published, with the attributes that it was published with."""
    kind = _type_of_sns(fields)
    if kind in _CONFIRMATIONS:
        raise Undecodable(f"SNS asks to confirm a subscription ({kind}): open its SubscribeURL, or delete it")
    found = _read(SnsNotification, parcel.text, "SNS notification")
    if found.type != _NOTIFICATION:
        raise Undecodable(f"the body is no complete SNS notification: its `Type` is not {_NOTIFICATION}")
    attributes = _around({name: _sns_attribute(name, one) for name, one in found.attributes.items()}, parcel.attributes)
    inner = msgspec.structs.replace(parcel.within(found.message), place=f"{parcel.place}.Message", kind="auto")
    return msgspec.structs.replace(inner, event_id=found.message_id or parcel.event_id, attributes=attributes)


def _sns_attribute(name: str, given: SnsAttribute) -> Attribute:
    if not given.data_type.startswith("Binary"):
        return Attribute(given.data_type, given.value)
    return Attribute(given.data_type, _from_base64(given.value, f"MessageAttributes.{shown(name)}"))


def open_eventbridge(parcel: Parcel, fields: Fields) -> Unwrapped:
    """The detail of an event, by its detail-type."""
    found = _read(EventBridgeEvent, parcel.text, "EventBridge event")
    place, event_id = f"{parcel.place}.detail", found.id or parcel.event_id
    return Unwrapped(found.detail_type, found.detail, event_id, place=place, attributes=parcel.attributes)


def open_s3(parcel: Parcel, fields: Fields) -> Unwrapped:
    """The records of a notification, each by the name of its event."""
    if _is_s3_test(fields):
        return Unwrapped(S3_TEST_EVENT, parcel.raw, parcel.event_id, place=parcel.place, attributes=parcel.attributes)
    raws = _read(S3Notification, parcel.text, "S3 notification").records
    if not raws:
        raise Undecodable("the S3 notification has no record: its `Records` is empty")
    if len(raws) > MAX_S3_RECORDS:
        raise Undecodable(f"the S3 notification has {len(raws):,} records: {MAX_S3_RECORDS:,} are handled at most")
    records = tuple(_s3_record(parcel, raw, number, len(raws)) for number, raw in enumerate(raws))
    if len(_told_apart(records)) == 1:
        return records[0]
    name, around = records[0].event_type, parcel.attributes
    return Records(name, parcel.raw, parcel.event_id, place=parcel.place, attributes=around, records=records)


def _told_apart(records: tuple[Unwrapped, ...]) -> tuple[Unwrapped, ...]:
    """The same, each with an id of its own: by it queues and claims know what the record leaves behind."""
    seen = {records[0].event_id}
    for number, record in enumerate(records[1:], 2):
        if record.event_id in seen:
            record.event_id = f"{record.event_id}#{number}"
        seen.add(record.event_id)
    return records


def _s3_record(parcel: Parcel, raw: msgspec.Raw, number: int, of: int) -> Unwrapped:
    found = _read(S3Event, raw, f"S3 notification: record {number + 1}" if of > 1 else "S3 notification")
    event_type = found.name if found.name.startswith("s3:") else f"s3:{found.name}"
    event_id = _s3_event_id(found.s3) or (f"{parcel.event_id}#{number + 1}" if of > 1 else parcel.event_id)
    place = f"{parcel.place}.Records[{number}]"
    return Unwrapped(event_type, raw, event_id, place=place, attributes=parcel.attributes)


def _s3_event_id(entity: S3Entity) -> str:
    """S3 may send an event twice, and gives it no id; its sequencer is another for each write of one key."""
    sequencer, bucket, key = entity.object.sequencer, entity.bucket.name, entity.object.key
    if not (sequencer and bucket and key):
        return ""
    place = sha256(f"{bucket}\0{key}".encode("utf-8", "surrogatepass")).hexdigest()
    return f"s3-{sequencer}-{place[:32]}"


def open_cloudevents(parcel: Parcel, fields: Fields) -> Unwrapped:
    """The data of an event, by its type."""
    found = _read(CloudEvent, parcel.text, "CloudEvent")
    if not found.specversion.startswith("1."):
        raise Undecodable("the CloudEvent is of another version than 1.0 (`specversion`)")
    payload, name = found.data, "data"
    if found.data_base64 is not None:
        payload, name = msgspec.Raw(_from_base64(found.data_base64, "data_base64")), "data_base64"
    traces = {TRACEPARENT: found.traceparent, TRACESTATE: found.tracestate}
    own = {key: Attribute("String", value) for key, value in traces.items() if isinstance(value, str) and value}
    place, event_id = f"{parcel.place}.{name}", found.id or parcel.event_id
    around = _around(parcel.attributes, own)
    return Unwrapped(found.type, payload, event_id, place=place, attributes=around, source=found.source)


def _around(first: Mapping[str, Attribute], then: Mapping[str, Attribute]) -> dict[str, Attribute]:
    """Both, where those of `first` count. A tracestate is nothing beside the traceparent of another sender."""
    left_out = TRACESTATE if TRACEPARENT in first else ""
    return {**{name: one for name, one in then.items() if name != left_out}, **first}


#: What is in each kind of envelope: an Envelope, or a text that is to be opened again. Each raises Undecodable.
OPENERS: dict[EnvelopeKind, Callable[[Parcel, Fields], Envelope | Parcel]] = {
    "sns": open_sns,
    "eventbridge": open_eventbridge,
    "s3": open_s3,
    "cloudevents": open_cloudevents,
}


def _read(kind: type[Content], text: Any, what: str) -> Content:
    try:
        return msgspec.json.decode(text, type=kind)
    except UNREADABLE_JSON as error:
        raise Undecodable(f"the body is no complete {what}: {error}") from None


def _from_base64(text: str, name: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except ValueError as error:
        raise Undecodable(f"`{name}` is not base64: {error}") from None
