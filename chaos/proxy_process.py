"""`with proxy(queue_url, folder) as p`: the proxy's process, and the orders that it takes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from chaos import fault_log
from chaos.fault_log import Injected, Receive
from chaos.faults import NETWORK_KINDS, FaultPlan
from tests.worker_process import ROOT

NO_FAULTS = FaultPlan(scale=0.0)


class ProxyProcess:
    """A proxy that runs. `url`: what takes the place of the queue's own, with /<worker> behind it for a worker."""

    def __init__(self, process: subprocess.Popen[str], log: Path, passed: Path) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._in, self._out = process.stdin, process.stdout
        self._log, self.passed = log, passed
        self.pid = process.pid
        self.url = self._out.readline().strip()

    def fail(self, operation: str, kind: str = "503, not taken") -> None:
        """From now on every call of this operation (DeleteMessageBatch) suffers this, whoever makes it."""
        assert kind in NETWORK_KINDS, kind
        self._order(do="fail", operation=operation, kind=kind)

    def heal(self) -> None:
        """No ordered faults any more; planned ones go on."""
        self._order(do="heal")

    def follow(self, plan: FaultPlan) -> None:
        """This plan from now on: FaultPlan(scale=0.0) is none."""
        self._order(do="plan", plan=msgspec.to_builtins(plan))

    def faults(self) -> list[Injected]:
        """All that was injected so far."""
        return fault_log.read(self._log)

    def receives(self) -> list[Receive]:
        """All messages that came through in answers so far."""
        return fault_log.receives(self.passed)

    def _order(self, **order: Any) -> None:
        self._in.write(json.dumps(order) + "\n")
        self._in.flush()
        if self._out.readline() != "done\n":
            raise RuntimeError("the proxy has ended")


@contextmanager
def proxy(url: str, folder: Path, plan: FaultPlan = NO_FAULTS, module: str = "chaos.proxy") -> Iterator[ProxyProcess]:
    """A proxy in front of this server. Its logs, of faults and of what came through, are in `folder`."""
    log, passed = folder / "faults.jsonl", folder / "passed"
    command = [sys.executable, "-m", module, "--upstream", url, "--log", str(log), "--passed", str(passed)]
    process = subprocess.Popen(
        [*command, "--plan", msgspec.json.encode(plan).decode()],
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        yield ProxyProcess(process, log, passed)
    finally:
        process.kill()
        process.communicate()
