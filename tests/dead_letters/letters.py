"""The queue `emails` and its dead letters in a local SQS."""

from __future__ import annotations

import json
import time
from typing import Any

import boto3
from botocore.config import Config

from millpond.app.dead_letter import ReasonAttribute, copy
from millpond.app.opener import Opener
from millpond.dead_letters.dead_letter_queue import DeadLetterQueue
from millpond.dead_letters.letter import Letter, letter_of
from millpond.local import LocalSqs
from millpond.sqs.queue import Attribute, Entry, Received


def body_of(event_id: str, event_type: str = "email.send", **payload: Any) -> str:
    return json.dumps({"event_type": event_type, "event_id": event_id, "payload": payload})


def received_of(event_id: str, event_type: str = "email.send", **more: Any) -> Received:
    values: dict[str, Any] = {"receive_count": 7, "attributes": {"tenant": Attribute("String", "acme")}}
    return Received(f"m-{event_id}", "handle", body_of(event_id, event_type), **(values | more))


def entry_of(event_id: str, event_type: str = "email.send", error: str = "ValueError: no", **more: Any) -> Entry:
    """The dead letter as a worker sends it."""
    received = received_of(event_id, event_type, **more)
    reason = ReasonAttribute.of(
        received, time.time(), reason="failed 7 times", error=error, handler="h.send", event_id=event_id, queue="emails"
    )
    return copy(received, reason, f"letter-{event_id}" if received.group_id else "")


def letter(event_id: str = "e1", system: dict[str, Any] | None = None, message_id: str = "", **more: Any) -> Letter:
    """The letter as a look brings it."""
    entry = entry_of(event_id, **more)
    received = Received(message_id or f"letter-{event_id}", "handle", entry.body, attributes=entry.attributes)
    return letter_of(received, system or {}, Opener())


class Letters:
    """The queue `emails`, its dead letters as the tests put and find them, and what is tested."""

    def __init__(self, server: LocalSqs, suffix: str = "", name: str = "emails") -> None:
        self.server = server
        kind = {"FifoQueue": "true"} if suffix else {}
        self.dead_url = server.create_queue(f"{name}-dead{suffix}", kind)
        policy = {
            "deadLetterTargetArn": f"arn:aws:sqs:us-east-1:000000000000:{name}-dead{suffix}",
            "maxReceiveCount": 3,
        }
        self.url = server.create_queue(f"{name}{suffix}", {**kind, "RedrivePolicy": json.dumps(policy)})
        self.queue = DeadLetterQueue.of({"emails": self.url})
        self.sqs: Any = boto3.client(
            "sqs",
            region_name="us-east-1",
            endpoint_url=server.url,
            aws_access_key_id="test",
            aws_secret_access_key="test",
            config=Config(retries={"total_max_attempts": 1}, proxies={}),
        )

    def put(self, number: int, first: int = 0, **more: Any) -> list[str]:
        """Put letters in as a worker does; their event ids."""
        ids = [f"e{index:04}" for index in range(first, first + number)]
        for at in range(0, number, 10):
            assert not any(self.queue.queue.send([entry_of(one, **more) for one in ids[at : at + 10]]))
        return ids

    def put_bare(self, body: str, **attributes: Any) -> None:
        self.sqs.send_message(QueueUrl=self.dead_url, MessageBody=body, **attributes)

    def counts(self, url: str) -> tuple[int, int]:
        """How many are visible, and how many in flight."""
        found = self.sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])["Attributes"]
        return int(found["ApproximateNumberOfMessages"]), int(found["ApproximateNumberOfMessagesNotVisible"])

    def take(self, url: str) -> list[dict[str, Any]]:
        """Receive and delete all messages of a queue."""
        found = []
        while messages := self.receive(url):
            found += messages
            for message in messages:
                self.sqs.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
        return found

    def receive(self, url: str, seconds: int = 30) -> list[dict[str, Any]]:
        answer = self.sqs.receive_message(
            QueueUrl=url,
            MaxNumberOfMessages=10,
            VisibilityTimeout=seconds,
            MessageSystemAttributeNames=["All"],
            MessageAttributeNames=["All"],
        )
        return list(answer.get("Messages", []))

    def event_ids(self, url: str) -> list[str]:
        """The event ids of all messages of a queue, whether they are visible or not."""
        queue = self.server._account._find(url.rpartition("/")[2], "")
        return sorted(json.loads(message.body)["event_id"] for message in queue._messages.values())
