"""One queue at SQS, by either client."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from time import monotonic, time
from typing import TypeVar

from millpond.errors import QueueError, Unreachable
from millpond.sqs import answers, requests
from millpond.sqs.entries import send_apart
from millpond.sqs.queue import CALL_SECONDS, POLL_GRACE_SECONDS, Entry, Failure, Received
from millpond.sqs.redrive import Redrive
from millpond.sqs.requests import Request
from millpond.sqs.sigv4 import Keyring

Read = TypeVar("Read")


#: A Date is cut to the second, and the answer takes a moment: ours and SQS's clock agree where they differ by less.
AGREE_SECONDS = 2.0
#: The drain leaves even its last call a chance.
LEAST_DRAIN_SECONDS = 0.5


class Sqs(ABC):
    """SQS at one endpoint, by one client. Its queues share what it has: connections and credentials."""

    client: str  # wire or boto3
    credentials: Keyring
    endpoint_url: str

    @abstractmethod
    def call(self, name: str, request: Request, seconds: float, read: Callable[[bytes | bytearray], Read]) -> Read:
        """One call of this name (ReceiveMessage), its answer as `read` has it. It ends within these seconds.

        Raises QueueError, whatever comes back; before anything is sent, what `requests.as_json` raises.
        """

    @abstractmethod
    def date(self, request: Request) -> float | None:
        """The Date of the answer to GetQueueAttributes: seconds since the epoch by SQS's own clock; None: unknown.

        Raises QueueError.
        """

    def queue(self, url: str) -> SqsQueue:
        """The queue of this URL, at this endpoint."""
        return SqsQueue(url, self)


class SqsQueue:
    """One queue at SQS. See the Protocol in queue.py for what each call does and raises.

    Every call ends in time: a receive POLL_GRACE_SECONDS after its wait, any other within CALL_SECONDS, or within
    what `limit_calls` leaves. `calls` counts them: SQS bills each.
    """

    def __init__(self, url: str, sqs: Sqs) -> None:
        self.url = url
        self.sqs = sqs
        self.calls = 0
        self._end = math.inf
        self._call = sqs.call

    def limit_calls(self, seconds: float) -> None:
        """The drain ends in this time: no call but a receive, which the drain does not wait for, takes longer."""
        self._end = monotonic() + seconds

    def receive(
        self, max_messages: int, wait_seconds: int, visibility_seconds: int, attempt_id: str = ""
    ) -> list[Received]:
        self.calls += 1
        request = requests.receive(self.url, max_messages, wait_seconds, visibility_seconds, attempt_id)
        return self._call("ReceiveMessage", request, wait_seconds + POLL_GRACE_SECONDS, answers.read_messages)

    def delete(self, receipt_handles: Sequence[str]) -> list[Failure | None]:
        read = partial(answers.read_results, len(receipt_handles))
        return self._short_call("DeleteMessageBatch", requests.delete(self.url, receipt_handles), read)

    def change_visibility(self, changes: Sequence[tuple[str, int]]) -> list[Failure | None]:
        read = partial(answers.read_results, len(changes))
        return self._short_call("ChangeMessageVisibilityBatch", requests.change_visibility(self.url, changes), read)

    def send(self, entries: Sequence[Entry], seconds: float = math.inf) -> list[Failure | None]:
        """The whole send, which can be several calls, has the time of one call, and at most these seconds."""
        end = monotonic() + min(seconds, self._call_seconds())

        def send(some: Sequence[Entry]) -> list[Failure | None]:
            left = end - monotonic()
            if left <= 0:
                raise Unreachable("SendMessageBatch: no time was left to send it")
            read = partial(answers.read_results, len(some))
            return self._short_call("SendMessageBatch", requests.send(self.url, some), read, left)

        return send_apart(entries, send)

    def attributes(self) -> dict[str, str]:
        return self._short_call("GetQueueAttributes", requests.attributes(self.url), answers.read_attributes)

    def now(self) -> float:
        """The time by SQS's clock, which its messages have, in seconds since the epoch; ours where the two agree."""
        self.calls += 1
        with suppress(QueueError):
            return time_there(self.sqs.date(requests.attributes(self.url)), time())
        return time()

    def dead_letters(self, redrive: Redrive) -> SqsQueue | None:
        """The dead-letter queue that its redrive policy names, which is where the queue is; None: it names none."""
        if not redrive.name:
            return None
        request = requests.queue_url(redrive.account, redrive.name)
        return self.sqs.queue(self._short_call("GetQueueUrl", request, answers.read_queue_url))

    def _short_call(
        self, name: str, request: Request, read: Callable[[bytes | bytearray], Read], seconds: float = math.inf
    ) -> Read:
        self.calls += 1
        return self._call(name, request, min(seconds, self._call_seconds()), read)

    def _call_seconds(self) -> float:
        return min(CALL_SECONDS, max(LEAST_DRAIN_SECONDS, self._end - monotonic()))


def time_there(date: float | None, ours: float) -> float:
    """The time by the clock of a server whose answer had this Date just now: ours where the two agree, or it has none.

    Else the end of that second: what was sent before is surely before it.
    """
    return ours if date is None or abs(date - ours) < AGREE_SECONDS else date + 1.0
