"""Who may ask the local queue: an SDK by this machine's names, and no web page that a developer has open."""

from __future__ import annotations

import json
from contextlib import closing

import pytest

from millpond.local import LocalSqs
from millpond.local.access import AccessGuard
from millpond.local.sqs_error import Unreadable
from tests.local.raw_client import JSON, RawClient, assert_closed


def post(host: str, *headers: str, body: bytes = b'{"QueueName": "stolen"}') -> bytes:
    head = ["POST / HTTP/1.1", f"Host: {host}", "X-Amz-Target: AmazonSQS.CreateQueue", *headers]
    return "\r\n".join([*head, f"Content-Length: {len(body)}", "", ""]).encode() + body


FOREIGN = [
    "evil.example",
    "evil.example:9324",
    "EVIL.example.",
    "localhost.evil.example",
    "127.0.0.1.evil.example",
    "127.0.0.1.nip.io:9324",
    "evillocalhost.com",
    "169.254.169.254",
    "192.168.0.7:9324",
    "0.0.0.0:9324",
    "[2001:db8::1]:9324",
    "user@localhost",
    "localhost, evil.example",
    "localhost:9324:80",
    "localhost:port",
    "evil.example/localhost",
    "[::1",
    "",
]


@pytest.mark.parametrize("host", FOREIGN)
def test_a_page_whose_name_leads_here_can_neither_read_nor_send(server: LocalSqs, host: str) -> None:
    with closing(RawClient(server)) as connection:
        connection.send(post(host))
        status, headers, body = connection.answer()
        assert (status, headers["x-amzn-query-error"]) == (403, "AccessDeniedException;Sender")
        assert "is not this server" in json.loads(body)["message"]
        assert_closed(connection)
    with closing(RawClient(server)) as connection:
        connection.send(f"GET /health HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        assert connection.answer()[0] == 403
    with closing(RawClient(server)) as connection:
        assert connection.call("ListQueues")[2] == {}


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "LocalHost:9324",
        "localhost.",
        "127.0.0.1",
        "127.0.0.2:80",
        "[::1]:9324",
        "sqs.localhost:9324",
        "sqs.us-east-1.localhost",
        "sqs",
        "my_queue:9324",
        "host.docker.internal:9324",
    ],
)
def test_this_machines_names_are_answered_and_begin_the_queue_urls(connection: RawClient, host: str) -> None:
    connection.send(post(host, body=b'{"QueueName": "q"}'))
    status, _, body = connection.answer()
    assert (status, json.loads(body)) == (200, {"QueueUrl": f"http://{host}/000000000000/q"})


@pytest.mark.parametrize(
    ("listens_on", "known", "foreign"),
    [
        ("0.0.0.0", ["0.0.0.0:9324", "10.1.2.3", "[2001:db8::1]:9324", "sqs:9324", "localhost"], ["evil.example"]),
        ("192.168.0.7", ["192.168.0.7:9324", "127.0.0.1"], ["evil.example", "192.168.0.7.nip.io"]),
        (
            "queue.corp.example",
            ["queue.corp.example:9324", "localhost"],
            ["corp.example", "queue.corp", "corp.example", "evil.queue.corp.example"],
        ),
        ("127.0.0.2", ["127.0.0.2", "127.0.0.1", "localhost"], ["10.1.2.3", "evil.example"]),
        ("LOCALHOST", ["localhost:1"], ["10.1.2.3"]),
    ],
)
def test_the_host_that_it_listens_on_is_known_and_in_a_container_every_address(
    listens_on: str, known: list[str], foreign: list[str]
) -> None:
    guard = AccessGuard("http", listens_on)
    for host in known:
        guard.check({"host": host})
    for host in foreign:
        with pytest.raises(Unreadable, match="is not this server") as raised:
            guard.check({"host": host})
        assert raised.value.status == 403


@pytest.mark.parametrize(
    "header",
    [
        "Origin: http://evil.example",
        "Origin: null",
        "Origin: http://localhost:3000",
        "Origin: https://localhost",
        "Origin: http://127.0.0.1",
        "Origin: chrome-extension://abcdef",
        "Origin:",
        "Sec-Fetch-Site: cross-site",
        "Sec-Fetch-Site: same-site",
        "sec-fetch-site: CROSS-SITE",
        "Sec-Fetch-Site: what comes next",
        "Content-Type: text/plain",
        "Content-Type: Text/Plain;charset=UTF-8",
        "Content-Type: multipart/form-data; boundary=x",
    ],
)
def test_what_a_web_page_sends_is_refused_and_does_nothing(server: LocalSqs, header: str) -> None:
    with closing(RawClient(server)) as connection:
        connection.send(post("localhost", header))
        status, headers, body = connection.answer()
        assert (status, headers["x-amzn-query-error"]) == (403, "AccessDeniedException;Sender")
        assert "page" in json.loads(body)["message"]
        assert "access-control-allow-origin" not in headers
        assert_closed(connection)
    with closing(RawClient(server)) as connection:
        assert connection.call("ListQueues")[2] == {}


@pytest.mark.parametrize("method", ["GET /health", "GET /", "OPTIONS /", "PUT /", "HEAD /health"])
def test_no_method_answers_a_page(connection: RawClient, method: str) -> None:
    head = f"{method} HTTP/1.1\r\nHost: localhost\r\nOrigin: http://evil.example\r\n"
    connection.send(f"{head}Access-Control-Request-Method: POST\r\n\r\n".encode())
    status, headers, _ = connection.answer()
    assert status == 403
    assert not [name for name in headers if name.startswith("access-control")]


@pytest.mark.parametrize("site", ["none", "same-origin"])
def test_a_developer_may_look_at_health_in_a_browser(connection: RawClient, site: str) -> None:
    own = f"Origin: http://{connection.host}\r\n" if site == "same-origin" else ""
    connection.send(f"GET /health HTTP/1.1\r\nHost: {connection.host}\r\n{own}Sec-Fetch-Site: {site}\r\n\r\n".encode())
    assert connection.answer()[0] == 200


@pytest.mark.parametrize("kind", [JSON, "application/json", "application/x-www-form-urlencoded"])
def test_an_sdk_and_curl_are_no_page(connection: RawClient, kind: str) -> None:
    connection.send(post("localhost", f"Content-Type: {kind}"))
    assert connection.answer()[0] == 200


@pytest.mark.parametrize(
    "head",
    [
        "POST / HTTP/1.1",
        "POST / HTTP/1.1\r\nHost: localhost\r\nHost: localhost",
        "POST / HTTP/1.1\r\nHost: localhost\r\nhost: evil.example",
        "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\nTransfer-Encoding: chunked",
        "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\nContent-Length: 2",
        "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2, 2",
        "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: +2",
        "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0x2",
        "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length:",
        "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length : 2",
        "POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        "POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: identity, chunked",
        "POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: \x0bchunked",
        "POST / HTTP/1.0\r\nHost: localhost\r\nTransfer-Encoding: chunked",
        "POST / HTTP/1.1\r\nHost: localhost\r\nX: a\r\n folded",
        "POST / HTTP/1.1\r\n Host: localhost",
        "POST / HTTP/1.1\r\nHost: localhost\r\nX: a\nContent-Length: 2",
        "POST / HTTP/1.1\r\nHost: localhost\r\nX: a\rContent-Length: 2",
        "POST / HTTP/1.1\r\nHost: localhost\r\nX: a\0b",
        "POST / HTTP/1.1\r\nHost: localhost\r\n: no name",
        "POST / HTTP/1.1\r\nHost: localhost\r\nOrigin: http://localhost\r\nOrigin: http://evil.example",
        "POST / HTTP/1.1\r\nHost: localhost\r\nX-Amz-Target: A\r\nX-Amz-Target: B",
        "POST http://evil.example/ HTTP/1.1\r\nHost: localhost",
        "CONNECT evil.example:443 HTTP/1.1\r\nHost: localhost",
        "OPTIONS * HTTP/1.1\r\nHost: localhost",
        "post / HTTP/1.1\r\nHost: localhost",
    ],
)
def test_a_head_that_can_be_read_in_two_ways_is_refused(connection: RawClient, head: str) -> None:
    connection.send(head.encode() + b"\r\n\r\n{}0\r\n\r\nGET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
    status, headers, body = connection.answer()
    assert (status, headers["connection"]) == (400, "close")
    assert json.loads(body)["message"].startswith("This is not an HTTP/1.1 request: ")
    assert_closed(connection)


def test_a_client_whose_proxy_it_is_is_answered_and_a_page_behind_it_is_not(connection: RawClient) -> None:
    head = b"GET http://sqs.internal.example/health HTTP/1.1\r\nHost: sqs.internal.example\r\n"
    connection.send(head + b"\r\n")
    assert connection.answer()[0] == 200
    connection.send(head + b"Origin: http://evil.example\r\n\r\n")
    assert connection.answer()[0] == 403


def test_a_header_that_may_come_twice_may(connection: RawClient) -> None:
    connection.send(b"GET /health HTTP/1.1\r\nHost: localhost\r\nAccept: a\r\nAccept: b\r\n\r\n")
    assert connection.answer()[0] == 200
