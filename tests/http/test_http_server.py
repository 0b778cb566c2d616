"""HttpServer: what it answers over real sockets, to clients that behave and to those that do not."""

from __future__ import annotations

import socket
import time
from http import HTTPStatus

import gevent
import pytest
from gevent.event import Event

from millpond import healthcheck
from millpond.errors import ConfigError
from millpond.http import bounded_server, lobby
from millpond.http.gated_pages import GatedPages, Page
from millpond.http.http_server import HttpServer, PlainAnswer
from millpond.http.page_access import AccessRules, Purpose
from millpond.http.page_request import PageAnswer

WHERE = "[http] listen"


def failing():
    raise RuntimeError("a defect")


GO_ON = Event()
LONG = "a" * 500_000


def slow():
    GO_ON.wait()
    return PlainAnswer(HTTPStatus.OK, "done")


def stream(request):
    def parts():
        while True:
            yield b"part"
            gevent.sleep(0.2)

    return PageAnswer(HTTPStatus.OK, parts())


@pytest.fixture
def server():
    GO_ON.clear()
    routes = {
        "/fine": lambda: PlainAnswer(HTTPStatus.OK, "all is well: Grüße"),
        "/ill": lambda: PlainAnswer(HTTPStatus.SERVICE_UNAVAILABLE, "ill"),
        "/fails": failing,
        "/slow": slow,
        "/long": lambda: PlainAnswer(HTTPStatus.OK, LONG),
    }
    gated = GatedPages({"/stream": Page(Purpose.LOOK, stream)}, AccessRules())
    one = HttpServer(("127.0.0.1", 0), routes, WHERE, gated)
    one.start()
    yield one
    one.stop()


def talk(port: int, data: bytes) -> bytes:
    """What comes back until the server closes the connection."""
    with socket.create_connection(("127.0.0.1", port), 5) as connection:
        connection.sendall(data)
        answer = b""
        while part := connection.recv(65_536):
            answer += part
        return answer


def ask(server: HttpServer, line: str) -> tuple[int, dict[str, str], str]:
    head, _, body = talk(server.port, f"{line} HTTP/1.0\r\n\r\n".encode()).partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    return int(first.split()[1]), dict(one.lower().split(": ", 1) for one in lines), body.decode()


def test_each_path_answers_by_its_function_in_plain_text(server):
    status, headers, body = ask(server, "GET /fine")
    assert (status, body) == (200, "all is well: Grüße\n")
    assert headers["content-type"] == "text/plain; charset=utf-8"
    assert headers["content-length"] == str(len(body.encode()))
    assert headers["cache-control"] == "no-store"
    assert ask(server, "GET /ill")[::2] == (503, "ill\n")
    assert ask(server, "GET /ill?verbose=1")[0] == 503


def test_head_is_answered_without_a_body(server):
    status, headers, body = ask(server, "HEAD /fine")
    assert (status, body) == (200, "")
    assert int(headers["content-length"]) > 0


def test_another_path_and_another_method_are_refused(server):
    assert ask(server, "GET /")[::2] == (404, "there is /fine, /ill, /fails, /slow, /long\n")
    assert ask(server, "POST /fine")[0] == 405


def test_what_a_path_raises_is_logged_and_answered_with_500(server, caplog, capfd):
    assert ask(server, "GET /fails")[::2] == (500, "this page failed; the log says how\n")
    (record,) = [one for one in caplog.records if getattr(one, "event", "") == "http.failed"]
    assert record.getMessage() == "cannot answer GET /fails: RuntimeError: a defect"
    assert ask(server, "GET /fine")[0] == 200
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",  # a client that speaks TLS
        b"GET /fine HTTP/9.9\r\n\r\n",
        b"GET /fine HTTP/1.1\r\nContent-Length: x\r\n\r\n",
        b"GET /" + b"a" * 9_000 + b" HTTP/1.1\r\n\r\n",
        b"GET /fine HTTP/1.1\r\n" + b"A: b\r\n" * 2_000 + b"\r\n",
    ],
)
def test_a_request_that_is_none_is_refused_and_nothing_is_printed(server, data, capfd):
    answer = talk(server.port, data)
    assert answer.startswith((b"HTTP/1.1 4", b"HTTP/1.0 4")), answer[:80]
    assert ask(server, "GET /fine")[0] == 200
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("data", "missing"),
    [
        (b"", 1),
        (b"GET /fine HTTP/1.1\r\nHost: x\r\n", 1),
        (b"GET /fine HTTP/1.1\r\nHost: x\r\n\r\n", 0),
        (b"GET /" + b"a" * lobby.MAX_HEAD, 0),
        (b"POST / HTTP/1.1\r\ncontent-LENGTH: 10\r\n\r\nabcd", 6),
        (b"POST / HTTP/1.1\r\nContent-Length:10 \r\nA: b\r\n\r\nabcdefghij", 0),
        (b"POST / HTTP/1.1\r\nContent-Length: 10\r\n\r\nabcdefghijGET /", 0),
        (b"POST / HTTP/1.1\r\nContent-Length: 65537\r\n\r\n", 0),
        (b"POST / HTTP/1.1\r\nContent-Length: 10\r\nExpect: 100-Continue\r\n\r\n", 0),
        (b"POST / HTTP/1.1\r\nContent-Length: ten\r\n\r\n", 0),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", 0),
    ],
)
def test_how_much_of_a_request_is_awaited(data, missing):
    assert lobby.missing_bytes(data) == missing


def crowd(server: HttpServer, number: int, data: bytes, receive_bytes: int = 0) -> list[socket.socket]:
    """Clients that send this, and then nothing; `receive_bytes`: what their side takes of an answer."""
    found = []
    for _ in range(number):
        one = socket.socket()
        if receive_bytes:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        one.connect(("127.0.0.1", server.port))
        one.sendall(data)
        found.append(one)
    return found


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"GET /fine HTTP/1.1\r\nHost:",
        b"GET /fine HTTP/1.1\r\nHost: x\r\n\r\n",
        b"POST /fine HTTP/1.1\r\nContent-Length: 10\r\n\r\nab",
        b"POST /fine HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab",
        b"GET /long HTTP/1.1\r\nHost: x\r\n\r\n",
    ],
)
def test_slow_clients_keep_nobody_out(server, monkeypatch, data, capfd):
    """Of each kind more than have a place, and none of them loses it by time."""
    monkeypatch.setattr(lobby, "GUEST_SECONDS", 60.0)
    monkeypatch.setattr(bounded_server, "CONNECTION_SECONDS", 60.0)
    slow = crowd(server, lobby.MAX_GUESTS + bounded_server.MAX_HTTP_CLIENTS + 20, data, receive_bytes=2_048)
    gevent.sleep(0.1)
    assert ask(server, "GET /fine")[0] == 200
    assert len(server._server._served) <= bounded_server.MAX_HTTP_CLIENTS
    for one in slow:
        one.close()
    assert capfd.readouterr() == ("", "")


HALF = b"GET /fine HTTP/1.1\r\nHost:"


def is_left(client: socket.socket) -> bool:
    """Whether the connection is closed without an answer."""
    try:
        return client.recv(1) == b""
    except ConnectionResetError:
        return True


@pytest.mark.clock
@pytest.mark.parametrize("data", [b"", HALF, b"POST /fine HTTP/1.1\r\nContent-Length: 9\r\n\r\nab"])
def test_a_request_that_does_not_come_whole_is_awaited_for_a_moment_and_no_longer(server, monkeypatch, data):
    monkeypatch.setattr(lobby, "GUEST_SECONDS", 0.2)
    began = time.monotonic()
    [one] = crowd(server, 1, data)
    with one:
        assert is_left(one)
    assert 0.1 < time.monotonic() - began < 5


def test_who_sends_half_a_request_and_closes_its_side_is_left_at_once(server):
    [one] = crowd(server, 1, HALF)
    with one:
        one.shutdown(socket.SHUT_WR)
        assert is_left(one)
    assert server._server._lobby._guests == {}


def test_a_stream_and_a_page_at_work_keep_their_places(server, monkeypatch):
    monkeypatch.setattr(bounded_server, "MAX_HTTP_CLIENTS", 2)
    [stream] = crowd(server, 1, b"GET /stream HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    [at_work] = crowd(server, 1, b"GET /slow HTTP/1.0\r\n\r\n")
    assert b"part" in stream.recv(65_536)
    [refused] = crowd(server, 1, b"GET /fine HTTP/1.0\r\n\r\n")
    with refused:
        assert is_left(refused)
    GO_ON.set()
    assert at_work.recv(65_536).startswith(b"HTTP/1.1 200")
    at_work.close()
    assert ask(server, "GET /fine")[0] == 200
    assert b"part" in stream.recv(65_536)
    stream.close()


@pytest.mark.slow
def test_a_thousand_slow_clients_are_no_reason_to_kill_a_worker(server, capfd):
    """They send nothing: a health check that comes after them has its answer in its own time."""
    idle = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(1_000)]
    assert healthcheck.main([f"http://127.0.0.1:{server.port}/fine"]) == 0
    assert len(server._server._lobby._guests) <= lobby.MAX_GUESTS
    for one in idle:
        one.close()
    assert capfd.readouterr().err == ""


def test_a_client_that_goes_away_is_no_error(server, capfd):
    for data in (b"", b"GET", b"GET /fine HTTP/1.1\r\nHost", b"POST /fine HTTP/1.1\r\nContent-Length: 10\r\n\r\nab"):
        with socket.create_connection(("127.0.0.1", server.port)) as connection:
            connection.sendall(data)
    assert ask(server, "GET /fine")[0] == 200
    gevent.sleep(0)
    assert capfd.readouterr() == ("", "")


def test_a_port_that_is_taken_and_a_place_that_is_not_ours_say_which_setting_it_is(server):
    for address, reason in ((("127.0.0.1", server.port), "Address already in use"), (("192.0.2.1", 80), "Cannot")):
        with pytest.raises(ConfigError, match=rf"^\[http\] listen: cannot listen there: {reason}[^(]*$"):
            HttpServer(address, {}, WHERE).start()


def test_after_stop_nobody_is_answered():
    one = HttpServer(("127.0.0.1", 0), {"/": lambda: PlainAnswer(HTTPStatus.OK, "")}, WHERE)
    one.start()
    port = one.port
    one.stop()
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", port), 1)
