"""Idempotent handlers: a job, and one with a side effect, which it writes down beside the ledger."""

from __future__ import annotations

import os
import time

import msgspec

from chaos.moment import now
from chaos.scenarios import jobs
from chaos.scenarios.jobs import Job, wait, written_down
from millpond import Message, handler

#: From the effect to the handler's end: a part of the window in which a blow makes the effect happen again.
AFTER_SECONDS = 0.1

effects = -1


class Settings(msgspec.Struct):
    """[handlers.claimed_jobs]: none."""


def setup(settings: Settings) -> None:
    """Open the file of the effects; the ledger is open."""
    global effects
    assert jobs.ledger is not None
    effects = os.open(f"{jobs.ledger.path}.effects", os.O_WRONLY | os.O_APPEND | os.O_CREAT)


@handler("claimed", idempotent=True)
def claimed(job: Job, message: Message) -> None:
    with written_down(job, message) as book:
        time.sleep(job.seconds)
        if job.fails and book.is_first(job.n):
            raise ValueError("planned")
        os.write(effects, f"{job.n} {os.getpid()} {now():.4f}\n".encode())
        time.sleep(AFTER_SECONDS)


@handler("kept", idempotent=True)
def kept(job: Job, message: Message) -> None:
    wait(job, message)
