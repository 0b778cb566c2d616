"""Opens stores over the same records: the `Stores` of the contract."""

from __future__ import annotations

from millpond.claims.dynamodb import DynamoClaims, connect_table
from millpond.claims.memory import MemoryClaims
from millpond.sqs.clients import Client
from tests.claims.contract import WEEK


class MemoryStores:
    def open(self, expires_seconds: float = WEEK) -> MemoryClaims:
        return MemoryClaims(expires_seconds)


class DynamoStores:
    """AWS_ENDPOINT_URL_DYNAMODB says where."""

    def __init__(self, table: str, client: Client = "wire") -> None:
        self._table = connect_table(table, "", 20, client)

    def open(self, expires_seconds: float = WEEK) -> DynamoClaims:
        return DynamoClaims(self._table, expires_seconds)
