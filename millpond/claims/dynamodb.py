"""Claims in a table of DynamoDB: every write is one UpdateItem with a condition.

Not PutItem: that replaces a record, and with it the number of failures, which a claim would have to read first.
UpdateItem keeps it and returns it, in one write. The one case that needs two is a record that has expired and that the
table has not deleted yet (it may take days): its failures must not count, and one expression cannot say both.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

from millpond.claims import table_check
from millpond.claims.claim import (
    CLOCK_MARGIN_SECONDS,
    Answer,
    Claimed,
    ClaimRecord,
    ClaimState,
    TableFinding,
    expiry_of,
    is_given_up,
    may_renew,
    standing,
    state_of,
)
from millpond.claims.table_endpoint import find_table_endpoint
from millpond.claims.table_errors import ClaimTable, Refused, not_from_dynamodb
from millpond.claims.table_wire import WireTable
from millpond.errors import ClaimStoreError
from millpond.foreign.text import shown
from millpond.sqs.clients import Client

#: How often a record may change between the writes of one claim; each time means that another worker was faster.
MAX_CHANGES = 4


Values = dict[str, str | float]


class TableWrite(NamedTuple):
    """An UpdateItem: what it sets, and on which condition. `#name` is an attribute, `:name` a value."""

    update: str
    condition: str


_OWN = "#token = :token AND #expires > :now"

CLAIM = TableWrite(
    "SET #token = :token, #digest = :digest, #lease_until = :lease_until, #expires = :expires, "
    "#failures = if_not_exists(#failures, :zero)",
    "attribute_not_exists(#id) OR (#expires > :now AND #digest = :digest AND attribute_not_exists(#done_at) "
    "AND #lease_until < :lapsed)",
)
CLAIM_EXPIRED = TableWrite(
    "SET #token = :token, #digest = :digest, #lease_until = :lease_until, #expires = :expires, #failures = :zero "
    "REMOVE #done_at",
    "#expires <= :now",
)
RENEW = TableWrite(
    "SET #lease_until = :lease_until, #expires = :expires",
    f"{_OWN} AND attribute_not_exists(#done_at) AND #lease_until > :zero AND #lease_until <= :lease_until",
)
COMPLETE = TableWrite("SET #done_at = :now, #expires = :expires", f"{_OWN} AND #lease_until > :zero")
RELEASE = TableWrite(
    "SET #lease_until = :zero, #failures = :failures, #expires = :expires",
    f"{_OWN} AND attribute_not_exists(#done_at)",
)
#: Not DeleteItem, which is one more right that a worker would need: the table deletes what has expired.
FORGET = TableWrite(
    "SET #lease_until = :zero, #failures = :zero, #expires = :gone",
    f"{_OWN} AND attribute_not_exists(#done_at)",
)


def connect_table(table: str, region: str, connections: int, client: Client = "wire") -> ClaimTable:
    """The table, by the client of SQS: our own, or the SDK's, also where a proxy is in the way. Raises ConfigError.

    Nothing is sent yet. `connections`: calls that can be under way at once, for each of which a connection is kept.
    """
    endpoint = find_table_endpoint(table, region)
    if client == "wire" and not endpoint.proxied:
        return WireTable(table, endpoint, connections)
    from millpond.claims.table_boto import BotoTable  # 10 MiB that only this client needs

    return BotoTable(table, endpoint, connections)


class DynamoClaims:
    """A ClaimStore of all workers that share a table. Each call costs one write unit."""

    def __init__(self, table: ClaimTable, expires_seconds: float) -> None:
        self._table = table
        self._expires_seconds = expires_seconds

    def claim(self, key: str, token: str, digest: str, lease_until: float, now: float) -> Answer:
        write = CLAIM
        values: Values = {":token": token, ":digest": digest, ":now": now, ":lease_until": lease_until}
        values |= {":expires": self._expiry(lease_until, now), ":lapsed": now - CLOCK_MARGIN_SECONDS, ":zero": 0}
        for _ in range(MAX_CHANGES):
            try:
                written = self._write(key, write, values)
                return Claimed(_record_of(key, written["Attributes"]).failures)
            except Refused as refused:
                record = _record_of(key, refused.item) if refused.item else None
            answer = standing(record, token, digest, now)
            if answer is not None:
                return answer
            write = CLAIM_EXPIRED if record is not None and state_of(record, now) is ClaimState.FREE else CLAIM
        text = "changes too fast, or DynamoDB does not say what stands there (ReturnValuesOnConditionCheckFailure)"
        raise ClaimStoreError(f"the record {shown(key)} of the claim table {self._table.table} {text}")

    def renew(self, key: str, token: str, lease_until: float, now: float) -> bool:
        values: Values = {":token": token, ":now": now, ":lease_until": lease_until, ":zero": 0}
        try:
            self._write(key, RENEW, values | {":expires": self._expiry(lease_until, now)})
        except Refused as refused:  # where it lasts longer already, this one was late on its way
            return may_renew(_record_of(key, refused.item) if refused.item else None, token, now)
        return True

    def complete(self, key: str, token: str, now: float) -> bool:
        values: Values = {":token": token, ":now": now, ":zero": 0}
        return self._holds(key, COMPLETE, values | {":expires": self._expiry(0, now)})

    def release(self, key: str, token: str, failures: int | None, now: float) -> bool:
        values: Values = {":token": token, ":now": now, ":zero": 0}
        if failures is None:
            return self._forget(key, values | {":gone": int(now - CLOCK_MARGIN_SECONDS)})
        return self._holds(key, RELEASE, values | {":failures": failures, ":expires": self._expiry(0, now)})

    def read(self, key: str) -> ClaimRecord | None:
        item = self._table.call("GetItem", Key=_key(key), ConsistentRead=True).get("Item")
        return _record_of(key, item) if item else None

    def remove(self, key: str, token: str) -> bool:
        condition = "#token = :token"
        try:
            self._table.call("DeleteItem", **_written(key, condition, {":token": token}), ConditionExpression=condition)
        except Refused:
            return False
        return True

    def check(self) -> Sequence[TableFinding]:
        return [*table_check.findings(self._table, self.renew)]

    def _forget(self, key: str, values: Values) -> bool:
        """Let the record expire."""
        try:
            self._write(key, FORGET, values)
        except Refused as refused:
            return is_given_up(_record_of(key, refused.item) if refused.item else None, str(values[":token"]))
        return True

    def _holds(self, key: str, write: TableWrite, values: Values) -> bool:
        try:
            self._write(key, write, values)
        except Refused:
            return False
        return True

    def _write(self, key: str, write: TableWrite, values: Values) -> dict[str, Any]:
        """The answer, with the record as it is now. Raises Refused, with the record as it stands."""
        answer = self._table.call(
            "UpdateItem",
            **_written(key, f"{write.update} {write.condition}", values),
            UpdateExpression=write.update,
            ConditionExpression=write.condition,
            ReturnValues="ALL_NEW",
            ReturnValuesOnConditionCheckFailure="ALL_OLD",
        )
        if "Attributes" not in answer:  # a gateway's own page with status 200: botocore makes an empty answer of it
            raise not_from_dynamodb(self._table, "UpdateItem")
        return answer

    def _expiry(self, lease_until: float, now: float) -> int:
        """A whole number: the table's time-to-live takes no other."""
        return math.ceil(expiry_of(lease_until, self._expires_seconds, now))


def _key(key: str) -> dict[str, Any]:
    return {"id": {"S": key}}


def _written(key: str, expressions: str, values: Values) -> dict[str, Any]:
    """What every write has beside its expressions: each name and value that they use, since DynamoDB refuses others."""
    names, used = _used(expressions)
    return {
        "Key": _key(key),
        "ExpressionAttributeNames": names,
        "ExpressionAttributeValues": {name: _typed(value) for name, value in values.items() if name in used},
    }


@cache
def _used(expressions: str) -> tuple[dict[str, str], frozenset[str]]:
    """The names of attributes in these expressions (`token` is a reserved word), and those of values."""
    names = {name: name[1:] for name in re.findall(r"#\w+", expressions)}
    return names, frozenset(re.findall(r":\w+", expressions))


def _typed(value: str | float) -> dict[str, str]:
    if isinstance(value, str):
        return {"S": value}
    return {"N": str(value) if isinstance(value, int) else f"{value:.3f}"}


def _record_of(key: str, item: dict[str, Any]) -> ClaimRecord:
    """What an item says. Raises ClaimStoreError for one that Millpond has not written."""
    try:
        return ClaimRecord(
            item["token"]["S"],
            item["digest"]["S"],
            _moment(item["lease_until"]),
            _moment(item["expires"]),
            int(item["failures"]["N"]),
            _moment(item["done_at"]) if "done_at" in item else None,
        )
    except (KeyError, TypeError, ValueError):
        text = "is not one of Millpond's: give claims a table of their own, or delete this item"
        raise ClaimStoreError(f"the item {shown(key)} of the claim table {text}") from None


def _moment(value: dict[str, Any]) -> float:
    """Epoch seconds. Raises ValueError for what would be no moment, or one that never comes."""
    seconds = float(value["N"])
    if not math.isfinite(seconds):
        raise ValueError
    return seconds
