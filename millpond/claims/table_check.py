"""Whether a table can hold claims: its key, its time-to-live, and the rights on it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

from millpond.claims.claim import TableFinding, new_token
from millpond.claims.table_errors import FINAL_CODES, ClaimTable, create_command, expiry_command, not_from_dynamodb
from millpond.errors import ClaimStoreError
from millpond.sqs.codes import DENIED_CODES

#: No event has this key, and nobody its token: a renewal is refused, but only where the table, its key and the right
#: are as they should be.
PROBE_KEY = "millpond check"
KEY_NEEDED = [("id", "HASH", "S")]

Renew = Callable[[str, str, float, float], bool]


def findings(table: ClaimTable, renew: Renew) -> Iterator[TableFinding]:
    """Yield what is found. A worker needs dynamodb:UpdateItem alone: what it may not look at is a note."""
    try:
        described = _read(table, "DescribeTable", "Table")
    except ClaimStoreError as error:
        if error.code not in DENIED_CODES:
            yield _failed(error)
            return
        text = "so its key is known only by a write; that does not stop a worker"
        yield TableFinding("note", f"dynamodb:DescribeTable is not allowed, {text}")
    else:
        wrong = [*_wrong_with(table, described)]
        yield from wrong
        if wrong:
            return
    written = _write(table, renew)
    yield written
    if written.level != "error":
        yield from _expiry(table)


def _read(table: ClaimTable, call: str, part: str) -> dict[str, Any]:
    """This part of an answer. Raises ClaimStoreError where it has none: a gateway's page came instead."""
    found = table.call(call).get(part)
    if not isinstance(found, dict):
        raise not_from_dynamodb(table, call)
    return found


def _wrong_with(table: ClaimTable, described: dict[str, Any]) -> Iterator[TableFinding]:
    types = {one["AttributeName"]: one["AttributeType"] for one in described.get("AttributeDefinitions", ())}
    keys = [
        (one["AttributeName"], one["KeyType"], types.get(one["AttributeName"]))
        for one in described.get("KeySchema", ())
    ]
    if keys != KEY_NEEDED:
        named = ", ".join(f"{name} ({kind}, {of})" for name, kind, of in keys)
        text = f"the key of {table.table} is {named}, but claims need the partition key id, a string (S), and no sort"
        yield TableFinding("error", f"{text} key: name another table, made by: {create_command(table)}")
    status = described.get("TableStatus", "ACTIVE")
    if status not in ("ACTIVE", "UPDATING"):
        yield TableFinding("error", f"the table {table.table} is {status}, not ACTIVE: wait for it", may_pass=True)


def _write(table: ClaimTable, renew: Renew) -> TableFinding:
    now = time.time()
    try:
        renew(PROBE_KEY, new_token(), now, now)
    except ClaimStoreError as error:
        return _failed(error)
    return TableFinding("ok", f"the table {table.table} in {table.region} can be written to")


def _failed(error: ClaimStoreError) -> TableFinding:
    return TableFinding("error", str(error), may_pass=error.code not in FINAL_CODES)


def _expiry(table: ClaimTable) -> Iterator[TableFinding]:
    try:
        told = _read(table, "DescribeTimeToLive", "TimeToLiveDescription")
    except ClaimStoreError as error:
        yield TableFinding("note", f"it is not known whether the table deletes what has expired: {error}")
        return
    if told.get("TimeToLiveStatus") in ("ENABLED", "ENABLING") and told.get("AttributeName") == "expires":
        yield TableFinding("ok", "the table deletes what has expired, by its attribute expires")
        return
    text = f"the time-to-live of {table.table} is not on for the attribute expires, so the table grows without end"
    yield TableFinding("warning", f"{text}: {expiry_command(table)}")
