"""[idempotency]: where the claims of idempotent handlers are kept."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from millpond.foreign.secrets import Unshown

# DynamoDB: TableName.
TableName = Annotated[
    str,
    Meta(
        pattern=r"^([A-Za-z0-9_.-]{3,255}|arn:[^\s:]+:dynamodb:\S+)?\Z",
        description="the name or the ARN of a table of DynamoDB",
    ),
]
RegionName = Annotated[str, Meta(description="a text in quotes")]
ExpirySeconds = Annotated[int, Meta(ge=60, le=31_536_000, description="60 to 31536000 seconds, a whole number")]


class IdempotencySettings(Unshown, msgspec.Struct, frozen=True):
    """[idempotency]: table = "" is a store in memory where all queues are local, and none elsewhere."""

    table: TableName = ""
    region: RegionName = ""
    expires_seconds: ExpirySeconds = 604_800
