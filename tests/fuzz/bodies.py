"""Bodies as anybody may send them: envelopes and others, whole and damaged, through handlers of every payload type."""

from __future__ import annotations

import base64
import enum
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from random import Random
from typing import Any, Literal, TypedDict, get_args

import msgspec

from millpond import Message, Reject, handler
from millpond.app.envelope import EnvelopeKind
from millpond.app.opener import Opener
from millpond.app.routing import routes
from millpond.foreign.secrets import conceal
from millpond.sqs.queue import Attribute, Received
from tests.fuzz.kind import Kind, TryOne
from tests.fuzz.trial import STYLES, Trial, own_log

#: The process knows it: nothing that goes out may have it, whoever wrote it where.
SECRET = "s3cret-of-the-process"
#: In values of payloads only: no line and no reason may have it.
VALUE = "the-customers's 4711"


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Amount(msgspec.Struct):
    cents: int
    note: str = ""

    def __post_init__(self) -> None:
        if self.cents < 0:
            raise ValueError(f"{self.note}: {self.cents} is negative")


class Strict(msgspec.Struct, forbid_unknown_fields=True):
    colour: Colour = Colour.RED
    kind: Literal["a", "b", 3] = "a"
    amounts: dict[str, Amount] = {}
    names: list[str] = []


@dataclass
class Data:
    number: float
    colour: Colour = Colour.RED


class Typed(TypedDict):
    kind: Literal["a", "b"]
    numbers: list[int]


class Model:
    """As Pydantic's: it decodes itself, and may raise anything that it likes."""

    errors: tuple[Callable[[str], BaseException], ...] = (
        ValueError,
        KeyError,
        SystemExit,
        lambda text: UnicodeDecodeError("utf-8", text.encode("utf-8", "replace"), 0, 1, text),
        lambda text: json.JSONDecodeError("no", text, 0),
        lambda text: type("Findings", (Exception,), {"errors": lambda self, **_: [{"type": text, "loc": (text, 1)}]})(),
    )

    @classmethod
    def model_validate_json(cls, text: bytes) -> Model:
        value = json.loads(text)
        if isinstance(value, dict) and value:
            return cls()
        raise cls.errors[len(text) % len(cls.errors)](text.decode("utf-8", "replace"))


@handler("struct")
def of_struct(payload: Strict) -> None: ...


@handler("amount")
def of_amount(payload: Amount, message: Message) -> None:
    if payload.cents == 7:
        raise Reject(f"no: {SECRET}")


@handler("data")
def of_data(payload: Data) -> None: ...


@handler("typed")
def of_typed(payload: Typed) -> None: ...


@handler("dict")
def of_dict(payload: dict) -> None: ...  # type: ignore[type-arg]


@handler("text")
def of_text(payload: str, message: Message) -> None:
    if payload.startswith('"'):
        message.follow_up(payload, reject=SECRET)


@handler("bytes")
def of_bytes(payload: bytes) -> None: ...


@handler("choice")
def of_choice(payload: Literal["a", "b"]) -> None: ...


@handler("colours")
def of_colours(payload: list[Colour]) -> None: ...


@handler("model")
def of_model(payload: Model) -> None: ...


@handler("s3:*")
def of_records(payload: dict, message: Message) -> None:  # type: ignore[type-arg]
    if payload.get("follow"):
        message.follow_up(payload)


@handler("s3:Strict:*")
def of_strict_records(payload: Strict) -> None: ...


TYPES = ("struct", "amount", "data", "typed", "dict", "text", "bytes", "choice", "colours", "model", "nobody's", SECRET)
NAMES = (
    "colour",
    "kind",
    "amounts",
    "names",
    "cents",
    "note",
    "number",
    "numbers",
    "event_type",
    "payload",
    "not_before",
)
#: Texts as they stand in JSON.
TEXTS = (
    "a",
    "b",
    "red",
    VALUE,
    SECRET,
    "",
    "\\u0000",
    "\\ud800",
    "\\ud83d\\ude00",
    "\x9b31m",
    "\u2028",
    "\u202e",
    "x" * 600,
)
NUMBERS = (
    *("0", "-1", "7", "3", "1e400", "-0.0", "1.5", "9" * 30, "9" * 5_000),
    *("NaN", "Infinity", "-", "01", "1e-9999"),
)
ODD = (
    "\ud800",
    "\x00",
    "\x1b[2J",
    "{",
    "}",
    "[",
    "]",
    '"',
    "\\",
    ",",
    ":",
    "\udcff",
    "e9",
    "null",
    "\ufeff",
    SECRET,
    VALUE,
)
IDS = (
    '"e1"',
    "null",
    '""',
    "5",
    "9" * 400,
    "9" * 6_000,
    f'"{SECRET}"',
    '"\\u001b[2J"',
    "1.5",
    "[]",
    '"ann@example.com"',
)


#: What fits each type, but for its leaves.
SHAPES = {
    "struct": '{"colour":"red","kind":%s,"amounts":{%s:{"cents":%s}},"names":[%s]}',
    "amount": '{"cents":%s,"note":%s}',
    "data": '{"number":%s,"colour":%s}',
    "typed": '{"kind":"a","numbers":[%s,1,%s]}',
    "dict": '{"a":%s}',
    "colours": '["red",%s]',
    "model": '{"a":%s}',
}


def leaf(chance: Random) -> str:
    odds = chance.random()
    if odds < 0.5:
        return chance.choice(("1", "-5", "7", '"a"', '"red"', '"b"'))
    return f'"{chance.choice(TEXTS)}"' if odds < 0.8 else chance.choice(NUMBERS)


def shaped(chance: Random, event_type: str) -> str:
    shape = SHAPES.get(event_type, "%s")
    return shape % tuple(leaf(chance) for _ in range(shape.count("%s")))


def tree(chance: Random, levels: int = 3) -> str:
    """Any JSON, or nearly."""
    kind = chance.randrange(10 if levels else 6)
    if kind < 3:
        return f'"{chance.choice(TEXTS)}"'
    if kind < 5:
        return chance.choice(NUMBERS)
    if kind == 5:
        return chance.choice(("true", "false", "null"))
    size = chance.randrange(4)
    if kind == 6:
        return f"[{','.join(tree(chance, levels - 1) for _ in range(size))}]"
    return "{" + ",".join(f'"{name(chance)}":{tree(chance, levels - 1)}' for _ in range(size)) + "}"


def name(chance: Random) -> str:
    return chance.choice(NAMES) if chance.random() < 0.8 else chance.choice(TEXTS)


def payload(chance: Random) -> str:
    odds = chance.random()
    if odds < 0.01:
        depth = chance.choice((100, 1_000, 20_000))
        return chance.choice(("[", '{"a":')) * depth + ("]" * depth if chance.random() < 0.5 else "")
    if odds < 0.015:
        return f'{{"note":"{"x" * chance.choice((1_000, 100_000))}{VALUE}","cents":{chance.choice(NUMBERS)}}}'
    return tree(chance)


def envelope(chance: Random) -> str:
    event_type = chance.choice(TYPES)
    parts = [
        f'"event_type":"{event_type}"',
        f'"event_id":{chance.choice(IDS)}',
        f'"payload":{shaped(chance, event_type) if chance.random() < 0.6 else payload(chance)}',
        f'"not_before":{chance.choice((*NUMBERS, payload))}' if chance.random() < 0.05 else '"v":1',
    ]
    if chance.random() < 0.2:
        chance.shuffle(parts)
        parts = parts[: chance.randrange(5)] + parts[: chance.randrange(2)]
    return "{" + ",".join(parts) + "}"


def damaged(chance: Random, text: str) -> str:
    for _ in range(chance.randrange(1, 4)):
        at = chance.randrange(len(text) + 1)
        how = chance.randrange(4)
        if how == 0:
            text = text[:at]
        elif how == 1:
            text = text[:at] + chance.choice(ODD) + text[at:]
        elif how == 2:
            text = text[:at] + text[at + chance.randrange(1, 9) :]
        else:
            text = text[:at] + chance.choice(ODD) + text[at + 1 :]
    return text


def text_of(chance: Random, text: str) -> str:
    """A text as a JSON string; half characters are escaped, as whoever sends JSON does it."""
    return json.dumps(damaged(chance, text) if chance.random() < 0.1 else text)


def base64_of(text: str) -> str:
    return base64.b64encode(text.encode("utf-8", "surrogatepass")).decode()


def kept(chance: Random, fields: dict[str, str]) -> str:
    """An object of fields, of which one may be missing, and one something else."""
    if chance.random() < 0.15:
        fields.pop(chance.choice(list(fields)))
    if chance.random() < 0.1 and fields:
        fields[chance.choice(list(fields))] = tree(chance)
    return "{" + ",".join(f'"{key}":{value}' for key, value in fields.items()) + "}"


def of_sns(chance: Random) -> str:
    kind = "Notification" if chance.random() < 0.95 else chance.choice(("SubscriptionConfirmation", SECRET))
    value = kept(chance, {"Type": chance.choice(('"String"', '"Binary"')), "Value": f'"{chance.choice(TEXTS)}"'})
    named = chance.choice(("event_type", "traceparent", "a", SECRET))
    fields = {
        "Type": f'"{kind}"',
        "MessageId": chance.choice(('"n1"', '""', f'"{SECRET}"')),
        "Message": text_of(chance, body(chance)),
        "MessageAttributes": f'{{"{named}":{value}}}' if chance.random() < 0.3 else "{}",
    }
    return kept(chance, fields)


def of_eventbridge(chance: Random) -> str:
    event_type = chance.choice(TYPES)
    return kept(
        chance, {"detail-type": f'"{event_type}"', "id": chance.choice(IDS), "detail": shaped(chance, event_type)}
    )


def record(chance: Random) -> str:
    sequencer = chance.choice(("", "01", SECRET))
    place = f'{{"bucket":{{"name":"b"}},"object":{{"key":"k","sequencer":"{sequencer}"}}}}'
    name = chance.choice(("ObjectCreated:Put", "Strict:Put", "s3:Other", "*", SECRET))
    fields = {"eventSource": '"aws:s3"', "eventName": f'"{name}"', "s3": place, "colour": leaf(chance), "follow": "1"}
    return kept(chance, fields)


def of_s3(chance: Random) -> str:
    if chance.random() < 0.05:
        return '{"Service":"Amazon S3","Event":"s3:TestEvent"}'
    return f'{{"Records":[{",".join(record(chance) for _ in range(chance.randrange(4)))}]}}'


def of_cloudevents(chance: Random) -> str:
    event_type = chance.choice(TYPES)
    data = shaped(chance, event_type)
    fields = {
        "specversion": '"1.0"',
        "type": f'"{event_type}"',
        "id": chance.choice(IDS),
        "traceparent": tree(chance, 1),
    }
    given = {"data": data} if chance.random() < 0.6 else {"data_base64": f'"{base64_of(data)}"'}
    return kept(chance, fields | given)


def of_pointer(chance: Random) -> str:
    place = kept(chance, {"s3BucketName": f'"{chance.choice(TEXTS)}"', "s3Key": '"k"'})
    return f'["software.amazon.payloadoffloading.PayloadS3Pointer",{place}]'


OF_OTHERS = (of_sns, of_sns, of_eventbridge, of_s3, of_s3, of_cloudevents, of_pointer)


def body(chance: Random) -> str:
    odds = chance.random()
    if odds < 0.3:
        text = chance.choice(OF_OTHERS)(chance)
    elif odds < 0.35:
        text = base64_of(body(chance)) if odds < 0.33 else "\ufeff" + body(chance)
    elif odds < 0.85:
        text = envelope(chance)
    else:
        text = payload(chance) if odds < 0.96 else "".join(chance.choices(ODD, k=9))
    return damaged(chance, text) if chance.random() < 0.3 else text


def opener(chance: Random) -> Opener:
    kind = chance.choice(get_args(EnvelopeKind)) if chance.random() < 0.2 else "auto"
    return Opener(chance.choice(("", "", "", *TYPES)), kind)


def names_of(delivery: Any) -> str:
    """The types and ids of a message, and its bucket, which a line and a reason may have."""
    told = delivery.envelope
    if told is None:
        return ""
    return "".join(f"{one.event_type}{one.event_id}" for one in (told, *told.records)) + getattr(told, "bucket", "")


def attributes(chance: Random) -> dict[str, Attribute]:
    if chance.random() < 0.7:
        return {}
    value: str | bytes = chance.choice((*TYPES, b"struct", b"\xff", "", "\x1b", "\ud800", "x" * 1_000))
    data_type = "Binary" if isinstance(value, bytes) else "String"
    return {chance.choice(("event_type", "event_type", "millpond", "a")): Attribute(data_type, value)}


@contextmanager
def open_bodies() -> Iterator[TryOne]:
    conceal(SECRET)
    with own_log():
        trial = Trial(routes([__name__]), SECRET)

        def try_one(chance: Random) -> None:
            received = Received("m1", "r", body(chance), chance.randrange(1, 5), 1, attributes=attributes(chance))
            delivery, outcome, lines = trial.take(received, chance.choice(STYLES), opener(chance))
            if VALUE[1:] not in names_of(delivery):  # its first letter may be a \\t now
                assert VALUE not in lines, lines
                assert VALUE not in outcome.reason + outcome.error, outcome.reason

        yield try_one


KIND = Kind("bodies", open_bodies)
