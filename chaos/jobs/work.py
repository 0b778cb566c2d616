"""The handler of the chaos run: it writes down that it starts and how it ends, and does what its plan says."""

from __future__ import annotations

import os
import time

import msgspec

from chaos.moment import now
from chaos.verdicts import REASON, retry_seconds, verdict
from millpond import Discard, Message, Reject, Retry, handler


class Settings(msgspec.Struct):
    """[handlers.work]"""

    ledger: str
    worker: str
    seed: int


class Job(msgspec.Struct):
    n: int
    ms: int


class Ledger:
    """A file that many processes append to: each line is one write, which the system does as a whole."""

    def __init__(self, settings: Settings) -> None:
        self.seed = settings.seed
        self._worker = settings.worker
        self._file = os.open(settings.ledger, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def write(self, n: int, attempt: int, what: str) -> None:
        os.write(self._file, f"{n} {attempt} {what} {self._worker} {now():.4f}\n".encode())


ledger: Ledger | None = None


def setup(settings: Settings) -> None:
    """Open the ledger."""
    global ledger
    ledger = Ledger(settings)


@handler("chaos.job", timeout=60)
def work(job: Job, message: Message) -> None:
    assert ledger is not None
    ledger.write(job.n, message.attempt, "start")
    try:
        time.sleep(job.ms / 1000)
    except BaseException:  # the engine's interrupts
        ledger.write(job.n, message.attempt, "cut")
        raise
    planned = verdict(ledger.seed, job.n, message.attempt)
    ledger.write(job.n, message.attempt, planned)
    match planned:
        case "fail":
            raise ValueError(REASON)
        case "retry":
            raise Retry(REASON, after=retry_seconds(ledger.seed, job.n))
        case "reject":
            raise Reject(REASON)
        case "discard":
            raise Discard(REASON)
