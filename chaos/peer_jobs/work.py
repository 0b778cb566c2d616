"""What every handler here does: it writes down that it starts and how it ends, and looks up how it is to end."""

from __future__ import annotations

import os

from chaos.moment import now
from chaos.verdicts import Verdict, verdict

CONCURRENCY = int(os.environ.get("CHAOS_CONCURRENCY", "1"))
WAIT_SECONDS = int(os.environ.get("CHAOS_WAIT_SECONDS", "1"))
VISIBILITY_SECONDS = int(os.environ.get("CHAOS_VISIBILITY_SECONDS", "30"))
DRAIN_SECONDS = float(os.environ.get("CHAOS_DRAIN_SECONDS", "5"))
#: Of calls to SQS: a receive has its wait besides.
CONNECT_SECONDS, READ_SECONDS = 5, 10


class Work:
    """The ledger and the plan. A line has attempt 0: not every consumer knows it."""

    def __init__(self) -> None:
        self._seed = int(os.environ["CHAOS_SEED"])
        self._worker = os.environ["CHAOS_WORKER"]
        self._file = os.open(os.environ["CHAOS_LEDGER"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def start(self, n: int) -> None:
        self._write(n, "start")

    def cut(self, n: int) -> None:
        """The handler was interrupted."""
        self._write(n, "cut")

    def end(self, n: int, attempt: int, *, rejects: bool) -> Verdict:
        """How this attempt ends. Without a way to reject (`rejects`) a rejection is a failure, each time anew."""
        planned = verdict(self._seed, n, attempt)
        self._write(n, "fail" if planned == "reject" and not rejects else planned)
        return planned

    def _write(self, n: int, what: str) -> None:
        os.write(self._file, f"{n} 0 {what} {self._worker} {now():.4f}\n".encode())


def tell_ready() -> None:
    """Not by print: some consumers put something else in the place of sys.stdout."""
    os.write(1, b'{"event": "worker.ready"}\n')
