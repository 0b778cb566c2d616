"""Servers: millpond.local in a process of its own or in this one, and moto's for comparison; and their clients."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from itertools import count
from typing import Any

import boto3
import gevent
import pytest
from botocore.config import Config

from millpond.local import LocalSqs, admission
from tests.local.raw_client import RawClient
from tests.worker_process import COVERAGE

_names = count()


def start(arguments: list[str], url_in_line: str, **environ: str) -> tuple[subprocess.Popen[str], str]:
    """The process, and the URL that the first line with one has."""
    process = subprocess.Popen(
        [sys.executable, *arguments],
        env={**os.environ, **environ},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    for line in process.stdout:
        if found := re.search(url_in_line, line):
            gevent.spawn(process.stdout.read)  # a full pipe would stop the server
            return process, found[0]
    raise AssertionError(f"{arguments} ended with {process.wait()} before it listened")


def end(process: subprocess.Popen[str]) -> int:
    process.terminate()
    try:
        return process.wait(10)
    finally:
        process.kill()
        assert process.stdout is not None
        process.stdout.close()


@pytest.fixture(scope="session")
def millpond_url() -> Iterator[str]:
    process, url = start(["-m", "millpond.local", "--port", "0"], r"http://127\.0\.0\.1:\d+", **COVERAGE)
    yield url
    end(process)


@pytest.fixture(scope="session")
def moto_url() -> Iterator[str]:
    process, url = start(["-m", "moto.server", "-H", "127.0.0.1", "-p", "0"], r"http://127\.0\.0\.1:\d+")
    yield url
    end(process)


def client_of(url: str) -> Any:
    return boto3.client(
        "sqs",
        region_name="us-east-1",
        endpoint_url=url,
        aws_access_key_id="none",
        aws_secret_access_key="none",
        config=Config(retries={"total_max_attempts": 1}, proxies={}),
    )


@pytest.fixture(scope="session")
def clients() -> dict[str, Any]:
    """One client a server: each costs some 100 ms."""
    return {}


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "moto_differs(how): not run on moto, which differs from AWS here")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "sqs" in metafunc.fixturenames:
        differs = metafunc.definition.get_closest_marker("moto_differs")
        metafunc.parametrize("sqs", ["millpond"] if differs else ["millpond", "moto"], indirect=True)


@pytest.fixture
def sqs(request: pytest.FixtureRequest, clients: dict[str, Any]) -> Any:
    """A client of each server in turn."""
    if request.param not in clients:
        clients[request.param] = client_of(request.getfixturevalue(f"{request.param}_url"))
    return clients[request.param]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalSqs]:
    """A server in this process; it looks more often for connections whose time is over."""
    monkeypatch.setattr(admission, "_LOOK_SECONDS", 0.05)
    server = LocalSqs(port=0)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def q(server: LocalSqs) -> None:
    """The queue `q` in the server of this process."""
    server.create_queue("q")


@pytest.fixture
def connect(server: LocalSqs) -> Iterator[Callable[[], RawClient]]:
    """Makes connections, which are closed at the end."""
    with ExitStack() as stack:
        yield lambda: stack.enter_context(closing(RawClient(server)))


@pytest.fixture
def connection(connect: Callable[[], RawClient]) -> RawClient:
    return connect()


@pytest.fixture
def name() -> str:
    """A queue's name that no other test has."""
    return f"q{next(_names)}"


@pytest.fixture
def queue_url(sqs: Any, name: str) -> str:
    return sqs.create_queue(QueueName=name)["QueueUrl"]


@pytest.fixture
def new_queue(sqs: Any) -> Callable[..., str]:
    """Makes queues: attributes as keywords."""

    def create(**attributes: str) -> str:
        return sqs.create_queue(QueueName=f"q{next(_names)}", Attributes=attributes)["QueueUrl"]

    return create


@pytest.fixture
def new_fifo_queue(sqs: Any) -> Callable[..., str]:
    """The same for FIFO queues."""

    def create(**attributes: str) -> str:
        return sqs.create_queue(QueueName=f"q{next(_names)}.fifo", Attributes={"FifoQueue": "true", **attributes})[
            "QueueUrl"
        ]

    return create
