"""What a failed call to the table is for people: what is wrong, with which table, and the remedy."""

from __future__ import annotations

from typing import Protocol

from millpond.errors import ClaimStoreError
from millpond.sqs.codes import DENIED_CODES, THROTTLE_CODES

MISSING_TABLE_CODES = frozenset({"ResourceNotFoundException", "TableNotFoundException"})
#: How DynamoDB answers to a key of another name or type, and to a table with a sort key.
WRONG_KEY_CODES = frozenset({"ValidationException"})
TABLE_THROTTLE_CODES = THROTTLE_CODES | {"ProvisionedThroughputExceededException", "RequestLimitExceeded"}
#: With which a worker need not start: it could not run one message.
FINAL_CODES = MISSING_TABLE_CODES | WRONG_KEY_CODES | DENIED_CODES


class TablePlace(Protocol):
    """Which table it is."""

    table: str
    region: str
    url: str


def store_error(place: TablePlace, call: str, code: str, text: str) -> ClaimStoreError:
    """The error of a call that failed. `code`: DynamoDB's own word for it; "" where it did not answer."""
    return ClaimStoreError(f"the claim table {place.table} {_what(place, call, code)}: {text}", code)


def _what(place: TablePlace, call: str, code: str) -> str:
    if code in MISSING_TABLE_CODES:
        return f"is not there in {place.region} (create it: {create_command(place)})"
    if code in DENIED_CODES:
        return f"refuses dynamodb:{call} (give the worker's role this right, or correct its credentials)"
    if code in WRONG_KEY_CODES:
        return f"does not fit (it needs the partition key `id`, a string, and no sort key; {create_command(place)})"
    if code in TABLE_THROTTLE_CODES:
        return f"throttles dynamodb:{call} (make its billing on demand, or raise its write capacity)"
    if code:
        return f"failed dynamodb:{call} ({code})"
    return f"cannot be reached at {place.url} ({call})"


def create_command(place: TablePlace) -> str:
    """The command that makes the table."""
    return (
        f"aws dynamodb create-table --region {place.region} --table-name {place.table} --billing-mode PAY_PER_REQUEST "
        "--attribute-definitions AttributeName=id,AttributeType=S --key-schema AttributeName=id,KeyType=HASH"
    )


def expiry_command(place: TablePlace) -> str:
    """The command that lets the table delete what has expired."""
    return (
        f"aws dynamodb update-time-to-live --region {place.region} --table-name {place.table} "
        "--time-to-live-specification Enabled=true,AttributeName=expires"
    )
