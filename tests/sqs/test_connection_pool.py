"""The connections against a scripted server: what is kept, how many are opened, and by which threads."""

from __future__ import annotations

import socket
import subprocess
import sys
from functools import partial

import gevent
import greenlet
import pytest
from gevent.threadpool import ThreadPool

from millpond.errors import Interrupt, TimeLimitExceeded, Unreachable
from millpond.sqs.connection_pool import MAX_OPENING, ConnectionPool
from tests.http_server import HANG_UP, Server, pieces
from tests.sqs.scripted import CHUNKED, EVERYBODYS, INTERIM, LENGTH, ROOT, TO_ITS_END, idle_end, send, works


@pytest.fixture(autouse=True)
def _bounded():
    with gevent.Timeout(60):
        yield


@pytest.mark.parametrize(
    ("url", "port"),
    [("https://a.org/", 443), ("http://a.org", 80), ("https://a.org:8443/", 8443), ("http://[::1]:9324", 9324)],
)
def test_the_port_is_the_urls_or_else_its_schemes(url, port):
    assert ConnectionPool(url, 1, EVERYBODYS).port == port


# --- what is kept


def test_a_connection_is_used_again(client, server):
    for number in range(5):
        assert send(client, b"%d" % number).body == b"%d" % number
    assert server.connections == 1


def test_parallel_calls_have_a_connection_each_and_no_more_are_kept_than_allowed(server):
    client = ConnectionPool(server.url, 2)
    bodies = [b"%d" % number for number in range(6)]
    server.answers_from = 6  # on a busy machine the first was answered, and its connection used again, before the last
    calls = [gevent.spawn(send, client, body) for body in bodies]
    gevent.joinall(calls, raise_error=True)
    assert [call.value.body for call in calls] == bodies
    assert server.connections == 6
    server.wait_until_open(2)
    works(client, server)
    assert server.connections == 6
    client.close()
    server.wait_until_open(0)


def test_the_last_connection_used_goes_first(client, server):
    gevent.joinall([gevent.spawn(send, client) for _ in range(3)], raise_error=True)
    last = client._kept[-1]
    send(client)
    assert client._kept[-1] is last


def test_a_client_that_is_forgotten_closes_its_connections(server):
    client = ConnectionPool(server.url, 4)
    send(client)
    del client
    server.wait_until_open(0)


def test_the_sockets_do_not_wait_to_fill_a_segment_and_notice_a_peer_that_is_gone(client, server):
    send(client)
    sock = client._kept[-1]._stream._socket
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)


@pytest.mark.parametrize("rubbish", [[], [LENGTH], [b"x"]], ids=["closed", "an answer too many", "a byte too many"])
def test_what_happens_to_an_idle_connection_is_noticed_before_it_is_used(client, server, rubbish):
    later = gevent.event.Event()
    server.script.append([LENGTH, later.wait, *rubbish, HANG_UP])
    send(client)
    later.set()
    idle_end(client)
    works(client, server)
    assert (server.connections, len(server.requests)) == (2, 2)


def test_all_idle_connections_may_be_closed_at_once(client, server):
    gevent.joinall([gevent.spawn(send, client) for _ in range(4)], raise_error=True)
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
    assert send(client).body == b"hello world"
    works(client, server)
    assert server.connections == 2


# --- errors of the way


def test_a_port_where_nobody_listens(server):
    server.close()
    with pytest.raises(Unreachable, match=rf"no connection to 127\.0\.0\.1:{server.port}: .*refused"):
        send(ConnectionPool(server.url, 4))


@pytest.mark.parametrize(
    "error",
    [
        socket.gaierror(-2, "Name or service not known"),
        OSError(101, "Network is unreachable"),
        UnicodeError("label too long"),
        TimeoutError("in time"),
    ],
)
def test_a_host_that_cannot_be_reached(monkeypatch, error):
    def fail(host, port, **_):
        assert (host, port) == ("queue.example", 80)
        raise error

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    with pytest.raises(Unreachable, match=rf"no connection to queue\.example:80: .*{error.args[-1]}"):
        send(ConnectionPool("http://queue.example", 4), seconds=30)


def test_a_call_that_may_take_long_is_not_long_without_a_connection(monkeypatch):
    monkeypatch.setattr("millpond.sqs.connection_pool.CONNECT_SECONDS", 0.2)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **more: gevent.sleep(60))
    with gevent.Timeout(5), pytest.raises(Unreachable, match="not found in time"):
        send(ConnectionPool("http://queue.example", 4), seconds=30)


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
        client = ConnectionPool(server.url, 4, str(certificate.pem))
        if kept:
            works(client, server)
        server.script.append(pieces(answer, 30))
        hit, switches = interrupted(partial(send, client), at)
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
        send(client)
    works(client, server)
    assert server.connections == 2


# --- how many are opened


def test_few_connections_are_opened_at_the_same_moment_and_a_call_takes_one_that_comes_free(monkeypatch, server):
    opening, most, find = 0, 0, socket.getaddrinfo

    def slow(*asked, **more):
        nonlocal opening, most
        opening += 1
        most = max(most, opening)
        gevent.sleep(0.01)
        opening -= 1
        return find(*asked, **more)

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    client = ConnectionPool(server.url, 50)
    gevent.joinall([gevent.spawn(send, client) for _ in range(50)], raise_error=True)
    assert most == MAX_OPENING
    assert server.connections < 50


def test_who_waits_for_others_to_open_theirs_waits_no_longer_than_its_call_may_take(monkeypatch, server):
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **more: gevent.sleep(5))
    client = ConnectionPool(server.url, 4)
    with gevent.Timeout(10):
        others = [gevent.spawn(send, client) for _ in range(MAX_OPENING)]
        gevent.idle()
        with pytest.raises(Unreachable, match="other calls are still opening theirs"):
            send(client, seconds=0.05)
    gevent.killall(others)


def test_an_interrupt_of_one_who_opens_lets_the_next_one_open(monkeypatch, server):
    find = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **more: gevent.sleep(5))
    client = ConnectionPool(server.url, 4)
    for _ in range(2 * MAX_OPENING):
        with pytest.raises(gevent.Timeout), gevent.Timeout(0.001):
            send(client)
    monkeypatch.setattr(socket, "getaddrinfo", find)
    works(client, server)


# --- real threads beside the hub


@pytest.fixture(params=["http", "https"])
def either(request, certificate):
    server = Server(certificate.server_context() if request.param == "https" else None)
    yield server
    server.close()


@pytest.mark.parametrize("beside", [False, True], ids=["threads alone", "beside greenlets"])
def test_real_threads_share_connections_of_their_own_and_never_the_hubs(either, certificate, beside):
    client = ConnectionPool(either.url, 8, str(certificate.pem))
    pool = ThreadPool(4)

    def work(name: int) -> None:
        for number in range(25):
            body = b"%d of %d" % (number, name)
            assert send(client, body, 20).body == body

    threads = [pool.spawn(work, name) for name in range(4)]
    greenlets = [gevent.spawn(work, name) for name in range(4, 8)] if beside else []
    for one in (*threads, *greenlets):
        one.get()
    pool.kill()
    assert len(either.requests) == (200 if beside else 100)
    assert either.connections <= (8 if beside else 4)
    client.close()
    either.wait_until_open(0)


# --- processes of their own: unpatched as a web process, and forked

SCRIPT = """
import os, sys, threading
if "gevent" in sys.argv:
    from gevent import monkey; monkey.patch_all()
from millpond.sqs.connection_pool import ConnectionPool

client = ConnectionPool(sys.argv[1], 3, sys.argv[2])

def call(body):
    wire = b"POST / HTTP/1.1\\r\\nContent-Length: %d\\r\\n\\r\\n%b" % (len(body), body)
    answer = client.exchange(wire, 20).body
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


def test_threads_of_an_unpatched_process_share_their_connections(either, certificate):
    in_a_process(THREADS, either.url, str(certificate.pem))
    assert len(either.requests) == 320
    either.wait_until_open(0)


@pytest.mark.parametrize("patched", [(), ("gevent",)], ids=["unpatched", "gevent"])
def test_a_forked_process_opens_connections_of_its_own(either, certificate, patched):
    in_a_process(FORK, either.url, str(certificate.pem), *patched)
    bodies = [wire.partition(b"\r\n\r\n")[2] for wire in either.requests]
    assert bodies == [b"parent 1", b"child 1", b"child 2", b"parent 2"]
    assert either.connections == 2
