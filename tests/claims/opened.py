"""Opens stores over the same records: the `Stores` of the contract."""

from __future__ import annotations

from millpond.claims.dynamodb import DynamoClaims
from millpond.claims.memory import MemoryClaims
from millpond.claims.table_client import TableClient
from tests.claims.contract import WEEK


class MemoryStores:
    def open(self, expires_seconds: float = WEEK) -> MemoryClaims:
        return MemoryClaims(expires_seconds)


class DynamoStores:
    """AWS_ENDPOINT_URL_DYNAMODB says where."""

    def __init__(self, table: str) -> None:
        self._client = TableClient(table, "", connections=20)

    def open(self, expires_seconds: float = WEEK) -> DynamoClaims:
        return DynamoClaims(self._client, expires_seconds)
