"""Producer: keeps a bounded backlog in the queue, so that a run is steady; and reads the dead letters at its end."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Iterator
from typing import Any

import msgspec

from chaos.moment import now
from chaos.verdicts import job

#: Messages that wait in the queue, at most.
BACKLOG = 3_000
#: Calls of ten between two looks at the backlog.
CALLS_A_LOOK = 20
#: Seconds between two looks while the backlog is full, or the messages are ahead of their time.
LOOK_SECONDS = 0.05

_COUNT = "ApproximateNumberOfMessages"
_HEADERS = {"Content-Type": "application/x-amz-json-1.0"}


class Queue:
    """One queue, asked without the proxy. Not for two threads at once."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._connection = http.client.HTTPConnection(url.split("/")[2], timeout=30)

    def call(self, operation: str, **parameters: Any) -> dict[str, Any]:
        """One call of the JSON protocol."""
        body = msgspec.json.encode({"QueueUrl": self.url, **parameters})
        self._connection.request("POST", "/", body, {**_HEADERS, "X-Amz-Target": f"AmazonSQS.{operation}"})
        answer = self._connection.getresponse()
        data = answer.read()
        if answer.status != 200:
            raise RuntimeError(f"{operation}: {data!r}")
        return dict(msgspec.json.decode(data))

    def counts(self) -> tuple[int, int, int]:
        """Messages that are visible, in flight, delayed."""
        attributes = self.call("GetQueueAttributes", AttributeNames=["All"])["Attributes"]
        visible, in_flight, delayed = (int(attributes[_COUNT + end]) for end in ("", "NotVisible", "Delayed"))
        return visible, in_flight, delayed

    def take_all(self) -> Iterator[dict[str, Any]]:
        """Every message that is visible; they are deleted, or the rest of a FIFO queue's groups would not come."""
        asked = {"MaxNumberOfMessages": 10, "MessageAttributeNames": ["All"]}
        while messages := self.call("ReceiveMessage", **asked).get("Messages"):
            entries = [{"Id": message["MessageId"], "ReceiptHandle": message["ReceiptHandle"]} for message in messages]
            self.call("DeleteMessageBatch", Entries=entries)
            yield from messages

    def __enter__(self) -> Queue:
        return self

    def __exit__(self, *exception: object) -> None:
        self._connection.close()


class Producer(threading.Thread):
    """Sends messages first, first + 1, ... until it is stopped or has sent `most`; `sent` tells how many.

    `per_second` is a mean: after a time in which the backlog was full it sends faster.
    """

    def __init__(
        self,
        url: str,
        seed: int,
        *,
        groups: int,
        visibility_seconds: float,
        per_second: float,
        first: int = 0,
        most: int = 0,
    ) -> None:
        super().__init__(daemon=True)
        self.first = first
        self.sent = 0
        self.error: Exception | None = None
        self._queue = Queue(url)
        self._seed = seed
        self._groups = groups
        self._visibility_seconds = visibility_seconds
        self._per_second = per_second
        self._most = most
        self._is_fifo = url.endswith(".fifo")
        self._ending = threading.Event()

    def run(self) -> None:
        try:
            with self._queue:
                self._send_all(now())
        except Exception as error:  # raised by `stop`
            self.error = error

    def _send_all(self, begun: float) -> None:
        while not self._ending.is_set() and not self._is_done():
            is_ahead = self.sent > (now() - begun) * self._per_second
            if is_ahead or self._queue.counts()[0] >= BACKLOG:
                self._ending.wait(LOOK_SECONDS)
            else:
                self._send_some()

    def stop(self) -> int:
        """How many were sent."""
        self._ending.set()
        self.join()
        if self.error is not None:
            raise self.error
        return self.sent

    def _is_done(self) -> bool:
        return 0 < self._most <= self.sent

    def _send_some(self) -> None:
        for _ in range(CALLS_A_LOOK):
            if self._is_done():
                break
            first = self.first + self.sent
            entries = [self._entry(n, index) for index, n in enumerate(range(first, first + 10))]
            answer = self._queue.call("SendMessageBatch", Entries=entries)
            if answer.get("Failed"):
                raise RuntimeError(f"the queue refused {answer['Failed']}")
            self.sent += 10

    def _entry(self, n: int, index: int) -> dict[str, str]:
        planned = job(self._seed, n, self._groups, self._visibility_seconds)
        payload = {"n": n, "group": planned.group, "ms": planned.ms}
        body = msgspec.json.encode({"event_type": "chaos.job", "event_id": f"e{n}", "payload": payload}).decode()
        entry = {"Id": str(index), "MessageBody": body}
        if self._is_fifo:
            entry |= {"MessageGroupId": planned.group, "MessageDeduplicationId": str(n)}
        return entry
