"""until: waits for what other processes, threads and real timers bring about."""

from __future__ import annotations

import time
from collections.abc import Callable

import gevent


def until(true: Callable[[], object], seconds: float = 30.0) -> None:
    """Let the hub turn until it is so. Raises AssertionError after these seconds."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        gevent.sleep(0.005)
