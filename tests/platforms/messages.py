"""200 messages of mixed envelopes, good, bad and poison, and what becomes of each, read from a worker's log.

`send(queues, name)` gives the message ids. A platform works on the queue, with HANDLERS and CONFIG. `is_over(lines)`
says when all have come to their end. `unexpected(stories(lines, ids))` is to be empty.
"""

from __future__ import annotations

import base64
import json
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from tests.worker_process import LocalQueues

#: The folder of handlers, to be copied, mounted or named as it is.
HANDLERS = Path(__file__).parent / "jobs"
#: Beside the folder jobs/. SQS_QUEUE_URL names the queue.
CONFIG = """
[worker]
handlers = ["jobs"]
[queues.orders]
url = "${SQS_QUEUE_URL}"
wait_seconds = 1
[log]
format = "json"
succeeded_per_second = 100000
"""
#: How many there are, and after how many receives SQS itself would give a message up.
NUMBER, MAX_RECEIVE_COUNT = 200, 17

Story = list[str]


class Sample(msgspec.Struct, frozen=True):
    """One kind of message: `make` gives the body for a number; `story` is what becomes of it, call by call."""

    body: Any
    story: Story
    attributes: Mapping[str, str] = {}
    follow_up: Story = []


def own(event_type: str, payload: Any) -> str:
    return json.dumps({"event_type": event_type, "payload": payload})


def sns(message: str, attributes: Any = None) -> str:
    return json.dumps(
        {
            "Type": "Notification",
            "MessageId": "22b80b92-fdea-4c2c-8f9d-bdfb0c7bf324",
            "TopicArn": "arn:aws:sns:us-west-2:123456789012:orders",
            "Message": message,
            "Timestamp": "2012-05-02T00:54:06.655Z",
            **({"MessageAttributes": attributes} if attributes else {}),
        }
    )


def eventbridge(detail_type: str, detail: Any) -> str:
    event = {"version": "0", "id": "6a7e8feb-b491-4cf7-a9f1-bf3703467718", "detail-type": detail_type, "source": "shop"}
    return json.dumps({**event, "account": "111122223333", "region": "us-west-1", "resources": [], "detail": detail})


def s3(*records: tuple[str, str]) -> str:
    made = [
        {"eventVersion": "2.1", "eventSource": "aws:s3", "eventName": name, "s3": {"object": {"key": key, "size": 1}}}
        for name, key in records
    ]
    return json.dumps({"Records": made})


def cloudevent(event_type: str, **more: Any) -> str:
    return json.dumps({"specversion": "1.0", "type": event_type, "source": "/shop", "id": "A234-1234-1234", **more})


def hidden(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def seen(payload: Any, called_as: str, **attributes: str) -> str:
    return "sees " + json.dumps(
        {"attributes": attributes, "called_as": called_as, "payload": payload}, sort_keys=True, separators=(",", ":")
    )


def done(*calls: str) -> Story:
    return [*calls, "succeeded"]


def dead(cause: str, reason: str) -> str:
    return f"dead_lettered {cause}: {reason}"


AGAIN, FAILED = "retried failed: the ledger is closed", "retried failed: ValueError: order {n} cannot be added up"
HEAD = {"event_type": "text"}
SNS_ATTRIBUTES = {"tenant": {"Type": "String", "Value": "acme"}}


def samples(n: int) -> list[Sample]:
    """One message of each kind."""
    order, paid = {"number": n}, {"note": "", "number": n}
    return [
        # good
        Sample(own("order.paid", order), done(seen(paid, "order.paid"))),
        Sample(own("order.paid", order), done(seen(paid, "order.paid", tenant="acme")), {"tenant": "acme"}),
        Sample("\ufeff" + own("order.paid", order), done(seen(paid, "order.paid"))),
        Sample(hidden(own("order.paid", order)), done(seen(paid, "order.paid"))),
        Sample(f"some text {n}", done(seen(f"some text {n}", "text", **HEAD)), HEAD),
        Sample(sns("as it came"), done(seen(sns("as it came"), "text", **HEAD)), HEAD),  # what is named goes first
        Sample(sns(own("order.paid", order)), done(seen(paid, "order.paid"))),
        Sample(sns(own("order.paid", order), SNS_ATTRIBUTES), done(seen(paid, "order.paid", tenant="acme"))),
        Sample(sns(eventbridge("Order Placed", order)), done(seen(order, "Order Placed"))),
        Sample(eventbridge("Order Placed", order), done(seen(order, "Order Placed"))),
        Sample(s3(("ObjectCreated:Put", f"{n}.png")), done(seen(f"{n}.png", "s3:ObjectCreated:Put"))),
        Sample(
            s3(("ObjectCreated:Copy", f"{n}.gif"), ("ObjectRemoved:Delete", f"{n}.png")),
            done(seen(f"{n}.gif", "s3:ObjectCreated:Copy"), seen(f"{n}.png", "s3:ObjectRemoved:Delete")),
        ),
        Sample(sns(s3(("ObjectRemoved:Delete", f"{n}.png"))), done(seen(f"{n}.png", "s3:ObjectRemoved:Delete"))),
        Sample(cloudevent("com.example.order.shipped", data=order), done(seen(paid, "com.example.order.shipped"))),
        Sample(
            cloudevent("com.example.order.shipped", data_base64=hidden(json.dumps(order))),
            done(seen(paid, "com.example.order.shipped")),
        ),
        Sample(own("order.threaded", order), done(seen(paid, "order.threaded"))),
        Sample(
            own("order.split", order),
            done(seen(paid, "order.split")),
            follow_up=done(seen({"note": "half", "number": n}, "order.split")),
        ),
        Sample(own("order.flaky", order), [seen(paid, "order.flaky"), AGAIN, *done(seen(paid, "order.flaky"))]),
        Sample(own("order.known", order), ["discarded: it is there already"]),
        # bad
        Sample(own("order.negative", order), [dead("rejected", "a negative order")]),
        Sample(own("order.paid", {"number": "many"}), [dead("undecodable", "")]),
        Sample(own("order.unheard", order), [dead("undecodable", "no handler for type 'order.unheard'")]),
        Sample("{not json", [dead("undecodable", "the message names no type")]),
        Sample(sns("", None).replace('"Message": "", ', ""), [dead("undecodable", "the body is no complete SNS")]),
        Sample('{"Records": []}', [dead("undecodable", "the S3 notification has no record")]),
        Sample(
            s3(("ObjectCreated:Put", f"{n}.png"), ("ObjectRestore:Post", f"{n}.png")),
            [dead("undecodable", "no handler for type 's3:ObjectRestore:Post'")],
        ),
        Sample('{"specversion": "1.0", "id": "1"}', [dead("undecodable", "the body is no complete CloudEvent")]),
        Sample('{"detail-type": "Order Placed"}', [dead("undecodable", "the body is no complete EventBridge event")]),
        Sample(
            json.dumps(["software.amazon.payloadoffloading.PayloadS3Pointer", {"s3BucketName": "b", "s3Key": f"k{n}"}]),
            [dead("undecodable", "")],
        ),
        # poison
        Sample(
            own("order.fails", order),
            [
                seen(paid, "order.fails"),
                FAILED.format(n=n),
                seen(paid, "order.fails"),
                dead("failed", f"ValueError: order {n} cannot be added up"),
            ],
        ),
        Sample(
            own("order.poison", order),
            ["retried failed: it never works", "retried failed: it never works", dead("failed", "it never works")],
        ),
        Sample(own("order.exits", order), [dead("failed", "SystemExit: 3")]),
    ]


SAMPLES = [sample for n in range(NUMBER) for sample in samples(n)][:NUMBER]
FINAL = {"message.succeeded", "message.discarded", "message.dead_lettered"}


def send(queues: LocalQueues, name: str) -> list[str]:
    """Put all of them into a queue; their message ids, in order."""
    ids = []
    for first in range(0, NUMBER, 10):
        entries = [
            {"Id": str(index), "MessageBody": sample.body, "MessageAttributes": _attributes(sample)}
            for index, sample in enumerate(SAMPLES[first : first + 10])
        ]
        answer = queues.sqs.send_message_batch(QueueUrl=queues.url(name), Entries=entries)
        sent = {one["Id"]: one["MessageId"] for one in answer["Successful"]}
        ids += [sent[str(index)] for index in range(len(entries))]
    return ids


def _attributes(sample: Sample) -> dict[str, Any]:
    return {name: {"DataType": "String", "StringValue": value} for name, value in sample.attributes.items()}


def is_over(lines: Iterable[Mapping[str, Any]]) -> bool:
    """Whether every message, and every follow-up, has come to its end."""
    return sum(line["event"] in FINAL for line in list(lines)) >= NUMBER + sum(bool(one.follow_up) for one in SAMPLES)


def stories(lines: Iterable[Mapping[str, Any]], ids: Sequence[str]) -> dict[str, Story]:
    """What became of each message, by its number, and of what it left behind ("17/1"): calls and outcomes, in order."""
    numbers = {message_id: str(number) for number, message_id in enumerate(ids)}
    found: dict[str, Story] = defaultdict(list)
    for line in lines:
        if (step := _step(line)) is not None:
            found[_number_of(line, numbers)].append(step)
    return dict(found)


def _number_of(line: Mapping[str, Any], numbers: Mapping[str, str]) -> str:
    if (number := numbers.get(line["message_id"])) is not None:
        return number
    original, _, follow_up = line["event_id"].rpartition("/")
    return f"{numbers[original]}/{follow_up}"


def _step(line: Mapping[str, Any]) -> str | None:
    if "seen" in line:
        return f"sees {line['seen']}"
    kind, _, name = line["event"].partition(".")
    if kind != "message":
        return None
    text = " ".join(filter(None, [line.get("error"), without_counts(line.get("reason", ""))]))
    return " ".join(filter(None, [name, line.get("cause")])) + (f": {text}" if text else "")


def without_counts(reason: str) -> str:
    """A reason without its numbers: a message that comes back at once can be received before its failure is noted."""
    return re.sub(r"\(?(failed|received) [0-9]+ times?.*", "N times", reason)


def unexpected(found: Mapping[str, Story]) -> list[str]:
    """Where the stories are not those of SAMPLES; a step may say more than is written there."""
    wanted: dict[str, Story] = {}
    for number, sample in enumerate(SAMPLES):
        wanted[str(number)] = sample.story
        if sample.follow_up:
            wanted[f"{number}/1"] = sample.follow_up
    return [
        f"{number}: {found.get(number)} instead of {wanted.get(number)}"
        for number in {**wanted, **found}
        if not _fits(found.get(number, []), wanted.get(number, []))
    ]


def _fits(found: Story, wanted: Story) -> bool:
    return len(found) == len(wanted) and all(map(str.startswith, found, wanted))


def letters(queues: LocalQueues, name: str, ids: Sequence[str]) -> dict[int, tuple[str, str]]:
    """The dead letters in this queue, by the number of the message: their bodies, and their reasons."""
    numbers = {message_id: number for number, message_id in enumerate(ids)}
    found = {}
    while messages := queues.receive(name):
        for one in messages:
            why = json.loads(one["MessageAttributes"]["millpond"]["StringValue"])
            found[numbers[why["message_id"]]] = (one["Body"], without_counts(why["reason"]))
    return found
