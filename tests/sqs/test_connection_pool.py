"""The connections against a scripted server: what is kept, what is refused, and that two answers are never mixed."""

from __future__ import annotations

import http.client
import io
import random
import re
import shutil
import socket
import ssl
import subprocess
import sys
import tracemalloc
from contextlib import suppress
from functools import partial
from itertools import chain
from pathlib import Path
from subprocess import PIPE, STDOUT

import gevent
import greenlet
import pytest
from botocore.httpsession import get_cert_path
from gevent.monkey import get_original
from gevent.select import select
from gevent.server import StreamServer
from gevent.threadpool import ThreadPool

from millpond.errors import ConfigError, Interrupt, TimeLimitExceeded, Unreachable
from millpond.sqs import http_connection as connection
from millpond.sqs.connection_pool import MAX_OPENING, ConnectionPool
from millpond.sqs.http_connection import MAX_ANSWER_BYTES, MAX_CHUNKS, HttpAnswer
from millpond.sqs.limits import MAX_BATCH, MAX_BYTES
from millpond.sqs.stream import Stream
from tests.http_server import HANG_UP, Server, pieces
from tests.smtp_server import make_certificate

ROOT = Path(__file__).parent.parent.parent
EVERYBODYS = str(get_cert_path(True))
ENDED = "the connection ended before the answer did"
LENGTH = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 11\r\n"
    b"X-Two: 1\r\nx-two: 2\r\n\r\nhello world"
)
CHUNKED = (
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"5;name=value\r\nhello\r\n006\r\n world\r\n0\r\nX-Trailer: a\r\nX-Other: b\r\n\r\n"
)
INTERIM = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + LENGTH
TO_ITS_END = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhello world"


@pytest.fixture(autouse=True)
def _bounded():
    with gevent.Timeout(60):
        yield


def send(client: ConnectionPool, body: bytes = b"{}", seconds: float = 5) -> HttpAnswer:
    return client.exchange(b"POST / HTTP/1.1\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body), seconds)


@pytest.fixture
def server():
    server = Server()
    yield server
    server.close()


@pytest.fixture
def client(server):
    one = ConnectionPool(server.url, 4)
    yield one
    one.close()


def works(client: ConnectionPool, server: Server, body: bytes = b"still right") -> None:
    """The script is over: an answer is the request's own body, and nothing of an answer before it."""
    server.script.clear()
    assert send(client, body).body == body


def idle_end(client: ConnectionPool) -> None:
    """Until the connection that goes next has something to read."""
    assert select([client._kept[-1]._stream._socket], [], [], 5)[0]


@pytest.mark.parametrize(
    ("url", "port"),
    [("https://a.org/", 443), ("http://a.org", 80), ("https://a.org:8443/", 8443), ("http://[::1]:9324", 9324)],
)
def test_the_port_is_the_urls_or_else_its_schemes(url, port):
    assert ConnectionPool(url, 1, EVERYBODYS).port == port


# --- what is kept


def test_a_connection_is_used_again(client, server):
    for number in range(5):
        assert send(client, b"%d" % number).body == b"%d" % number
    assert server.connections == 1


def test_parallel_calls_have_a_connection_each_and_no_more_are_kept_than_allowed(server):
    client = ConnectionPool(server.url, 2)
    bodies = [b"%d" % number for number in range(6)]
    calls = [gevent.spawn(send, client, body) for body in bodies]
    gevent.joinall(calls, raise_error=True)
    assert [call.value.body for call in calls] == bodies
    assert server.connections == 6
    server.wait_until_open(2)
    works(client, server)
    assert server.connections == 6
    client.close()
    server.wait_until_open(0)


def test_the_last_connection_used_goes_first(client, server):
    gevent.joinall([gevent.spawn(send, client) for _ in range(3)], raise_error=True)
    last = client._kept[-1]
    send(client)
    assert client._kept[-1] is last


def test_a_client_that_is_forgotten_closes_its_connections(server):
    client = ConnectionPool(server.url, 4)
    send(client)
    del client
    server.wait_until_open(0)


def test_the_sockets_do_not_wait_to_fill_a_segment_and_notice_a_peer_that_is_gone(client, server):
    send(client)
    sock = client._kept[-1]._stream._socket
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)


@pytest.mark.parametrize("rubbish", [[], [LENGTH], [b"x"]], ids=["closed", "an answer too many", "a byte too many"])
def test_what_happens_to_an_idle_connection_is_noticed_before_it_is_used(client, server, rubbish):
    later = gevent.event.Event()
    server.script.append([LENGTH, later.wait, *rubbish, HANG_UP])
    send(client)
    later.set()
    idle_end(client)
    works(client, server)
    assert (server.connections, len(server.requests)) == (2, 2)


def test_all_idle_connections_may_be_closed_at_once(client, server):
    gevent.joinall([gevent.spawn(send, client) for _ in range(4)], raise_error=True)
    for sock in list(server.open):
        sock.shutdown(socket.SHUT_RDWR)
    server.wait_until_open(0)
    works(client, server)
    assert len(client._kept) == 1


@pytest.mark.parametrize(
    "answer",
    [
        LENGTH.replace(b"HTTP/1.1", b"HTTP/1.0"),
        LENGTH.replace(b"X-Two: 1", b"Connection: close"),
        LENGTH.replace(b"X-Two: 1", b"connection: Keep-Alive, Close"),
        TO_ITS_END,
        LENGTH + b"x",
        CHUNKED + b"\r\n",
        LENGTH + LENGTH,
    ],
    ids=["HTTP/1.0", "close", "Close", "to its end", "one byte more", "a line more", "an answer more"],
)
def test_a_connection_is_not_kept_after_such_an_answer(client, server, answer):
    server.script.append([answer, HANG_UP] if answer is TO_ITS_END else answer)
    assert send(client).body == b"hello world"
    works(client, server)
    assert server.connections == 2


# --- answers


@pytest.mark.parametrize("answer", [LENGTH, CHUNKED, INTERIM], ids=["length", "chunked", "interim"])
@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_an_answer_arrives_in_pieces(client, server, answer, size):
    server.script.append(pieces(answer, size))
    response = send(client)
    assert (response.status, response.body) == (200, b"hello world")
    works(client, server)
    assert server.connections == 1


def test_headers_know_no_case_and_repeated_ones_are_joined(client, server):
    server.script.append(LENGTH)
    answer = send(client)
    assert [answer.header(name) for name in ("content-type", "x-two", "x-none")] == ["application/json", "1, 2", ""]


@pytest.mark.parametrize("status", [b"204 No Content", b"304 Not Modified", b"204"])
def test_some_answers_have_no_body(client, server, status):
    server.script.append(b"HTTP/1.1 %b\r\nX: 1\r\n\r\n" % status)
    assert send(client).body == b""
    works(client, server)
    assert server.connections == 1


def test_a_length_does_not_give_an_answer_a_body_that_can_have_none(client, server):
    server.script.append(b"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\nhello")
    assert send(client).body == b""
    assert not client._kept


def test_a_large_answer_is_read_whole(client, server):
    body = random.Random(1).randbytes(3_000_000)
    assert send(client, body).body == body


@pytest.mark.parametrize("answer", [LENGTH, CHUNKED, INTERIM], ids=["length", "chunked", "interim"])
def test_an_answer_cut_anywhere_is_an_error_and_never_an_answer(client, server, answer):
    for at in range(len(answer)):
        server.script.append([answer[:at], HANG_UP])
        with pytest.raises(Unreachable, match=ENDED):
            send(client)
        assert not client._kept
    assert len(server.requests) == server.connections == len(answer)
    works(client, server)


@pytest.mark.parametrize("answer", [LENGTH, CHUNKED, INTERIM], ids=["length", "chunked", "interim"])
def test_an_answer_that_stops_is_a_time_out(server, answer):
    client = ConnectionPool(server.url, 4)
    for at in range(0, len(answer), 9):
        works(client, server)  # a connection is there: on a busy machine it may take longer than the answer is given
        server.script.append(answer[:at])
        with pytest.raises(Unreachable, match=r"no answer in 0.05 s"):
            send(client, seconds=0.05)
        assert not client._kept
    server.wait_until_open(0)


def test_an_answer_that_trickles_has_the_same_time_as_one_that_stops(server):
    client = ConnectionPool(server.url, 4)
    works(client, server)
    server.script.append(piece for _ in iter(int, 1) for piece in (b"H", lambda: gevent.sleep(0.01)))
    with gevent.Timeout(10), pytest.raises(Unreachable, match=r"no answer in 0.1 s"):
        send(client, seconds=0.1)


def test_a_request_that_cannot_leave_is_a_time_out_too(server):
    client = ConnectionPool(server.url, 4)
    server.script.append([LENGTH, lambda: gevent.sleep(5)])  # reads no more
    send(client)
    with pytest.raises(Unreachable, match=r"no answer in 0.1 s"):
        send(client, bytes(30_000_000), seconds=0.1)


@pytest.mark.parametrize(
    "answer",
    [
        b"\r\n" + LENGTH,
        b"220 mail.example ESMTP\r\n\r\n",
        b"HTTP/2 200\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 099 x\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 2000\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\nContent-Length: 0\n\n\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n",
        b"HTTP/1.0 200 OK\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: +1\r\n\r\nx",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1_0\r\n\r\nhello worl",
        b"HTTP/1.1 200 OK\r\nContent-Length: \xb2\r\n\r\nxx",
        b"HTTP/1.1 200 OK\r\nContent-Length: \r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length : 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: 1\r\n folded\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: a\0b\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: a\rb\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n: 1\r\nContent-Length: 0\r\n\r\n",
        *(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks
            for chunks in (b"\r\n\r\n", b"-1\r\nx\r\n0\r\n\r\n", b"0x1\r\nx\r\n0\r\n\r\n", b"1\r\nxyz0\r\n\r\n")
        ),
    ],
)
def test_what_is_not_exactly_http_is_no_answer(client, server, answer):
    server.script.append(answer)
    with pytest.raises(Unreachable, match="no HTTP"):
        send(client)
    works(client, server)
    assert server.connections == 2


def endless(start: bytes, more: bytes):
    yield start
    while True:
        yield more


@pytest.mark.parametrize(
    ("start", "more"),
    [
        (b"HTTP/1.1 200 OK\r\n", b"X: y\r\n" * 100),
        (b"HTTP/1.1 200 O", b"K" * 1000),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 999999999\r\n\r\n", b"x"),
        (b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n", b"x" * 1000),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n" * 100),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffff\r\n", b"x" * 1000),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;", b"x" * 1000),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", b"X: y\r\n" * 100),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 100),
    ],
    ids=["headers", "reason", "length", "to its end", "chunks", "chunk", "extension", "trailers", "interim"],
)
def test_an_answer_without_end_is_given_up(client, server, monkeypatch, start, more):
    monkeypatch.setattr(connection, "MAX_ANSWER_BYTES", 200_000)
    server.script.append(endless(start, more))
    with pytest.raises(Unreachable, match=r"longer than (65,536|200,000) bytes"):
        send(client)
    works(client, server)


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n",
    ],
    ids=["length", "after an interim one", "chunk"],
)
def test_an_answer_that_says_itself_that_it_is_too_long_is_not_waited_for(client, server, head):
    server.script.append([head % (MAX_ANSWER_BYTES + 1), b"x"])
    with pytest.raises(Unreachable, match="longer than 67,108,864 bytes") as caught:
        send(client, seconds=20)
    assert caught.value.code == "AnswerTooLarge"  # fewer messages might fit
    works(client, server)


@pytest.mark.parametrize("coding", ["length", "chunked", "to its end"])
@pytest.mark.parametrize("pieces_of", [1_000_000, 97])
def test_an_answer_may_have_so_many_bytes_and_not_one_more(server, monkeypatch, coding, pieces_of):
    monkeypatch.setattr(connection, "MAX_ANSWER_BYTES", 1_000)
    client = ConnectionPool(server.url, 4)
    for size, fits in ((1_000, True), (1_001, False)):
        start, end = {
            "length": (b"Content-Length: %d\r\n\r\n", b""),
            "chunked": (b"Transfer-Encoding: chunked\r\n\r\n%x\r\n", b"\r\n0\r\n\r\n"),
            "to its end": (b"Connection: close\r\nX: %d\r\n\r\n", b""),
        }[coding]
        head = b"HTTP/1.1 200 OK\r\n" + start
        body = size - len(head % 900) - len(end)
        answer = head % body + b"x" * body + end
        assert len(answer) == size
        ends = [HANG_UP] if coding == "to its end" else []
        server.script.append([answer, *ends] if pieces_of > size else [*pieces(answer, pieces_of), *ends])
        if fits:
            assert len(send(client).body) == body
        else:
            with pytest.raises(Unreachable, match="longer than 1,000 bytes"):
                send(client)
    client.close()


def test_the_longest_answer_that_sqs_can_send_is_read():
    """Ten messages of 1 MiB, of whose bytes JSON makes six each, and what stands around them."""
    assert 6 * MAX_BATCH * MAX_BYTES + MAX_BATCH * 65_536 < MAX_ANSWER_BYTES


@pytest.mark.parametrize("coding", ["length", "chunked", "to its end"])
def test_a_large_answer_is_in_memory_once(server, coding):
    size, body = 20_000_000, b"x" * 1_000_000
    length = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    pieces_of = {
        "length": [length, *[body] * 20],
        "chunked": [chunked, *[b"%x\r\n%b\r\n" % (len(body), body)] * 20, b"0\r\n\r\n"],
        "to its end": [b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n", *[body] * 20, HANG_UP],
    }
    client = ConnectionPool(server.url, 1)
    server.script.append(pieces_of[coding])
    tracemalloc.start()
    try:
        answer = send(client)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert answer.body == body * 20
    assert peak < 1.5 * size
    client.close()


def test_an_answer_in_many_small_chunks_is_read_and_one_in_endless_many_is_not(client, server):
    head, chunk = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"
    server.script.append(head + chunk * (MAX_CHUNKS - 1) + b"0\r\n\r\n")
    assert send(client).body == b"x" * (MAX_CHUNKS - 1)
    server.script.append(head + chunk * MAX_CHUNKS + b"0\r\n\r\n")
    with pytest.raises(Unreachable, match="in more than 65,536 chunks"):
        send(client)
    works(client, server)


@pytest.mark.parametrize(
    ("start", "more", "end"),
    [
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n", LENGTH),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", b"X: y\r\n", b"\r\n"),
    ],
    ids=["interim", "trailers"],
)
def test_interim_answers_and_trailers_may_be_as_long_as_a_head(client, server, start, more, end):
    server.script.append(start + more * (60_000 // len(more)) + end)
    assert send(client).status == 200
    server.script.append(start + more * (70_000 // len(more)) + end)
    with pytest.raises(Unreachable, match=r"longer than 65,536 bytes"):
        send(client)
    works(client, server)


WORDS = [
    b"\r\n",
    b"\n",
    b"\r\n\r\n",
    b"0\r\n\r\n",
    b"Content-Length: 3\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"close",
]
WORDS += [b"HTTP/1.1 204 x\r\n", b"HTTP/1.0 200 OK\r\n", b"Connection: close\r\n", b":", b" ", b"\0", b"\xff", b"7"]


def mutated(answer: bytes, dice: random.Random) -> bytes:
    data = bytearray(answer)
    for _ in range(dice.choice([1, 1, 1, 2, 3, 8])):
        at, until = sorted(dice.randrange(len(data) + 1) for _ in range(2))
        match dice.randrange(5):
            case 0:
                data[at : at + 1] = dice.randbytes(1)
            case 1:
                data[at:at] = dice.choice(WORDS)
            case 2:
                del data[at : min(until, at + dice.choice([1, 4, 40]))]
            case 3:
                data[at:at] = data[at:until]
            case _:
                data[at : at + 2] = dice.choice(WORDS)
    return bytes(data)


class Wire:
    def __init__(self, data: bytes) -> None:
        self.makefile = lambda mode: io.BytesIO(data)


def as_the_standard_library_reads(data: bytes) -> tuple[int, bytes]:
    with http.client.HTTPResponse(Wire(data), method="POST") as response:  # type: ignore[arg-type]
        response.begin()
        return response.status, response.read()


@pytest.mark.slow
def test_thousands_of_mangled_answers_are_read_as_the_standard_library_reads_them_or_are_errors(client, server):
    dice = random.Random(20260501)
    answers = wrong = 0
    for _ in range(3000):
        answer = mutated(dice.choice([LENGTH, LENGTH, CHUNKED, TO_ITS_END]), dice)
        server.script.append([answer, HANG_UP])
        try:
            response = send(client)
        except Unreachable:
            wrong += 1
        else:
            answers += 1
            assert (response.status, response.body) == as_the_standard_library_reads(answer), answer
    assert min(answers, wrong) > 300
    works(client, server)


def test_mangled_answers_on_a_connection_that_stays_open_never_hang_nor_reach_the_next_call(server):
    client, dice = ConnectionPool(server.url, 4), random.Random(7)
    for number in range(300):
        server.script.append(mutated(dice.choice([LENGTH, CHUNKED, INTERIM]), dice))
        try:
            send(client, seconds=0.02)
        except Unreachable:
            assert not client._kept
        works(client, server, b"call %d" % number)


# --- requests


@pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])
def test_a_request_longer_than_any_buffer_is_sent_whole(certificate, tls):
    server = Server(certificate.server_context() if tls else None)
    client = ConnectionPool(server.url, 1, str(certificate.pem))
    works(client, server)  # over TLS a fresh one has just shaken hands
    client._kept[-1]._stream._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 10_000)
    works(client, server, random.Random(3).randbytes(3_000_000))
    assert server.connections == 1
    client.close()
    server.close()


def test_a_request_is_never_sent_twice(client, server):
    works(client, server)
    server.script.append([HANG_UP])
    with pytest.raises(Unreachable, match=ENDED):
        send(client)
    assert (server.connections, len(server.requests)) == (1, 2)


# --- errors of the way


def test_a_port_where_nobody_listens(server):
    server.close()
    with pytest.raises(Unreachable, match=rf"no connection to 127\.0\.0\.1:{server.port}: .*refused"):
        send(ConnectionPool(server.url, 4))


@pytest.mark.parametrize(
    "error",
    [
        socket.gaierror(-2, "Name or service not known"),
        OSError(101, "Network is unreachable"),
        UnicodeError("label too long"),
        TimeoutError("in time"),
    ],
)
def test_a_host_that_cannot_be_reached(monkeypatch, error):
    def fail(host, port, **_):
        assert (host, port) == ("queue.example", 80)
        raise error

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    with pytest.raises(Unreachable, match=rf"no connection to queue\.example:80: .*{error.args[-1]}"):
        send(ConnectionPool("http://queue.example", 4), seconds=30)


def test_a_call_that_may_take_long_is_not_long_without_a_connection(monkeypatch):
    monkeypatch.setattr("millpond.sqs.connection_pool.CONNECT_SECONDS", 0.2)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **more: gevent.sleep(60))
    with gevent.Timeout(5), pytest.raises(Unreachable, match="not found in time"):
        send(ConnectionPool("http://queue.example", 4), seconds=30)


def interrupted(call, at: int) -> tuple[bool, int]:
    """Throws into the call at its switch number `at` to the hub; whether that ended it, and how often it switched."""
    switches, outcome, hub = 0, [], gevent.get_hub()

    def run() -> None:
        try:
            call()
        except Interrupt:
            outcome.append("interrupted")

    victim = gevent.Greenlet(run)

    def throw() -> None:
        if not victim.ready():
            victim.throw(TimeLimitExceeded("900 s"))

    def trace(event: str, pair: tuple[object, object]) -> None:
        nonlocal switches
        if event == "switch" and pair[0] is victim and pair[1] is hub:
            switches += 1
            if switches == at:
                hub.loop.run_callback(throw)

    before = greenlet.settrace(trace)
    try:
        victim.start()
        victim.join()
    finally:
        greenlet.settrace(before)
    return bool(outcome), switches


@pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])
@pytest.mark.parametrize("kept", [False, True], ids=["new", "kept"])
@pytest.mark.parametrize("answer", [LENGTH, CHUNKED, INTERIM], ids=["length", "chunked", "interim"])
def test_an_interrupt_anywhere_closes_the_connection(certificate, tls, kept, answer):
    server = Server(certificate.server_context() if tls else None)
    most = 0
    for at in range(1, 300):
        client = ConnectionPool(server.url, 4, str(certificate.pem))
        if kept:
            works(client, server)
        server.script.append(pieces(answer, 30))
        hit, switches = interrupted(partial(send, client), at)
        most = max(most, switches)
        assert len(client._kept) == (not hit)
        works(client, server)
        client.close()
        server.wait_until_open(0)
        if not hit:
            break
    server.close()
    assert not hit
    assert most >= (3 if kept else 4)


def test_a_time_out_of_the_callers_own_closes_the_connection(client, server):
    server.script.append([LENGTH[:20], lambda: gevent.sleep(5)])
    with pytest.raises(gevent.Timeout), gevent.Timeout(0.05):
        send(client)
    works(client, server)
    assert server.connections == 2


# --- TLS


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    return make_certificate(tmp_path_factory.mktemp("certificate"))


@pytest.fixture
def secure(certificate):
    server = Server(certificate.server_context())
    yield server
    server.close()


def test_what_comes_with_an_answer_over_tls_is_not_the_next_calls(certificate):
    """In one segment with the answer it was in our memory already, where the system's socket does not tell of it."""
    server = Server(certificate.server_context())
    client = ConnectionPool(server.url, 4, str(certificate.pem))

    def cork(on: int):
        return lambda: next(iter(server.open)).setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, on)

    server.script.append([cork(1), LENGTH, LENGTH, cork(0)])
    assert send(client).body == b"hello world"
    assert [send(client, body).body for body in (b"one", b"two")] == [b"one", b"two"]
    assert server.connections == 2
    server.close()


BEHIND = {
    "plain text": b"HTTP/1.1 400 Bad Request\r\n\r\n",
    "an end in the clear": b"\x15\x03\x03\x00\x02\x01\x00",
    "an alert in the clear": b"\x15\x03\x03\x00\x02\x02\x28",
    "a handshake message in the clear": b"\x16\x03\x03\x00\x04\x00\x00\x00\x00",
    "half a record": b"\x17\x03\x03\x00\x20abc",
    "the head of a record": b"\x17\x03\x03\x00\x20",
    "a byte": b"\x17",
    "a record of noise": b"\x17\x03\x03\x00\x20" + random.Random(1).randbytes(32),
    "an empty record": b"\x17\x03\x03\x00\x00",
    "noise": random.Random(2).randbytes(300),
    "much noise": b"\x17\x03\x03\x40\x00" * 60_000,
}


@pytest.mark.parametrize("when", ["at once", "later"])
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("behind", BEHIND.values(), ids=BEHIND)
def test_what_is_no_tls_behind_a_whole_answer_costs_a_connection_and_no_call(certificate, behind, version, when):
    context = certificate.server_context()
    context.minimum_version = context.maximum_version = version
    server = Server(context)
    client = ConnectionPool(server.url, 4, str(certificate.pem))
    later = gevent.event.Event()

    def raw(call: str, *arguments):
        return lambda: getattr(next(iter(server.open))._sock, call)(*arguments)

    def cork(on: int):
        return raw("setsockopt", socket.IPPROTO_TCP, socket.TCP_CORK, on)

    at_once = [cork(1), LENGTH, raw("send", behind), cork(0)]
    server.script.append(at_once if when == "at once" else [LENGTH, later.wait, raw("send", behind)])
    assert send(client).body == b"hello world"
    if when == "later":
        later.set()
        idle_end(client)
    assert [send(client, body).body for body in (b"one", b"two")] == [b"one", b"two"]
    assert server.connections == 2
    client.close()
    server.close()


@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize("extra", [1, 16_000, 200_000])
def test_what_stands_behind_a_long_body_is_never_the_next_calls_answer(certificate, extra, tls):
    """A body in pieces is read to its place and no further: what is behind it stays in the kernel, or in OpenSSL."""
    server = Server(certificate.server_context() if tls else None)
    client = ConnectionPool(server.url, 4, str(certificate.pem) if tls else "")
    body = random.Random(3).randbytes(100_000)
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 100000\r\n\r\n"
    evil = (b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil" * (extra // 40 + 1))[:extra]
    for at in (1, 50_000, 99_999):
        server.script.append(
            [head, lambda: gevent.sleep(0.02), body[:at], lambda: gevent.sleep(0.02), body[at:] + evil]
        )
        assert send(client).body == body
        assert [send(client, one).body for one in (b"one", b"two")] == [b"one", b"two"]
    assert server.connections == 4
    client.close()
    server.close()


@pytest.mark.parametrize("tls", [False, True])
def test_a_body_that_trickles_has_the_time_of_its_call_and_no_more(certificate, tls):
    server = Server(certificate.server_context() if tls else None)
    client = ConnectionPool(server.url, 4, str(certificate.pem) if tls else "")
    send(client)
    drops = [drop for _ in range(1_000) for drop in (b"x", lambda: gevent.sleep(0.01))]
    server.script.append([b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n", *drops])
    with gevent.Timeout(5), pytest.raises(Unreachable, match=r"no answer in 0\.3 s"):
        send(client, seconds=0.3)
    client.close()
    server.close()


def test_a_length_that_is_only_claimed_takes_no_memory(client, server):
    works(client, server)
    server.script.append([b"HTTP/1.1 200 OK\r\nContent-Length: 60000000\r\n\r\nx", HANG_UP])
    tracemalloc.start()
    try:
        with pytest.raises(Unreachable):
            send(client)
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs the openssl command")
def test_what_a_tls_server_says_to_tls_alone_is_not_taken_for_an_answer(certificate):
    """A key update of TLS 1.3, at a moment of the server's choice: as a session ticket, it is not for us."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = ["openssl", "s_server", "-accept", f"127.0.0.1:{port}", "-naccept", "1", "-tls1_3"]
    command += ["-cert", str(certificate.pem)]  # the key is in it too
    with subprocess.Popen(command, stdin=PIPE, stdout=PIPE, stderr=STDOUT) as server:
        assert server.stdin is not None
        assert server.stdout is not None

        def tell(data: bytes) -> None:
            server.stdin.write(data)
            server.stdin.flush()

        def answered(number: int) -> bytes:
            call = gevent.spawn(send, client, b"call %d\n" % number)
            while b"call %d" % number not in (line := server.stdout.readline()):
                assert line
            tell(LENGTH)
            return call.get().body

        while b"ACCEPT" not in server.stdout.readline():
            pass
        client = ConnectionPool(f"https://127.0.0.1:{port}", 4, str(certificate.pem))
        for number in range(3):
            assert answered(number) == b"hello world"
            tell(b"K\n" if number else b"k\n")  # it takes no second connection
            idle_end(client)
        client.close()
        server.terminate()


def test_a_limit_that_lost_the_race_against_the_answer_cuts_no_later_wait():
    """Where the hub stood still across both: the limit's error came a turn later, into the next call."""
    ours, theirs = socket.socketpair()
    stream, got = Stream(ours), []

    def call() -> None:
        stream.limit(0.02)
        with suppress(TimeoutError):
            stream.wait()
        got.append(stream.recv())
        stream.limit(5)
        stream.wait()
        got.append(stream.recv())

    caller = gevent.spawn(call)
    gevent.sleep(0)
    theirs.send(b"one")
    get_original("time", "sleep")(0.05)
    gevent.sleep(0.01)
    theirs.send(b"two")
    caller.get(timeout=5)
    assert got == [b"one", b"two"]
    ours.close()
    theirs.close()


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_connection_over_tls_is_kept_too(certificate, version):
    """TLS 1.3 sends session tickets of its own accord: they are no rubbish."""
    context = certificate.server_context()
    context.minimum_version = context.maximum_version = version
    server = Server(context)
    client = ConnectionPool(server.url, 4, str(certificate.pem))
    for number in range(5):
        works(client, server, b"%d" % number * 50_000)
    assert server.connections == 1
    assert client._kept[-1]._stream._tls.version() == version.name.replace("_", ".")
    later = gevent.event.Event()
    server.script.append([LENGTH, later.wait, lambda: next(iter(server.open)).unwrap()])
    send(client)
    later.set()
    idle_end(client)
    works(client, server)
    assert server.connections == 2
    client.close()
    server.close()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_the_certificate_is_for_a_name_or_an_address(certificate, secure, host):
    url = f"https://{host}:{secure.port}"
    assert send(ConnectionPool(url, 4, str(certificate.pem)), b"x").body == b"x"


def test_a_certificate_that_nobody_trusts_is_refused(secure):
    with pytest.raises(Unreachable, match=r"no TLS to .*certificate verify failed"):
        send(ConnectionPool(secure.url, 4, EVERYBODYS))
    while not secure.lost:
        gevent.sleep(0.001)
    assert secure.requests == []
    assert "alert unknown ca" in secure.lost[0]  # it is told why


def test_a_certificate_for_another_host_is_refused(tmp_path):
    other = make_certificate(tmp_path, "other.example", "127.0.0.9")
    server = Server(other.server_context())
    for host in ("127.0.0.1", "localhost"):
        url = f"https://{host}:{server.port}"
        with pytest.raises(Unreachable, match=r"no TLS to .*mismatch"):
            send(ConnectionPool(url, 4, str(other.pem)))
    assert server.requests == []
    server.close()


def test_a_server_without_tls_is_an_ssl_error(certificate):
    with socket.create_server(("127.0.0.1", 0)) as plain:
        url = f"https://127.0.0.1:{plain.getsockname()[1]}"
        call = gevent.spawn(send, ConnectionPool(url, 4, str(certificate.pem)))
        peer, _ = plain.accept()
        with peer:
            peer.sendall(LENGTH)
            with pytest.raises(Unreachable, match="no TLS"):
                call.get()


def test_a_handshake_that_stops_is_a_connect_time_out(certificate):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"https://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(Unreachable, match=r"no TLS to .*timed out"):
            send(ConnectionPool(url, 4, str(certificate.pem)), seconds=0.05)


def test_an_answer_cut_under_tls_is_an_error_even_where_only_the_end_says_that_it_is_whole(certificate, secure):
    client = ConnectionPool(secure.url, 4, str(certificate.pem))
    secure.script.append([TO_ITS_END, HANG_UP])  # without the closing alert: anyone on the way could have done it
    with pytest.raises(Unreachable, match=ENDED):
        send(client)
    secure.script.append([TO_ITS_END, lambda: next(iter(secure.open)).unwrap(), HANG_UP])
    assert send(client).body == b"hello world"


def test_a_record_that_trickles_has_the_same_time_as_one_that_stops(certificate, secure):
    client = ConnectionPool(secure.url, 4, str(certificate.pem))
    works(client, secure)
    [sock] = secure.open
    header = b"\x17\x03\x03\x40\x00"  # a record of 16 KiB
    drip = (piece for _ in iter(int, 1) for piece in (lambda: sock._sock.send(b"x"), lambda: gevent.sleep(0.01)))
    secure.script.append(chain([lambda: sock._sock.send(header)], drip))
    with gevent.Timeout(5), pytest.raises(Unreachable, match=r"no answer in 0.1 s"):
        send(client, seconds=0.1)


def test_a_handshake_that_trickles_has_the_same_time_as_one_that_stops(certificate):
    def trickle(sock, address):
        with suppress(OSError):
            sock.send(b"\x16\x03\x03\x40\x00")
            while True:
                sock.send(b"\0")
                gevent.sleep(0.01)

    server = StreamServer(("127.0.0.1", 0), trickle)
    server.start()
    with gevent.Timeout(5), pytest.raises(Unreachable, match="timed out"):
        send(ConnectionPool(f"https://127.0.0.1:{server.server_port}", 4, str(certificate.pem)), seconds=0.1)
    server.stop(0)


def test_one_context_serves_all_connections_to_a_bundle(certificate):
    url, bundle = "https://queue.example", str(certificate.pem)
    assert ConnectionPool(url, 4, bundle).tls is ConnectionPool(url, 4, bundle).tls
    assert ConnectionPool(url, 4, EVERYBODYS).tls is not ConnectionPool(url, 4, bundle).tls


def test_a_ca_bundle_that_is_not_there_or_is_empty_is_a_finding(tmp_path):
    (tmp_path / "empty.pem").touch()
    for path in (tmp_path / "no.pem", tmp_path / "empty.pem"):
        with pytest.raises(ConfigError, match=rf"the CA bundle {re.escape(str(path))} \(AWS_CA_BUNDLE"):
            ConnectionPool("https://queue.example", 4, str(path))


# --- how many are opened


def test_few_connections_are_opened_at_the_same_moment_and_a_call_takes_one_that_comes_free(monkeypatch, server):
    opening, most, find = 0, 0, socket.getaddrinfo

    def slow(*asked, **more):
        nonlocal opening, most
        opening += 1
        most = max(most, opening)
        gevent.sleep(0.01)
        opening -= 1
        return find(*asked, **more)

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    client = ConnectionPool(server.url, 50)
    gevent.joinall([gevent.spawn(send, client) for _ in range(50)], raise_error=True)
    assert most == MAX_OPENING
    assert server.connections < 50


def test_who_waits_for_others_to_open_theirs_waits_no_longer_than_its_call_may_take(monkeypatch, server):
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **more: gevent.sleep(5))
    client = ConnectionPool(server.url, 4)
    with gevent.Timeout(10):
        others = [gevent.spawn(send, client) for _ in range(MAX_OPENING)]
        gevent.idle()
        with pytest.raises(Unreachable, match="other calls are still opening theirs"):
            send(client, seconds=0.05)
    gevent.killall(others)


def test_an_interrupt_of_one_who_opens_lets_the_next_one_open(monkeypatch, server):
    find = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **more: gevent.sleep(5))
    client = ConnectionPool(server.url, 4)
    for _ in range(2 * MAX_OPENING):
        with pytest.raises(gevent.Timeout), gevent.Timeout(0.001):
            send(client)
    monkeypatch.setattr(socket, "getaddrinfo", find)
    works(client, server)


# --- real threads beside the hub


@pytest.fixture(params=["http", "https"])
def either(request, certificate):
    server = Server(certificate.server_context() if request.param == "https" else None)
    yield server
    server.close()


@pytest.mark.parametrize("beside", [False, True], ids=["threads alone", "beside greenlets"])
def test_real_threads_share_connections_of_their_own_and_never_the_hubs(either, certificate, beside):
    client = ConnectionPool(either.url, 8, str(certificate.pem))
    pool = ThreadPool(4)

    def work(name: int) -> None:
        for number in range(25):
            body = b"%d of %d" % (number, name)
            assert send(client, body, 20).body == body

    threads = [pool.spawn(work, name) for name in range(4)]
    greenlets = [gevent.spawn(work, name) for name in range(4, 8)] if beside else []
    for one in (*threads, *greenlets):
        one.get()
    pool.kill()
    assert len(either.requests) == (200 if beside else 100)
    assert either.connections <= (8 if beside else 4)
    client.close()
    either.wait_until_open(0)


# --- processes of their own: unpatched as a web process, and forked

SCRIPT = """
import os, sys, threading
if "gevent" in sys.argv:
    from gevent import monkey; monkey.patch_all()
from millpond.sqs.connection_pool import ConnectionPool

client = ConnectionPool(sys.argv[1], 3, sys.argv[2])

def call(body):
    wire = b"POST / HTTP/1.1\\r\\nContent-Length: %d\\r\\n\\r\\n%b" % (len(body), body)
    answer = client.exchange(wire, 20).body
    assert answer == body, (answer, body)
"""
THREADS = """
def work(name):
    for number in range(40):
        call(b"%d of %d" % (number, name))
    done.append(name)
done, threads = [], [threading.Thread(target=work, args=(name,)) for name in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
assert len(done) == 8
assert 1 <= len(client._kept) <= 3
assert "gevent" not in sys.modules
"""
FORK = """
call(b"parent 1")
child = os.fork()
if not child:
    call(b"child 1")
    call(b"child 2")
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
call(b"parent 2")
"""


def in_a_process(program: str, *arguments: str) -> None:
    command = [sys.executable, "-W", "error", "-c", SCRIPT + program, *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=50)
    assert (done.returncode, done.stderr) == (0, "")


def test_threads_of_an_unpatched_process_share_their_connections(either, certificate):
    in_a_process(THREADS, either.url, str(certificate.pem))
    assert len(either.requests) == 320
    either.wait_until_open(0)


@pytest.mark.parametrize("patched", [(), ("gevent",)], ids=["unpatched", "gevent"])
def test_a_forked_process_opens_connections_of_its_own(either, certificate, patched):
    in_a_process(FORK, either.url, str(certificate.pem), *patched)
    bodies = [wire.partition(b"\r\n\r\n")[2] for wire in either.requests]
    assert bodies == [b"parent 1", b"child 1", b"child 2", b"parent 2"]
    assert either.connections == 2
