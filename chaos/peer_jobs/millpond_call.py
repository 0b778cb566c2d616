"""Millpond: what README says. Busy is `TooFast`; a refused connection needs no word. `idempotent` by config.toml."""

from __future__ import annotations

import time

import msgspec

from chaos.peer_jobs.call import AFTER_SECONDS, Busy, call
from millpond import TooFast, handler


class Job(msgspec.Struct):
    n: int
    ms: int


@handler("chaos.job")
def run(job: Job) -> None:
    time.sleep(job.ms / 1000)
    try:
        call(job.n)
    except Busy as busy:
        raise TooFast(str(busy)) from busy
    time.sleep(AFTER_SECONDS)
