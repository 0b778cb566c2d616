"""Limits of the embedded queue: whatever one client sends, or does not, the others and the worker go on."""

from __future__ import annotations

import errno
import json
import re
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from ssl import PROTOCOL_TLS_SERVER, SSLContext
from typing import Any

import gevent
import pytest
from gevent import socket
from gevent.server import StreamServer

from bench import certificate
from millpond.local import LocalSqs, admission, http_requests
from millpond.local import server as server_module
from millpond.local.access import AccessGuard
from millpond.local.admission import Admission, ServerConnection
from millpond.local.http_requests import MAX_CHUNKS, MAX_HEAD_LINES, HttpRequests
from millpond.local.sqs_error import Unreadable
from tests.local.test_main import first_line, start
from tests.local.test_wire import Connection, assert_closed

MIB = 1_048_576


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalSqs]:
    """It looks for those whose time is over more often."""
    monkeypatch.setattr(admission, "_LOOK_SECONDS", 0.05)
    server = LocalSqs(port=0)
    server.start()
    server.create_queue("q")
    yield server
    server.stop()


@pytest.fixture
def connect(server: LocalSqs) -> Iterator[Callable[[], Connection]]:
    """Makes connections, which are closed at the end."""
    with ExitStack() as stack:
        yield lambda: stack.enter_context(closing(Connection(server)))


def assert_goes_on(server: LocalSqs) -> None:
    with closing(Connection(server)) as other:
        assert other.call("ListQueues")[0] == 200


# Bytes and counts


def chunked(connection: Connection) -> bytes:
    return connection.request("SendMessage", b"", "Transfer-Encoding: chunked")


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
    server: LocalSqs, connect: Callable[[], Connection], kind: str
) -> None:
    first, again = ENDLESS[kind]
    connection = connect()
    connection.send(chunked(connection) + first)
    with suppress(ConnectionError):  # it is refused before all is sent
        connection.send(again * (2 * MIB // len(again)))
    status, headers, body = connection.answer()
    assert (status, headers["connection"]) == (400, "close")
    assert json.loads(body)["message"].startswith("The request's body cannot be read: ")
    assert_goes_on(server)


def test_as_many_chunks_and_trailers_as_there_may_be_are_read(connect: Callable[[], Connection]) -> None:
    connection = connect()
    body = b'{"QueueName": "q"}' + b" " * (MAX_CHUNKS - 19)
    trailers = b"T: x\r\n" * (MAX_HEAD_LINES - 1)
    raw = b"".join(b"1\r\n%c\r\n" % byte for byte in body) + b"0\r\n" + trailers + b"\r\n"
    connection.send(connection.request("CreateQueue", raw, "Transfer-Encoding: chunked"))
    assert connection.answer()[0] == 200
    assert connection.call("ListQueues")[0] == 200


def test_a_body_that_ends_with_the_time_of_a_slow_line_is_one_body(connect: Callable[[], Connection]) -> None:
    connection = connect()
    raw = (
        chunked(connection).replace(b"SendMessage", b"CreateQueue")
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


def test_extensions_have_a_limit_of_their_own(connect: Callable[[], Connection]) -> None:
    connection = connect()
    connection.send(chunked(connection) + (b"1;" + b"x" * 500 + b"\r\nx\r\n") * 200)
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


def test_a_body_that_comes_slowly_gives_way_to_nobody(
    server: LocalSqs, connect: Callable[[], Connection], monkeypatch: pytest.MonkeyPatch
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


def test_a_long_body_is_not_kept_before_it_comes(server: LocalSqs, connect: Callable[[], Connection]) -> None:
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


# Time


@pytest.fixture
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every limit of time is short."""
    for name in ("FIRST_SECONDS", "IDLE_SECONDS", "ANSWER_SECONDS"):
        monkeypatch.setattr(admission, name, 0.3)
    for name in ("HEAD_SECONDS", "REQUEST_SECONDS"):
        monkeypatch.setattr(http_requests, name, 0.3)
    monkeypatch.setattr(server_module, "HANDSHAKE_SECONDS", 0.3)


@pytest.mark.parametrize(
    "part",
    [
        b"P",
        b"POST / HTTP/1.1\r\nHost: localhost\r\n",
        b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\n12345",
        b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n12",
        b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nTrailer: 1\r\n",
    ],
)
@pytest.mark.usefixtures("hurry")
def test_a_request_that_does_not_come_to_its_end_is_given_up_with_an_answer(
    connect: Callable[[], Connection], part: bytes
) -> None:
    connection = connect()
    connection.send(part)
    status, headers, body = connection.answer()
    assert (status, headers["connection"]) == (408, "close")
    assert "too long to come" in json.loads(body)["message"]
    assert_closed(connection)


@pytest.mark.parametrize("drip", [b"x", b"1\r\nx\r\n"], ids=["head", "chunks"])
@pytest.mark.usefixtures("hurry")
def test_a_request_that_comes_in_drips_is_given_up_too(connect: Callable[[], Connection], drip: bytes) -> None:
    connection = connect()
    connection.send(b"POST / HTTP/1.1\r\nX: " if drip == b"x" else chunked(connection))

    def send() -> None:
        with suppress(OSError):
            while True:
                connection.send(drip)
                gevent.sleep(0.02)

    dripping = gevent.spawn(send)
    assert connection.answer()[0] == 408
    dripping.kill()


@pytest.mark.usefixtures("hurry")
def test_a_connection_without_a_request_is_closed_without_a_word(connect: Callable[[], Connection]) -> None:
    silent, asked = connect(), connect()
    assert asked.call("ListQueues")[0] == 200
    assert silent.file.read() == b""
    assert asked.file.read() == b""


@pytest.mark.usefixtures("hurry")
def test_no_limit_of_time_cuts_a_long_poll(connect: Callable[[], Connection]) -> None:
    connection = connect()
    started = time.monotonic()
    assert connection.call("ReceiveMessage", QueueUrl="q", WaitTimeSeconds=1)[:3:2] == (200, {})
    assert time.monotonic() - started > 0.9
    assert connection.call("ListQueues")[0] == 200


def fill(server: LocalSqs, messages: int = 10) -> None:
    with closing(Connection(server)) as connection:
        for _ in range(messages):
            assert connection.call("SendMessage", QueueUrl="q", MessageBody="x" * MIB)[0] == 200


@pytest.mark.usefixtures("hurry")
def test_a_reader_that_stops_in_the_middle_of_an_answer_is_hung_up_on(
    server: LocalSqs, connect: Callable[[], Connection]
) -> None:
    fill(server)
    slow = connect()
    slow.send(slow.request("ReceiveMessage", b'{"QueueUrl": "q", "MaxNumberOfMessages": 10}'))
    assert b"200 OK" in slow.file.readline()
    gevent.sleep(1)
    with suppress(ConnectionResetError):
        assert len(slow.file.read()) < 10 * MIB
    assert_goes_on(server)


def test_a_long_answer_comes_whole(server: LocalSqs, connect: Callable[[], Connection]) -> None:
    fill(server)
    messages = connect().call("ReceiveMessage", QueueUrl="q", MaxNumberOfMessages=10)[2]["Messages"]
    assert [message["Body"] == "x" * MIB for message in messages] == [True] * 10


@pytest.mark.parametrize(
    "sent", [b"", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"], ids=["silence", "half a hello"]
)
@pytest.mark.usefixtures("hurry")
def test_a_tls_handshake_that_stalls_is_given_up(
    tmp_path: Path, sent: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    certificate.make(tmp_path)
    context = SSLContext(PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "server.pem", tmp_path / "server.key")
    server = LocalSqs(port=0, tls=context)
    server.start()
    host, port = server.url.removeprefix("https://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as client:
        client.sendall(sent)
        with suppress(ConnectionResetError):
            assert client.recv(1000) == b""
    server.stop()
    assert capfd.readouterr().err == ""


# How many


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "MAX_CONNECTIONS", 20)


@pytest.mark.usefixtures("few")
def test_silent_connections_give_way_to_a_newcomer_and_no_one_else_does(server: LocalSqs) -> None:
    with ExitStack() as stack:
        asked = stack.enter_context(closing(Connection(server)))
        assert asked.call("ListQueues")[0] == 200
        polling = stack.enter_context(closing(Connection(server)))
        polling.send(polling.request("ReceiveMessage", b'{"QueueUrl": "q", "WaitTimeSeconds": 20}'))
        silent = [stack.enter_context(closing(Connection(server))) for _ in range(200)]
        assert_goes_on(server)
        assert asked.call("SendMessage", QueueUrl="q", MessageBody="m")[0] == 200
        assert polling.answer()[0] == 200
        assert_closed(silent[0])


@pytest.mark.usefixtures("few")
def test_among_those_that_asked_the_one_that_is_idle_the_longest_gives_way(server: LocalSqs) -> None:
    with ExitStack() as stack:
        idle = [stack.enter_context(closing(Connection(server))) for _ in range(20)]
        for connection in [*idle, idle[0]]:
            assert connection.call("ListQueues")[0] == 200
        assert_goes_on(server)
        assert_closed(idle[1])
        assert idle[0].call("ListQueues")[0] == 200


@pytest.mark.usefixtures("few")
def test_where_all_are_at_work_a_newcomer_is_told_and_a_later_one_served(server: LocalSqs) -> None:
    with ExitStack() as stack:
        polling = [stack.enter_context(closing(Connection(server))) for _ in range(20)]
        for connection in polling:
            connection.send(connection.request("ReceiveMessage", b'{"QueueUrl": "q", "WaitTimeSeconds": 20}'))
        gevent.sleep(0.2)
        newcomer = stack.enter_context(closing(Connection(server)))
        status, _, body = newcomer.answer()
        assert (status, json.loads(body)["message"].endswith("Try again.")) == (503, True)
        server.close_polls()
        assert [connection.answer()[0] for connection in polling] == [200] * 20
        assert_goes_on(server)


def test_two_thousand_connections_can_be_kept(server: LocalSqs) -> None:
    number = min(2000, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 4)
    with ExitStack() as stack:
        kept = [stack.enter_context(closing(Connection(server))) for _ in range(number)]
        for _ in range(2):
            assert {connection.call("ListQueues")[0] for connection in kept} == {200}


def test_half_of_the_descriptors_are_left_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    for limit, most in ((256, 128), (resource.RLIM_INFINITY, 10_000), (1_000_000, 10_000)):
        monkeypatch.setattr(resource, "getrlimit", lambda _, limit=limit: (limit, limit))
        admitted = Admission()
        assert admitted.most == most
        admitted.close()


def test_no_descriptor_for_a_connection_is_survived_without_a_traceback(
    server: LocalSqs, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    read, failures = StreamServer.do_read, iter([errno.EMFILE, errno.ENFILE, errno.ECONNABORTED])

    def fails(listening: StreamServer) -> Any:
        for number in failures:
            raise OSError(number, "no descriptor")
        return read(listening)

    monkeypatch.setattr(StreamServer, "do_read", fails)
    assert_goes_on(server)
    assert capfd.readouterr().err == ""


def test_silent_connections_beyond_its_descriptors_leave_the_command_at_work() -> None:
    command = "import resource, sys, runpy; resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64)); "
    command += "sys.argv[1:] = ['--port', '0']; runpy.run_module('millpond.local', run_name='__main__')"
    with (
        subprocess.Popen(
            [sys.executable, "-c", command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process,
        ExitStack() as stack,
    ):
        stack.callback(process.kill)
        host, port = first_line(process).removeprefix("http://").split(":")
        for _ in range(300):
            stack.enter_context(socket.create_connection((host, int(port)), timeout=10))
        with socket.create_connection((host, int(port)), timeout=10) as client:
            client.sendall(b"GET /health HTTP/1.0\r\n\r\n")
            assert client.recv(1000).startswith(b"HTTP/1.1 200")
        process.terminate()
        assert process.wait(10) == 0
        assert process.stderr is not None
        assert process.stderr.read() == ""


# Memory


def test_half_bodies_that_stall_give_way_to_one_that_comes(
    server: LocalSqs, connect: Callable[[], Connection], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admission, "MAX_HELD_BYTES", 4 * MIB)
    monkeypatch.setattr(admission, "STALLED_SECONDS", 0.2)
    stalled = [connect() for _ in range(3)]
    for connection in stalled:
        connection.send(connection.request("SendMessage", b"", f"Content-Length: {2 * MIB}") + b" " * (MIB + 1000))
        gevent.sleep(0.2)
    whole = connect()
    assert whole.call("SendMessage", QueueUrl="q", MessageBody="x" * (MIB))[0] == 200
    assert stalled[0].answer()[0] == 408
    assert whole.call("SendMessage", QueueUrl="q", MessageBody="x" * (MIB))[0] == 200


def test_where_all_memory_is_in_use_a_request_is_told_to_come_again(
    server: LocalSqs, connect: Callable[[], Connection], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admission, "MAX_HELD_BYTES", MIB)
    monkeypatch.setattr(admission, "STALLED_SECONDS", 60)
    first, second = connect(), connect()
    first.send(first.request("SendMessage", b"", f"Content-Length: {2 * MIB}") + b" " * (MIB - 1000))
    gevent.sleep(0.2)
    second.send(second.request("SendMessage", b"", f"Content-Length: {MIB}") + b" " * 200_000)
    status, headers, body = second.answer()
    assert (status, headers["connection"]) == (503, "close")
    assert json.loads(body)["message"].endswith("Try again.")
    first.close()
    with gevent.Timeout(20):  # until the server has seen that it has gone
        while connect().call("SendMessage", QueueUrl="q", MessageBody="x" * 900_000)[0] != 200:
            pass


def test_answers_that_nobody_reads_give_way_to_requests(
    server: LocalSqs, connect: Callable[[], Connection], monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(server, 10)
    monkeypatch.setattr(admission, "MAX_HELD_BYTES", 8 * MIB)
    monkeypatch.setattr(admission, "STALLED_SECONDS", 0.2)
    slow = connect()
    slow.send(slow.request("ReceiveMessage", b'{"QueueUrl": "q", "MaxNumberOfMessages": 10}'))
    assert b"200 OK" in slow.file.readline()
    gevent.sleep(0.5)
    other = connect()
    assert other.call("SendMessage", QueueUrl="q", MessageBody="x" * MIB)[0] == 200
    with suppress(ConnectionResetError):
        assert len(slow.file.read()) < 10 * MIB


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_a_hundred_half_bodies_take_no_gigabyte() -> None:
    with start("--port", "0") as process, ExitStack() as stack:
        stack.callback(process.kill)
        host, port = first_line(process).removeprefix("http://").split(":")
        for _ in range(100):
            client = stack.enter_context(socket.create_connection((host, int(port)), timeout=10))
            client.sendall(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 7340000\r\n\r\n")
            with suppress(OSError):
                client.sendall(b" " * 7_000_000)
        with socket.create_connection((host, int(port)), timeout=10) as client:
            client.sendall(b"GET /health HTTP/1.0\r\n\r\n")
            assert client.recv(1000).startswith(b"HTTP/1.1 200")
        peak = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{process.pid}/status").read_text())
        process.terminate()
        assert process.wait(10) == 0
    assert peak is not None
    assert int(peak[1]) < 250 * 1024


def test_a_client_that_goes_on_sending_after_a_refusal_stops_nothing(
    server: LocalSqs, connect: Callable[[], Connection]
) -> None:
    connection = connect()
    connection.send(b"no request\r\n\r\n")

    def send() -> None:
        with suppress(OSError):
            while True:
                connection.send(b"x" * 65_536)

    sending = gevent.spawn(send)
    assert connection.answer()[0] == 400
    assert_goes_on(server)
    sending.join(5)
    assert sending.ready()


# What is in a request


@pytest.mark.parametrize(
    ("operation", "body"),
    [
        ("SendMessage", b'{"QueueUrl": "q", "MessageBody": "m", "X": ' + b"[" * 10_000 + b"]" * 10_000 + b"}"),
        ("SetQueueAttributes", json.dumps({"Attributes": {"RedrivePolicy": '{"x":' + "[" * 10_000}}).encode()),
        (
            "SetQueueAttributes",
            json.dumps({"Attributes": {"RedrivePolicy": '{"x":' + "[" * 10_000 + "]" * 10_000 + "}"}}).encode(),
        ),
        (
            "SetQueueAttributes",
            json.dumps({"Attributes": {"RedrivePolicy": '{"maxReceiveCount":' + "9" * 5000}}).encode(),
        ),
        ("SendMessage", b'{"MessageBody": "m", "DelaySeconds": ' + b"9" * 400 + b"}"),
        ("SendMessage", b'{"MessageBody": "m", "DelaySeconds": -1e400}'),
        ("SendMessage", b'{"MessageBody": "m", "DelaySeconds": NaN}'),
        ("ReceiveMessage", b'{"WaitTimeSeconds": ' + b"9" * 400 + b"}"),
        ("ReceiveMessage", b'{"MaxNumberOfMessages": 99999999999999999999}'),
        ("ReceiveMessage", b'{"VisibilityTimeout": -99999999999999999999}'),
        ("SendMessage", b'{"MessageBody": "\\udc80"}'),
        ("SendMessage", b'{"MessageBody": "\\u0000"}'),
        ("SendMessage", b'{"MessageBody": ["m"]}'),
        ("SendMessage", b'{"MessageBody": null}'),
        ("SendMessageBatch", b'{"Entries": {"Id": "1"}}'),
        ("SendMessageBatch", b'{"Entries": [null]}'),
        ("DeleteMessage", b'{"ReceiptHandle": "' + b"9" * 5000 + b'"}'),
        ("CreateQueue", b'{"QueueName": "' + b"x" * MIB + b'"}'),
    ],
)
def test_what_no_queue_can_take_is_an_orderly_4xx(
    connect: Callable[[], Connection], operation: str, body: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    connection = connect()
    body = body.replace(b"{", b'{"QueueUrl": "q", ', 1)
    connection.send(connection.request(operation, body))
    status, headers, answer = connection.answer()
    assert 400 <= status < 500
    assert headers["x-amzn-query-error"].endswith(";Sender")
    assert len(answer) < 10_000
    assert connection.call("SendMessage", QueueUrl="q", MessageBody="m")[0] == 200
    assert capfd.readouterr().err == ""


def test_of_two_keys_the_last_one_counts(connect: Callable[[], Connection]) -> None:
    connection = connect()
    connection.send(connection.request("SendMessage", b'{"QueueUrl":"q","MessageBody":"first","MessageBody":"m"}'))
    assert connection.answer()[0] == 200
    assert connection.call("ReceiveMessage", QueueUrl="q")[2]["Messages"][0]["Body"] == "m"


@pytest.mark.parametrize("text", ["9" * 500_000 + "x", "." * 500_000, "1e" * 100_000, "-" + "0" * 500_000 + "."])
def test_a_long_number_takes_no_longer_than_a_long_text(connect: Callable[[], Connection], text: str) -> None:
    connection = connect()
    attributes = {"n": {"DataType": "Number", "StringValue": text}}
    started = time.process_time()
    connection.call("SendMessage", QueueUrl="q", MessageBody="m", MessageAttributes=attributes)
    assert time.process_time() - started < 2


def test_a_fault_of_the_server_is_an_answer_and_is_shown(
    server: LocalSqs,
    connect: Callable[[], Connection],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fails(*_: object) -> bytes:
        raise ZeroDivisionError("planted")

    connection = connect()
    with monkeypatch.context() as patch:
        patch.setattr(server._api, "call", fails)
        status, headers, _ = connection.call("ListQueues")
    assert (status, headers["x-amzn-query-error"]) == (500, "InternalFailure;Receiver")
    assert "planted" in capfd.readouterr().err + caplog.text  # the log, once cli.main has run in this process
    assert connection.call("ListQueues")[0] == 200
