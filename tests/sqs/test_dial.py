"""One host, several addresses: whichever answers is used, in time, by greenlets and by native threads."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import gevent
import pytest
from gevent.monkey import get_original

from millpond.errors import Unreachable
from millpond.hub.home import process, system
from millpond.sqs import dial
from millpond.sqs.connection_pool import CONNECT_SECONDS, ConnectionPool, tls_context
from millpond.sqs.dial import Dialer, HostAddress, ordered
from millpond.sqs.stream import Stream
from tests.http_server import Server
from tests.smtp_server import make_certificate

pytestmark = pytest.mark.clock

native = get_original("socket", "socket")


@pytest.fixture(autouse=True)
def _bounded():
    with gevent.Timeout(60):
        yield


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    return make_certificate(tmp_path_factory.mktemp("certificate"), "queue.example", "127.0.0.1")


@pytest.fixture(params=["http", "https"])
def server(request, certificate) -> Iterator[Server]:
    """At 127.0.0.1."""
    server = Server(certificate.server_context() if request.param == "https" else None)
    yield server
    server.close()


class Swallowing:
    """Takes no connection at all, or takes it and says nothing: at an address of its own, on the port of another."""

    def __init__(self, name: str, port: int, *, mute: bool = False) -> None:
        self._listener = native()
        self._listener.bind((name, port))
        self._listener.listen(64 if mute else 0)
        self._filling = []
        for _ in range(0 if mute else 3):  # what does not fit is dropped, as a packet filter does it
            sock = native()
            sock.setblocking(False)
            with suppress(BlockingIOError):
                sock.connect((name, port))
            self._filling.append(sock)

    def close(self) -> None:
        for sock in (*self._filling, self._listener):
            sock.close()


def fill(number: int, port: int) -> list[Any]:
    return [Swallowing(f"127.0.0.{2 + index}", port) for index in range(number)]


def at(port: int, *names: str) -> Callable[..., list[Any]]:
    """A getaddrinfo with these answers."""

    def find(*_: object, **more: object) -> list[Any]:
        return [
            (socket.AF_INET6, socket.SOCK_STREAM, 6, "", (name, port, 0, 0))
            if ":" in name
            else (socket.AF_INET, socket.SOCK_STREAM, 6, "", (name, port))
            for name in names
        ]

    return find


def with_names(home: Callable[[str, str], Any], find: Callable[..., Any]) -> Callable[[str, str], Any]:
    return lambda module, name: find if name == "getaddrinfo" else home(module, name)


def timed(call: Callable[[], Any]) -> tuple[Any, float]:
    began = time.monotonic()
    return call(), time.monotonic() - began


def dialed(home, server, certificate, *names: str, seconds: float = CONNECT_SECONDS) -> Stream:
    tls = tls_context(str(certificate.pem)) if server.url.startswith("https") else None
    dialer = Dialer(with_names(home, at(server.port, *names)), "queue.example", server.port, tls)
    call = lambda: dialer.dial(time.monotonic() + seconds)  # noqa: E731
    return call() if home is process else gevent.get_hub().threadpool.spawn(call).get()


@pytest.mark.slow
@pytest.mark.parametrize("home", [process, system])
@pytest.mark.parametrize("dead", [1, 4, 7])
def test_addresses_that_swallow_packets_cost_a_moment_each(server, certificate, home, dead):
    swallowing = fill(dead, server.port)
    names = [f"127.0.0.{2 + index}" for index in range(dead)]
    stream, seconds = timed(lambda: dialed(home, server, certificate, *names, "127.0.0.1"))
    stream.close()
    assert seconds < dial.STAGGER_SECONDS * (dead + 1) + 1
    for one in swallowing:
        one.close()


def test_where_there_is_little_time_each_address_still_has_its_turn(certificate):
    server = Server()
    swallowing = fill(3, server.port)
    dialed(process, server, certificate, "127.0.0.2", "127.0.0.3", "127.0.0.4", "127.0.0.1", seconds=0.5).close()
    for one in swallowing:
        one.close()
    server.close()


@pytest.mark.parametrize("dead", [1, 2])
def test_where_there_is_little_time_the_last_address_has_as_much_of_it_as_each_before(dead):
    server = Server()
    swallowing = fill(dead, server.port)
    waits: list[float] = []

    class Poll:
        def __init__(self) -> None:
            self._poll: Any = process("select", "poll")()
            self.register, self.unregister = self._poll.register, self._poll.unregister

        def poll(self, milliseconds: float) -> Any:
            waits.append(milliseconds / 1000)
            return self._poll.poll(milliseconds)

    def home(module: str, name: str) -> Any:
        return Poll if name == "poll" else process(module, name)

    names = [f"127.0.0.{2 + index}" for index in range(dead)]
    dialer = Dialer(with_names(home, at(server.port, *names, "127.0.0.1")), "queue.example", server.port, None)
    dialer.dial(time.monotonic() + 0.4).close()
    assert waits[0] <= 0.4 / (dead + 2)  # so much is left for it, too, and for its handshake
    for one in swallowing:
        one.close()
    server.close()


@pytest.mark.parametrize("home", [process, system])
def test_an_address_that_takes_the_connection_and_shakes_no_hand_leaves_time_to_the_others(certificate, home):
    server = Server(certificate.server_context())
    mute = Swallowing("127.0.0.2", server.port, mute=True)
    began = time.monotonic()
    dialed(home, server, certificate, "127.0.0.2", "127.0.0.1", seconds=2).close()
    assert time.monotonic() - began > 0.9  # half of it is its own
    mute.close()
    server.close()


@pytest.mark.parametrize("home", [process, system])
def test_addresses_that_lead_nowhere_cost_no_time(server, certificate, home):
    names = ["2001:db8::1", "2001:db8::2", "127.0.0.9", "127.0.0.1"]  # no route; nobody listens
    stream, seconds = timed(lambda: dialed(home, server, certificate, *names))
    stream.close()
    assert seconds < 1


def test_the_address_that_worked_goes_first_the_next_time(server, certificate, monkeypatch):
    swallowing = fill(2, server.port)
    monkeypatch.setattr(socket, "getaddrinfo", at(server.port, "127.0.0.2", "127.0.0.3", "127.0.0.1"))
    client = ConnectionPool(server.url, 1, str(certificate.pem))
    request = b"POST / HTTP/1.1\r\nContent-Length: 1\r\n\r\nx"
    assert client.exchange(request, 5).body == b"x"
    client.close()
    answer, seconds = timed(lambda: client.exchange(request, 5))
    assert (answer.body, server.connections) == (b"x", 2)
    assert seconds < dial.STAGGER_SECONDS
    client.close()
    for one in swallowing:
        one.close()


@pytest.mark.parametrize("home", [process, system])
def test_where_no_address_answers_each_is_named_in_time(certificate, home):
    server = Server()
    swallowing = fill(2, server.port)
    began = time.monotonic()
    with pytest.raises(Unreachable, match=r"no connection to .*127\.0\.0\.9: .*refused.*127\.0\.0\.2: timed out"):
        dialed(home, server, certificate, "127.0.0.9", "127.0.0.2", "127.0.0.3", seconds=0.5)
    assert 0.4 < time.monotonic() - began < 2
    for one in swallowing:
        one.close()
    server.close()


@pytest.mark.parametrize("home", [process, system])
def test_a_name_that_is_never_looked_up_is_given_up_in_time(home):
    def hang(*_: object, **more: object) -> None:
        home("time", "sleep")(3)

    dialer = Dialer(with_names(home, hang), "queue.example", 80, None)
    call = lambda: dialer.dial(time.monotonic() + 0.2)  # noqa: E731
    began = time.monotonic()
    with pytest.raises(Unreachable, match=r"no connection to queue\.example:80: its address was not found in time"):
        call() if home is process else gevent.get_hub().threadpool.spawn(call).get()
    assert time.monotonic() - began < 2


def test_an_interrupt_leaves_no_socket_open(server, certificate):
    swallowing = fill(3, server.port)
    with pytest.raises(gevent.Timeout), gevent.Timeout(0.3):
        dialed(process, server, certificate, "127.0.0.2", "127.0.0.3", "127.0.0.4")
    for one in swallowing:
        one.close()  # and a socket that is left open is a ResourceWarning, which is an error


def test_the_families_take_turns_and_each_address_comes_once():
    def one(name: str) -> HostAddress:
        return HostAddress(socket.AF_INET6 if ":" in name else socket.AF_INET, 1, 6, "", (name, 80))

    found = [one(name) for name in ("::1", "::2", "::3", "::1", "1.1.1.1", "2.2.2.2")]
    assert [address.address[0] for address in ordered(found, None)] == ["::1", "1.1.1.1", "::2", "2.2.2.2", "::3"]
    assert ordered(found, one("2.2.2.2"))[0] == one("2.2.2.2")
    assert len(ordered(found, one("9.9.9.9"))) == 5
