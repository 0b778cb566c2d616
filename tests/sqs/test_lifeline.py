"""A native thread's own way to SQS: while the hub stands still, over TLS too, and by keys that the hub has left it."""

from __future__ import annotations

import json
import re
import ssl
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import boto3
import pytest
from botocore.config import Config
from gevent.monkey import get_original

from bench import certificate
from millpond.errors import AccessDenied, QueueError, Unreachable
from millpond.sqs.connection_pool import ConnectionPool
from millpond.sqs.dial import Dialer
from millpond.sqs.lifeline import FrozenKeys, Rescue, rescue
from millpond.sqs.sigv4 import Keys
from millpond.sqs.wire import WireSqs
from tests.worker_process import LOCAL_SQS, WorkerProcess

start_thread = get_original("_thread", "start_new_thread")
allocate_lock = get_original("_thread", "allocate_lock")
ident = get_original("_thread", "get_ident")
native_socket = get_original("socket", "socket")

KEYS = Keys("test", "test", "")


class Ring:
    """Credentials: how often they were asked, and from which thread."""

    def __init__(self, keys: Keys | None = KEYS) -> None:
        self.now = keys
        self.asked: list[int] = []

    def keys(self) -> Keys:
        self.asked.append(ident())
        if self.now is None:
            raise AccessDenied("no credentials")
        return self.now

    def renew(self, refused: Keys) -> Keys:
        self.asked.append(ident())
        return Keys("renewed", "renewed", "")


def in_thread(call: Callable[[], Any]) -> Any:
    """The value of `call` in a native thread, while the hub stands still: nothing here lets it turn."""
    over = allocate_lock()
    over.acquire()
    values: list[Any] = []

    def run() -> None:
        try:
            values.append((ident(), call(), None))
        except BaseException as error:
            values.append((ident(), None, error))
        finally:
            over.release()

    start_thread(run, ())
    end = time.monotonic() + 30
    while not over.acquire(False):
        sum(range(1_000))
        assert time.monotonic() < end
    thread, value, error = values[0]
    assert thread != ident()
    if error is not None:
        raise error
    return value


# --- the local SQS, in a process of its own


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tls")
    certificate.make(folder)
    return folder


class Site:
    """An SQS and a client that knows it from outside."""

    def __init__(self, url: str, ca_file: str) -> None:
        self.url = url
        self.ca_file = ca_file
        self.client = boto3.client(
            "sqs",
            region_name="us-east-1",
            endpoint_url=url,
            verify=ca_file or None,
            aws_access_key_id="test",
            aws_secret_access_key="test",
            config=Config(retries={"total_max_attempts": 1}, proxies={}),
        )
        self.queue_url = self.client.create_queue(QueueName="q")["QueueUrl"]

    def receive(self, visibility: int) -> list[str]:
        """Handles of what is visible now."""
        answer = self.client.receive_message(
            QueueUrl=self.queue_url, VisibilityTimeout=visibility, MaxNumberOfMessages=10
        )
        return [message["ReceiptHandle"] for message in answer.get("Messages", [])]

    def take(self, number: int = 1) -> list[str]:
        entries = [{"Id": str(index), "MessageBody": "x"} for index in range(number)]
        self.client.send_message_batch(QueueUrl=self.queue_url, Entries=entries)
        handles = self.receive(visibility=600)
        assert len(handles) == number
        return handles

    def rescue(self, ring: Ring) -> Rescue:
        sqs = WireSqs(self.url, "us-east-1", ring, ConnectionPool(self.url, 1, self.ca_file))
        way = rescue(sqs, self.queue_url, "us-east-1", self.url)
        assert way is not None
        return way


@pytest.fixture(scope="module", params=["http", "https"])
def site(request, authority: Path, tmp_path_factory) -> Iterator[Site]:
    files = ["--certificate", str(authority / "server.pem"), "--key", str(authority / "server.key")]
    tls = request.param == "https"
    folder = tmp_path_factory.mktemp("sqs")
    with WorkerProcess(folder, *(files if tls else []), program=LOCAL_SQS) as process:
        url = re.findall(r"https?://[\d.]+:\d+", process.expect("")["message"])[0]
        assert url.startswith(f"{request.param}:")
        site = Site(url, str(authority / "ca.pem") if tls else "")
        yield site
        site.client.close()


def test_a_native_thread_extends_leases_while_the_hub_stands_still(site):
    ring = Ring()
    way = site.rescue(ring)
    way.hand_over()
    handles = site.take(3)
    assert site.receive(visibility=600) == []
    assert in_thread(lambda: way.change_visibility([(handles[0], 600), (handles[1], 0), (handles[2], 0)])) == [None] * 3
    assert len(site.receive(visibility=600)) == 2  # its change was made, not only answered
    assert set(ring.asked) == {ident()}


def test_one_thread_after_another_uses_the_same_connection(site, monkeypatch):
    opened = []
    dial = Dialer.dial
    monkeypatch.setattr(Dialer, "dial", lambda self, end: opened.append(1) or dial(self, end))
    way = site.rescue(Ring())
    way.hand_over()
    (handle,) = site.take()
    for _ in range(5):
        assert in_thread(lambda: way.change_visibility([(handle, 600)])) == [None]
    assert opened == [1]


def test_a_handle_that_sqs_does_not_know_is_a_failure_of_its_own_entry(site):
    way = site.rescue(Ring())
    way.hand_over()
    (handle,) = site.take()
    good, bad = in_thread(lambda: way.change_visibility([(handle, 600), ("nonsense", 600)]))
    assert good is None
    assert bad.lease_lost


def test_without_keys_nothing_is_sent_and_nobody_is_asked(site):
    ring = Ring()
    way = site.rescue(ring)
    with pytest.raises(AccessDenied, match="no credentials yet"):
        in_thread(lambda: way.change_visibility([("handle", 600)]))
    assert ring.asked == []


def test_a_certificate_that_nobody_trusts_is_no_way(site, tmp_path):
    if not site.ca_file:
        pytest.skip("no TLS")
    certificate.make(tmp_path)
    sqs = WireSqs(site.url, "us-east-1", Ring(), ConnectionPool(site.url, 1, str(tmp_path / "ca.pem")))
    way = rescue(sqs, site.queue_url, "us-east-1", site.url)
    assert way is not None
    way.hand_over()
    with pytest.raises(Unreachable, match="certificate verify failed"):
        in_thread(lambda: way.change_visibility([("handle", 600)]))


# --- a server that misbehaves, in native threads

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: application/x-amz-json-1.0\r\nContent-Length: 2\r\n\r\n{}"
REQUEST = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"


class Server:
    """Each connection plays the next script: for each request an answer; None is no answer; at its end it closes."""

    def __init__(self, *scripts: list[bytes | None]) -> None:
        self.connections = 0
        self.requests = 0
        self._scripts = list(scripts)
        self._let_go = allocate_lock()
        self._let_go.acquire()
        self._listener = native_socket()
        self._listener.bind(("127.0.0.1", 0))
        self._listener.listen()
        self.port = self._listener.getsockname()[1]
        self._running = 0
        self._over = allocate_lock()
        self._over.acquire()
        start_thread(self._run, ())

    def _run(self) -> None:
        for script in self._scripts:
            sock, _ = self._listener.accept()
            self.connections += 1
            self._play(sock, script)
            sock.close()
        self._listener.close()
        self._over.release()

    def _play(self, sock: Any, script: list[bytes | None]) -> None:
        for answer in script:
            if not sock.recv(65_536):
                return
            self.requests += 1
            if answer is None:
                self._let_go.acquire()
                return
            sock.sendall(answer)

    def close(self) -> None:
        self._let_go.release()
        assert self._over.acquire(timeout=30)


def lifeline(server: Server, ca_file: str = "") -> ConnectionPool:
    """The connections of the thread."""
    return ConnectionPool(f"http{'s' if ca_file else ''}://127.0.0.1:{server.port}", 8, ca_file).for_thread()


def wait_until_closed(line: ConnectionPool) -> None:
    while line._kept and line._kept[0].usable():
        time.sleep(0.001)


def test_it_connects_again_after_the_server_has_closed_the_connection():
    server = Server([ANSWER], [ANSWER, ANSWER])
    line = lifeline(server)
    assert in_thread(lambda: line.exchange(REQUEST, 10)).body == b"{}"
    wait_until_closed(line)
    for _ in range(2):
        assert in_thread(lambda: line.exchange(REQUEST, 10)).body == b"{}"
    assert (server.connections, server.requests) == (2, 3)
    server.close()


def test_a_connection_that_ends_before_its_answer_is_an_error_and_the_next_call_has_a_new_one():
    server = Server([ANSWER[:30]], [ANSWER])
    line = lifeline(server)
    with pytest.raises(Unreachable, match="ended before the answer did"):
        in_thread(lambda: line.exchange(REQUEST, 10))
    assert in_thread(lambda: line.exchange(REQUEST, 10)).status == 200
    assert server.requests == 2  # a request is never sent twice
    server.close()


def test_a_connection_that_the_server_will_close_is_not_kept():
    server = Server([ANSWER.replace(b"OK\r\n", b"OK\r\nConnection: close\r\n")], [ANSWER])
    line = lifeline(server)
    for _ in range(2):
        assert in_thread(lambda: line.exchange(REQUEST, 10)).status == 200
    assert server.connections == 2
    server.close()


def test_a_server_that_does_not_answer_is_given_up_in_time():
    server = Server([None])
    line = lifeline(server)
    began = time.monotonic()
    with pytest.raises(Unreachable, match=r"no answer in 0\.3 s"):
        in_thread(lambda: line.exchange(REQUEST, 0.3))
    assert time.monotonic() - began < 15
    assert not line._kept
    server.close()


def test_a_port_where_nobody_listens_and_a_name_that_is_none_are_unreachable():
    sock = native_socket()
    sock.bind(("127.0.0.1", 0))
    port = sock.getsockname()[1]
    sock.close()
    with pytest.raises(Unreachable, match=f"no connection to 127.0.0.1:{port}"):
        in_thread(lambda: ConnectionPool(f"http://127.0.0.1:{port}", 1).for_thread().exchange(REQUEST, 5))
    with pytest.raises(Unreachable, match=r"no connection to a\.\.b:80"):
        in_thread(lambda: ConnectionPool("http://a..b", 1).for_thread().exchange(REQUEST, 5))


def test_a_handshake_that_never_comes_is_given_up_in_time(authority):
    server = Server([None])
    line = lifeline(server, str(authority / "ca.pem"))
    with pytest.raises(Unreachable):
        in_thread(lambda: line.exchange(REQUEST, 0.3))
    server.close()


class TlsServer(Server):
    """The same over TLS; right behind its first answer, in the same segment, comes what is no TLS."""

    def __init__(self, context: ssl.SSLContext, behind: bytes, *scripts: list[bytes | None]) -> None:
        self._context = context
        self._behind = behind
        super().__init__(*scripts)

    def _play(self, sock: Any, script: list[bytes | None]) -> None:
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = self._context.wrap_bio(incoming, outgoing, server_side=True)

        def until_done(step: Callable[[], Any]) -> Any:
            while True:
                try:
                    return step()
                except ssl.SSLWantReadError:
                    sock.sendall(outgoing.read())
                    if not (data := sock.recv(65_536)):
                        return b""
                    incoming.write(data)

        until_done(tls.do_handshake)
        sock.sendall(outgoing.read())
        for answer in script:
            if not until_done(lambda: tls.read(65_536)):
                return
            self.requests += 1
            tls.write(answer)
            sock.sendall(outgoing.read() + self._behind)
            self._behind = b""


@pytest.mark.parametrize(
    "behind",
    [b"HTTP/1.1 400 x\r\n\r\n", b"\x15\x03\x03\x00\x02\x01\x00", b"\x17\x03\x03\x00\x20abc", b"\x17"],
    ids=["plain text", "an alert in the clear", "half a record", "a byte"],
)
def test_what_is_no_tls_behind_an_answer_costs_the_thread_a_connection_and_no_call(authority, behind):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority / "server.pem", authority / "server.key")
    server = TlsServer(context, behind, [ANSWER], [ANSWER, ANSWER])
    line = lifeline(server, str(authority / "ca.pem"))
    for _ in range(3):
        assert in_thread(lambda: line.exchange(REQUEST, 10)).body == b"{}"
    assert (server.connections, server.requests) == (2, 3)
    server.close()


DEEP = b'{"Failed": ' + b"[" * 10_000 + b"]" * 10_000 + b"}"
HEAD = b"HTTP/1.1 %b\r\nContent-Type: application/x-amz-json-1.0\r\nDate: %b\r\nContent-Length: %d\r\n\r\n%b"
SKEW = b'{"__type": "RequestExpired", "message": "x"}'


@pytest.mark.parametrize(
    ("status", "date", "body"),
    [
        (b"200 OK", b"x", DEEP),
        (b"400 x", b"x", DEEP),
        (b"200 OK", b"x", b'{"Successful": 5}'),
        (b"200 OK", b"x", b'{"Successful": [{"Id": "7"}]}'),
        (b"403 x", b"Thu, 31 Dec 9999 23:59:59 GMT", SKEW),
        (b"403 x", b"Sun, 22 Nov 2026 00:00:00 +" + b"9" * 20, SKEW),
    ],
    ids=["deep", "a deep refusal", "no list", "another's id", "the year 9999", "a zone of 20 digits"],
)
def test_whatever_is_answered_to_the_thread_is_a_queue_error(status, date, body):
    """Anything else would end the process: there is nobody else to hear of it."""
    server = Server([HEAD % (status, date, len(body), body)])
    url = f"http://127.0.0.1:{server.port}"
    way = rescue(WireSqs(url, "us-east-1", Ring(), ConnectionPool(url, 1)), f"{url}/0/q", "us-east-1", url)
    assert way is not None
    way.hand_over()
    with pytest.raises(QueueError, match="ChangeMessageVisibilityBatch"):
        in_thread(lambda: way.change_visibility([("handle", 30)]))
    assert server.requests == 1
    server.close()


# --- keys


def test_frozen_keys_are_those_that_were_handed_over_last_and_no_provider_is_asked_for_them():
    ring = Ring()
    frozen = FrozenKeys(ring)
    with pytest.raises(AccessDenied):
        frozen.keys()
    assert ring.asked == []
    frozen.hand_over()
    ring.now = Keys("new", "new", "token")
    for _ in range(3):
        assert frozen.keys() == KEYS
        assert frozen.renew(KEYS) == KEYS
    assert len(ring.asked) == 1
    frozen.hand_over()
    assert frozen.keys() == ring.now
    assert len(ring.asked) == 2


def test_keys_that_sqs_has_refused_the_thread_are_loaded_afresh_at_the_next_hand_over():
    ring = Ring()
    frozen = FrozenKeys(ring)
    frozen.hand_over()
    assert frozen.renew(frozen.keys()) == KEYS
    frozen.hand_over()
    assert frozen.keys() == Keys("renewed", "renewed", "")


@pytest.mark.parametrize("error", [AccessDenied("expired"), Unreachable("no metadata"), QueueError("?")], ids=repr)
def test_where_there_are_no_new_keys_the_last_ones_stay(error):
    ring = Ring()
    frozen = FrozenKeys(ring)
    frozen.hand_over()

    def fail() -> Keys:
        raise error

    ring.keys = fail  # type: ignore[method-assign]
    frozen.hand_over()
    assert frozen.keys() == KEYS


def test_keys_that_sqs_refuses_are_not_renewed_in_the_thread():
    """A renewal takes the hub's locks; the answer stands as it is."""
    body = json.dumps({"__type": "com.amazonaws.sqs#ExpiredToken", "message": "expired"}).encode()
    expired = b"HTTP/1.1 403 No\r\nContent-Type: application/x-amz-json-1.0\r\nContent-Length: %d\r\n\r\n%b"
    server = Server([expired % (len(body), body)])
    ring = Ring()
    url = f"http://127.0.0.1:{server.port}"
    way = rescue(WireSqs(url, "us-east-1", ring, ConnectionPool(url, 1)), f"{url}/0/q", "us-east-1", url)
    assert way is not None
    way.hand_over()
    with pytest.raises(AccessDenied):
        in_thread(lambda: way.change_visibility([("handle", 30)]))
    assert (len(ring.asked), server.requests) == (1, 1)
    server.close()


def test_where_a_proxy_is_in_the_way_there_is_no_rescue(monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.test:3128")
    other: Any = SimpleNamespace(client="boto3")  # what `connect` gives there
    assert rescue(other, "https://sqs.us-east-1.amazonaws.com/0/q", "us-east-1", "") is None


def test_with_the_boto3_client_the_thread_has_its_own_connection_to_the_same_endpoint(monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    server = Server([ANSWER.replace(b"2\r\n\r\n{}", b"13\r\n\r\n" + b'{"Failed":[]}')])
    url = f"http://127.0.0.1:{server.port}"
    other: Any = SimpleNamespace(client="boto3", credentials=Ring())
    way = rescue(other, f"{url}/0/q", "us-east-1", url)
    assert way is not None
    way.hand_over()
    (result,) = in_thread(lambda: way.change_visibility([("handle", 30)]))
    assert result is not None
    assert result.code == "Missing"
    assert server.requests == 1
    server.close()
