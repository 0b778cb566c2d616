"""PeerWorker: one process of a peer, with the children that some of them have."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from chaos.fleet import FleetSettings, Worker
from chaos.peers.programs import Program
from tests.worker_process import SECONDS, WorkerProcess

#: What strikes a whole container. SIGTERM goes to its first process alone, which is to tell its children.
GROUP_SIGNALS = frozenset({signal.SIGKILL, signal.SIGSTOP, signal.SIGCONT})
LAUNCH = ("-m", "chaos.peers.launch")
LOOK_SECONDS = 0.05
#: monotonic() plus this is the clock of chaos/moment.py, for programs without CLOCK_BOOTTIME.
CLOCK_AHEAD = time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)) - time.monotonic()


class PeerProcess(WorkerProcess):
    """A group of processes, ended together."""

    def __init__(self, folder: Path, command: Sequence[str], environ: dict[str, str]) -> None:
        super().__init__(folder, *command, program=LAUNCH, **environ)

    def signal(self, number: int) -> None:
        if number in GROUP_SIGNALS:
            self._signal_group(number)
        else:
            super().signal(number)

    def exit_code(self, seconds: float = SECONDS) -> int:
        end = time.monotonic() + seconds
        while self.running and time.monotonic() < end:
            time.sleep(LOOK_SECONDS)
        if not self.running:
            self._signal_group(signal.SIGKILL)  # a child left behind would hold its pipes open
        return super().exit_code(max(0.0, end - time.monotonic()))

    def __exit__(self, *exception: object) -> None:
        self._signal_group(signal.SIGKILL)
        super().__exit__(*exception)

    def _signal_group(self, number: int) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.pid, number)


def environ_of(name: str, settings: FleetSettings) -> dict[str, str]:
    """What a peer is told by its environment, as Millpond's workers are by a file."""
    endpoint, (url,) = f"{settings.endpoint}/{name}", settings.queue_urls
    return {
        "AWS_ACCESS_KEY_ID": "chaos",
        "AWS_SECRET_ACCESS_KEY": "chaos",
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_ENDPOINT_URL_SQS": endpoint,
        "CHAOS_ENDPOINT": endpoint,
        "CHAOS_QUEUE_URL": url,
        "CHAOS_QUEUE": url.rpartition("/")[2],
        "CHAOS_LEDGER": settings.ledger,
        "CHAOS_WORKER": name,
        "CHAOS_SEED": str(settings.seed),
        "CHAOS_CONCURRENCY": str(settings.concurrency),
        "CHAOS_WAIT_SECONDS": str(settings.wait_seconds),
        "CHAOS_VISIBILITY_SECONDS": str(settings.visibility_seconds),
        "CHAOS_DRAIN_SECONDS": str(settings.drain_seconds),
        "CHAOS_CLOCK_AHEAD": repr(CLOCK_AHEAD),
    }


class PeerWorker(Worker):
    """One of a fleet."""

    def __init__(self, program: Program, name: str, folder: Path, settings: FleetSettings) -> None:
        self.name = name
        self.process = PeerProcess(folder, program.command(settings.concurrency), environ_of(name, settings))
