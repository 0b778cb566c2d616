"""[worker]: one process of the worker."""

from __future__ import annotations

import math
from typing import Literal

import msgspec

from millpond.app.setting_types import (
    BlockSeconds,
    Concurrency,
    DrainSeconds,
    Folders,
    InHandBytes,
    Megabytes,
    ProcessNumber,
    Text,
    ThreadNumber,
)
from millpond.foreign.secrets import Unshown

#: What messages in hand may take: 100 of 256 KiB. With one emoji each they take five times as much in memory at work.
MAX_BYTES_IN_FLIGHT = 32 * 1024 * 1024


class WorkerSettings(Unshown, msgspec.Struct, frozen=True):
    """[worker]: this process. `load` puts DYNO or the host name where name is empty."""

    name: Text = ""
    handlers: Folders = ("handlers",)
    concurrency: Concurrency = 100
    drain_seconds: DrainSeconds = 25.0
    max_block_seconds: BlockSeconds = 120.0
    threads: ThreadNumber = 4
    max_bytes_in_flight: InHandBytes = MAX_BYTES_IN_FLIGHT
    control: bool = True
    processes: ProcessNumber = 1
    max_memory_mb: Megabytes = 0
    priorities: Literal["weighted", "strict"] = "weighted"

    @property
    def drain_limit(self) -> float:
        """drain_seconds as a number: infinite for "until done"."""
        return math.inf if isinstance(self.drain_seconds, str) else self.drain_seconds

    def process_number(self, cores: int) -> int:
        """How many workers; `cores`: those that this process may use."""
        return cores if isinstance(self.processes, str) else self.processes
