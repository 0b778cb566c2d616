"""One queue at SQS, by either client."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from time import monotonic
from typing import Protocol, TypeVar

from millpond.sqs import answers, requests
from millpond.sqs.entries import send_apart
from millpond.sqs.queue import POLL_GRACE_SECONDS, SETTLE_SECONDS, Entry, Failure, Received
from millpond.sqs.redrive import Redrive
from millpond.sqs.requests import Request
from millpond.sqs.sigv4 import Keyring

Read = TypeVar("Read")


class Sqs(Protocol):
    """SQS at one endpoint, by one client. Its queues share what it has: connections and credentials."""

    @property
    def client(self) -> str:
        """By which client: wire or boto3."""
        ...

    @property
    def credentials(self) -> Keyring: ...

    def call(self, name: str, request: Request, seconds: float, read: Callable[[bytes | bytearray], Read]) -> Read:
        """One call of this name (ReceiveMessage), its answer as `read` has it. It ends within these seconds.

        Raises QueueError, whatever comes back; before anything is sent, what `requests.as_json` raises.
        """
        ...

    def queue(self, url: str) -> SqsQueue:
        """The queue of this URL, at this endpoint."""
        ...


class SqsQueue:
    """One queue at SQS. See the Protocol in queue.py for what each call does and raises.

    Every call ends in time: a receive POLL_GRACE_SECONDS after its wait, any other within its `seconds`.
    """

    def __init__(self, url: str, sqs: Sqs) -> None:
        self.url = url
        self.sqs = sqs
        self._call = sqs.call

    def receive(
        self, max_messages: int, wait_seconds: int, visibility_seconds: int, attempt_id: str = ""
    ) -> list[Received]:
        request = requests.receive(self.url, max_messages, wait_seconds, visibility_seconds, attempt_id)
        return self._call("ReceiveMessage", request, wait_seconds + POLL_GRACE_SECONDS, answers.read_messages)

    def delete(self, receipt_handles: Sequence[str], seconds: float = SETTLE_SECONDS) -> list[Failure | None]:
        read = partial(answers.read_results, len(receipt_handles))
        return self._call("DeleteMessageBatch", requests.delete(self.url, receipt_handles), seconds, read)

    def extend(self, changes: Sequence[tuple[str, int]], seconds: float = SETTLE_SECONDS) -> list[Failure | None]:
        read = partial(answers.read_results, len(changes))
        return self._call("ChangeMessageVisibilityBatch", requests.extend(self.url, changes), seconds, read)

    def send(self, entries: Sequence[Entry], seconds: float = SETTLE_SECONDS) -> list[Failure | None]:
        end = monotonic() + seconds
        return send_apart(entries, lambda some: self._send(some, end - monotonic()))

    def _send(self, entries: Sequence[Entry], seconds: float) -> list[Failure | None]:
        read = partial(answers.read_results, len(entries))
        return self._call("SendMessageBatch", requests.send(self.url, entries), seconds, read)

    def attributes(self, seconds: float = SETTLE_SECONDS) -> dict[str, str]:
        return self._call("GetQueueAttributes", requests.attributes(self.url), seconds, answers.read_attributes)

    def dead_letters(self, redrive: Redrive) -> SqsQueue | None:
        """The dead-letter queue that its redrive policy names, which is where the queue is; None: it names none."""
        if not redrive.name:
            return None
        request = requests.queue_url(redrive.account, redrive.name)
        return self.sqs.queue(self._call("GetQueueUrl", request, SETTLE_SECONDS, answers.read_queue_url))
