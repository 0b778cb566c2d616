"""Pollers over HTTP, with the real clients, from a server that answers garbage and then as SQS does."""

from __future__ import annotations

import json

import gevent
import pytest

from millpond.engine.consumer import Consumer
from millpond.hub.clock import SystemClock
from millpond.sqs.clients import connect
from tests.http_server import HANG_UP, Server, sqs_answer
from tests.rig import Rig

HTML = b"<html><head><title>502 Bad Gateway</title></head><body>nginx</body></html>"
GARBAGE = {
    "a proxy's page": b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: %d\r\n\r\n%b" % (len(HTML), HTML),
    "a proxy's error": b"HTTP/1.1 502 x\r\nContent-Type: text/html\r\nContent-Length: %d\r\n\r\n%b" % (len(HTML), HTML),
    "an empty 200": b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    "an empty 200 of the right type": sqs_answer(b""),
    "truncated JSON": sqs_answer(b'{"Messages": [{"MessageId": "1", "ReceiptHandle": "h", "Bo'),
    "a list": sqs_answer(b"[1, 2, 3]"),
    "no list of messages": sqs_answer(b'{"Messages": 5}'),
    "messages of wrong types": sqs_answer(b'{"Messages": [1, "x", null, {"Body": 7, "ReceiptHandle": {}}]}'),
    "10 MB of rubbish": sqs_answer(b"\xff\x00{[" * 2_500_000),
    "no HTTP": b"\x16\x03\x01 hello\r\n\r\n",
    "half an answer": [sqs_answer(b'{"Messages": []}')[:-5], HANG_UP],
    "nothing": [HANG_UP],
}
MESSAGE = {"MessageId": "m", "ReceiptHandle": "h", "Body": '{"event_type": "job", "payload": 1}'}


@pytest.fixture
def server():
    server = Server()
    yield server
    server.close()


@pytest.fixture(params=["wire", "boto3"])
def consumer(server, monkeypatch, request):
    """The consumer of a rig, whose queue is at that server, by either client."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setattr("millpond.engine.poller.call_back_off_seconds", lambda failures, error: 0.01)
    done = gevent.event.Event()
    rig = Rig(SystemClock(), {"job": lambda payload, message: done.set()})
    url = f"{server.url}/000000000000/q"
    sqs = connect(
        url, client=request.param, region="us-east-1", endpoint_url=server.url, wait_seconds=20, polls=4, settles=4
    )
    consumer: Consumer = rig.consumer
    consumer.queue = consumer.pollers._queue = sqs.queue(url)
    yield consumer, done
    consumer.pollers.stop()
    assert rig.crashes == []


def test_a_worker_lives_through_garbage_says_so_once_and_works_at_its_end(server, consumer, caplog):
    caplog.set_level("INFO")
    worker, done = consumer
    server.script += [*GARBAGE.values()] * 3
    server.script.append(sqs_answer(json.dumps({"Messages": [MESSAGE]}).encode()))
    worker.pollers.start()
    assert done.wait(20)
    assert worker.books.received == 1
    events = [record for record in caplog.records if getattr(record, "event", "").startswith("receive.")]
    assert [event.event for event in events] == ["receive.failed", "receive.resumed"]
