"""HttpServer: what it answers over real sockets, to clients that behave and to those that do not."""

from __future__ import annotations

import socket
from http import HTTPStatus

import gevent
import pytest

from millpond import healthcheck
from millpond.errors import ConfigError
from millpond.http import http_server
from millpond.http.http_server import HttpServer, PlainAnswer

WHERE = "[http] listen"


def failing():
    raise RuntimeError("a defect")


@pytest.fixture
def server():
    routes = {
        "/fine": lambda: PlainAnswer(HTTPStatus.OK, "all is well: Grüße"),
        "/ill": lambda: PlainAnswer(HTTPStatus.SERVICE_UNAVAILABLE, "ill"),
        "/fails": failing,
    }
    one = HttpServer(("127.0.0.1", 0), routes, WHERE)
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
    assert ask(server, "GET /")[::2] == (404, "there is /fine, /ill, /fails\n")
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


def test_clients_that_send_nothing_keep_nobody_out_for_long(server, monkeypatch, capfd):
    monkeypatch.setattr(http_server, "CONNECTION_SECONDS", 0.2)
    idle = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(http_server.MAX_HTTP_CLIENTS + 10)]
    for one in idle[::2]:
        one.sendall(b"GET /fine HTTP/1.1\r\nHost:")
    assert ask(server, "GET /fine")[0] == 200
    for one in idle:
        one.close()
    assert capfd.readouterr() == ("", "")


@pytest.mark.slow
def test_a_full_house_with_as_many_before_its_door_is_no_reason_to_kill_a_worker(server, capfd):
    """Clients that send nothing: a health check that comes after them has its answer in its own time."""
    places = 2 * http_server.MAX_HTTP_CLIENTS
    idle = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(places)]
    assert healthcheck.main([f"http://127.0.0.1:{server.port}/fine"]) == 0
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
