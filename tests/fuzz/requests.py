"""Requests to the local queue over a real connection: what no SDK sends, in its HTTP and in its JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from hashlib import md5
from random import Random
from typing import Any

import gevent
from gevent import socket
from gevent.resolver.blocking import Resolver as Blocking

from millpond.local import LocalSqs
from tests.fuzz.kind import Kind, TryOne

#: Seconds for an answer.
PATIENCE_SECONDS = 10
#: After so many cases the messages are looked through, and the queues made anew.
ROUND = 64

QUEUES = {"q": {}, "q.fifo": {"FifoQueue": "true"}}
FOREIGN = (
    "evil.example",
    "evil.example:9324",
    "127.0.0.1.nip.io",
    "[2001:db8::1]",
    "localhost.evil.example",
    "8.8.8.8",
)
ATTRIBUTE = {"DataType": "String", "StringValue": "v"}
SEND = {"MessageBody": "m", "DelaySeconds": 0, "MessageAttributes": {"a": ATTRIBUTE, "n": {"DataType": "Number"}}}
FIFO = {"MessageGroupId": "g", "MessageDeduplicationId": "d"}
POLICY = '{"deadLetterTargetArn":"arn:aws:sqs:us-east-1:000000000000:q","maxReceiveCount":"3"}'
CALLS: list[tuple[str, dict[str, Any]]] = [
    ("SendMessage", {**SEND, "MessageSystemAttributes": {"AWSTraceHeader": ATTRIBUTE}}),
    ("SendMessage", {**SEND, **FIFO, "QueueUrl": "q.fifo"}),
    ("SendMessageBatch", {"Entries": [{"Id": "1", **SEND}, {"Id": "2", "MessageBody": "n"}]}),
    ("SendMessageBatch", {"QueueUrl": "q.fifo", "Entries": [{"Id": "1", **SEND, **FIFO}]}),
    ("ReceiveMessage", {"MaxNumberOfMessages": 10, "VisibilityTimeout": 0, "AttributeNames": ["All"]}),
    ("ReceiveMessage", {"QueueUrl": "q.fifo", "ReceiveRequestAttemptId": "a", "MessageAttributeNames": ["a.*", "n"]}),
    ("ReceiveMessage", {"WaitTimeSeconds": 20, "MessageSystemAttributeNames": ["SentTimestamp"]}),
    ("DeleteMessage", {"ReceiptHandle": "0123456789abcdef-1-1"}),
    ("DeleteMessageBatch", {"Entries": [{"Id": "1", "ReceiptHandle": "h"}]}),
    ("ChangeMessageVisibility", {"ReceiptHandle": "0123456789abcdef-1-1", "VisibilityTimeout": 30}),
    ("ChangeMessageVisibilityBatch", {"Entries": [{"Id": "1", "ReceiptHandle": "h", "VisibilityTimeout": 0}]}),
    ("CreateQueue", {"QueueName": "made", "Attributes": {"VisibilityTimeout": "30", "RedrivePolicy": POLICY}}),
    ("CreateQueue", {"QueueName": "made.fifo", "Attributes": {"FifoQueue": "true", "FifoThroughputLimit": "perQueue"}}),
    ("SetQueueAttributes", {"Attributes": {"RedrivePolicy": POLICY, "DelaySeconds": "0", "Policy": "{}"}}),
    ("GetQueueAttributes", {"AttributeNames": ["All"]}),
    ("GetQueueUrl", {"QueueName": "q"}),
    ("ListQueues", {"MaxResults": 10, "NextToken": "a", "QueueNamePrefix": ""}),
    ("ListDeadLetterSourceQueues", {"MaxResults": 10}),
    ("PurgeQueue", {}),
    ("DeleteQueue", {"QueueUrl": "made"}),
]


class Raw:
    """JSON text that json.dumps would not write."""

    def __init__(self, text: str) -> None:
        self.text = text


def deep(chance: Random) -> Raw:
    depth = chance.choice((50, 1_000, 10_000))
    opening, closing = chance.choice((("[", "]"), ('{"a":', "}")))
    return Raw(opening * depth + "1" + closing * chance.choice((depth, 0)))


VALUES: tuple[Callable[[Random], Any], ...] = (
    lambda _: None,
    lambda chance: chance.choice((True, False)),
    lambda chance: chance.choice((-1, 0, 1, 11, 901, 43_201, 2**31, 2**63, 2**64, -(2**63) - 1)),
    lambda chance: Raw("-" * chance.randrange(2) + "9" * chance.choice((20, 400, 5_000))),
    lambda chance: Raw(chance.choice(("1e400", "-1e400", "1.5", "1.0", "NaN", "Infinity", "01", "+1", "0x1", "1e3"))),
    lambda chance: chance.choice(
        ("", " ", "x" * 300, "0" * 5_000, "\u0000", "\ufffe", "\u00e9", "\U0001f600", "a.b", "..")
    ),
    lambda chance: Raw(chance.choice(('"\\ud800"', '"\\udc00\\ud800"', '"\\uzzzz"', '"\\x"', '"\t"', '"', "'a'"))),
    lambda chance: chance.choice(([], {}, [None], [[]], {"": ""}, [{}], {"a": 1}, ["All"] * 300)),
    lambda chance: "9" * chance.choice((100, 3_000)) + chance.choice(("", "x", ".", "e")),
    lambda chance: chance.choice(
        (POLICY[:-1], "{", '{"maxReceiveCount":' + "[" * 2_000, "{}", '"', "é", POLICY + POLICY)
    ),
    deep,
)


def mutated(chance: Random, value: Any) -> Any:
    """The same value with one part of it, or itself, another one."""
    if isinstance(value, dict) and value and chance.random() < 0.85:
        changed = dict(value)
        name = chance.choice(list(changed))
        act = chance.randrange(8)
        if act == 0:
            del changed[name]
        elif act == 1:
            changed[chance.choice((name.lower(), name * 2, "", "é", "Id", "QueueUrl"))] = changed.pop(name)
        else:
            changed[name] = mutated(chance, changed[name])
        return changed
    if isinstance(value, list) and value and chance.random() < 0.8:
        return chance.choice((value * 2, value * 11, value[1:], [mutated(chance, value[0]), *value[1:]]))
    return chance.choice(VALUES)(chance)


def encoded(chance: Random, value: Any) -> str:
    """JSON; a key comes twice now and then."""
    if isinstance(value, Raw):
        return value.text
    if isinstance(value, dict):
        pairs = [f"{json.dumps(key)}:{encoded(chance, each)}" for key, each in value.items()]
        return "{" + ",".join(pairs + pairs[: chance.randrange(8) == 0]) + "}"
    if isinstance(value, list):
        return "[" + ",".join(encoded(chance, each) for each in value) + "]"
    return json.dumps(value, ensure_ascii=chance.random() < 0.5)


def noisy(chance: Random, raw: bytes) -> bytes:
    """The same bytes with some of them changed, lost, twice or foreign."""
    changed = bytearray(raw)
    for _ in range(chance.choice((1, 1, 2, 8))):
        at = chance.randrange(len(changed) + 1)
        act = chance.randrange(5)
        if act == 0:
            changed[at : at + 1] = bytes([chance.randrange(256)])
        elif act == 1:
            del changed[at : at + chance.choice((1, 2, 20))]
        elif act == 2:
            changed[at:at] = changed[at : at + 30]
        elif act == 3:
            changed[at:at] = chance.choice((b"\r\n", b"\n", b"\0", b":", b" ", b"\xff", b"\r\n\r\n", b"\xed\xa0\x80"))
        else:
            del changed[max(1, at) :]
    return bytes(changed) or b"x"


def in_chunks(chance: Random, body: bytes) -> bytes:
    """The body in chunks, which can have extensions, trailers and wrong lengths."""
    raw, size = bytearray(), chance.choice((1, 7, 100, 5_000))
    for start in range(0, len(body), max(size, len(body) // 5_000)):
        part = body[start : start + max(size, len(body) // 5_000)]
        wrong = chance.choice((0,) * 60 + (1, -1, 2**27))
        extension = chance.choice((b"", b"", b"", b";a=b", b" ;x", b"  ", b"g", b";" + b"x" * 200))
        raw += b"%x%b\r\n%b\r\n" % (max(0, len(part) + wrong), extension if chance.random() < 0.02 else b"", part)
    trailers = chance.choice((b"", b"", b"A: b\r\n", b"A: b\r\n" * 300, b"x" * 70_000))
    return bytes(raw) + b"0" * chance.choice((1, 1, 9)) + b"\r\n" + trailers + chance.choice((b"\r\n", b"\r\n", b""))


def headers(chance: Random, host: str, operation: str) -> list[str]:
    named = [f"Host: {host}", f"X-Amz-Target: AmazonSQS.{operation}", "Content-Type: application/x-amz-json-1.0"]
    if chance.random() < 0.15:
        named.append(
            chance.choice(
                (
                    "Origin: http://evil.example",
                    "Origin: null",
                    "Sec-Fetch-Site: cross-site",
                    "Host: evil.example",
                    "Transfer-Encoding: gzip",
                    "Content-Length: 1",
                    "Content-Length: 9999999999999999",
                    " folded",
                    "X" * 70_000,
                    "\r\n".join(["A: b"] * 300),
                    "Expect: 100-continue",
                    "Connection: close",
                    "X-Amz-Target: AmazonSQS.Dance",
                    "A : b",
                )
            )
        )
        chance.shuffle(named)
    return named


def request(chance: Random, host: str) -> bytes:
    """One request, well-formed or not."""
    operation, parameters = chance.choice(CALLS)
    parameters = {"QueueUrl": "q", **parameters}
    for _ in range(chance.randrange(3)):
        parameters = mutated(chance, parameters)
    body = encoded(chance, parameters).encode(errors="surrogatepass")
    if chance.random() < 0.1:
        body = noisy(chance, body)
    lines = headers(chance, host, operation)
    if chance.random() < 0.15:
        body = in_chunks(chance, body)
        lines.append("Transfer-Encoding: chunked")
    else:
        wrong = chance.choice((1, -1, 100)) if chance.random() < 0.03 else 0
        lines.append(f"Content-Length: {len(body) + wrong}")
    method = chance.choice(("POST",) * 20 + ("GET", "PUT", "OPTIONS", "HEADS", "post", "P" * 50))
    version = chance.choice(("1.1",) * 20 + ("1.0", "2.0", "1.1 "))
    raw = "\r\n".join([f"{method} / HTTP/{version}", *lines, "", ""]).encode() + body
    return noisy(chance, raw) if chance.random() < 0.15 else raw


class Cases:
    """A server of its own, and the errors that escaped from its greenlets."""

    def __init__(self, server: LocalSqs, escaped: list[str]) -> None:
        self.server = server
        self.escaped = escaped
        self.host = server.url.removeprefix("http://")
        address, port = self.host.split(":")
        self.address = (address, int(port))
        self.count = 0
        self.make_queues()

    def make_queues(self) -> None:
        for name, attributes in QUEUES.items():
            self.server.create_queue(name, attributes)

    def try_one(self, chance: Random) -> None:
        is_foreign = chance.random() < 0.05
        host = chance.choice(FOREIGN) if is_foreign else self.host
        raw = b"".join(request(chance, host) for _ in range(chance.choice((1, 1, 1, 1, 3))))
        statuses = [status for status, _ in self.exchange(raw)]
        assert statuses, "no answer"
        assert set(statuses) <= {100, 200, 400, 403, 404, 413}, statuses
        # Noise can make another host of it, but not in all of three.
        assert not is_foreign or 200 not in statuses or b"Host: " + host.encode() not in raw, (host, statuses)
        self.check()

    def check(self) -> None:
        """What comes after a bad request on a connection of its own."""
        self.count += 1
        assert self.call("ListQueues", {"MaxResults": 1})
        if self.count % ROUND == 0:
            self.look_through()
        assert not self.escaped, self.escaped.pop()

    def look_through(self) -> None:
        """Every message is what its MD5 says, and a queue made anew does what it should."""
        for url in self.call("ListQueues", {}).get("QueueUrls", []):
            received = self.call("ReceiveMessage", {"QueueUrl": url, "MaxNumberOfMessages": 10})
            for message in received.get("Messages", []):
                assert md5(message["Body"].encode()).hexdigest() == message["MD5OfBody"]
                assert message["Body"]
            self.call("DeleteQueue", {"QueueUrl": url})
        self.make_queues()
        self.call("SendMessage", {"QueueUrl": "q", "MessageBody": "sound"})
        (message,) = self.call("ReceiveMessage", {"QueueUrl": "q"})["Messages"]
        assert message["Body"] == "sound"
        self.call("DeleteMessage", {"QueueUrl": "q", "ReceiptHandle": message["ReceiptHandle"]})

    def call(self, operation: str, parameters: dict[str, Any]) -> Any:
        body = json.dumps(parameters).encode()
        head = f"POST / HTTP/1.1\r\nHost: {self.host}\r\nX-Amz-Target: AmazonSQS.{operation}\r\n"
        ((status, answer),) = self.exchange(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        assert status == 200, answer
        return json.loads(answer)

    def exchange(self, raw: bytes) -> list[tuple[int, bytes]]:
        """Every answer that comes, until the server hangs up."""
        with socket.create_connection(self.address, timeout=PATIENCE_SECONDS) as client:
            with suppress(ConnectionError):  # what is refused need not be read to its end
                client.sendall(raw)
                client.shutdown(socket.SHUT_WR)
            read = bytearray()
            with suppress(ConnectionResetError):
                while data := client.recv(65_536):
                    read += data
        return answers(bytes(read))


def answers(raw: bytes) -> list[tuple[int, bytes]]:
    """Status and body of each; raises where one is none."""
    found = []
    while raw:
        head, end, raw = raw.partition(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        assert end, raw[:100]
        assert lines[0].startswith("HTTP/1.1 "), lines[0]
        fields = dict(line.split(": ", 1) for line in lines[1:])
        length = int(fields.get("Content-Length", "0"))
        body, raw = raw[:length], raw[length:]
        assert len(body) == length
        assert not body or isinstance(json.loads(body), dict)
        found.append((int(lines[0].split()[1]), body))
    return found


@contextmanager
def open_requests() -> Iterator[TryOne]:
    """A server in this process; its polls do not wait."""
    escaped: list[str] = []
    hub = gevent.get_hub()
    shown, resolver = hub.print_exception, hub.resolver
    hub.resolver = Blocking()  # an address needs no thread to be resolved in
    hub.print_exception = lambda context, kind, value, trace: escaped.append(f"{context!r}: {value!r}")
    server = LocalSqs(port=0)
    server.start()
    server.close_polls()
    try:
        yield Cases(server, escaped).try_one
    finally:
        server.stop()
        hub.print_exception, hub.resolver = shown, resolver


KIND = Kind("requests", open_requests)
