"""connect(): SQS at one endpoint, by one of two clients, our own of the wire protocol (`wire`) or boto3 (`boto`)."""

from __future__ import annotations

import os
import select
from typing import Literal, cast, get_args

from millpond.errors import ConfigError
from millpond.sqs.connection_pool import ConnectionPool
from millpond.sqs.credentials import Credentials, credentials_loader
from millpond.sqs.endpoint import find_endpoint
from millpond.sqs.sqs_queue import Sqs
from millpond.sqs.wire import WireSqs

Client = Literal["wire", "boto3"]
#: Our own client waits for its sockets by it; Windows has none.
HAS_POLL = hasattr(select, "poll")


def _client_by_environment() -> Client:
    name = os.environ.get("SQS_CLIENT") or "wire"
    if name not in get_args(Client):
        raise ConfigError(f"SQS_CLIENT = {name!r}: it is {' or '.join(get_args(Client))}")
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
    """SQS at the place of this queue; nothing is sent yet.

    `client`: None means SQS_CLIENT, or else wire; where a proxy is in the way it is always boto3, which can speak to
    one, and so it is on Windows. `polls` and `settles`: calls of each kind that can be under way at once, for each of
    which a connection is kept. `wait_seconds`: the longest wait of a poll. `region` and `endpoint_url`: see
    `find_endpoint`.
    Raises ConfigError for an unknown SQS_CLIENT, where there is no region, and where the AWS configuration, or the CA
    bundle that it names, cannot be read.
    """
    client = client or _client_by_environment()
    wire = wire_sqs(queue_url, region, endpoint_url, polls + settles) if client == "wire" else None
    if wire is not None:
        return wire
    from millpond.sqs.boto import BotoSqs  # boto3: 10 MiB that only this client needs

    return BotoSqs(queue_url, region, endpoint_url, wait_seconds, polls, settles)


def wire_sqs(queue_url: str, region: str, endpoint_url: str, connections: int) -> WireSqs | None:
    """SQS by our own client, which keeps this many connections; None where a proxy is in the way, or on Windows."""
    endpoint = find_endpoint(queue_url, region, endpoint_url)
    if endpoint.proxied or not HAS_POLL:
        return None
    kept = ConnectionPool(endpoint.url, connections, endpoint.ca_file)
    return WireSqs(endpoint.url, endpoint.region, Credentials(credentials_loader(endpoint)), kept)
