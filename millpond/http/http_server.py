"""HttpServer: answers requests on one port, each path by a function; `gated` says who may ask for its pages."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from http import HTTPStatus
from socket import AF_INET, AF_INET6, SO_REUSEADDR, SOL_SOCKET
from typing import Any, NamedTuple

from gevent.socket import socket as Socket  # noqa: N812  a class

from millpond.errors import ConfigError
from millpond.foreign.trace import describe, traceback_of
from millpond.http.bounded_server import CONNECTION, BoundedServer, Connection
from millpond.http.gated_pages import NO_PAGES, GatedPages, gated_answer
from millpond.http.page_request import PageAnswer, plain_answer
from millpond.observe import log

#: Connections that have not been accepted yet, in the kernel: who comes then tries again after a second, and later.
BACKLOG = 1_024
#: A connection that is kept takes a place which another one needs; and no answer is to be kept anywhere.
_LAST = (("Connection", "close"), ("Cache-Control", "no-store"))


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
        self._server: BoundedServer

    def start(self) -> None:
        """Listen. Raises ConfigError where the port is taken, or the address is not this machine's."""
        try:
            listener = _listener(*self._address)
        except OSError as error:
            raise ConfigError(f"{self._where}: cannot listen there: {error.strerror or error}") from None
        self._server = BoundedServer(listener, self._serve)
        self._server.start()

    @property
    def port(self) -> int:
        """The port that it listens on; of `:0` the real one."""
        return int(self._server.server_port)

    def stop(self) -> None:
        """Close the port and every connection."""
        self._server.stop()

    def _serve(self, environ: Mapping[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        connection: Connection = environ[CONNECTION]
        with connection.spared():
            answer = self._answer(environ["REQUEST_METHOD"], environ["PATH_INFO"], environ)
        headers = [("Content-Type", answer.content_type), *_LAST, *answer.headers]
        if isinstance(answer.body, bytes):
            headers.append(("Content-Length", str(len(answer.body))))
        start_response(f"{answer.status.value} {answer.status.phrase}", headers)
        if environ["REQUEST_METHOD"] == "HEAD":
            return []
        return [answer.body] if isinstance(answer.body, bytes) else connection.stream(answer.body)

    def _answer(self, method: str, path: str, environ: Mapping[str, Any]) -> PageAnswer:
        try:
            if path in self._gated.pages:
                return gated_answer(self._gated, environ)
            answer = self._open_answer(method, path)
            return plain_answer(answer.status, answer.text)
        except Exception as error:
            text = f"cannot answer {method} {path}: {describe(error)}"
            log.event(logging.ERROR, "http.failed", text, traceback=traceback_of(error))
            return plain_answer(HTTPStatus.INTERNAL_SERVER_ERROR, "this page failed; the log says how")

    def _open_answer(self, method: str, path: str) -> PlainAnswer:
        if method not in ("GET", "HEAD"):
            return PlainAnswer(HTTPStatus.METHOD_NOT_ALLOWED, "only GET and HEAD are answered here")
        if path not in self._routes:
            return PlainAnswer(HTTPStatus.NOT_FOUND, f"there is {', '.join(self._routes)}")
        return self._routes[path]()


def _listener(host: str, port: int) -> Socket:
    listener = Socket(AF_INET6 if ":" in host else AF_INET)
    try:
        listener.setsockopt(SOL_SOCKET, SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener
