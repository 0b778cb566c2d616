"""The store of claims of one process: opened where a handler is idempotent, and looked at before the first message."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence

from millpond.app.config import AllSettings
from millpond.app.routing import Route
from millpond.claims.claim import ClaimStore, TableFinding
from millpond.claims.memory import MemoryClaims
from millpond.errors import ConfigError
from millpond.observe import log

#: What ends the boot is looked at twice: rights that were given just now have not reached every host of AWS.
LOOK_AGAIN_SECONDS = 2.0


def idempotent_types(routes: Mapping[str, Route]) -> list[str]:
    """The message types whose handlers are idempotent."""
    return sorted(name for name, route in routes.items() if route.idempotent)


def open_store(settings: AllSettings, routes: Mapping[str, Route]) -> ClaimStore | None:
    """The store; None where no handler needs one. Nothing is sent yet. Raises ConfigError where there is no table."""
    types = idempotent_types(routes)
    if not types:
        return None
    wanted = settings.idempotency
    if wanted.table:
        return open_table(settings)
    if all(queue.is_local for queue in settings.queues.values()):
        return MemoryClaims(wanted.expires_seconds)
    text = f"idempotent handlers need a table to keep their claims in ({', '.join(types)})"
    raise ConfigError(f"[idempotency] table is empty, but {text}: name one, docs/delivery.md says how to make it")


def open_table(settings: AllSettings) -> ClaimStore:
    """The table that the settings name."""
    from millpond.claims.dynamodb import DynamoClaims, connect_table  # botocore's model of DynamoDB: 50 ms

    wanted = settings.idempotency
    # Each message makes one call at a time.
    connections = settings.worker.concurrency + sum(queue.prefetch for queue in settings.queues.values())
    table = connect_table(wanted.table, wanted.region, connections, settings.sqs.client)
    return DynamoClaims(table, wanted.expires_seconds)


def check_store(store: ClaimStore) -> None:
    """Raise ConfigError for what makes the store useless; what may pass, and what is not as it should be, is logged."""
    found = store.check()
    if _wrong_with(found):
        time.sleep(LOOK_AGAIN_SECONDS)
        found = store.check()
    if wrong := _wrong_with(found):
        raise ConfigError(*wrong)
    for one in found:
        if one.level == "error":
            text = "no idempotent handler begins until that is over"
            log.event(logging.WARNING, "claims.failed", f"{one.text} ({text})")
        if one.level == "warning":
            log.event(logging.WARNING, "claims.table", one.text)


def _wrong_with(found: Sequence[TableFinding]) -> list[str]:
    return [f"[idempotency] table: {one.text}" for one in found if one.level == "error" and not one.may_pass]
