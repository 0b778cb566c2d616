"""The check of the claims: whether idempotent handlers have a store, and whether it can do what they need."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from millpond.app.config import AllSettings
from millpond.app.routing import Route
from millpond.commands.finding import Finding
from millpond.errors import ConfigError
from millpond.process.claim_store import idempotent_types, open_store

WHERE = "idempotency"


def check_claims(settings: AllSettings, routes: Mapping[str, Route]) -> Iterator[Finding]:
    """Yield every finding on the store of claims; none where no handler is idempotent and no table is named."""
    table, types = settings.idempotency.table, idempotent_types(routes)
    if not types:
        if table:
            yield Finding("note", WHERE, f"no handler is idempotent, so the table {table} is not called")
        return
    try:
        store = open_store(settings, routes)
    except ConfigError as error:
        yield from (Finding("error", WHERE, text) for text in error.findings)
        return
    if store is not None:
        yield Finding("note", WHERE, f"idempotent types: {', '.join(types)}")
        yield from (Finding(one.level, WHERE, one.text) for one in store.check())
