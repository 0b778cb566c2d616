"""PageRequest and PageAnswer: what a page is asked, and what it answers, as values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from http import HTTPStatus
from typing import Any, NamedTuple

from millpond.foreign.text import shown

#: Bytes of a body that is read; of more nothing is.
MAX_PAGE_BODY = 65_536
_OF_PROXIES = (
    "HTTP_FORWARDED",
    "HTTP_VIA",
    "HTTP_X_FORWARDED_FOR",
    "HTTP_X_FORWARDED_HOST",
    "HTTP_X_FORWARDED_PROTO",
    "HTTP_X_REAL_IP",
)


class PageRequest(NamedTuple):
    """One request. Texts are as they came: nothing in them is to be trusted. A header that did not come is empty."""

    method: str
    path: str
    host: str
    peer: str  # the address of who has connected
    origin: str = ""
    fetch_site: str = ""
    authorization: str = ""
    is_forwarded: bool = False  # a proxy says that it passes on what another one asks
    content_type: str = ""
    body: bytes = b""
    forwarded_for: str = ""  # for whom a proxy says that it asks; anybody may write it

    @property
    def asker(self) -> str:
        """Who asks, for the log."""
        peer = shown(self.peer, 100)
        return f"{shown(self.forwarded_for, 100)} by way of {peer}" if self.forwarded_for else peer


class PageAnswer(NamedTuple):
    """What a page answers. A `body` that is no bytes is a stream: each part is sent as it comes."""

    status: HTTPStatus
    body: bytes | Iterator[bytes]
    content_type: str = "text/plain; charset=utf-8"
    headers: tuple[tuple[str, str], ...] = ()


def plain_answer(status: HTTPStatus, text: str) -> PageAnswer:
    """An answer of plain text."""
    return PageAnswer(status, f"{text}\n".encode())


def json_answer(body: bytes | Iterator[bytes], status: HTTPStatus = HTTPStatus.OK) -> PageAnswer:
    """An answer of JSON."""
    return PageAnswer(status, body, "application/json")


def request_of(environ: Mapping[str, Any]) -> PageRequest:
    """What a WSGI server was asked, without its body."""
    peer = str(environ.get("REMOTE_ADDR", ""))
    return PageRequest(
        method=environ["REQUEST_METHOD"],
        path=environ["PATH_INFO"],
        host=environ.get("HTTP_HOST", ""),
        peer=peer.removeprefix("::ffff:"),
        origin=environ.get("HTTP_ORIGIN", ""),
        fetch_site=environ.get("HTTP_SEC_FETCH_SITE", ""),
        authorization=environ.get("HTTP_AUTHORIZATION", ""),
        is_forwarded=_is_forwarded(environ),
        content_type=environ.get("CONTENT_TYPE", ""),
        forwarded_for=environ.get("HTTP_X_FORWARDED_FOR", ""),
    )


def _is_forwarded(environ: Mapping[str, Any]) -> bool:
    """Whether a proxy asks. By default nginx names itself nowhere, and writes our own address as Host, by HTTP/1.0."""
    return environ.get("SERVER_PROTOCOL") == "HTTP/1.0" or any(name in environ for name in _OF_PROXIES)


def with_body(request: PageRequest, environ: Mapping[str, Any]) -> PageRequest:
    """The request with its body; read only where the request is allowed. Raises ValueError where it is too long."""
    length = int(environ.get("CONTENT_LENGTH") or 0)
    if not 0 <= length <= MAX_PAGE_BODY:
        raise ValueError(f"a body may have {MAX_PAGE_BODY} bytes")
    return request._replace(body=environ["wsgi.input"].read(length) if length else b"")
