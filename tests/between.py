"""An HTTP proxy before an SQS, in threads of the test: what it answers itself is the test's to say."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

#: An answer: status and body; None: SQS's own. A call is its name and what it says.
Answer = tuple[int, bytes] | None
Rule = Callable[[str, dict[str, Any]], Answer]


def refusal(code: str, status: int = 400) -> Answer:
    """As SQS refuses a call."""
    return status, json.dumps({"__type": f"com.amazonaws.sqs#{code}", "message": "not for you"}).encode()


DENIED, MISSING = refusal("AccessDenied", 403), refusal("QueueDoesNotExist")


class Between:
    """`rule` answers a call, or blocks; None passes it on. `change` may rewrite an answer of SQS."""

    def __init__(self, endpoint: str) -> None:
        self.rule: Rule = lambda name, body: None
        self.change: Callable[[str, dict[str, Any]], object] = lambda name, answer: None
        self.calls: list[tuple[str, str]] = []  # (call, queue's name)
        parts = urlsplit(endpoint)
        self._home = (parts.hostname or "", parts.port or 80)
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=[0.02])
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def _handler(between: Any) -> type[BaseHTTPRequestHandler]:  # noqa: N805
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                name = self.headers["x-amz-target"].rpartition(".")[2]
                status, answer = between._answer(name, json.loads(body), body, dict(self.headers))
                try:
                    self.send_response(status)
                    self.send_header("Content-Type", "application/x-amz-json-1.0")
                    self.send_header("Content-Length", str(len(answer)))
                    self.end_headers()
                    self.wfile.write(answer)
                except OSError:
                    self.close_connection = True  # the worker has gone

            def log_message(self, *_: object) -> None:
                pass

        return Handler

    def _answer(self, name: str, said: dict[str, Any], body: bytes, headers: dict[str, str]) -> tuple[int, bytes]:
        self.calls.append((name, str(said.get("QueueUrl", said.get("QueueName", ""))).rpartition("/")[2]))
        own = self.rule(name, said)
        return own if own is not None else self._pass_on(name, body, headers)

    def _pass_on(self, name: str, body: bytes, headers: dict[str, str]) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection(*self._home, timeout=60)
        try:
            kept = {key: value for key, value in headers.items() if key.lower().startswith(("x-amz", "content-type"))}
            connection.request("POST", "/", body, kept)
            answer = connection.getresponse()
            read = json.loads(answer.read() or b"{}")
            self.change(name, read)
            return answer.status, json.dumps(read).encode()
        finally:
            connection.close()


@contextmanager
def between(endpoint: str) -> Iterator[Between]:
    """A proxy before this endpoint."""
    proxy = Between(endpoint)
    try:
        yield proxy
    finally:
        proxy.close()
