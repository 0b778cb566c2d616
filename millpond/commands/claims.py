"""`worker.py claims show | release`: what the table says of one event, and how its record is removed."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

from millpond.app import discovery
from millpond.app.config import AllSettings
from millpond.claims.claim import ClaimRecord, ClaimState, ClaimStore, key_of, state_of
from millpond.errors import FINISHED, LEFT, ClaimStoreError, ConfigError
from millpond.foreign.text import shown
from millpond.process.claim_store import idempotent_types, open_table

STATES = {
    ClaimState.FREE: "expired: the next delivery runs it as a new event",
    ClaimState.HELD: "held: a worker runs it, or died within the lease",
    ClaimState.LAPSED: "lapsed: its worker died, and the next delivery runs it",
    ClaimState.RELEASED: "released: it failed or was given back, and the next delivery runs it",
    ClaimState.DONE: "done: a further delivery is a duplicate, and is deleted",
}
#: A key is 512 bytes at most.
MAX_KEY = 600

Found = tuple[str, ClaimRecord]


def run(settings: AllSettings, options: argparse.Namespace) -> int:
    """Do what the command line says; return the exit code. Raises ConfigError where the table cannot be asked."""
    if not settings.idempotency.table:
        text = "claims are in a worker's own memory then, and no command can see them"
        raise ConfigError(f"[idempotency] table is empty: {text}")
    try:
        store = open_table(settings)
        keys = _keys(settings, options.id, options.type)
        found = [(key, record) for key in keys if (record := store.read(key)) is not None]
        if not found:
            print(f"there is no claim of {' or of '.join(shown(key, MAX_KEY) for key in keys)}", file=sys.stderr)
            return LEFT
        if options.action == "show":
            return _show(found)
        return _release(store, found, options.force)
    except ClaimStoreError as error:
        raise ConfigError(f"[idempotency] table: {error}") from None


def _keys(settings: AllSettings, wanted: str, event_type: str) -> Sequence[str]:
    """The keys that may be meant: a whole key, or an event id of any idempotent type. Loads the handlers for it."""
    if event_type:
        return [key_of(event_type, wanted)]
    handlers = discovery.handlers_of(settings)
    types = idempotent_types(handlers.routes)
    keys = [key_of(name, wanted) for name in types if not name.endswith("*")]  # claims go by a message's own type
    if " " in wanted:
        keys.insert(0, wanted)
    if not keys:
        why = f"{', '.join(types)} takes many types" if types else "no handler is idempotent"
        raise ConfigError(f"{why}: name the message's type by --type, or the whole key, 'TYPE ID'")
    return keys


def _show(found: Sequence[Found]) -> int:
    now = time.time()
    print("\n\n".join("\n".join(_lines(key, record, now)) for key, record in found), flush=True)
    return FINISHED


def _release(store: ClaimStore, found: Sequence[Found], force: bool) -> int:
    """Remove the one record that was found; not one that a worker holds, unless by force."""
    if len(found) > 1:
        raise ConfigError(f"more than one event has this id ({', '.join(key for key, _ in found)}): name its --type")
    [(key, record)] = found
    now = time.time()
    print("\n".join(_lines(key, record, now)), flush=True)
    if state_of(record, now) is ClaimState.HELD and not force:
        text = "a worker has it: nothing was removed. --force removes it, and the event may then run twice at once"
        print(text, file=sys.stderr)
        return LEFT
    if not store.remove(key, record.token):
        print("another worker has claimed it meanwhile: nothing was removed; look again", file=sys.stderr)
        return LEFT
    print("removed: the next delivery runs it as a new event", flush=True)
    return FINISHED


def _lines(key: str, record: ClaimRecord, now: float) -> Iterator[str]:
    yield f"event     {shown(key, MAX_KEY)}"
    yield f"state     {STATES[state_of(record, now)]}"
    if record.done_at is not None:
        yield f"done      {_moment(record.done_at, now)}"
    elif record.lease_until:
        yield f"lease     {_moment(record.lease_until, now)}"
    yield f"failures  {record.failures}"
    yield f"expires   {_moment(record.expires, now)}"


def _moment(at: float, now: float) -> str:
    """A moment, and how far it is: "2026-11-26 09:50:00 UTC, in 35 s"."""
    seconds = at - now
    distance = f"in {seconds:.0f} s" if seconds >= 0 else f"{-seconds:.0f} s ago"
    try:
        return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M:%S} UTC, {distance}"
    except (ValueError, OverflowError, OSError):  # a wrong clock has written it, or another program
        return f"{at:g} s since the epoch, {distance}"
