"""Millpond's handler of the comparison."""

import gevent
import msgspec

from bench.peers.book import SECONDS, Book
from millpond import handler

book = Book()


class Job(msgspec.Struct):
    n: int
    pad: str


@handler("bench.job")
def run(job: Job) -> None:
    book.start(job.n)
    gevent.sleep(SECONDS)
    book.end()
