"""The live page over real sockets: what is shown to whom, the stream, and its bounds."""

from __future__ import annotations

import json
import re
import socket
import time

import gevent
import pytest

from millpond.app.http_settings import HttpSettings
from millpond.http import bounded_server
from millpond.http.http_server import HttpServer
from millpond.observe.metric_row import MetricKey
from millpond.observe.metrics import MetricSecond
from millpond.process import live_page
from millpond.process.history import History
from millpond.process.hour_marks import MarkedState
from millpond.process.live_page import MAX_VIEWERS, LivePage
from millpond.process.snapshot import Snapshot, read_snapshot
from tests.process.snapshots import FULL

TOKEN = "a-token-of-this-test"
HOST = "Host: localhost"


class Clock:
    """Real time."""

    def now(self) -> float:
        return gevent.get_hub().loop.now()

    time = staticmethod(time.time)
    sleep = staticmethod(gevent.sleep)


class Process:
    """A process that is always the same: what LivePage needs of a Core and of an Observer."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.taken = 0

    def take(self, most: int = 100, bodies: bool = False, failures: bool = False) -> Snapshot:
        self.taken += 1
        self.bodies = bodies
        return FULL


@pytest.fixture
def one(monkeypatch):
    monkeypatch.setattr(live_page, "EVENT_SECONDS", 0.05)
    servers = []

    def start(**settings: object) -> HttpServer:
        process = Process()
        process.history = History(process, process)
        page = LivePage(HttpSettings(listen="127.0.0.1:0", **settings), process, process, process.history, process)
        servers.append(server := HttpServer(("127.0.0.1", 0), {}, "[http]", page.gated))
        server.start()
        server.process = process
        return server

    yield start
    for server in servers:
        server.stop()


def opened(server: HttpServer, line: str, *headers: str) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", server.port), 5)
    connection.sendall("\r\n".join([f"{line} HTTP/1.1", "Connection: close", *headers, "", ""]).encode())
    return connection


def ask(server: HttpServer, line: str, *headers: str) -> tuple[int, dict[str, str], str]:
    answer = b""
    with opened(server, line, *headers) as connection:
        while part := connection.recv(65_536):
            answer += part
    head, _, body = answer.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    return int(first.split()[1]), dict(one.lower().split(": ", 1) for one in lines), body.decode()


def until(connection: socket.socket, wanted: bytes) -> bytes:
    data = b""
    while wanted not in data and (part := connection.recv(65_536)):
        data += part
    assert wanted in data
    return data


def test_the_page_asks_nobody_else_and_runs_only_its_own_script(one):
    status, headers, body = ask(one(), "GET /", HOST)
    assert (status, headers["content-type"]) == (200, "text/html; charset=utf-8")
    policy = headers["content-security-policy"]
    (nonce,) = set(re.findall(r'nonce="([^"]+)"', body))
    assert f"script-src 'nonce-{nonce.lower()}'" in policy
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "//" not in re.sub(r"(?m)^\s*// .*$", "", body).replace("<!doctype", "")
    assert not re.search(r"innerHTML|insertAdjacent|document\.write|eval\(| on\w+=| style=", body)


def test_each_page_has_a_nonce_of_its_own(one):
    server = one()
    assert ask(server, "GET /", HOST)[2] != ask(server, "GET /", HOST)[2]


def test_status_is_the_snapshot_as_json(one):
    status, headers, body = ask(one(), "GET /status", HOST)
    assert (status, headers["content-type"]) == (200, "application/json")
    assert read_snapshot(body.encode()) == FULL


def test_bodies_are_asked_for_only_where_the_settings_allow_them(one):
    for allowed in (False, True):
        server = one(show_bodies=allowed) if allowed else one()
        ask(server, "GET /status", HOST)
        assert server.process.bodies is allowed
        with opened(server, "GET /events", HOST) as connection:
            server.process.bodies = None
            until(connection, b"data: ")
            assert server.process.bodies is allowed


def test_the_history_is_whole_at_the_begin_of_a_stream_and_then_only_what_is_new(one):
    server = one()
    hour, marks = server.process.history.hour, server.process.history.marks
    hour.take(MetricSecond({MetricKey("succeeded", "q", "a"): 3}, {}, {}))
    with opened(server, "GET /events", HOST) as connection, gevent.Timeout(5):
        first = history_in(until(connection, b"event: history"), connection)
        assert (first["whole"], [mark["kind"] for mark in first["marks"]]) == (True, ["start"])
        assert [bucket["outcomes"] for bucket in first["buckets"]] == [{"succeeded": 3}]
        marks.look(1.0, MarkedState(blocked=1))
        part = first
        while "marks" not in part or part.get("whole"):
            part = history_in(b"", connection)
        assert [mark["text"] for mark in part["marks"]] == ["hub blocked once"]
    whole = json.loads(ask(server, "GET /history", HOST)[2])
    assert [mark["kind"] for mark in whole["marks"]] == ["start", "blocked"]


def history_in(data: bytes, connection: socket.socket) -> dict[str, object]:
    """The next event of the history."""
    while not (found := re.search(rb"event: history\ndata: (\{.*?\})\n\n", data)):
        data += more(connection)
    return json.loads(found[1])


def more(connection: socket.socket) -> bytes:
    data = connection.recv(65_536)
    assert data, "the stream has ended"
    return data


def test_a_stream_without_news_has_no_history_in_it(one):
    with opened(one(), "GET /events", HOST) as connection:
        data = b""
        while data.count(b"\r\ndata: ") < 5:
            data += more(connection)
    assert data.count(b"event: history") == 1


def test_head_has_no_body_and_opens_no_stream(one):
    server = one()
    for path in ("/", "/status", "/events", "/history"):
        status, _, body = ask(server, f"HEAD {path}", HOST)
        assert (status, body) == (200, "")
    for _ in range(MAX_VIEWERS + 1):
        assert ask(server, "HEAD /events", HOST)[0] == 200


@pytest.mark.parametrize("path", ["/", "/status", "/events", "/history"])
def test_a_name_that_was_led_here_another_method_and_no_host_see_nothing(one, path):
    server = one(token=TOKEN)
    for line, header, wanted in (
        ("GET", "Host: evil.example", 421),
        ("GET", "X: y", 421),
        ("POST", HOST, 405),
        ("DELETE", HOST, 405),
    ):
        status, _, body = ask(server, f"{line} {path}", header)
        assert (status, len(body) < 50) == (wanted, True)
    assert server.process.taken == 0


def test_what_comes_through_a_proxy_is_asked_for_the_token(one):
    server, forwarded = one(token=TOKEN, hosts=("Worker.Example",)), "X-Forwarded-For: 10.0.0.1"
    status, headers, _ = ask(server, "GET /status", HOST, forwarded)
    assert (status, headers["www-authenticate"].startswith("basic ")) == (401, True)
    assert ask(server, "GET /status", "Host: worker.example")[0] == 401
    bearer = f"Authorization: Bearer {TOKEN}"
    assert ask(server, "GET /status", HOST, forwarded, bearer)[0] == 200
    assert ask(server, "GET /status", "Host: worker.example:443", bearer)[0] == 200
    assert ask(one(), "GET /status", HOST, forwarded, bearer)[0] == 403


def test_no_answer_behind_the_gate_can_be_framed_guessed_or_read_by_another_site(one):
    server = one()
    for path, host, status in (("/", HOST, 200), ("/status", HOST, 200), ("/status", "Host: other.example", 421)):
        found, headers, _ = ask(server, f"GET {path}", host)
        assert (found, headers["x-frame-options"], headers["x-content-type-options"]) == (status, "deny", "nosniff")
        assert headers["cross-origin-resource-policy"] == "same-origin"


def test_the_page_can_be_below_a_path_and_can_be_off(one):
    below = one(prefix="/worker")
    assert [ask(below, f"GET {path}", HOST)[0] for path in ("/worker/", "/worker/status", "/status")] == [200, 200, 404]
    assert ask(one(page=False), "GET /", HOST)[0] == 404


def test_a_stream_has_a_snapshot_each_second_and_outlives_the_limit_of_a_connection(one, monkeypatch):
    monkeypatch.setattr(bounded_server, "CONNECTION_SECONDS", 0.12)
    server = one()
    with opened(server, "GET /events", HOST) as connection:
        data = b""
        while data.count(b"data: ") < 8 and (part := connection.recv(65_536)):
            data += part
    assert data.count(b"data: ") >= 8
    assert b"text/event-stream" in data
    (first,) = re.findall(rb"\r\ndata: (\{.*?\})\n\n", data)[:1]
    assert json.loads(first)["worker"]["name"] == FULL.worker.name


def test_a_viewer_that_reads_nothing_is_cut_off(one, monkeypatch):
    monkeypatch.setattr(bounded_server, "CONNECTION_SECONDS", 0.2)
    monkeypatch.setattr(live_page, "EVENT_SECONDS", 0.0)
    server = one()
    viewers = [opened(server, "GET /events", HOST) for _ in range(MAX_VIEWERS)]
    with gevent.Timeout(5):
        until(viewers[0], b"data: ")
        assert ask(server, "HEAD /events", HOST)[0] == 503
        while ask(server, "HEAD /events", HOST)[0] != 200:
            gevent.sleep(0.05)
    for viewer in viewers:
        viewer.close()


def test_the_streams_are_bounded_and_a_place_is_free_when_one_goes(one):
    server = one()
    viewers = [opened(server, "GET /events", HOST) for _ in range(MAX_VIEWERS)]
    for viewer in viewers:
        until(viewer, b"data: ")
    assert ask(server, "GET /events", HOST)[0] == 503
    viewers.pop().close()
    with gevent.Timeout(5):
        while ask(server, "HEAD /events", HOST)[0] != 200:
            gevent.sleep(0.02)
    for viewer in viewers:
        viewer.close()


def test_a_stream_ends_by_itself_and_the_browser_is_to_ask_again(one, monkeypatch):
    monkeypatch.setattr(live_page, "STREAM_SECONDS", 0.1)
    status, _, body = ask(one(), "GET /events", HOST)
    assert (status, "retry: 1000" in body) == (200, True)
