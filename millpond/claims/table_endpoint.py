"""Where the table is called: by the region of the settings, and else as botocore finds it."""

from __future__ import annotations

import os
from typing import Any

import botocore.session
from botocore.exceptions import BotoCoreError

from millpond.errors import ConfigError
from millpond.foreign.text import shown
from millpond.sqs.endpoint import EMULATOR_REGION, Endpoint, called_by_sdk, endpoint_at
from millpond.sqs.queue_url import is_loopback


def find_table_endpoint(table: str, region: str) -> Endpoint:
    """The endpoint of DynamoDB. Raises ConfigError where there is no region, or the AWS configuration is wrong."""
    try:
        session = botocore.session.get_session()
        region = region or _own_region(session)
        if not region:
            text = "its region is not known: set [idempotency] region, or AWS_REGION"
            raise ConfigError(f"[idempotency] table = {shown(table)}: {text}")
        return endpoint_at(called_by_sdk(session, "dynamodb", "list_tables", region), region, session)
    except (BotoCoreError, ValueError) as error:
        raise ConfigError(f"[idempotency] table = {shown(table)} cannot be called: {error}") from None


def _own_region(session: Any) -> str:
    """The region of this process; "" where it has none. An emulator on this machine needs none."""
    own = os.environ.get("AWS_REGION") or session.get_config_variable("region")
    return own or (EMULATOR_REGION if is_loopback(os.environ.get("AWS_ENDPOINT_URL_DYNAMODB", "")) else "")
