"""The handler of drain and hold: waits as long as its message says, and keeps the books."""

import logging
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
    tell_each: bool = False  # log each message that was handled to its end


settings = Settings()
handled: Counter[int] = Counter()
started: Counter[int] = Counter()


def setup(values: Settings) -> None:
    global settings
    settings = values


@handler("bench.job", timeout=900)
def run(job: Job, message: Message) -> None:
    started[job.n] += 1
    gevent.sleep(job.seconds)
    handled[job.n] += 1
    if settings.tell_each:
        logger.info("handled %d", job.n)


def teardown() -> None:
    twice = sum(1 for times in handled.values() if times > 1)
    logger.info("books handled=%d twice=%d started=%d", len(handled), twice, started.total())
