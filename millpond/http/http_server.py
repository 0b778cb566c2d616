"""HttpServer: answers requests on one port, each path by a function; `gated` says who may ask for its pages."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from http import HTTPStatus
from socket import AF_INET, AF_INET6, SO_REUSEADDR, SOL_SOCKET
from typing import Any, NamedTuple

from gevent import Timeout
from gevent.pool import Pool
from gevent.pywsgi import WSGIHandler, WSGIServer
from gevent.socket import socket as Socket  # noqa: N812  a class

from millpond.errors import ConfigError
from millpond.foreign.trace import describe, traceback_of
from millpond.http.gated_pages import NO_PAGES, GatedPages, gated_answer, unhurried
from millpond.http.page_request import PageAnswer
from millpond.observe import log

#: Connections at once; who comes then waits to be accepted.
MAX_HTTP_CLIENTS = 50
#: A connection is closed after this, whatever it does. A health check has 5 s: so it is answered in time even where all
#: places are taken, and as many wait before it, by clients that send nothing.
CONNECTION_SECONDS = 2.0
_LIMIT = "millpond.limit"


class PlainAnswer(NamedTuple):
    """What a path answers: plain text."""

    status: HTTPStatus
    text: str


Routes = Mapping[str, Callable[[], PlainAnswer]]


class HttpServer:
    """Serves `routes`, a function for each path, at `address`; `where` names the setting that it is from.

    Everybody is answered there. The pages of `gated` are for whom its rules admit.

    What a function raises is logged and answered with 500: it ends nothing.
    """

    def __init__(self, address: tuple[str, int], routes: Routes, where: str, gated: GatedPages = NO_PAGES) -> None:
        self._address = address
        self._gated = gated
        self._routes = routes
        self._where = where
        self._server: WSGIServer

    def start(self) -> None:
        """Listen. Raises ConfigError where the port is taken, or the address is not this machine's."""
        try:
            listener = _listener(*self._address)
        except OSError as error:
            raise ConfigError(f"{self._where}: cannot listen there: {error.strerror or error}") from None
        workers, options = Pool(MAX_HTTP_CLIENTS), {"log": None, "error_log": None}
        self._server = WSGIServer(listener, self._serve, spawn=workers, handler_class=_Connection, **options)
        self._server.start()

    @property
    def port(self) -> int:
        """The port that it listens on; of `:0` the real one."""
        return int(self._server.server_port)

    def stop(self) -> None:
        """Close the port and every connection."""
        self._server.stop(timeout=0)

    def _serve(self, environ: Mapping[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        answer = self._answer(environ["REQUEST_METHOD"], environ["PATH_INFO"], environ)
        headers = [("Content-Type", answer.content_type), ("Cache-Control", "no-store"), *answer.headers]
        if isinstance(answer.body, bytes):
            headers.append(("Content-Length", str(len(answer.body))))
        start_response(f"{answer.status.value} {answer.status.phrase}", headers)
        if environ["REQUEST_METHOD"] == "HEAD":
            return []
        return [answer.body] if isinstance(answer.body, bytes) else unhurried(answer.body, environ[_LIMIT])

    def _answer(self, method: str, path: str, environ: Mapping[str, Any]) -> PageAnswer:
        try:
            if path in self._gated.pages:
                return gated_answer(self._gated, environ)
            return _page_of(self._plain_answer(method, path))
        except Exception as error:
            text = f"cannot answer {method} {path}: {describe(error)}"
            log.event(logging.ERROR, "http.failed", text, traceback=traceback_of(error))
            return _page_of(PlainAnswer(HTTPStatus.INTERNAL_SERVER_ERROR, "this page failed; the log says how"))

    def _plain_answer(self, method: str, path: str) -> PlainAnswer:
        if method not in ("GET", "HEAD"):
            return PlainAnswer(HTTPStatus.METHOD_NOT_ALLOWED, "only GET and HEAD are answered here")
        if path not in self._routes:
            return PlainAnswer(HTTPStatus.NOT_FOUND, f"there is {', '.join(self._routes)}")
        return self._routes[path]()


def _page_of(answer: PlainAnswer) -> PageAnswer:
    return PageAnswer(answer.status, f"{answer.text}\n".encode())


def _listener(host: str, port: int) -> Socket:
    listener = Socket(AF_INET6 if ":" in host else AF_INET)
    try:
        listener.setsockopt(SOL_SOCKET, SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(MAX_HTTP_CLIENTS)
    except OSError:
        listener.close()
        raise
    return listener


class _Connection(WSGIHandler):  # type: ignore[misc]
    """One connection. pywsgi itself has no time limit, and prints what a client does wrong to standard error."""

    def handle(self) -> None:
        with Timeout(CONNECTION_SECONDS, False) as self.limit:
            super().handle()

    def get_environ(self) -> dict[str, Any]:
        """What the request is, and the limit of its connection, which a stream starts anew with each part."""
        return {**super().get_environ(), _LIMIT: self.limit}

    def _handle_client_error(self, ex: Exception) -> tuple[str, bytes]:
        return "400", b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"

    def handle_error(self, kind: type[BaseException], error: BaseException, frames: object) -> None:
        """Close the connection: the client has gone, or its time is over."""
        self.close_connection = True
