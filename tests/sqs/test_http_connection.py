"""What is an answer and what is not, and that two answers are never mixed."""

from __future__ import annotations

import http.client
import io
import random
import socket
import time
import tracemalloc
from contextlib import suppress

import gevent
import pytest

from millpond.errors import Unreachable
from millpond.sqs import http_connection as connection
from millpond.sqs.connection_pool import ConnectionPool
from millpond.sqs.http_connection import MAX_ANSWER_BYTES, MAX_CHUNKS, HttpConnection
from millpond.sqs.limits import MAX_BATCH, MAX_BYTES
from millpond.sqs.stream import Stream
from tests.http_server import HANG_UP, Server, pieces
from tests.sqs.scripted import CHUNKED, ENDED, INTERIM, LENGTH, TO_ITS_END, send, works


@pytest.fixture(autouse=True)
def _bounded():
    with gevent.Timeout(60):
        yield


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


class Drip(Stream):
    """Brings a byte at each read, so fast that no read waits."""

    def __init__(self, head: bytes) -> None:
        self._first, self._rest = socket.socketpair()
        super().__init__(self._first)
        self._rest.send(head)

    def close(self) -> None:
        super().close()
        self._rest.close()

    def recv(self) -> bytes:
        with suppress(BlockingIOError):
            return self._raw.recv(1000)
        return b"x"

    def recv_into(self, room: memoryview) -> int:
        return 1


@pytest.mark.clock
@pytest.mark.parametrize("framing", [b"Content-Length: 60000000", b"Connection: close"])
def test_an_answer_whose_reads_never_wait_has_the_same_time(framing):
    stream = Drip(b"HTTP/1.1 200 OK\r\n%b\r\n\r\n" % framing)
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        HttpConnection(stream).exchange(b"", 0.1)
    assert time.monotonic() - began < 1
    stream.close()


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
    with pytest.raises(Unreachable, match="not valid HTTP"):
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
    assert peak < 1.8 * size
    client.close()


def test_an_answer_in_many_small_chunks_is_read_and_one_in_endless_many_is_not(client, server):
    head, chunk = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"
    server.script.append(head + chunk * (MAX_CHUNKS - 1) + b"0\r\n\r\n")
    assert send(client, seconds=60).body == b"x" * (MAX_CHUNKS - 1)
    server.script.append(head + chunk * MAX_CHUNKS + b"0\r\n\r\n")
    with pytest.raises(Unreachable, match="in more than 65,536 chunks"):
        send(client, seconds=60)
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
