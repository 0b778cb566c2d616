"""What Linux tells of a process and of its descendants: CPU, memory; and which core they may use."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

# clockid_t of another process's CPU time, as clock_getcpuclockid(3) makes it: the complement of its number, shifted
# by three, and 2 for the scheduler's own count (nanoseconds, user + system, all threads, those that ended too).
_SCHEDULER_CLOCK = 2

ALL_CORES = sorted(os.sched_getaffinity(0))
#: The server and this driver have the first core, the consumer has the last one. They share it where there is one only.
SERVER_CORE, CONSUMER_CORE = ALL_CORES[0], ALL_CORES[-1]


def cpu_seconds(process: int) -> float:
    """User and system time of a process that runs. Raises OSError for one that has ended."""
    return time.clock_gettime((~process << 3) | _SCHEDULER_CLOCK)


def tree(process: int) -> list[int]:
    """The process and its descendants that run."""
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with suppress(OSError):
                parent = int(Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()[1])
                children.setdefault(parent, []).append(int(entry))
    found = [process]
    for member in found:  # grows while it is read
        found += children.get(member, [])
    return found


def tree_cpu_seconds(process: int) -> float:
    """CPU of the whole tree; children that ended are not in it, and no consumer here ends any under load."""
    total = 0.0
    for member in tree(process):
        with suppress(OSError):
            total += cpu_seconds(member)
    return total


def tree_peak_mib(process: int) -> float:
    """Peak resident memory (VmHWM), added up over the tree: pages that processes share are counted in each."""
    kib = 0
    for member in tree(process):
        with suppress(OSError):
            status = Path(f"/proc/{member}/status").read_text()
            kib += int(status.partition("VmHWM:")[2].split()[0])
    return kib / 1024


@contextmanager
def on_core(core: int) -> Iterator[None]:
    """Processes that are started inside begin, and stay, on this core."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
