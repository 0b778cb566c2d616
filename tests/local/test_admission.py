"""How many connections there may be, how long each may take, and the bytes that they hold."""

from __future__ import annotations

import errno
import json
import re
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from ssl import PROTOCOL_TLS_SERVER, SSLContext
from typing import Any

import gevent
import pytest
from gevent import socket
from gevent.event import Event
from gevent.server import StreamServer

from bench import certificate
from millpond.local import LocalSqs, admission, http_requests
from millpond.local import server as server_module
from millpond.local.admission import Admission, ServerConnection
from tests.local.processes import first_line, local_process
from tests.local.raw_client import RawClient, assert_closed

MIB = 1_048_576
pytestmark = pytest.mark.usefixtures("q")


class Seen:
    """What the server does with its connections: requests that it works on, bytes that it takes, ends that it makes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.working = self.held = self.ended = 0
        self._news = Event()
        self._note(monkeypatch, "work", lambda: setattr(self, "working", self.working + 1))
        self._note(monkeypatch, "hold", lambda size: setattr(self, "held", self.held + size))
        self._note(monkeypatch, "end", lambda _: setattr(self, "ended", self.ended + 1))

    def _note(self, monkeypatch: pytest.MonkeyPatch, name: str, note: Callable[..., None]) -> None:
        original = getattr(ServerConnection, name)

        def noted(connection: ServerConnection, *given: Any) -> None:
            note(*given)
            self._news.set()
            original(connection, *given)

        monkeypatch.setattr(ServerConnection, name, noted)

    def wait(self, is_so: Callable[[], bool]) -> None:
        """Until it is so."""
        with gevent.Timeout(20):
            while not is_so():
                self._news.wait()
                self._news.clear()


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Seen:
    return Seen(monkeypatch)


def assert_goes_on(server: LocalSqs) -> None:
    with closing(RawClient(server)) as other:
        assert other.call("ListQueues")[0] == 200


@pytest.fixture
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every limit of time is short."""
    for name in ("FIRST_SECONDS", "KEEP_ALIVE_SECONDS", "ANSWER_SECONDS"):
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
    connect: Callable[[], RawClient], part: bytes
) -> None:
    connection = connect()
    connection.send(part)
    status, headers, body = connection.answer()
    assert (status, headers["connection"]) == (408, "close")
    assert "too long to come" in json.loads(body)["message"]
    assert_closed(connection)


@pytest.mark.parametrize("drip", [b"x", b"1\r\nx\r\n"], ids=["head", "chunks"])
@pytest.mark.usefixtures("hurry")
def test_a_request_that_comes_in_drips_is_given_up_too(connect: Callable[[], RawClient], drip: bytes) -> None:
    connection = connect()
    connection.send(b"POST / HTTP/1.1\r\nX: " if drip == b"x" else connection.chunked())

    def send() -> None:
        with suppress(OSError):
            while True:
                connection.send(drip)
                gevent.sleep(0.02)

    dripping = gevent.spawn(send)
    assert connection.answer()[0] == 408
    dripping.kill()


@pytest.mark.usefixtures("hurry")
def test_a_connection_without_a_request_is_closed_without_a_word(connect: Callable[[], RawClient]) -> None:
    silent, asked = connect(), connect()
    assert asked.call("ListQueues")[0] == 200
    assert silent.file.read() == b""
    assert asked.file.read() == b""


@pytest.mark.usefixtures("hurry")
def test_no_limit_of_time_cuts_a_long_poll(connect: Callable[[], RawClient]) -> None:
    connection = connect()
    started = time.monotonic()
    assert connection.call("ReceiveMessage", QueueUrl="q", WaitTimeSeconds=1)[:3:2] == (200, {})
    assert time.monotonic() - started > 0.9
    assert connection.call("ListQueues")[0] == 200


def fill(server: LocalSqs, messages: int = 10) -> None:
    with closing(RawClient(server)) as connection:
        for _ in range(messages):
            assert connection.call("SendMessage", QueueUrl="q", MessageBody="x" * MIB)[0] == 200


@pytest.mark.usefixtures("hurry")
def test_a_reader_that_stops_in_the_middle_of_an_answer_is_hung_up_on(
    server: LocalSqs, connect: Callable[[], RawClient], seen: Seen
) -> None:
    fill(server)
    slow = connect()
    slow.send(slow.request("ReceiveMessage", b'{"QueueUrl": "q", "MaxNumberOfMessages": 10}'))
    assert b"200 OK" in slow.file.readline()
    seen.wait(lambda: seen.ended == 1)
    with suppress(ConnectionResetError):
        assert len(slow.file.read()) < 10 * MIB
    assert_goes_on(server)


def test_a_long_answer_comes_whole(server: LocalSqs, connect: Callable[[], RawClient]) -> None:
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


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "MAX_CONNECTIONS", 20)


@pytest.mark.usefixtures("few")
def test_silent_connections_give_way_to_a_newcomer_and_no_one_else_does(server: LocalSqs) -> None:
    with ExitStack() as stack:
        asked = stack.enter_context(closing(RawClient(server)))
        assert asked.call("ListQueues")[0] == 200
        polling = stack.enter_context(closing(RawClient(server)))
        polling.send(polling.request("ReceiveMessage", b'{"QueueUrl": "q", "WaitTimeSeconds": 20}'))
        silent = [stack.enter_context(closing(RawClient(server))) for _ in range(200)]
        assert_goes_on(server)
        assert asked.call("SendMessage", QueueUrl="q", MessageBody="m")[0] == 200
        assert polling.answer()[0] == 200
        assert_closed(silent[0])


@pytest.mark.usefixtures("few")
def test_among_those_that_asked_the_one_that_is_idle_the_longest_gives_way(server: LocalSqs) -> None:
    with ExitStack() as stack:
        idle = [stack.enter_context(closing(RawClient(server))) for _ in range(20)]
        for connection in [*idle, idle[0]]:
            assert connection.call("ListQueues")[0] == 200
        assert_goes_on(server)
        assert_closed(idle[1])
        assert idle[0].call("ListQueues")[0] == 200


@pytest.mark.usefixtures("few")
def test_where_all_are_at_work_a_newcomer_is_refused_and_a_later_one_served(server: LocalSqs, seen: Seen) -> None:
    with ExitStack() as stack:
        polling = [stack.enter_context(closing(RawClient(server))) for _ in range(20)]
        for connection in polling:
            connection.send(connection.request("ReceiveMessage", b'{"QueueUrl": "q", "WaitTimeSeconds": 20}'))
        seen.wait(lambda: seen.working == 20)
        newcomer = stack.enter_context(closing(RawClient(server)))
        status, _, body = newcomer.answer()
        assert (status, json.loads(body)["message"].endswith("Try again.")) == (503, True)
        server.close_polls()
        assert [connection.answer()[0] for connection in polling] == [200] * 20
        assert_goes_on(server)


@pytest.mark.slow
def test_two_thousand_connections_can_be_kept(server: LocalSqs) -> None:
    number = min(2000, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 4)
    with ExitStack() as stack:
        kept = [stack.enter_context(closing(RawClient(server))) for _ in range(number)]
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


def test_half_bodies_that_stall_give_way_to_one_that_comes(
    server: LocalSqs, connect: Callable[[], RawClient], monkeypatch: pytest.MonkeyPatch, seen: Seen
) -> None:
    monkeypatch.setattr(admission, "MAX_HELD_BYTES", 4 * MIB)
    monkeypatch.setattr(admission, "STALLED_SECONDS", 0.0)
    stalled = [connect() for _ in range(3)]
    for number, connection in enumerate(stalled, 1):
        connection.send(connection.request("SendMessage", b"", f"Content-Length: {2 * MIB}") + b" " * (MIB + 1000))
        seen.wait(lambda number=number: seen.held >= number * MIB)
    whole = connect()
    assert whole.call("SendMessage", QueueUrl="q", MessageBody="x" * (MIB))[0] == 200
    assert stalled[0].answer()[0] == 408
    assert whole.call("SendMessage", QueueUrl="q", MessageBody="x" * (MIB))[0] == 200


def test_where_all_memory_is_in_use_a_request_is_refused_for_now(
    server: LocalSqs, connect: Callable[[], RawClient], monkeypatch: pytest.MonkeyPatch, seen: Seen
) -> None:
    monkeypatch.setattr(admission, "MAX_HELD_BYTES", MIB)
    monkeypatch.setattr(admission, "STALLED_SECONDS", 60)
    first, second = connect(), connect()
    first.send(first.request("SendMessage", b"", f"Content-Length: {2 * MIB}") + b" " * (MIB - 1000))
    seen.wait(lambda: seen.held == MIB - 1000)
    second.send(second.request("SendMessage", b"", f"Content-Length: {MIB}") + b" " * 200_000)
    status, headers, body = second.answer()
    assert (status, headers["connection"]) == (503, "close")
    assert json.loads(body)["message"].endswith("Try again.")
    first.close()
    with gevent.Timeout(20):  # until the server has seen that it has gone
        while connect().call("SendMessage", QueueUrl="q", MessageBody="x" * 900_000)[0] != 200:
            pass


def test_answers_that_nobody_reads_give_way_to_requests(
    server: LocalSqs, connect: Callable[[], RawClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(server, 10)
    monkeypatch.setattr(admission, "MAX_HELD_BYTES", 8 * MIB)
    monkeypatch.setattr(admission, "STALLED_SECONDS", 0.0)
    slow = connect()
    slow.send(slow.request("ReceiveMessage", b'{"QueueUrl": "q", "MaxNumberOfMessages": 10}'))
    assert b"200 OK" in slow.file.readline()
    other = connect()
    assert other.call("SendMessage", QueueUrl="q", MessageBody="x" * MIB)[0] == 200
    with suppress(ConnectionResetError):
        assert len(slow.file.read()) < 10 * MIB


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_a_hundred_half_bodies_take_no_gigabyte() -> None:
    with local_process("--port", "0") as process, ExitStack() as stack:
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
    server: LocalSqs, connect: Callable[[], RawClient]
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
