"""The bench's handler: waits as long as its message says, and keeps the books."""

import logging
import resource
import time
from collections import Counter

import gevent
import msgspec

from millpond import Message, handler

logger = logging.getLogger("bench")


class Job(msgspec.Struct):
    n: int
    seconds: float = 0.02
    pad: str = ""


class Settings(msgspec.Struct):
    total: int = 0  # the CPU and the time are marked at the 1,000th message and at this one
    tell_each: bool = False  # log each message that was handled to its end


settings = Settings()
handled: Counter[int] = Counter()
started: Counter[int] = Counter()


def setup(values: Settings) -> None:
    global settings
    settings = values


def cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


@handler("bench.job", timeout=900)
def run(job: Job, message: Message) -> None:
    started[job.n] += 1
    if len(started) == 1 and started.total() == 1:
        mark("first")
    gevent.sleep(job.seconds)
    handled[job.n] += 1
    if settings.tell_each:
        logger.info("handled %d", job.n)
    if len(handled) in (1_000, settings.total) and handled[job.n] == 1:
        mark("last" if len(handled) == settings.total else "thousandth")


def mark(name: str) -> None:
    logger.info("mark %s %.6f %.6f", name, time.monotonic(), cpu_seconds())


def teardown() -> None:
    twice = sum(1 for times in handled.values() if times > 1)
    logger.info("books handled=%d twice=%d started=%d", len(handled), twice, started.total())
