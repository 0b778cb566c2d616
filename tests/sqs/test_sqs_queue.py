"""One queue at SQS, by either client: every call ends in time, whatever the network does."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from itertools import chain, repeat

import gevent
import pytest

from millpond.errors import QueueError, Unanswered
from millpond.sqs.clients import connect
from millpond.sqs.queue import Entry
from millpond.sqs.redrive import Redrive
from millpond.sqs.sqs_queue import Sqs, time_there
from tests.http_server import Server

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
    "DeleteMessageBatch": lambda queue: queue.delete(["h"]),
    "ChangeMessageVisibilityBatch": lambda queue: queue.change_visibility([("h", 30)]),
    "SendMessageBatch": lambda queue: queue.send([Entry("x")]),
    "GetQueueAttributes": lambda queue: queue.attributes(),
    "GetQueueUrl": lambda queue: queue.dead_letters(Redrive("", "1", "dead")),
}


@pytest.fixture
def _soon(monkeypatch):
    monkeypatch.setattr("millpond.sqs.sqs_queue.POLL_GRACE_SECONDS", SECONDS)
    monkeypatch.setattr("millpond.sqs.sqs_queue.CALL_SECONDS", SECONDS)
    with gevent.Timeout(30):
        yield


@pytest.fixture
def server():
    server = Server()
    yield server
    server.close()


@pytest.mark.clock
@pytest.mark.usefixtures("_soon")
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
    assert SECONDS - 0.01 <= time.monotonic() - began < SECONDS + 0.25
    assert len(server.requests) == 1


class Asked(Sqs):
    """Writes down how long each call may take."""

    client = "wire"

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def call(self, name, request, seconds, read):
        self.seconds.append(seconds)
        return read(b'{"Attributes": {}, "QueueUrl": "http://x/1/dead"}')

    def date(self, request):
        return None


SETTLING = [name for name in CALLS if name != "ReceiveMessage"]


@pytest.fixture
def now(monkeypatch):
    now = [1_000.0]
    monkeypatch.setattr("millpond.sqs.sqs_queue.monotonic", lambda: now[0])
    return now


@pytest.mark.usefixtures("now")
@pytest.mark.parametrize("name", SETTLING)
def test_a_settling_call_has_ten_seconds_and_is_counted(name):
    asked = Asked()
    queue = asked.queue("https://queue.example/1/q")
    CALLS[name](queue)
    assert asked.seconds == [10]
    assert queue.calls == 1  # which SQS bills


@pytest.mark.parametrize(
    ("left", "seconds"),
    [(math.inf, 10), (60, 10), (10.04, 10), (9.9, 9.9), (2.4, 2.4), (0.5, 0.5), (0.1, 0.5), (-30, 0.5)],
)
@pytest.mark.parametrize("name", SETTLING)
def test_in_the_drain_it_has_what_is_left_and_half_a_second_at_the_least(now, name, left, seconds):
    asked = Asked()
    queue = asked.queue("https://queue.example/1/q")
    queue.limit_calls(left + 7)
    now[0] += 7
    CALLS[name](queue)
    assert asked.seconds == [pytest.approx(seconds)]


@pytest.mark.usefixtures("now")
@pytest.mark.parametrize("wait_seconds", [0, 1, 20])
def test_a_receive_has_ten_seconds_after_its_wait_in_the_drain_too(wait_seconds):
    asked = Asked()
    queue = asked.queue("https://queue.example/1/q")
    queue.limit_calls(1)
    assert queue.receive(7, wait_seconds, 60, "attempt") == []
    assert asked.seconds == [wait_seconds + 10]
    assert queue.calls == 1


class Refusing(Asked):
    """Refuses the body of every message, each time after a while."""

    def __init__(self, now: list[float], takes_seconds: float) -> None:
        super().__init__()
        self._now = now
        self._takes_seconds = takes_seconds

    def call(self, name, request, seconds, read):
        super().call(name, request, seconds, read)
        self._now[0] += self._takes_seconds
        raise QueueError("a character that no message may have", "InvalidMessageContents")


@pytest.mark.parametrize(
    ("drain", "given", "takes", "calls"),
    [
        (math.inf, math.inf, 3, [10, 7, 4, 1]),
        (2, math.inf, 0.75, [2, 1.25, 0.5]),
        (0, math.inf, 0.2, [0.5, 0.3, 0.1]),
        (math.inf, 0.5, 0.2, [0.5, 0.3, 0.1]),
    ],
)
def test_a_send_in_several_calls_has_the_time_of_one(now, drain, given, takes, calls):
    """Where SQS refuses a batch for what is in it, each of its messages goes alone: eleven calls."""
    refusing = Refusing(now, takes)
    queue = refusing.queue("https://queue.example/1/q")
    queue.limit_calls(drain)
    results = queue.send([Entry("x")] * 10, given)
    assert refusing.seconds == pytest.approx(calls)
    assert queue.calls == len(calls)
    refused = len(calls) - 1
    assert [failure.sender_fault for failure in results] == [True] * refused + [False] * (10 - refused)
    assert {failure.summary for failure in results[refused:]} == {"SendMessageBatch: no time was left to send it"}


@pytest.mark.usefixtures("now")
def test_a_send_of_an_application_has_the_time_that_it_is_given():
    asked = Asked()
    asked.queue("https://queue.example/1/q").send([Entry("x")], 0.2)
    assert asked.seconds == [pytest.approx(0.2)]


@pytest.mark.parametrize(
    ("date", "there"), [(None, 100.0), (98.5, 100.0), (101.5, 100.0), (700.0, 701.0), (40.0, 41.0)]
)
def test_the_time_at_sqs_is_ours_but_where_its_date_differs(date, there):
    assert time_there(date, 100.0) == there
