"""What the two clients of the table share: its calls, a refusal, and the sentence that each failure becomes."""

from __future__ import annotations

from typing import Any, Protocol

from millpond.errors import ClaimStoreError
from millpond.sqs.codes import DENIED_CODES, THROTTLE_CODES

MISSING_TABLE_CODES = frozenset({"ResourceNotFoundException", "TableNotFoundException"})
#: How DynamoDB answers to a key of another name or type, and to a table with a sort key.
WRONG_KEY_CODES = frozenset({"ValidationException"})
TABLE_THROTTLE_CODES = THROTTLE_CODES | {"ProvisionedThroughputExceededException", "RequestLimitExceeded"}
#: What is worth another try, in a moment; "": DynamoDB has not answered.
RETRIED_CODES = TABLE_THROTTLE_CODES | {"", "InternalServerError", "InternalFailure", "ServiceUnavailable"}
#: A condition does not hold.
REFUSED = "ConditionalCheckFailedException"
#: With which a worker need not start: it could not run one message.
FINAL_CODES = MISSING_TABLE_CODES | WRONG_KEY_CODES | DENIED_CODES | {"NoCredentialsError", "BadKeys"}


class Refused(Exception):
    """A condition did not hold: nothing was written. `item`: what stands there; None: nothing, or it was not asked."""

    def __init__(self, item: dict[str, Any] | None) -> None:
        super().__init__("the condition does not hold")
        self.item = item


class ClaimTable(Protocol):
    """One table of DynamoDB, by one of two clients: `table_wire`, or `table_boto` where a proxy is in the way."""

    table: str
    region: str
    url: str

    def call(self, name: str, **parameters: Any) -> dict[str, Any]:
        """The answer to a call on the table. Raises Refused, and ClaimStoreError for every other failure."""
        ...


def store_error(place: ClaimTable, call: str, code: str, text: str) -> ClaimStoreError:
    """The error of a call that failed. `code`: DynamoDB's own word for it; "" where it did not answer."""
    return ClaimStoreError(f"the claim table {place.table} {_what(place, call, code)}: {text}", code)


def not_from_dynamodb(place: ClaimTable, call: str) -> ClaimStoreError:
    """The error of an answer with status 200 that lacks what DynamoDB always says."""
    text = f"gave an answer to dynamodb:{call} that is not DynamoDB's: look at what stands between the worker and it"
    return ClaimStoreError(f"the claim table {place.table} {text} (a proxy, a login page)")


def _what(place: ClaimTable, call: str, code: str) -> str:
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


def create_command(place: ClaimTable) -> str:
    """The command that makes the table."""
    return (
        f"aws dynamodb create-table --region {place.region} --table-name {place.table} --billing-mode PAY_PER_REQUEST "
        "--attribute-definitions AttributeName=id,AttributeType=S --key-schema AttributeName=id,KeyType=HASH"
    )


def expiry_command(place: ClaimTable) -> str:
    """The command that lets the table delete what has expired."""
    return (
        f"aws dynamodb update-time-to-live --region {place.region} --table-name {place.table} "
        "--time-to-live-specification Enabled=true,AttributeName=expires"
    )
