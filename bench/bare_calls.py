"""The pieces of the floor, one process: `python -m bench.bare_calls QUEUE_URL CALLS CONCURRENCY`; prints JSON, in us.

A call is a request's bytes, made and as long as a signed one before the clock runs, over one plain gevent socket that
is kept, and reading until the answer is whole: no signing, no header looked at but the length, no JSON.
"""

from __future__ import annotations

from gevent import monkey

monkey.patch_all()

import json  # noqa: E402
import os  # noqa: E402
import re  # noqa: E402
import socket  # noqa: E402
import ssl  # noqa: E402
import sys  # noqa: E402
import time  # noqa: E402
from collections.abc import Sequence  # noqa: E402
from urllib.parse import urlsplit  # noqa: E402

import gevent  # noqa: E402
import msgspec  # noqa: E402
from gevent.pool import Pool  # noqa: E402
from gevent.queue import SimpleQueue  # noqa: E402

from bench.consumers import plain_body  # noqa: E402
from bench.peers.book import SECONDS  # noqa: E402

MESSAGES = 10_000
#: Calls before the clock runs.
WARM_CALLS = 100

LENGTH = re.compile(rb"\r\nContent-Length: (\d+)\r\n")
HEAD = (
    "POST / HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/x-amz-json-1.0\r\nX-Amz-Target: AmazonSQS.{name}\r\n"
    "X-Amz-Date: 20260101T000000Z\r\nAuthorization: AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20260101/us-east-1/sqs/"
    "aws4_request, SignedHeaders=content-type;host;x-amz-date;x-amz-target, Signature={signature}\r\n"
    "Content-Length: {length}\r\n\r\n"
)


class Payload(msgspec.Struct):
    n: int
    pad: str


class Envelope(msgspec.Struct):
    event_type: str
    event_id: str
    payload: Payload


def message_us(concurrency: int) -> float:
    """Greenlets that live long, fed by a queue: one decode and one timer a message."""
    decode = msgspec.json.Decoder(Envelope).decode
    queue: SimpleQueue[str] = SimpleQueue()
    for number in range(MESSAGES):
        queue.put(plain_body(number))

    def work() -> None:
        while not queue.empty():
            decode(queue.get())
            gevent.sleep(SECONDS)

    pool = Pool(concurrency)
    began = time.process_time()
    for _ in range(concurrency):
        pool.spawn(work)
    pool.join()
    return (time.process_time() - began) / MESSAGES * 1e6


def connected(host: str) -> socket.socket:
    name, port = host.split(":")
    plain = socket.create_connection((name, int(port)))
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if not os.environ["BENCH_CA"]:
        return plain
    return ssl.create_default_context(cafile=os.environ["BENCH_CA"]).wrap_socket(plain, server_hostname=name)


def request(host: str, name: str, **parameters: object) -> bytes:
    body = json.dumps(parameters).encode()
    return HEAD.format(host=host, name=name, signature="0" * 64, length=len(body)).encode() + body


def exchange(connection: socket.socket, asked: bytes) -> bytes:
    connection.sendall(asked)
    answer = connection.recv(65_536)
    found = LENGTH.search(answer)
    assert found
    whole = answer.index(b"\r\n\r\n") + 4 + int(found[1])
    while len(answer) < whole:
        answer += connection.recv(65_536)
    return answer


def call_us(connection: socket.socket, requests: Sequence[bytes]) -> tuple[float, list[bytes]]:
    """CPU of one call after the first ones, and all answers."""
    answers = [exchange(connection, asked) for asked in requests[:WARM_CALLS]]
    began = time.process_time()
    answers += [exchange(connection, asked) for asked in requests[WARM_CALLS:]]
    return (time.process_time() - began) / (len(requests) - WARM_CALLS) * 1e6, answers


def main() -> None:
    queue_url, calls, concurrency = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    host = urlsplit(queue_url).netloc
    connection = connected(host)
    attributes = ["ApproximateReceiveCount", "SentTimestamp"]
    receive = request(
        host, "ReceiveMessage", QueueUrl=queue_url, MaxNumberOfMessages=10, WaitTimeSeconds=20,
        MessageSystemAttributeNames=attributes,
    )  # fmt: skip
    receive_us, answers = call_us(connection, [receive] * calls)
    deletes = []
    for answer in answers:
        messages = json.loads(answer.partition(b"\r\n\r\n")[2])["Messages"]
        entries = [{"Id": str(n), "ReceiptHandle": message["ReceiptHandle"]} for n, message in enumerate(messages)]
        deletes.append(request(host, "DeleteMessageBatch", QueueUrl=queue_url, Entries=entries))
    delete_us, _ = call_us(connection, deletes)
    figures = {"message_us": message_us(concurrency), "receive_us": receive_us, "delete_us": delete_us}
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
