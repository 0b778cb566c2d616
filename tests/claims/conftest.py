"""The stores that the contract runs against."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import tests.sdk  # noqa: F401  botocore makes its sessions quickly
from tests.claims.opened import DynamoStores, MemoryStores
from tests.dynamo_server import Dynamo, dynamo

TABLE = "claims"


@pytest.fixture(scope="session")
def dynamo_server() -> Iterator[Dynamo]:
    with dynamo() as server:
        server.create(TABLE)
        yield server


@pytest.fixture
def table(dynamo_server: Dynamo, monkeypatch: pytest.MonkeyPatch) -> Iterator[Dynamo]:
    """DynamoDB with the table "claims", where every client finds it."""
    monkeypatch.setenv("AWS_ENDPOINT_URL_DYNAMODB", dynamo_server.url)
    yield dynamo_server
    dynamo_server.application.before = lambda name: None
    dynamo_server.application.after = lambda name: True


@pytest.fixture(params=["memory", "dynamodb", "dynamodb by boto3"])
def stores(request: pytest.FixtureRequest):
    if request.param == "memory":
        return MemoryStores()
    request.getfixturevalue("table")
    return DynamoStores(TABLE, "boto3" if "boto3" in request.param else "wire")
