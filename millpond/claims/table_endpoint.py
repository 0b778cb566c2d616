"""Where the table is called: by the region of the settings, and else as botocore finds it."""

from __future__ import annotations

from botocore.exceptions import BotoCoreError

from millpond.errors import ConfigError
from millpond.foreign.text import shown
from millpond.sqs.endpoint import Endpoint, service_endpoint


def find_table_endpoint(table: str, region: str) -> Endpoint:
    """The endpoint of DynamoDB. Raises ConfigError where there is no region, or the AWS configuration is wrong."""
    try:
        endpoint = service_endpoint("dynamodb", "list_tables", region)
    except (BotoCoreError, ValueError) as error:
        raise ConfigError(f"[idempotency] table = {shown(table)} cannot be called: {error}") from None
    if not endpoint.region:
        text = "its region is not known: set [idempotency] region, or AWS_REGION"
        raise ConfigError(f"[idempotency] table = {shown(table)}: {text}")
    return endpoint
