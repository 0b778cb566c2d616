"""MemoryLimit: a worker that has grown past [worker] max_memory_mb drains, and another takes its place."""

from __future__ import annotations

import logging
import resource
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from millpond.engine.consumer import Consumer
from millpond.observe import log
from millpond.process.core import Core
from millpond.process.member import OVER_MEMORY

#: How often is looked.
MEMORY_LOOK_SECONDS = 5.0


def resident_bytes() -> int:
    """What this process has in memory; where /proc is missing (macOS), the most that it ever had."""
    with suppress(OSError, ValueError, IndexError):
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


class MemoryLimit:
    """Looks at the memory of this process, and asks for the drain once it is over `most` bytes."""

    def __init__(self, core: Core, most: int, measure: Callable[[], int] = resident_bytes) -> None:
        self._core = core
        self._most = most
        self._measure = measure

    def ready(self, consumers: Sequence[Consumer]) -> None:
        self._core.spawn(self._run)

    def draining(self) -> None:
        """Nothing: it drains already."""

    def ended(self) -> None:
        """Nothing: the process ends."""

    def _run(self) -> None:
        while not self._core.wait(MEMORY_LOOK_SECONDS):
            if (found := self._measure()) > self._most:
                text = f"the worker takes {found >> 20:,} MiB of memory, which is over max_memory_mb ="
                text += f" {self._most >> 20:,}: it drains, and another takes its place"
                log.event(logging.WARNING, "worker.large", text, bytes=found)
                self._core.stop(OVER_MEMORY)
