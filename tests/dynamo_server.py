"""DynamoDB by moto: in this process, or `python -m tests.dynamo_server --port 0` in one of its own.

One request at a time: moto looks at a condition and writes in two steps, and another of its threads could come between.
"""

from __future__ import annotations

import argparse
import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import boto3
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import BaseWSGIServer, WSGIRequestHandler, make_server

KEYS = {"region_name": "us-east-1", "aws_access_key_id": "nobody", "aws_secret_access_key": "nothing"}


class OneAtATime:
    """A WSGI application. `before` gets the name of each call, may block, and may answer itself (status, body); where
    `after` is not true, the answer is lost."""

    def __init__(self) -> None:
        self.before: Callable[[str], tuple[int, bytes] | None] = lambda name: None
        self.after: Callable[[str], bool] = lambda name: True
        self.calls: list[str] = []
        self._lock = threading.Lock()
        self._moto = DomainDispatcherApplication(create_backend_app)

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        name = environ.get("HTTP_X_AMZ_TARGET", "").rpartition(".")[2]
        self.calls.append(name)
        own = self.before(name)
        if own is not None:
            environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"]))
            status, body = own
            head = [("Content-Type", "application/x-amz-json-1.0"), ("Content-Length", str(len(body)))]
            start_response(f"{status} Answer", head)
            return [body]
        with self._lock:
            answer = [b"".join(self._moto(environ, start_response))]
        if not self.after(name):
            environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
        return answer


class _Quiet(WSGIRequestHandler):
    def log(self, *_: object) -> None:
        pass


def listen(port: int = 0) -> tuple[BaseWSGIServer, OneAtATime]:
    application = OneAtATime()
    server = make_server("127.0.0.1", port, application, threaded=True, request_handler=_Quiet)
    server.daemon_threads = True
    return server, application


class Dynamo:
    """A DynamoDB that listens. `application.before` and `after` decide what becomes of calls."""

    def __init__(self, server: BaseWSGIServer, application: OneAtATime) -> None:
        self.url = f"http://127.0.0.1:{server.server_port}"
        self.application = application
        self.client = boto3.client("dynamodb", endpoint_url=self.url, **KEYS)

    def create(self, table: str, key: str = "id", of: str = "S", sort: str = "", expires: str = "expires") -> None:
        """A table; `sort`: its sort key, `expires`: the attribute of its time-to-live, "" for none."""
        attributes = [{"AttributeName": key, "AttributeType": of}]
        schema = [{"AttributeName": key, "KeyType": "HASH"}]
        if sort:
            attributes.append({"AttributeName": sort, "AttributeType": "S"})
            schema.append({"AttributeName": sort, "KeyType": "RANGE"})
        self.client.create_table(
            TableName=table, AttributeDefinitions=attributes, KeySchema=schema, BillingMode="PAY_PER_REQUEST"
        )
        if expires:
            wanted = {"Enabled": True, "AttributeName": expires}
            self.client.update_time_to_live(TableName=table, TimeToLiveSpecification=wanted)


@contextmanager
def dynamo() -> Iterator[Dynamo]:
    """DynamoDB, in this process."""
    server, application = listen()
    thread = threading.Thread(target=server.serve_forever, args=[0.02])
    thread.start()
    try:
        yield Dynamo(server, application)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.dynamo_server",
        description="A DynamoDB in memory, on 127.0.0.1. It prints its URL: the worker's AWS_ENDPOINT_URL_DYNAMODB.",
        epilog=f"The table is in AWS_REGION={KEYS['region_name']}. Any AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY do.",
    )
    parser.add_argument("--port", type=int, default=0, help="0, the default, takes any free one")
    parser.add_argument("--table", default="", help="make this table of claims")
    options = parser.parse_args()
    server, application = listen(options.port)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    made = Dynamo(server, application)
    if options.table:
        made.create(options.table)
    print(made.url, flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    main()
