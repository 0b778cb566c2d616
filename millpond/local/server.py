"""LocalSqs: the local SQS over HTTP, in this process, on gevent."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from itertools import count
from socket import IPPROTO_TCP, SHUT_WR, SO_REUSEADDR, SOL_SOCKET, TCP_NODELAY
from ssl import SSLContext
from typing import Any

import gevent
from gevent import Timeout, get_hub
from gevent.event import Event
from gevent.pool import Pool
from gevent.server import StreamServer
from gevent.socket import socket as Socket  # noqa: N812  a class

from millpond.local import DEFAULT_PORT, http_requests
from millpond.local.access import AccessGuard
from millpond.local.account import Account
from millpond.local.admission import HANDSHAKE_SECONDS, Admission, ServerConnection
from millpond.local.api import TARGET_PREFIX, Api, error_body
from millpond.local.attributes import ACCOUNT_ID
from millpond.local.http_requests import HttpRequest, HttpRequests
from millpond.local.local_poll import LocalPoll
from millpond.local.local_queue import Advancing, LocalQueue
from millpond.local.operations import CreateQueue
from millpond.local.sqs_error import SqsError, Unreadable

#: Connections that wait to be accepted.
BACKLOG = 1024
#: Seconds for answers to go out once the server stops, and for a refused client to stop sending.
STOP_SECONDS = 0.5

#: Seconds without an accept after one that failed, as it does when the process has no descriptor left.
ACCEPT_PAUSE_SECONDS = 0.1

# Bytes of a long answer that go out at a time, and bytes that are still read from a refused client.
_PART_BYTES = 262_144
_REST_BYTES = 8 * 1_048_576
_JSON = "application/x-amz-json-1.0"


class LocalSqs:
    """An SQS of one account on one port, over TLS if it has a context for it. Its messages are in memory only.

    1. Speaks the JSON protocol to any SDK; signatures are not checked, `GET /health` answers 200.
    2. Lets long polls wait; one whose client has gone still takes messages, as on AWS.
    3. Rings the alarms of queues and move tasks.
    """

    def __init__(self, port: int = DEFAULT_PORT, host: str = "127.0.0.1", tls: SSLContext | None = None) -> None:
        self._account = Account(time.time, self._set_alarm)
        self._api = Api(self._account, _wait)
        self._alarms: dict[Advancing, Any] = {}
        self._request_ids = count(1)
        self._listening: _Listening | None = None
        self._host = host
        self._port = port
        self._tls = tls
        self._scheme = "https" if tls else "http"
        self._guard = AccessGuard(self._scheme, host)

    @property
    def url(self) -> str:
        """http://127.0.0.1:9324, for example; with port 0 the real one is known once it is started."""
        return f"{self._scheme}://{self._host}:{self._port}"

    def start(self) -> None:
        """Listen. Raises OSError if the port is taken or the host is not this machine's."""
        self._listening = _Listening(_listener(self._host, self._port), self._converse, self._turn_away)
        self._listening.start()
        self._port = self._listening.server_port

    def stop(self) -> None:
        """Answer the polls that wait, and close all connections."""
        self.close_polls()
        if self._listening is not None:
            self._listening.stop(timeout=STOP_SECONDS)
        for asker in list(self._alarms):
            self._drop_alarm(asker)

    def create_queue(self, name: str, attributes: Mapping[str, str] | None = None) -> str:
        """The URL of a new queue, as by CreateQueue. Raises SqsError."""
        return f"{self.url}/{ACCOUNT_ID}/{self._account.create_queue(CreateQueue(name, dict(attributes or {})))}"

    def close_polls(self) -> None:
        """Answer every open long poll at once; later ones do not wait."""
        self._account.close_polls()

    def _converse(self, socket: Socket, connection: ServerConnection) -> None:
        """Serve one connection, from its first request to its end."""
        connection.greenlet = gevent.getcurrent()
        with suppress(OSError), self._secured(socket) as secured:  # OSError: the client went away, or speaks no TLS
            if self._tls:
                connection.read(HANDSHAKE_SECONDS)
                connection.is_reading = False
                secured.do_handshake()
            requests = HttpRequests(secured, connection, self._guard)
            while self._step(secured, connection, requests):
                pass

    def _secured(self, socket: Socket) -> Socket:
        return self._tls.wrap_socket(socket, server_side=True, do_handshake_on_connect=False) if self._tls else socket

    def _step(self, socket: Socket, connection: ServerConnection, requests: HttpRequests) -> bool:
        """Answer one request; whether another one can come."""
        try:
            request = requests.next()
        except Unreadable as error:
            refusal = self._refusal(error, Connection="close")
        else:
            if request is None:
                return False
            _send(socket, connection, self._answer(request))
            return request.stays
        connection.release()  # not before: while the error lives, its traceback keeps what was read
        _send(socket, connection, refusal)
        _hang_up(socket)
        return False

    def _turn_away(self, socket: Socket) -> None:
        """Refuse a new connection; its buffer takes these few bytes. Called by the hub, so nothing here may wait."""
        if not self._tls:
            error = SqsError("ServiceUnavailable", "There are too many connections, and all are at work. Try again.")
            with suppress(OSError), Timeout(0, False):
                socket.send(self._refusal(error, Connection="close"))

    def _answer(self, request: HttpRequest) -> bytes:
        try:
            body = self._call(request) if request.method == "POST" else _health(request)
        except SqsError as error:
            return self._refusal(error)
        except Exception as error:  # a fault of this server: it is shown, and the client gets an answer
            get_hub().handle_error(self, type(error), error, error.__traceback__)
            return self._refusal(SqsError("InternalFailure", "millpond.local failed; its log says how."))
        return self._bytes(200, body)

    def _call(self, request: HttpRequest) -> bytes:
        host = request.headers.get("host")
        base_url = f"{self._scheme}://{host}" if host else self.url
        return self._api.call(request.headers.get("x-amz-target", ""), request.body, base_url)

    def _refusal(self, error: SqsError, **headers: str) -> bytes:
        fault = "Sender" if error.sender_fault else "Receiver"
        headers["x-amzn-query-error"] = f"{error.code};{fault}"
        return self._bytes(error.status, error_body(error), **headers)

    def _bytes(self, status: int, body: bytes, **headers: str) -> bytes:
        headers["x-amzn-RequestId"] = f"00000000-0000-0000-0000-{next(self._request_ids):012d}"
        headers["Content-Type"] = _JSON
        return http_requests.answer(status, headers, body, int(time.time()))

    def _set_alarm(self, asker: Advancing, when: float) -> None:
        self._drop_alarm(asker)
        timer = self._alarms[asker] = get_hub().loop.timer(max(0.0, when - time.time()), ref=False)
        timer.start(self._ring, asker, when)

    def _drop_alarm(self, asker: Advancing) -> None:
        timer = self._alarms.pop(asker, None)
        if timer is not None:
            timer.stop()
            timer.close()

    def _ring(self, asker: Advancing, when: float) -> None:
        """Let it advance. Called by the hub, so nothing here may wait."""
        self._drop_alarm(asker)
        now = time.time()
        if now < when:  # the loop has another clock, which can be ahead of this one
            self._set_alarm(asker, when)
        else:
            asker.advance(now)


class _Listening(StreamServer):  # type: ignore[misc]  # gevent has no types
    """Accepts as many connections as there may be; `turn_away` gets those beyond."""

    def __init__(
        self,
        listener: Socket,
        converse: Callable[[Socket, ServerConnection], object],
        turn_away: Callable[[Socket], object],
    ) -> None:
        super().__init__(listener, converse, spawn=Pool())
        self._admission = Admission()
        self._turn_away = turn_away
        self.max_accept = self._admission.part  # at a time: only a connection whose greenlet has begun can give way

    def do_read(self) -> tuple[Socket, object] | None:
        """As in gevent, which shows a traceback each time that there is no descriptor for a connection."""
        try:
            accepted: tuple[Socket, object] | None = super().do_read()
        except OSError as error:
            if self.is_fatal_error(error):
                raise
            self._admission.make_room()
            self.stop_accepting()
            gevent.spawn_later(ACCEPT_PAUSE_SECONDS, self._accept_again)
            return None
        return accepted

    def do_handle(self, socket: Socket, _address: object) -> None:
        connection = self._admission.admit()
        if connection is None:
            self._turn_away(socket)
            socket.close()
        else:
            super().do_handle(socket, connection)

    def do_close(self, socket: Socket, connection: ServerConnection) -> None:
        self._admission.drop(connection)
        socket.close()

    def stop(self, timeout: float | None = None) -> None:
        super().stop(timeout)
        self._admission.close()

    def _accept_again(self) -> None:
        if self.started:
            self.start_accepting()


def _listener(host: str, port: int) -> Socket:
    listener = Socket()
    try:
        listener.setsockopt(SOL_SOCKET, SO_REUSEADDR, 1)
        # Connections inherit it. Without it an answer's second packet waits 40 ms for the first one's acknowledgement.
        listener.setsockopt(IPPROTO_TCP, TCP_NODELAY, 1)
        listener.bind((host, port))
        listener.listen(BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener


def _wait(queue: LocalQueue, poll: LocalPoll) -> None:
    answered = Event()
    poll.on_answer = answered.set
    try:
        answered.wait(poll.wait_seconds)
    finally:
        queue.leave(poll)


def _health(request: HttpRequest) -> bytes:
    if request.method == "GET" and request.path == "/health":
        return b'{"status": "ok"}'
    text = f"millpond.local takes POST with the header X-Amz-Target: {TARGET_PREFIX}<Operation>, and GET /health."
    raise SqsError("UnknownOperationException", f"{request.method} {request.path[:100]}: {text}")


def _send(socket: Socket, connection: ServerConnection, answer: bytes) -> None:
    connection.send()
    if len(answer) <= _PART_BYTES:
        socket.sendall(answer)
        return
    connection.hold(len(answer))
    view = memoryview(answer)
    for start in range(0, len(answer), _PART_BYTES):
        socket.sendall(view[start : start + _PART_BYTES])
        connection.moved = time.monotonic()
        gevent.sleep(0)


def _hang_up(socket: Socket) -> None:
    """Read on for a moment: a connection closed with unread bytes is reset, and the client may never see its answer."""
    socket.shutdown(SHUT_WR)
    size = 0
    with Timeout(STOP_SECONDS, False):
        while size < _REST_BYTES and (data := socket.recv(65_536)):
            size += len(data)
            gevent.sleep(0)  # or a client that sends without a pause would stop the clock, too
