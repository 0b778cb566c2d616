"""Bytes over TLS: an answer is whole or none, and a trusted server's."""

from __future__ import annotations

import random
import re
import shutil
import socket
import ssl
import subprocess
import time
import tracemalloc
from contextlib import suppress
from itertools import chain
from subprocess import PIPE, STDOUT

import gevent
import pytest
from gevent.monkey import get_original
from gevent.server import StreamServer

from millpond.errors import ConfigError, Unreachable
from millpond.sqs.connection_pool import ConnectionPool
from millpond.sqs.stream import Stream
from tests.http_server import HANG_UP, Server
from tests.smtp_server import make_certificate
from tests.sqs.scripted import ENDED, EVERYBODYS, LENGTH, TO_ITS_END, idle_end, send, works


@pytest.fixture(autouse=True)
def _bounded():
    with gevent.Timeout(60):
        yield


# --- over TLS


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


@pytest.mark.clock
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


def _took(client: ConnectionPool, body: bytes, thread: bool) -> float:
    """The seconds of a call that has one second and no answer."""

    def call() -> float:
        began = time.monotonic()
        with pytest.raises(Unreachable, match="no answer in 1 s"):
            send(client, body, 1)
        return time.monotonic() - began

    return gevent.get_hub().threadpool.apply(call) if thread else call()


@pytest.mark.clock
@pytest.mark.parametrize("thread", [False, True])
@pytest.mark.parametrize("tls", [False, True])
def test_a_server_that_reads_late_and_then_is_silent_has_one_limit_for_both(certificate, tls, thread):
    """The time that the request took to leave is not there for the answer."""
    server = Server(certificate.server_context() if tls else None)
    client = ConnectionPool(server.url, 4, str(certificate.pem) if tls else "")
    client = client.for_thread() if thread else client
    server.script += [[LENGTH, lambda: gevent.sleep(0.7)], [lambda: gevent.sleep(5)]]
    gevent.get_hub().threadpool.apply(send, (client,)) if thread else send(client)
    assert 0.99 < _took(client, bytes(20_000_000), thread) < 1.4
    assert len(server.requests) == 2  # it was read
    client.close()
    server.close()


@pytest.mark.clock
@pytest.mark.parametrize("thread", [False, True])
@pytest.mark.parametrize("tls", [False, True])
def test_a_byte_just_before_the_limit_gives_no_second_one(certificate, tls, thread):
    """Over TLS it is the first of a record, with which nothing can be done yet."""
    server = Server(certificate.server_context() if tls else None)
    client = ConnectionPool(server.url, 4, str(certificate.pem) if tls else "")
    client = client.for_thread() if thread else client

    def send_byte() -> None:
        next(iter(server.open))._sock.send(b"\x17" if tls else b"H")

    server.script += [LENGTH, [lambda: gevent.sleep(0.7), send_byte, lambda: gevent.sleep(5)]]
    gevent.get_hub().threadpool.apply(send, (client,)) if thread else send(client)
    assert 0.99 < _took(client, b"{}", thread) < 1.4
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
