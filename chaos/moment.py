"""The one clock that all processes of a run write down: it is the same for all of them, and runs on in a sleep."""

from __future__ import annotations

import time

_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def now() -> float:
    """Seconds."""
    return time.clock_gettime(_CLOCK)
