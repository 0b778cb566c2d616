"""Desk: all that a message finds for its type: the handler, its limits, and its gate. Looked up once a message."""

from __future__ import annotations

import msgspec

from millpond.app.config import RetrySettings
from millpond.app.routing import Route
from millpond.engine.claiming import Claiming
from millpond.engine.delivery import Delivery
from millpond.engine.gate import Gate
from millpond.hub.countdown import Countdown


class Desk(msgspec.Struct, frozen=True, eq=False):
    """The desk of one message type. `policy` is [retry], with what its handler overrides."""

    route: Route
    limit: Countdown[Delivery]
    policy: RetrySettings
    gate: Gate
    claiming: Claiming | None = None  # where its handler is idempotent
