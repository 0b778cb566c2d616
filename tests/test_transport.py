"""The transport against a scripted server: what it keeps, what it refuses, and that it never mixes two answers."""

from __future__ import annotations

import http.client
import io
import random
import re
import socket
import ssl
import subprocess
import sys
from collections import deque
from pathlib import Path

import gevent
import greenlet
import pytest
from botocore.awsrequest import AWSRequest, AWSResponse
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ConnectionClosedError,
    ConnectTimeoutError,
    EndpointConnectionError,
    HTTPClientError,
    ReadTimeoutError,
    SSLError,
)
from botocore.httpsession import URLLib3Session
from gevent.select import select
from gevent.server import StreamServer

from millpond import connection, transport
from millpond.errors import ConfigError, Interrupt, QueueMissing, TimeLimitExceeded
from millpond.sqs import SqsQueue, connect
from millpond.transport import Transport
from tests.smtp_server import make_certificate

ROOT = Path(__file__).parent.parent
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


@pytest.fixture(autouse=True)
def _settings(monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    for name in ("AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


class Server:
    """Answers each request with the next step of `script`, or else with the request's own body.

    A step is bytes, or pieces of bytes and of callables. `HANG_UP` ends the connection.
    """

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.script: deque = deque()
        self.requests: list[bytes] = []
        self.connections = 0
        self.open: set[socket.socket] = set()
        self._tls = tls
        self._server = StreamServer(("127.0.0.1", 0), self._serve)
        self._server.start()
        self.port = self._server.server_port
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self.port}"

    def close(self) -> None:
        self._server.stop(0)

    def _serve(self, sock: socket.socket, address: object) -> None:
        self.connections += 1
        try:
            if self._tls is not None:
                sock = self._tls.wrap_socket(sock, server_side=True, suppress_ragged_eofs=True)
            self.open.add(sock)
            with sock.makefile("rb") as stream:
                while wire := _request(stream):
                    self.requests.append(wire)
                    self._answer(sock, self.script.popleft() if self.script else echo(wire))
        except OSError:
            pass  # the client has gone, or never wanted this certificate
        finally:
            self.open.discard(sock)
            sock.close()

    def _answer(self, sock: socket.socket, step) -> None:
        for piece in [step] if isinstance(step, bytes) else step:
            if callable(piece):
                piece()
            else:
                sock.sendall(piece)
                gevent.sleep(0)

    def wait_until_open(self, number: int) -> None:
        while len(self.open) != number:
            gevent.sleep(0.001)


def _request(stream: io.BufferedReader) -> bytes:
    head = b""
    while (line := stream.readline()) not in (b"", b"\r\n"):
        head += line
    length = re.search(rb"(?im)^content-length: (\d+)", head)
    return head + b"\r\n" + stream.read(int(length[1])) if head and length else b""


def HANG_UP() -> None:  # noqa: N802
    raise ConnectionResetError


def echo(wire: bytes) -> bytes:
    body = wire.partition(b"\r\n\r\n")[2]
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)


def prepared(url: str, body: bytes = b"{}", **headers: str):
    return AWSRequest(method="POST", url=f"{url}/", data=body, headers=headers).prepare()


def config(**settings) -> Config:
    return Config(**{"connect_timeout": 5, "read_timeout": 5, "max_pool_connections": 4} | settings)


@pytest.fixture
def server():
    server = Server()
    yield server
    server.close()


@pytest.fixture
def client(server):
    one = Transport(server.url, config())
    yield one
    one.close()


def pieces(answer: bytes, size: int):
    """Each arrives before the next leaves."""
    for at in range(0, len(answer), size):
        yield answer[at : at + size]
        yield lambda: gevent.sleep(0.001)


def works(client: Transport, server: Server, body: bytes = b"still right") -> None:
    """The script is over: an answer is the request's own body, and nothing of an answer before it."""
    server.script.clear()
    assert client.send(prepared(server.url, body)).content == body


def idle_end(client: Transport) -> None:
    """Until the connection that goes next has something to read."""
    assert select([client._kept[-1]._socket], [], [], 5)[0]


# --- what is kept


def test_a_connection_is_used_again(client, server):
    for number in range(5):
        assert client.send(prepared(server.url, b"%d" % number)).content == b"%d" % number
    assert server.connections == 1


def test_parallel_calls_have_a_connection_each_and_no_more_are_kept_than_allowed(server):
    client = Transport(server.url, config(max_pool_connections=2))
    bodies = [b"%d" % number for number in range(6)]
    calls = [gevent.spawn(client.send, prepared(server.url, body)) for body in bodies]
    gevent.joinall(calls, raise_error=True)
    assert [call.value.content for call in calls] == bodies
    assert server.connections == 6
    server.wait_until_open(2)
    works(client, server)
    assert server.connections == 6
    client.close()
    server.wait_until_open(0)


def test_the_last_connection_used_goes_first(client, server):
    gevent.joinall([gevent.spawn(client.send, prepared(server.url)) for _ in range(3)], raise_error=True)
    last = client._kept[-1]
    client.send(prepared(server.url))
    assert client._kept[-1] is last


def test_a_client_that_is_forgotten_closes_its_connections(server):
    client = Transport(server.url, config())
    client.send(prepared(server.url))
    del client
    server.wait_until_open(0)


def test_the_sockets_do_not_wait_to_fill_a_segment_and_notice_a_peer_that_is_gone(client, server):
    client.send(prepared(server.url))
    sock = client._kept[-1]._socket
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)


@pytest.mark.parametrize("rubbish", [[], [LENGTH], [b"x"]], ids=["closed", "an answer too many", "a byte too many"])
def test_what_happens_to_an_idle_connection_is_noticed_before_it_is_used(client, server, rubbish):
    later = gevent.event.Event()
    server.script.append([LENGTH, later.wait, *rubbish, HANG_UP])
    client.send(prepared(server.url))
    later.set()
    idle_end(client)
    works(client, server)
    assert (server.connections, len(server.requests)) == (2, 2)


def test_all_idle_connections_may_be_closed_at_once(client, server):
    gevent.joinall([gevent.spawn(client.send, prepared(server.url)) for _ in range(4)], raise_error=True)
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
    assert client.send(prepared(server.url)).content == b"hello world"
    works(client, server)
    assert server.connections == 2


# --- answers


@pytest.mark.parametrize("answer", [LENGTH, CHUNKED, INTERIM], ids=["length", "chunked", "interim"])
@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_an_answer_arrives_in_pieces(client, server, answer, size):
    server.script.append(pieces(answer, size))
    response = client.send(prepared(server.url))
    assert (response.status_code, response.content, response.text) == (200, b"hello world", "hello world")
    works(client, server)
    assert server.connections == 1


def test_headers_know_no_case_and_repeated_ones_are_joined(client, server):
    server.script.append(LENGTH)
    headers = client.send(prepared(server.url)).headers
    assert headers["CONTENT-type"] == headers["content-type"] == "application/json"
    assert headers["x-Two"] == "1, 2"


@pytest.mark.parametrize("status", [b"204 No Content", b"304 Not Modified", b"204"])
def test_some_answers_have_no_body(client, server, status):
    server.script.append(b"HTTP/1.1 %b\r\nX: 1\r\n\r\n" % status)
    assert client.send(prepared(server.url)).content == b""
    works(client, server)
    assert server.connections == 1


def test_a_large_answer_is_read_whole(client, server):
    body = random.Random(1).randbytes(3_000_000)
    assert client.send(prepared(server.url, body)).content == body


@pytest.mark.parametrize("answer", [LENGTH, CHUNKED, INTERIM], ids=["length", "chunked", "interim"])
def test_an_answer_cut_anywhere_is_an_error_and_never_an_answer(client, server, answer):
    for at in range(len(answer)):
        server.script.append([answer[:at], HANG_UP])
        with pytest.raises(ConnectionClosedError):
            client.send(prepared(server.url))
        assert not client._kept
    assert len(server.requests) == server.connections == len(answer)
    works(client, server)


@pytest.mark.parametrize("answer", [LENGTH, CHUNKED, INTERIM], ids=["length", "chunked", "interim"])
def test_an_answer_that_stops_is_a_time_out(server, answer):
    client = Transport(server.url, config(read_timeout=0.02))
    for at in range(0, len(answer), 9):
        server.script.append(answer[:at])
        with pytest.raises(ReadTimeoutError):
            client.send(prepared(server.url))
        assert not client._kept
    server.wait_until_open(0)


def test_an_answer_that_trickles_has_the_same_time_as_one_that_stops(server):
    client = Transport(server.url, config(read_timeout=0.1))
    server.script.append(piece for _ in iter(int, 1) for piece in (b"H", lambda: gevent.sleep(0.01)))
    with gevent.Timeout(10), pytest.raises(ReadTimeoutError):
        client.send(prepared(server.url))


def test_a_request_that_cannot_leave_is_a_time_out_too(server):
    client = Transport(server.url, config(read_timeout=0.1))
    server.script.append([LENGTH, lambda: gevent.sleep(5)])  # reads no more
    client.send(prepared(server.url))
    with pytest.raises(ReadTimeoutError):
        client.send(prepared(server.url, bytes(30_000_000)))


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
    with pytest.raises(HTTPClientError) as caught:
        client.send(prepared(server.url))
    assert type(caught.value) is HTTPClientError
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
    with pytest.raises(HTTPClientError, match=r"longer than (65,536|200,000) bytes"):
        client.send(prepared(server.url))
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


def test_thousands_of_mangled_answers_are_read_as_the_standard_library_reads_them_or_are_errors(client, server):
    dice = random.Random(20260501)
    answers = wrong = 0
    for _ in range(3000):
        answer = mutated(dice.choice([LENGTH, LENGTH, CHUNKED, TO_ITS_END]), dice)
        server.script.append([answer, HANG_UP])
        try:
            response = client.send(prepared(server.url))
        except BotoCoreError:
            wrong += 1
        else:
            answers += 1
            assert (response.status_code, response.content) == as_the_standard_library_reads(answer), answer
    assert min(answers, wrong) > 300
    works(client, server)


def test_mangled_answers_on_a_connection_that_stays_open_never_hang_nor_reach_the_next_call(server):
    client, dice = Transport(server.url, config(read_timeout=0.02)), random.Random(7)
    for number in range(300):
        server.script.append(mutated(dice.choice([LENGTH, CHUNKED, INTERIM]), dice))
        try:
            client.send(prepared(server.url))
        except BotoCoreError:
            assert not client._kept
        client._config = config(read_timeout=5)
        works(client, server, b"call %d" % number)
        client._config = config(read_timeout=0.02)


# --- requests


def test_a_request_is_never_sent_twice(client, server):
    works(client, server)
    server.script.append([HANG_UP])
    with pytest.raises(ConnectionClosedError):
        client.send(prepared(server.url))
    assert (server.connections, len(server.requests)) == (1, 2)


@pytest.mark.parametrize("value", ["a\r\nX-Evil: 1", "a\nb", "a\rb", "a\r\n"])
def test_a_line_break_in_a_header_is_refused_before_anything_is_sent(client, server, value):
    with pytest.raises(HTTPClientError, match="line break in it"):
        client.send(prepared(server.url, **{"X-Amz-Security-Token": value}))
    with pytest.raises(HTTPClientError, match="line break in it"):
        client.send(prepared(server.url, **{f"X-{value}": "1"}))
    assert server.connections == 0


def test_a_line_break_in_the_path_is_refused_and_so_is_another_endpoint(client, server):
    request = prepared(server.url)
    for url in (server.url + "/a HTTP/1.1\r\nX: 1", server.url + "1/", "http://elsewhere.example/"):
        request.url = url
        with pytest.raises(HTTPClientError):
            client.send(request)
    assert server.connections == 0


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("http://queue.example", b"queue.example"),
        ("http://Queue.Example:80", b"queue.example"),
        ("http://queue.example:443", b"queue.example:443"),
        ("https://queue.example:443/prefix", b"queue.example"),
        ("http://[::1]:8000", b"[::1]:8000"),
        ("http://[::1]", b"[::1]"),
    ],
)
def test_the_host_is_the_one_that_is_signed(url, host):
    assert Transport(url, config())._fields.startswith(b"Host: %b\r\n" % host)


def test_what_is_sent_is_what_urllib3_would_send(server):
    clients = connect(f"{server.url}/1/q", region="", endpoint_url="", wait_seconds=1, polls=1, settles=1)
    poll = clients.poll
    heads = []
    for session in (poll._endpoint.http_session, URLLib3Session()):
        poll._endpoint.http_session = session
        poll.receive_message(QueueUrl=f"{server.url}/1/q")
        session.close()
        heads.append({line.lower() for line in server.requests[-1].partition(b"\r\n\r\n")[0].split(b"\r\n")})
    changing = re.compile(rb"(authorization|x-amz-date|amz-sdk-invocation-id): ")
    ours, theirs = ({changing.match(line)[0] if changing.match(line) else line for line in head} for head in heads)
    assert ours == theirs


# --- errors of the way


def test_a_port_where_nobody_listens(server):
    server.close()
    with pytest.raises(EndpointConnectionError):
        Transport(server.url, config()).send(prepared(server.url))


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (socket.gaierror(-2, "Name or service not known"), EndpointConnectionError),
        (OSError(101, "Network is unreachable"), EndpointConnectionError),
        (UnicodeError("label too long"), EndpointConnectionError),
        (TimeoutError("timed out"), ConnectTimeoutError),
    ],
)
def test_a_host_that_cannot_be_reached(monkeypatch, error, kind):
    def fail(address, seconds):
        assert (address, seconds) == (("queue.example", 80), 5)
        raise error

    monkeypatch.setattr(socket, "create_connection", fail)
    with pytest.raises(kind, match=r"http://queue\.example"):
        Transport("http://queue.example", config()).send(prepared("http://queue.example"))


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
        client = Transport(server.url, config(), str(certificate.pem))
        if kept:
            works(client, server)
        server.script.append(pieces(answer, 30))
        hit, switches = interrupted(lambda client=client: client.send(prepared(server.url)), at)
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
        client.send(prepared(server.url))
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


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_connection_over_tls_is_kept_too(certificate, version):
    """TLS 1.3 sends session tickets of its own accord: they are no rubbish."""
    context = certificate.server_context()
    context.minimum_version = context.maximum_version = version
    server = Server(context)
    client = Transport(server.url, config(), str(certificate.pem))
    for number in range(5):
        works(client, server, b"%d" % number * 50_000)
    assert server.connections == 1
    assert client._kept[-1]._socket.version() == version.name.replace("_", ".")
    later = gevent.event.Event()
    server.script.append([LENGTH, later.wait, lambda: next(iter(server.open)).unwrap()])
    client.send(prepared(server.url))
    later.set()
    idle_end(client)
    works(client, server)
    assert server.connections == 2
    client.close()
    server.close()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_the_certificate_is_for_a_name_or_an_address(certificate, secure, host):
    url = f"https://{host}:{secure.port}"
    assert Transport(url, config(), str(certificate.pem)).send(prepared(url, b"x")).content == b"x"


def test_a_certificate_that_nobody_trusts_is_refused(secure):
    with pytest.raises(SSLError, match="certificate verify failed"):
        Transport(secure.url, config()).send(prepared(secure.url))
    assert secure.requests == []


def test_a_certificate_for_another_host_is_refused(tmp_path):
    other = make_certificate(tmp_path, "other.example", "127.0.0.9")
    server = Server(other.server_context())
    for host in ("127.0.0.1", "localhost"):
        url = f"https://{host}:{server.port}"
        with pytest.raises(SSLError, match="mismatch"):
            Transport(url, config(), str(other.pem)).send(prepared(url))
    assert server.requests == []
    server.close()


def test_a_server_without_tls_is_an_ssl_error(certificate):
    with socket.create_server(("127.0.0.1", 0)) as plain:
        url = f"https://127.0.0.1:{plain.getsockname()[1]}"
        call = gevent.spawn(Transport(url, config(), str(certificate.pem)).send, prepared(url))
        peer, _ = plain.accept()
        with peer:
            peer.sendall(LENGTH)
            with pytest.raises(SSLError):
                call.get()


def test_a_handshake_that_stops_is_a_connect_time_out(certificate):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"https://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(ConnectTimeoutError):
            Transport(url, config(connect_timeout=0.05), str(certificate.pem)).send(prepared(url))


def test_an_answer_cut_under_tls_is_an_error_even_where_only_the_end_says_that_it_is_whole(certificate, secure):
    client = Transport(secure.url, config(), str(certificate.pem))
    secure.script.append([TO_ITS_END, HANG_UP])  # without the closing alert: anyone on the way could have done it
    with pytest.raises(ConnectionClosedError):
        client.send(prepared(secure.url))
    secure.script.append([TO_ITS_END, lambda: next(iter(secure.open)).unwrap(), HANG_UP])
    assert client.send(prepared(secure.url)).content == b"hello world"


def test_one_context_serves_all_connections_to_a_bundle(certificate):
    url, bundle = "https://queue.example", str(certificate.pem)
    assert Transport(url, config(), bundle)._tls is Transport(url, config(), bundle)._tls
    assert Transport(url, config())._tls is not Transport(url, config(), bundle)._tls


@pytest.mark.parametrize("source", ["AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "profile"])
def test_the_ca_bundle_is_found_where_botocore_finds_it(certificate, secure, monkeypatch, tmp_path, source):
    if source == "profile":
        (tmp_path / "config").write_text(f"[default]\nca_bundle = {certificate.pem}\n")
        monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    else:
        monkeypatch.setenv(source, str(certificate.pem))
    queue = SqsQueue(f"{secure.url}/1/q", connected(f"{secure.url}/1/q"))
    secure.script.append(sqs_answer(b'{"Messages": []}'))
    assert queue.receive(1, 1, 1) == []


@pytest.mark.parametrize("name", ["AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE"])
def test_an_empty_ca_bundle_is_never_trust_in_everyone(secure, monkeypatch, name):
    monkeypatch.setenv(name, "")
    with pytest.raises(ConfigError, match="Invalid CA bundle"):
        connected(f"{secure.url}/1/q")
    with pytest.raises(SSLError):
        Transport(secure.url, config(), "").send(prepared(secure.url))


def test_a_ca_bundle_that_is_not_there_is_a_finding_at_boot(monkeypatch, tmp_path):
    for path in (tmp_path / "no.pem", tmp_path / "empty.pem"):
        (tmp_path / "empty.pem").touch()
        monkeypatch.setenv("AWS_CA_BUNDLE", str(path))
        with pytest.raises(ConfigError, match=rf"the CA bundle {re.escape(str(path))} \(AWS_CA_BUNDLE"):
            connected("https://sqs.eu-west-1.amazonaws.com/1/q")


# --- in the place of urllib3


def connected(url: str):
    return connect(url, region="eu-west-1", endpoint_url="", wait_seconds=1, polls=3, settles=4)


def sqs_answer(body: bytes, status: bytes = b"200 OK", more: bytes = b"") -> bytes:
    head = b"HTTP/1.1 %b\r\nContent-Type: application/x-amz-json-1.0\r\n%bContent-Length: %d\r\n\r\n"
    return head % (status, more, len(body)) + body


def test_both_clients_of_a_queue_have_a_transport_with_their_own_time_outs(server):
    clients = connected(f"{server.url}/1/q")
    ways = [client._endpoint.http_session for client in (clients.poll, clients.settle)]
    assert [type(way) for way in ways] == [Transport, Transport]
    assert [way._config.read_timeout for way in ways] == [11, 10]
    assert [way._config.connect_timeout for way in ways] == [5, 5]
    assert [way._config.max_pool_connections for way in ways] == [3, 4]


def test_botocore_reads_bodies_errors_and_headers_from_it(server):
    clients = connected(f"{server.url}/1/q")
    server.script.append(sqs_answer(b"{}", more=b"x-amzn-RequestId: r1\r\n"))
    told = clients.poll.receive_message(QueueUrl=f"{server.url}/1/q")["ResponseMetadata"]
    assert (told["RequestId"], told["HTTPHeaders"]["content-type"]) == ("r1", "application/x-amz-json-1.0")
    code = b"x-amzn-query-error: AWS.SimpleQueueService.NonExistentQueue;Sender\r\n"
    server.script.append(sqs_answer(b'{"__type": "x#QueueDoesNotExist"}', b"400 Bad Request", code))
    with pytest.raises(QueueMissing):
        SqsQueue(f"{server.url}/1/q", clients).receive(1, 1, 1)
    clients.poll.close()
    server.wait_until_open(0)


def test_who_answers_before_send_keeps_the_call_from_the_network(server):
    poll = connected(f"{server.url}/1/q").poll
    answered = AWSResponse(server.url, 200, {"content-type": "json"}, transport._Raw(b'{"Messages": []}'))
    poll.meta.events.register("before-send.sqs.*", lambda **event: answered)
    assert poll.receive_message(QueueUrl=f"{server.url}/1/q")["Messages"] == []
    assert server.connections == 0


AWS = "https://sqs.eu-west-1.amazonaws.com/1/q"


@pytest.mark.parametrize(
    ("url", "environment", "kind"),
    [
        (AWS, {}, Transport),
        (AWS, {"HTTPS_PROXY": "http://proxy.example:3128"}, URLLib3Session),
        (AWS, {"https_proxy": "http://proxy.example:3128"}, URLLib3Session),
        (AWS, {"HTTP_PROXY": "http://proxy.example:3128"}, Transport),
        (AWS, {"HTTPS_PROXY": "http://proxy.example:3128", "NO_PROXY": ".amazonaws.com"}, Transport),
        ("http://emulator.example:4566/1/q", {"HTTP_PROXY": "http://proxy.example:3128"}, URLLib3Session),
        ("http://127.0.0.1:4566/1/q", {"HTTP_PROXY": "http://proxy.example:3128"}, Transport),
        ("http://localhost:4566/1/q", {"HTTP_PROXY": "http://proxy.example:3128"}, Transport),
    ],
)
def test_where_a_proxy_applies_botocores_own_way_stays(monkeypatch, url, environment, kind):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    clients = connected(url)
    assert type(clients.poll._endpoint.http_session) is type(clients.settle._endpoint.http_session) is kind


# --- processes of their own: unpatched as a web process, and forked

SCRIPT = """
import os, sys, threading
if "gevent" in sys.argv:
    from gevent import monkey; monkey.patch_all()
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from millpond.transport import Transport

url = sys.argv[1]
client = Transport(url, Config(read_timeout=20, max_pool_connections=3))

def call(body):
    answer = client.send(AWSRequest(method="POST", url=url + "/", data=body).prepare()).content
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


def test_threads_of_an_unpatched_process_share_a_transport(server):
    in_a_process(THREADS, server.url)
    assert len(server.requests) == 320
    server.wait_until_open(0)


@pytest.mark.parametrize("patched", [(), ("gevent",)], ids=["unpatched", "gevent"])
def test_a_forked_process_opens_connections_of_its_own(server, patched):
    in_a_process(FORK, server.url, *patched)
    bodies = [wire.partition(b"\r\n\r\n")[2] for wire in server.requests]
    assert bodies == [b"parent 1", b"child 1", b"child 2", b"parent 2"]
    assert server.connections == 2
