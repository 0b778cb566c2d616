"""A queue that is never empty, for a hundredth of a core: `python -m bench.feed MESSAGES [LOOPS]`; prints its URL.

Its answers are made by millpond.local before the first request: receives of ten messages, over and over. What a real
SQS does is done elsewhere, not on the cores of the workers. One call more than SQS has, Bench.State: how many messages
were deleted. Everything else is millpond.local's own answer.
"""

from __future__ import annotations

import json
import re
import selectors
import socket
import sys
import time
from itertools import cycle

from bench.consumers import PAD
from millpond.local.account import Account
from millpond.local.api import Api, error_body
from millpond.local.sqs_error import SqsError

QUEUE = "feed"
_LENGTH = re.compile(rb"\r\ncontent-length: *([0-9]+)\r\n", re.IGNORECASE)
_TARGET = re.compile(rb"\r\nx-amz-target: *([\w.]+)\r\n", re.IGNORECASE)


class Feed:
    """Prepared answers, by what is asked."""

    def __init__(self, url: str, messages: int, body: str) -> None:
        self.deleted = 0
        self._url = url
        self._api = Api(Account(time.time, lambda *_: None), lambda *_: None)
        self._ask("CreateQueue", QueueName=QUEUE, Attributes={"VisibilityTimeout": "43200"})
        self._receives = cycle([self._made(f"{url}/000000000000/{QUEUE}", body) for _ in range(messages // 10)])
        ids = [[{"Id": str(index)} for index in range(number)] for number in range(11)]
        self._deletes = [answer(json.dumps({"Successful": done, "Failed": []}).encode()) for done in ids]

    def answer(self, target: bytes, body: bytes) -> bytes:
        if target == b"AmazonSQS.ReceiveMessage":
            return next(self._receives)
        if target == b"AmazonSQS.DeleteMessageBatch":
            number = body.count(b'"Id"')
            self.deleted += number
            return self._deletes[number]
        if target == b"Bench.State":
            return answer(json.dumps({"deleted": self.deleted}).encode())
        try:
            return answer(self._api.call(target.decode(), body, self._url))
        except SqsError as error:
            return answer(error_body(error), b"400 Bad Request")

    def _made(self, queue_url: str, body: str) -> bytes:
        entries = [{"Id": str(index), "MessageBody": body} for index in range(10)]
        self._ask("SendMessageBatch", QueueUrl=queue_url, Entries=entries)
        asked = {"MaxNumberOfMessages": 10, "MessageSystemAttributeNames": ["All"], "MessageAttributeNames": ["All"]}
        return answer(self._ask("ReceiveMessage", QueueUrl=queue_url, **asked))

    def _ask(self, name: str, **parameters: object) -> bytes:
        return self._api.call(f"AmazonSQS.{name}", json.dumps(parameters).encode(), self._url)


def answer(body: bytes, status: bytes = b"200 OK") -> bytes:
    head = b"HTTP/1.1 %b\r\nContent-Type: application/x-amz-json-1.0\r\nContent-Length: %d\r\n\r\n"
    return head % (status, len(body)) + body


class Client:
    """One connection: what has come of its next request."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self._read = b""

    def step(self, feed: Feed) -> bool:
        """Answer what has come whole. False: the client has gone."""
        try:
            more = self.connection.recv(65_536)
            self._read += more
            while request := self._next():
                self.connection.sendall(feed.answer(*request))
        except OSError:
            return False
        return bool(more)

    def _next(self) -> tuple[bytes, bytes] | None:
        head, end, rest = self._read.partition(b"\r\n\r\n")
        length, target = _LENGTH.search(head + b"\r\n"), _TARGET.search(head + b"\r\n")
        number = int(length[1]) if length else 0
        if not end or len(rest) < number:
            return None
        self._read = rest[number:]
        return target[1] if target else b"", rest[:number]


def main() -> None:
    body = {"event_type": "bench.job", "payload": {"n": 0, "pad": "x" * PAD}}
    if len(sys.argv) > 2:
        body = {"event_type": "bench.burn", "payload": {"loops": int(sys.argv[2])}}
    listener = socket.create_server(("127.0.0.1", 0))
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    feed = Feed(url, int(sys.argv[1]), json.dumps(body))
    selector = selectors.DefaultSelector()
    selector.register(listener, selectors.EVENT_READ)
    print(f"{url}/000000000000/{QUEUE}", flush=True)
    while True:
        for key, _ in selector.select():
            if key.data is None:
                connection = listener.accept()[0]
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                selector.register(connection, selectors.EVENT_READ, Client(connection))
            elif not key.data.step(feed):
                selector.unregister(key.data.connection)
                key.data.connection.close()


if __name__ == "__main__":
    main()
