"""Lambda, as far as a function can see it: the Runtime API over HTTP, and an event source mapping on a local queue.

https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html has the paths and the headers.
"""

from __future__ import annotations

import json
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from uuid import uuid4

from tests.worker_process import SECONDS, LocalQueues, WorkerProcess

RUNTIME = "/2018-06-01/runtime"
REGION = "us-east-1"
AWS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_REGION": REGION}
APP = "from millpond.lambda_ import entry\n\nhandler = entry()\n"


class FunctionError(Exception):
    """The function has answered with an error, or could not begin: Lambda brings the whole batch again."""


class RuntimeApi:
    """The server that a function's runtime asks for its next event, and answers to."""

    def __init__(self) -> None:
        self.errors: list[dict[str, Any]] = []  # of the boot
        self._events: deque[tuple[str, bytes, int]] = deque()
        self._answers: dict[str, Any] = {}
        self._news = threading.Condition()
        self._closed = False
        api = self

        class Calls(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                event = api._next()
                if event is None:
                    self._answer(500, b"{}")
                    return
                request_id, body, timeout_ms = event
                deadline = int(time.time() * 1000) + timeout_ms
                self._answer(
                    200,
                    body,
                    ("Lambda-Runtime-Aws-Request-Id", request_id),
                    ("Lambda-Runtime-Deadline-Ms", str(deadline)),
                    ("Lambda-Runtime-Invoked-Function-Arn", f"arn:aws:lambda:{REGION}:000000000000:function:f"),
                    ("Lambda-Runtime-Trace-Id", "Root=1-5759e988-bd862e3fe1be46a994272793;Parent=53995c3f42cd8ad8"),
                )

            def do_POST(self) -> None:
                body = self._body()
                api._take(self.path, json.loads(body))
                self._answer(202, b'{"status":"OK"}')

            def _body(self) -> bytes:
                """The runtime's client sends it in chunks, or with its length."""
                if "chunked" not in self.headers.get("Transfer-Encoding", ""):
                    return self.rfile.read(int(self.headers.get("Content-Length", 0)))
                body = b""
                while size := int(self.rfile.readline(), 16):
                    body += self.rfile.read(size)
                    self.rfile.readline()
                self.rfile.readline()
                return body

            def _answer(self, status: int, body: bytes, *headers: tuple[str, str]) -> None:
                self.send_response(status)
                for header in (("Content-Type", "application/json"), ("Content-Length", str(len(body))), *headers):
                    self.send_header(*header)
                self.end_headers()
                self.wfile.write(body)

            def handle(self) -> None:
                with suppress(ConnectionError):  # the function was killed
                    super().handle()

            def log_message(self, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Calls)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        self.address = f"127.0.0.1:{self._server.server_port}"

    def close(self) -> None:
        with self._news:
            self._closed = True
            self._news.notify_all()
        self._server.shutdown()
        self._server.server_close()

    def _next(self) -> tuple[str, bytes, int] | None:
        with self._news:
            self._news.wait_for(lambda: self._events or self._closed)
            return self._events.popleft() if self._events else None

    def _take(self, path: str, answer: Any) -> None:
        with self._news:
            if path == f"{RUNTIME}/init/error":
                self.errors.append(answer)
            else:
                _, request_id, kind = path.removeprefix(RUNTIME).rsplit("/", 2)
                self._answers[request_id] = FunctionError(answer) if kind == "error" else answer
            self._news.notify_all()

    def invoke(self, event: Any, timeout: float = 30.0, seconds: float = SECONDS) -> Any:
        """Call the function, and give its answer. Raises FunctionError."""
        request_id = str(uuid4())
        with self._news:
            self._events.append((request_id, json.dumps(event).encode(), int(timeout * 1000)))
            self._news.notify_all()
            found = self._news.wait_for(lambda: request_id in self._answers or self.errors, timeout + seconds)
            assert found, "the function has not answered"
            answer = self._answers.pop(request_id, None)
        if answer is None:
            raise FunctionError(self.errors[-1])
        if isinstance(answer, FunctionError):
            raise answer
        return answer


class EventSourceMapping:
    """Receives from a queue, calls the function with what came, and deletes what is not reported as failed.

    ReportBatchItemFailures is on: a failure that names no message of the batch fails the whole batch, as in Lambda.
    """

    def __init__(self, queues: LocalQueues, name: str, api: RuntimeApi, timeout: float = 30.0) -> None:
        self.queues = queues
        self.name = name
        self.api = api
        self.timeout = timeout
        self.batches: list[dict[str, Any]] = []  # the events
        self.answers: list[Any] = []

    def poll(self, wait_seconds: int = 0) -> list[str] | None:
        """Take one batch through the function. The ids of what failed; None: there was no message."""
        messages = self.queues.receive(self.name, wait_seconds)
        return self.hand_over(messages) if messages else None

    def hand_over(self, messages: list[dict[str, Any]]) -> list[str]:
        ids = [message["MessageId"] for message in messages]
        event = {"Records": [record(message, self.name) for message in messages]}
        self.batches.append(event)
        try:
            answer = self.api.invoke(event, self.timeout)
        except FunctionError as error:
            self.answers.append(error)
            return ids
        self.answers.append(answer)
        failed = _failures(answer)
        if not set(failed) <= set(ids):
            return ids
        for message in messages:
            if message["MessageId"] not in failed:
                self.queues.sqs.delete_message(
                    QueueUrl=self.queues.url(self.name), ReceiptHandle=message["ReceiptHandle"]
                )
        return failed

    def run_until_empty(self, seconds: float = SECONDS) -> None:
        """Poll until no message is left, hidden ones included."""
        end = time.monotonic() + seconds
        while self.poll() is not None or any(self.queues.counts(self.name)):
            assert time.monotonic() < end, f"messages are left: {self.queues.counts(self.name)}"
            time.sleep(0.02)


def _failures(answer: Any) -> list[str]:
    """As Lambda reads it: nothing in it means that all succeeded; what names no message stands for all of them."""
    if not answer:
        return []
    return [str(one.get("itemIdentifier") or "") for one in answer.get("batchItemFailures") or []]


def record(message: dict[str, Any], name: str) -> dict[str, Any]:
    """A received message as a record of an event."""
    attributes = {
        key: {
            f"{field[0].lower()}{field[1:]}": value.decode() if isinstance(value, bytes) else value
            for field, value in one.items()
        }
        | {"stringListValues": [], "binaryListValues": []}
        for key, one in message.get("MessageAttributes", {}).items()
    }
    return {
        "messageId": message["MessageId"],
        "receiptHandle": message["ReceiptHandle"],
        "body": message["Body"],
        "attributes": message["Attributes"],
        "messageAttributes": attributes,
        "md5OfBody": message["MD5OfBody"],
        "eventSource": "aws:sqs",
        "eventSourceARN": f"arn:aws:sqs:{REGION}:000000000000:{name}",
        "awsRegion": REGION,
    }


class Lambda(WorkerProcess):
    """A function of app.py in `folder`, by the runtime that Lambda has: awslambdaric."""

    def __init__(self, folder: Path, api: RuntimeApi, app: str = APP, **environ: str) -> None:
        (folder / "app.py").write_text(app)
        environ = {**AWS, "AWS_LAMBDA_RUNTIME_API": api.address, "AWS_LAMBDA_FUNCTION_NAME": "f", **environ}
        super().__init__(folder, "app.handler", program=("-m", "awslambdaric"), **environ)


@contextmanager
def running() -> Iterator[RuntimeApi]:
    api = RuntimeApi()
    try:
        yield api
    finally:
        api.close()
