"""Turns: long work in parts, so that a worker whose page looks at letters goes on with its messages meanwhile."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

#: Who has computed for this long pauses for a moment. (gevent serves no timer and no socket during a sleep of 0 s.)
UNSHARED_SECONDS, PAUSE_SECONDS = 0.005, 0.0001

Item = TypeVar("Item")


def taking_turns(items: Iterable[Item]) -> Iterator[Item]:
    """These, with a pause for others where what is done with them takes long."""
    since = time.monotonic()
    for item in items:
        yield item
        if time.monotonic() - since > UNSHARED_SECONDS:
            time.sleep(PAUSE_SECONDS)
            since = time.monotonic()
