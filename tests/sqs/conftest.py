"""A scripted server and a client of it, plain and over TLS."""

from __future__ import annotations

import pytest

import tests.sdk  # noqa: F401  botocore makes its sessions quickly
from millpond.sqs.connection_pool import ConnectionPool
from tests.http_server import Server
from tests.smtp_server import make_certificate


@pytest.fixture
def server():
    server = Server()
    yield server
    server.close()


@pytest.fixture
def client(server):
    one = ConnectionPool(server.url, 4)
    yield one
    one.close()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    return make_certificate(tmp_path_factory.mktemp("certificate"))


@pytest.fixture
def secure(certificate):
    server = Server(certificate.server_context())
    yield server
    server.close()
