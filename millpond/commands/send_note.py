"""A note of `send`: the workers of this machine that receive from the queue have no handler for the type."""

from __future__ import annotations

import msgspec

from millpond.app.routing import name_of_route
from millpond.foreign.nearest import did_you_mean
from millpond.foreign.text import shown
from millpond.process.control import Order, addresses, ask
from millpond.process.snapshot import Snapshot

#: One whose hub is held up is not waited for.
NOTE_SECONDS = 0.5


def note_on(event_type: str, url: str) -> str:
    """The note; "" where a worker here takes this type, or none here receives from this queue."""
    serving = [one for one in _snapshots() if any(queue.url == url for queue in one.queues)]
    types = sorted({kind.event_type for one in serving for kind in one.types})
    if not serving or name_of_route(event_type, types) is not None:
        return ""
    meant = did_you_mean(event_type, types)
    meant += "" if meant.endswith("?") else "."
    text = f"note: no worker of this machine has a handler for {shown(event_type)}; {meant}"
    return f"{text} Such a message is a dead letter. A handler that is new needs a restart of the worker (or --reload)"


def _snapshots() -> list[Snapshot]:
    found = []
    for address in addresses():
        try:
            found.append(ask(address, Order("status"), NOTE_SECONDS).snapshot)
        except (OSError, msgspec.DecodeError):
            continue
    return [one for one in found if one is not None]
