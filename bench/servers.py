"""The servers that the consumers are run against, each a process on the first core, and what the driver asks them."""

from __future__ import annotations

import http.client
import json
import os
import ssl
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from bench import certificate, environment
from bench.process import SERVER_CORE, cpu_seconds, on_core

#: What a receive hides a message for: longer than any run here, so that no consumer works a message twice.
VISIBILITY_SECONDS = 600
QUEUE = "bench"

# fauxqs takes the region from the credential's scope.
_SCOPE = "AWS4-HMAC-SHA256 Credential=bench/20260101/us-east-1/sqs/aws4_request, SignedHeaders=host, Signature=0"
_HEADERS = {"Content-Type": "application/x-amz-json-1.0", "Authorization": _SCOPE}


class Server:
    """One that listens. `ca` is the file of its certificate authority, None over plain HTTP."""

    def __init__(self, name: str, process: subprocess.Popen[str], url: str, ca: Path | None) -> None:
        self.name = name
        self.url = url
        self.ca = ca
        self._process = process
        self._connection = _connection(url, ca)

    @property
    def counts_calls(self) -> bool:
        return self.name == "millpond.local"

    @contextmanager
    def queue(self) -> Iterator[str]:
        """A queue for one run; its URL. Its name is always the same: some messages name their queue."""
        attributes = {"VisibilityTimeout": str(VISIBILITY_SECONDS)}
        queue_url = self.call("AmazonSQS.CreateQueue", QueueName=QUEUE, Attributes=attributes)["QueueUrl"]
        try:
            yield queue_url
        finally:
            self.call("AmazonSQS.DeleteQueue", QueueUrl=queue_url)

    def send(self, queue_url: str, bodies: Iterable[str]) -> None:
        """In as few calls as SQS allows."""
        for batch in _batches(bodies):
            entries = [{"Id": str(index), "MessageBody": body} for index, body in enumerate(batch)]
            answer = self.call("AmazonSQS.SendMessageBatch", QueueUrl=queue_url, Entries=entries)
            if answer.get("Failed"):
                raise RuntimeError(f"{self.name} refused a message: {answer['Failed']}")

    def left(self, queue_url: str) -> int:
        """Messages in the queue: visible, in flight and delayed."""
        if self.counts_calls:
            return int(self._state(queue_url)["left"])
        answer = self.call("AmazonSQS.GetQueueAttributes", QueueUrl=queue_url, AttributeNames=["All"])
        ends = ("", "NotVisible", "Delayed")
        return sum(int(answer["Attributes"][f"ApproximateNumberOfMessages{end}"]) for end in ends)

    def calls(self, queue_url: str) -> dict[str, int]:
        """Calls so far by operation, the driver's too; {} where the server does not count them."""
        return dict(self._state(queue_url)["calls"]) if self.counts_calls else {}

    def close(self) -> None:
        """The driver's connection to it."""
        self._connection.close()

    def cpu_seconds(self) -> float:
        return cpu_seconds(self._process.pid)

    def call(self, target: str, **parameters: Any) -> dict[str, Any]:
        """One call of the JSON protocol, not signed: no server here looks at a signature."""
        headers = {**_HEADERS, "X-Amz-Target": target}
        answer = self._answer(json.dumps(parameters), headers)
        body = answer.read()
        if answer.status != 200:
            raise RuntimeError(f"{self.name} refused {target}: {body!r}")
        return dict(json.loads(body or b"{}"))

    def _answer(self, body: str, headers: dict[str, str]) -> http.client.HTTPResponse:
        """By OpenSSL 3.5 a connection can fail where another was cut, as by a consumer's end: then by a new one."""
        try:
            self._connection.request("POST", "/", body, headers)
            return self._connection.getresponse()
        except (http.client.HTTPException, OSError):
            self._connection.close()
            self._connection.request("POST", "/", body, headers)
            return self._connection.getresponse()

    def _state(self, queue_url: str) -> dict[str, Any]:
        return self.call("Bench.State", QueueUrl=queue_url, AttributeNames=["All"])


@contextmanager
def millpond_local(tls: bool) -> Iterator[Server]:
    """`python -m bench.server`: millpond.local with a counter."""
    with tempfile.TemporaryDirectory() as folder:
        ca = certificate.make(Path(folder))[0] if tls else None
        command = [sys.executable, "-m", "bench.server", *(["--tls", folder] if tls else [])]
        with _started(command, dict(os.environ)) as process:
            assert process.stdout is not None
            url = process.stdout.readline().strip()
            with closing(Server("millpond.local", process, url, ca)) as server:
                yield server


@contextmanager
def fauxqs() -> Iterator[Server]:
    """fauxqs from npm, over plain HTTP."""
    with _started(environment.node_command("fauxqs.mjs"), dict(os.environ)) as process:
        assert process.stdout is not None
        with closing(Server("fauxqs", process, process.stdout.readline().strip(), None)) as server:
            yield server


@contextmanager
def _started(command: Sequence[str], environ: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    with on_core(SERVER_CORE):
        process = subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def _batches(bodies: Iterable[str]) -> Iterator[list[str]]:
    """Ten a batch, and a mebibyte; bodies here are ASCII."""
    batch: list[str] = []
    for body in bodies:
        if len(batch) == 10 or sum(map(len, batch)) + len(body) > 1_048_576:
            yield batch
            batch = []
        batch.append(body)
    if batch:
        yield batch


def _connection(url: str, ca: Path | None) -> http.client.HTTPConnection:
    host = url.rpartition("/")[2]
    if ca is None:
        return http.client.HTTPConnection(host)
    return http.client.HTTPSConnection(host, context=ssl.create_default_context(cafile=str(ca)))
