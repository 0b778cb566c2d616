"""One queue at SQS, by either client: every call ends in time, whatever the network does."""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import chain, repeat

import gevent
import pytest

from millpond.errors import Unanswered
from millpond.sqs.clients import connect
from millpond.sqs.queue import Entry
from millpond.sqs.redrive import Redrive
from tests.http_server import Server
from tests.sdk import _models_are_read_once  # noqa: F401  an autouse fixture

SECONDS = 0.3
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/x-amz-json-1.0\r\n"


def _drip(byte: bytes) -> Iterator[object]:
    """A byte each ten milliseconds, without end: no read takes long, the whole never comes."""
    return chain.from_iterable(repeat((byte, lambda: gevent.sleep(0.01))))


FAULTS = {
    "silent": lambda: [lambda: gevent.sleep(60)],
    "a head that drips": lambda: chain([HEAD, b"X-A: "], _drip(b"x")),
    "a body that drips": lambda: chain([HEAD, b"Content-Length: 100000\r\n\r\n"], _drip(b" ")),
    "chunks that drip": lambda: chain([HEAD, b"Transfer-Encoding: chunked\r\n\r\n"], _drip(b"1\r\n \r\n")),
    "interim answers without end": lambda: _drip(b"HTTP/1.1 100 Continue\r\n\r\n"),
}
CALLS = {
    "ReceiveMessage": lambda queue: queue.receive(10, 0, 30),
    "DeleteMessageBatch": lambda queue: queue.delete(["h"], SECONDS),
    "ChangeMessageVisibilityBatch": lambda queue: queue.extend([("h", 30)], SECONDS),
    "SendMessageBatch": lambda queue: queue.send([Entry("x")], SECONDS),
    "GetQueueAttributes": lambda queue: queue.attributes(SECONDS),
    "GetQueueUrl": lambda queue: queue.dead_letters(Redrive("", "1", "dead")),
}


@pytest.fixture(autouse=True)
def _soon(monkeypatch):
    monkeypatch.setattr("millpond.sqs.sqs_queue.POLL_GRACE_SECONDS", SECONDS)
    monkeypatch.setattr("millpond.sqs.sqs_queue.SETTLE_SECONDS", SECONDS)
    with gevent.Timeout(30):
        yield


@pytest.fixture
def server():
    server = Server()
    yield server
    server.close()


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("client", ["wire", "boto3"])
def test_every_call_ends_in_time_whatever_the_network_does(server, client, fault, name):
    url = f"{server.url}/1/q"
    queue = connect(url, client=client, wait_seconds=1, polls=2, settles=2).queue(url)
    server.script.append(FAULTS[fault]())
    began = time.monotonic()
    with pytest.raises(Unanswered, match=rf"{name}: no answer in 0\.(3|2\d+) s"):
        CALLS[name](queue)
    assert SECONDS - 0.01 <= time.monotonic() - began < SECONDS + 2
    assert len(server.requests) == 1
