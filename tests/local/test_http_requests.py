"""HTTP by raw sockets: what no SDK would send, chunks, bytes without end."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import closing, suppress
from email.utils import parsedate_to_datetime

import gevent
import pytest
from gevent import socket

from millpond.local import LocalSqs, admission
from millpond.local import server as server_module
from millpond.local.access import AccessGuard
from millpond.local.admission import Admission, ServerConnection
from millpond.local.http_requests import MAX_HEAD_LINES, MAX_REQUEST_BYTES, MAX_REQUEST_CHUNKS, HttpRequests
from millpond.local.sqs_error import Unreadable
from tests.local.raw_client import RawClient, assert_closed

MIB = 1_048_576


def assert_goes_on(server: LocalSqs) -> None:
    with closing(RawClient(server)) as other:
        assert other.call("ListQueues")[0] == 200


@pytest.mark.parametrize(
    "raw",
    [
        b"\r\n\r\n",
        b"garbage\r\n\r\n",
        b"POST / HTTP/9.9\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: many\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: 1_0\r\n\r\n",
        b"POST / HTTP/1.1\r\nTransfer-Encoding: gzip\r\n\r\n",
        b"POST / HTTP/1.1\r\nno header\r\n\r\n",
        b"POST / HTTP/1.1\r\nX: " + b"x" * 70_000 + b"\r\n\r\n",
        b"POST / HTTP/1.1\r\n" + b"X: x\r\n" * 1000 + b"\r\n",
        b"POST /" + b"x" * 70_000 + b" HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    ],
    ids=lambda raw: raw[:30].decode(errors="replace"),
)
def test_what_is_no_http_is_answered_with_a_4xx_and_the_server_goes_on(
    server: LocalSqs, connection: RawClient, raw: bytes
) -> None:
    connection.send(raw)
    assert 400 <= connection.answer()[0] < 500
    assert_closed(connection)
    with closing(RawClient(server)) as other:
        assert other.call("CreateQueue", QueueName="q")[0] == 200


def test_a_request_that_is_too_large_is_refused_before_it_is_kept(connection: RawClient) -> None:
    connection.send(connection.request("SendMessage", b"", f"Content-Length: {MAX_REQUEST_BYTES + 1}"))
    assert_refused_as_too_large(connection)


def test_a_chunked_request_that_is_too_large_is_refused(connection: RawClient) -> None:
    connection.send(connection.request("SendMessage", b"", "Transfer-Encoding: chunked"))
    chunk = b"%x\r\n%b\r\n" % (MAX_REQUEST_BYTES // 7, b"x" * (MAX_REQUEST_BYTES // 7))
    for _ in range(8):
        connection.send(chunk)
    assert_refused_as_too_large(connection)


def assert_refused_as_too_large(connection: RawClient) -> None:
    status, headers, body = connection.answer()
    assert (status, headers["connection"]) == (413, "close")
    assert json.loads(body)["message"] == f"A request has {MAX_REQUEST_BYTES} bytes at most."


def test_one_mebibyte_of_the_dearest_characters_fits_into_a_request(connection: RawClient) -> None:
    connection.call("CreateQueue", QueueName="q")
    body = b'{"QueueUrl": "q", "MessageBody": "' + b"\\u0009" * 1_048_576 + b'"}'
    connection.send(connection.request("SendMessage", body))
    assert connection.answer()[0] == 200


@pytest.mark.parametrize(
    ("headers", "part"),
    [
        ("Content-Length: 100", b'{"QueueUrl"'),
        ("Transfer-Encoding: chunked", b'b\r\n{"QueueUrl"\r\n'),
        ("Transfer-Encoding: chunked", b'ff\r\n{"QueueUrl"'),
        ("Transfer-Encoding: chunked", b"no length\r\n"),
    ],
)
def test_a_request_that_ends_too_early_is_refused_and_does_nothing(
    server: LocalSqs, connection: RawClient, headers: str, part: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    connection.send(connection.request("SendMessage", part, headers))
    connection.socket.shutdown(socket.SHUT_WR)
    status, answer_headers, body = connection.answer()
    assert (status, answer_headers["connection"]) == (400, "close")
    assert json.loads(body)["message"].startswith("The request's body cannot be read: ")
    assert_closed(connection)
    assert capfd.readouterr().err == ""


def test_chunks_are_one_body(connection: RawClient) -> None:
    connection.send(connection.request("CreateQueue", b"", "Transfer-Encoding: chunked"))
    for part in (b'{"Queue', b'Name": "chunked"}'):
        connection.send(b"%x\r\n%b\r\n" % (len(part), part))
    connection.send(b"0\r\n\r\n")
    assert connection.answer()[0] == 200
    assert connection.call("GetQueueUrl", QueueName="chunked")[0] == 200


def test_a_chunks_extension_and_the_trailers_are_passed_over(connection: RawClient) -> None:
    raw = b'12;note="x"\r\n{"QueueName": "q"}\r\n0\r\nChecksum: 1\r\nOther: 2\r\n\r\n'
    connection.send(connection.request("CreateQueue", raw, "Transfer-Encoding: chunked"))
    assert connection.answer()[0] == 200
    assert connection.call("GetQueueUrl", QueueName="q")[0] == 200


def test_a_chunk_that_is_longer_than_it_says_is_refused(connection: RawClient) -> None:
    raw = b'5\r\n{"QueueName": "q"}\r\n0\r\n\r\n'
    connection.send(connection.request("CreateQueue", raw, "Transfer-Encoding: chunked"))
    status, headers, body = connection.answer()
    assert (status, headers["connection"]) == (400, "close")
    assert json.loads(body)["message"].endswith(": a chunk is longer than it says.")
    assert_closed(connection)


def test_a_request_that_comes_byte_by_byte_is_one_request(connection: RawClient) -> None:
    for byte in connection.request("CreateQueue", b'{"QueueName": "q"}'):
        connection.send(bytes([byte]))
        gevent.sleep(0)
    assert connection.answer()[0] == 200


@pytest.mark.parametrize(
    "raw",
    [b"GET /health HTTP/1.0\r\n\r\n", b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: Close\r\n\r\n"],
    ids=["HTTP/1.0", "Connection: Close"],
)
def test_a_client_that_asks_once_is_answered_and_hung_up_on(connection: RawClient, raw: bytes) -> None:
    connection.send(raw)
    assert connection.answer()[0] == 200
    assert_closed(connection)


def test_an_answer_tells_the_time(connection: RawClient) -> None:
    _, headers, _ = connection.call("ListQueues")
    assert abs(parsedate_to_datetime(headers["date"]).timestamp() - time.time()) < 60


def test_a_client_that_asks_before_it_sends_is_told_to_go_on(connection: RawClient) -> None:
    connection.send(connection.request("CreateQueue", b"", "Content-Length: 18", "Expect: 100-continue"))
    assert connection.file.readline() == b"HTTP/1.1 100 Continue\r\n"
    assert connection.file.readline() == b"\r\n"
    connection.send(b'{"QueueName": "q"}')
    assert connection.answer()[0] == 200


def test_requests_sent_at_once_are_answered_in_their_order(connection: RawClient) -> None:
    names = [f"q{n}" for n in range(20)]
    connection.send(b"".join(connection.request("CreateQueue", json.dumps({"QueueName": n}).encode()) for n in names))
    urls = [json.loads(connection.answer()[2])["QueueUrl"] for _ in names]
    assert [url.rpartition("/")[2] for url in urls] == names


ENDLESS = {
    "trailers": (b"0\r\n", b"Trailer: x\r\n"),
    "one trailer": (b"0\r\nTrailer: ", b"x" * 1000),
    "extensions": (b"", b"1;extension=" + b"x" * 500 + b"\r\nx\r\n"),
    "one extension": (b"1;extension=", b"x" * 1000),
    "one-byte chunks": (b"", b"1\r\nx\r\n"),
    "zeros before a length": (b"", b"0" * 1000),
}


@pytest.mark.parametrize("kind", ENDLESS)
def test_a_chunked_body_without_an_end_is_refused(
    server: LocalSqs, connect: Callable[[], RawClient], kind: str
) -> None:
    first, again = ENDLESS[kind]
    connection = connect()
    connection.send(connection.chunked() + first)
    with suppress(ConnectionError):  # it is refused before all is sent
        connection.send(again * (2 * MIB // len(again)))
    status, headers, body = connection.answer()
    assert (status, headers["connection"]) == (400, "close")
    assert json.loads(body)["message"].startswith("The request's body cannot be read: ")
    assert_goes_on(server)


def test_as_many_chunks_and_trailers_as_there_may_be_are_read(connect: Callable[[], RawClient]) -> None:
    connection = connect()
    body = b'{"QueueName": "q"}' + b" " * (MAX_REQUEST_CHUNKS - 19)
    trailers = b"T: x\r\n" * (MAX_HEAD_LINES - 1)
    raw = b"".join(b"1\r\n%c\r\n" % byte for byte in body) + b"0\r\n" + trailers + b"\r\n"
    connection.send(connection.request("CreateQueue", raw, "Transfer-Encoding: chunked"))
    assert connection.answer()[0] == 200
    assert connection.call("ListQueues")[0] == 200


def test_a_body_that_ends_with_the_time_of_a_slow_line_is_one_body(connect: Callable[[], RawClient]) -> None:
    connection = connect()
    raw = (
        connection.chunked().replace(b"SendMessage", b"CreateQueue")
        + b'12;n="x"\r\n{"QueueName": "q"}\r\n0\r\nT: x\r\n\r\n'
    )
    for byte in raw:
        connection.send(bytes([byte]))
        gevent.sleep(0)
    assert connection.answer()[0] == 200


class Flood:
    """A socket that always has more, as one whose client never pauses: no read of it ever waits."""

    def __init__(self, first: bytes, again: bytes) -> None:
        self.parts = iter([first])
        self.again = again

    def recv(self, size: int) -> bytes:
        return next(self.parts, self.again)[:size]

    def shutdown(self, how: int) -> None:
        """Nobody is there."""


@pytest.mark.parametrize(
    ("first", "again"),
    [
        (b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 7000000\r\n\r\n", b"x" * 1000),
        (b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
        (b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", b"T: x\r\n"),
        (b"POST / HTTP/1.1\r\nX: ", b"x"),
        (b"", b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"),
        (b"", b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n" * 1000),
    ],
    ids=["body", "chunks", "trailers", "head", "requests", "many at once"],
)
def test_whoever_sends_without_a_pause_leaves_the_others_their_turn(first: bytes, again: bytes) -> None:
    turns = 0

    def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            gevent.sleep(0)

    neighbour = gevent.spawn(other)
    admitted = Admission()
    place = admitted.admit()
    assert place is not None
    requests = HttpRequests(Flood(first or again, again), place, AccessGuard("http", "localhost"))
    with suppress(Unreadable):
        for _ in range(512):
            requests.next()
    neighbour.kill()
    admitted.close()
    assert turns >= (500 if len(again) > 10_000 else 7)  # of requests that are here already, one a turn


HEAD = b"POST / HTTP/1.1\r\nHost: localhost\r\n"


@pytest.mark.parametrize(
    "rest",
    [b"Content-Length: 3\r\n\r\nabc", b"Transfer-Encoding: chunked\r\n\r\n2;x\r\nab\r\n1\r\nc\r\n0\r\nT: x\r\n\r\n"],
    ids=["length", "chunks"],
)
def test_a_request_is_the_same_wherever_its_packets_end(rest: bytes) -> None:
    raw = HEAD + rest
    for size in range(1, len(raw)):
        flood = Flood(b"", b"")
        flood.parts = iter([raw[start : start + size] for start in range(0, len(raw), size)])
        admitted = Admission()
        place = admitted.admit()
        assert place is not None
        request = HttpRequests(flood, place, AccessGuard("http", "localhost")).next()
        admitted.close()
        assert request is not None
        assert (request.method, bytes(request.body)) == ("POST", b"abc")


def test_extensions_have_a_limit_of_their_own(connect: Callable[[], RawClient]) -> None:
    connection = connect()
    connection.send(connection.chunked() + (b"1;" + b"x" * 500 + b"\r\nx\r\n") * 200)
    assert b"extensions and trailers" in connection.answer()[2]


def test_what_came_in_chunks_is_counted() -> None:
    place, admitted = held_by(HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\n12345\r\n5\r\n123")
    assert place.held == 8
    admitted.close()


def test_whoever_goes_on_sending_after_a_refusal_leaves_the_others_their_turn() -> None:
    turns: list[None] = []
    neighbour = gevent.spawn(lambda: [turns.append(gevent.sleep(0)) for _ in range(1_000_000)])
    flood = Flood(b"x", b"x" * 65_536)
    server_module._hang_up(flood)
    neighbour.kill()
    assert len(turns) > 10


@pytest.mark.usefixtures("q")
def test_a_body_that_comes_slowly_gives_way_to_nobody(
    server: LocalSqs, connect: Callable[[], RawClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admission, "MAX_HELD_BYTES", MIB)
    monkeypatch.setattr(admission, "STALLED_SECONDS", 0.5)
    slow, other = connect(), connect()
    body = b'{"QueueUrl": "q", "MessageBody": "m"}'.ljust(1_000_000)
    slow.send(slow.request("SendMessage", b"", f"Content-Length: {len(body)}") + body[:900_000])
    for first in range(900_000, 1_000_000, 12_500):
        gevent.sleep(0.1)
        slow.send(body[first : first + 12_500])
        if first == 975_000:
            other.send(other.request("SendMessage", b"", "Content-Length: 300000") + b" " * 200_000)
            assert other.answer()[0] == 503
    assert slow.answer()[0] == 200


def test_a_long_body_is_not_kept_before_it_comes(server: LocalSqs, connect: Callable[[], RawClient]) -> None:
    place, admitted = held_by(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 7000000\r\n\r\nabc")
    assert place.held == 3
    admitted.close()


def held_by(first: bytes) -> tuple[ServerConnection, Admission]:
    admitted = Admission()
    place = admitted.admit()
    assert place is not None
    with suppress(Unreadable):
        HttpRequests(Flood(first, b""), place, AccessGuard("http", "localhost")).next()
    return place, admitted
