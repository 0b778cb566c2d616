"""The handlers of the scenarios: each writes down that it starts and how it ends (see chaos/ledger.py)."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from chaos.moment import now
from millpond import Message, Reject, handler


class Settings(msgspec.Struct):
    """[handlers.jobs]"""

    ledger: str


class Job(msgspec.Struct):
    """`fails`: the first time that it runs, whichever receive that is."""

    n: int
    seconds: float
    fails: bool = False


class Ledger:
    """A file that many processes append to: each line is one write, which the system does as a whole."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def write(self, n: int, attempt: int, what: str) -> None:
        """In no greenlet's turn but its own: nothing comes between this and the handler's end."""
        os.write(self._file, f"{n} {attempt} {what} {os.getpid()} {now():.4f}\n".encode())

    def is_first(self, n: int) -> bool:
        """Whether nobody has asked this about the message before, in no process."""
        try:
            Path(f"{self.path}.{n}").touch(exist_ok=False)
        except FileExistsError:
            return False
        return True


ledger: Ledger | None = None


def setup(settings: Settings) -> None:
    """Open the ledger."""
    global ledger
    ledger = Ledger(settings.ledger)


@contextmanager
def written_down(job: Job, message: Message) -> Iterator[Ledger]:
    """One run of a handler, in the ledger."""
    assert ledger is not None
    ledger.write(job.n, message.attempt, "start")
    try:
        yield ledger
    except Exception:
        ledger.write(job.n, message.attempt, "fail")
        raise
    except BaseException:  # the engine's interrupts
        ledger.write(job.n, message.attempt, "cut")
        raise
    ledger.write(job.n, message.attempt, "ok")


@handler("wait")
def wait(job: Job, message: Message) -> None:
    with written_down(job, message) as book:
        time.sleep(job.seconds)
        if job.fails and book.is_first(job.n):
            raise ValueError("planned")


@handler("wait.limit-10", timeout=10)
def wait_at_most_10(job: Job, message: Message) -> None:
    wait(job, message)


@handler("wait.limit-1", timeout=1)
def wait_at_most_1(job: Job, message: Message) -> None:
    wait(job, message)


@handler("reject")
def reject(job: Job) -> None:
    """Not in the ledger: it is a dead letter's copy that is looked at."""
    raise Reject("planned")


@handler("burn", timeout=120)
def burn(job: Job, message: Message) -> None:
    """Computes in pure Python, and lets nobody else turn meanwhile."""
    with written_down(job, message):
        end = time.monotonic() + job.seconds
        while time.monotonic() < end:
            pass
