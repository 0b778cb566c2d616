"""LocalSqs: the embedded SQS over HTTP, in this process, on gevent."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from http import HTTPStatus
from itertools import count
from socket import IPPROTO_TCP, SO_REUSEADDR, SOL_SOCKET, TCP_NODELAY
from typing import Any

from gevent import get_hub
from gevent.event import Event
from gevent.pool import Pool
from gevent.pywsgi import WSGIServer
from gevent.socket import socket as Socket  # noqa: N812  a class

from millpond.local import DEFAULT_PORT
from millpond.local.account import Account
from millpond.local.api import TARGET_PREFIX, Api, error_body
from millpond.local.errors import SqsError
from millpond.local.queue import Poll, Queue
from millpond.local.settings import ACCOUNT_ID
from millpond.local.wire import CreateQueue

#: A request's bytes: 1 MiB of message, each byte six in JSON at the most (\u0001), and room for the rest.
MAX_REQUEST_BYTES = 7 * 1_048_576
#: Connections that wait to be accepted.
BACKLOG = 1024
#: Seconds that answers have to go out once the server is told to stop.
STOP_SECONDS = 0.5

_JSON = "application/x-amz-json-1.0"

Headers = list[tuple[str, str]]


class UnreadBody(SqsError):
    """A request whose body was not read to its end: nothing more can be read from its connection."""


class LocalSqs:
    """An SQS of one account on one port; what it holds is in memory only.

    1. Speaks the JSON protocol to any SDK; nothing is signed in, `GET /health` answers 200.
    2. Lets long polls wait; one whose client went away still takes messages, as on AWS.
    3. Rings the queues' alarms.
    """

    def __init__(self, port: int = DEFAULT_PORT, host: str = "127.0.0.1") -> None:
        self._account = Account(time.time, self._set_alarm)
        self._api = Api(self._account, _wait)
        self._alarms: dict[Queue, Any] = {}
        self._request_ids = count(1)
        self._http: WSGIServer | None = None
        self._host = host
        self._port = port

    @property
    def url(self) -> str:
        """Such as http://127.0.0.1:9324; with port 0 the real one is known once it is started."""
        return f"http://{self._host}:{self._port}"

    def start(self) -> None:
        """Listen. Raises OSError where the port is taken or the host is not this machine's."""
        environ = {"SERVER_NAME": self._host}  # or pywsgi asks the DNS for it
        listener = _listener(self._host, self._port)
        self._http = WSGIServer(listener, self._serve, spawn=Pool(), log=None, error_log=None, environ=environ)
        self._http.start()
        self._port = self._http.server_port

    def stop(self) -> None:
        """Answer the polls that wait, and close every connection."""
        self.close_polls()
        if self._http is not None:
            self._http.stop(timeout=STOP_SECONDS)
        for queue in list(self._alarms):
            self._drop_alarm(queue)

    def create_queue(self, name: str, attributes: Mapping[str, str] | None = None) -> str:
        """Like CreateQueue, without the wire. Returns the queue's URL. Raises SqsError."""
        return f"{self.url}/{ACCOUNT_ID}/{self._account.create_queue(CreateQueue(name, dict(attributes or {})))}"

    def close_polls(self) -> None:
        """Answer every open long poll at once; later ones do not wait."""
        self._account.close_polls()

    def _serve(self, environ: dict[str, Any], start_response: Callable[[str, Headers], object]) -> Iterable[bytes]:
        """The WSGI application."""
        headers = [("x-amzn-RequestId", f"00000000-0000-0000-0000-{next(self._request_ids):012d}")]
        try:
            status, body = 200, self._answer(environ)
        except SqsError as error:
            status, body = error.status, error_body(error)
            fault = "Sender" if error.sender_fault else "Receiver"
            headers.append(("x-amzn-query-error", f"{error.code};{fault}"))
            if isinstance(error, UnreadBody):
                headers.append(("Connection", "close"))
        headers += [("Content-Type", _JSON), ("Content-Length", str(len(body)))]
        start_response(f"{status} {HTTPStatus(status).phrase}", headers)
        return [body]

    def _answer(self, environ: dict[str, Any]) -> bytes:
        if environ["REQUEST_METHOD"] != "POST":
            return _health(environ["REQUEST_METHOD"], environ["PATH_INFO"])
        body = _body(environ)
        base_url = f"http://{environ.get('HTTP_HOST') or self.url.removeprefix('http://')}"
        return self._api.call(environ.get("HTTP_X_AMZ_TARGET", ""), body, base_url)

    def _set_alarm(self, queue: Queue, when: float) -> None:
        self._drop_alarm(queue)
        timer = self._alarms[queue] = get_hub().loop.timer(max(0.0, when - time.time()), ref=False)
        timer.start(self._ring, queue, when)

    def _drop_alarm(self, queue: Queue) -> None:
        timer = self._alarms.pop(queue, None)
        if timer is not None:
            timer.stop()
            timer.close()

    def _ring(self, queue: Queue, when: float) -> None:
        """Called by the hub, so nothing here may wait."""
        self._drop_alarm(queue)
        now = time.time()
        if now < when:  # the loop's clock is not this one, and can be ahead of it
            self._set_alarm(queue, when)
        else:
            queue.advance(now)


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


def _wait(queue: Queue, poll: Poll) -> None:
    answered = Event()
    poll.on_answer = answered.set
    try:
        answered.wait(poll.wait_seconds)
    finally:
        queue.leave(poll)


def _health(method: str, path: str) -> bytes:
    if method == "GET" and path == "/health":
        return b'{"status": "ok"}'
    text = f"millpond.local takes POST with the header X-Amz-Target: {TARGET_PREFIX}<Operation>, and GET /health."
    raise SqsError("UnknownOperationException", f"{method} {path[:100]}: {text}")


def _body(environ: dict[str, Any]) -> bytes:
    length = environ.get("CONTENT_LENGTH")
    try:
        too_large = int(length or 0) > MAX_REQUEST_BYTES
        body: bytes = b"" if too_large else environ["wsgi.input"].read(MAX_REQUEST_BYTES + 1)
    except OSError as error:
        raise UnreadBody("SerializationException", f"The request's body cannot be read: {error}.") from error
    if too_large or len(body) > MAX_REQUEST_BYTES:
        raise UnreadBody("RequestEntityTooLarge", f"A request has {MAX_REQUEST_BYTES} bytes at most.")
    return body
