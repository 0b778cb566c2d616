"""The way to SQS: by our own client of its wire protocol, or by boto3."""

from __future__ import annotations

import os
from typing import Literal, cast, get_args

from millpond.errors import ConfigError
from millpond.sqs.connection_pool import ConnectionPool
from millpond.sqs.credentials import Credentials
from millpond.sqs.endpoint import credentials_loader, find_endpoint
from millpond.sqs.sqs_queue import Sqs
from millpond.sqs.wire import WireSqs

Client = Literal["wire", "boto3"]


def _client_by_environment() -> Client:
    name = os.environ.get("SQS_CLIENT") or "wire"
    if name not in get_args(Client):
        raise ConfigError(f"SQS_CLIENT = {name!r}: {' or '.join(get_args(Client))}")
    return cast(Client, name)


def connect(
    queue_url: str,
    *,
    client: Client | None = None,
    region: str = "",
    endpoint_url: str = "",
    wait_seconds: int,
    polls: int,
    settles: int,
) -> Sqs:
    """SQS where the queue at this URL is; nothing is sent yet.

    `client`: None takes SQS_CLIENT, or else wire.
    `polls` and `settles` are how many calls of each kind can be under way at once: so many connections are kept.
    `wait_seconds`: the longest wait of a poll. Region and endpoint come from the settings, or else from the URL.
    Where a proxy is in the way it is boto3 in any case, which knows how to speak to one.
    Raises ConfigError for another SQS_CLIENT, where no region is to be found, and where the AWS configuration is
    unreadable or names a CA bundle that is.
    """
    client = client or _client_by_environment()
    wire = wire_sqs(queue_url, region, endpoint_url, polls + settles) if client == "wire" else None
    if wire is not None:
        return wire
    from millpond.sqs.boto import BotoSqs  # boto3: 10 MiB that only this client needs

    return BotoSqs(queue_url, region, endpoint_url, wait_seconds, polls, settles)


def wire_sqs(queue_url: str, region: str, endpoint_url: str, connections: int) -> WireSqs | None:
    """SQS by our own client, with so many connections kept; None where a proxy is in the way. Raises ConfigError."""
    endpoint = find_endpoint(queue_url, region, endpoint_url)
    if endpoint.proxied:
        return None
    kept = ConnectionPool(endpoint.url, connections, endpoint.ca_file)
    return WireSqs(endpoint.url, endpoint.region, Credentials(credentials_loader(endpoint)), kept)
