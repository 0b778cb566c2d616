"""dramatiq with dramatiq-sqs, by dramatiq-gevent: one process, as many greenlets as the concurrency.

The broker's README names the middleware; Prometheus is left out, a server that this bench does not ask. dramatiq-sqs
0.4.4 holds twenty messages a process at the most (its MAX_PREFETCH is ten, and it receives while fewer are unacked).
"""

from __future__ import annotations

import base64
import json
import os
import sys
import time

import dramatiq
from dramatiq.middleware import AgeLimit, Callbacks, Pipelines, Retries, TimeLimit
from dramatiq_sqs import SQSBroker

from bench.peers.book import SECONDS, Book

IS_WORKER = "BENCH_ENDPOINT" in os.environ
middleware = [AgeLimit(), TimeLimit(), Callbacks(), Pipelines(), Retries(min_backoff=1000, max_backoff=900_000)]
broker = SQSBroker(middleware=middleware, endpoint_url=os.environ.get("BENCH_ENDPOINT"))
dramatiq.set_broker(broker)
books: list[Book] = []  # made in the worker's process, which dramatiq forks from the one that loads this


@dramatiq.actor(queue_name=os.environ["BENCH_QUEUE"], actor_name="bench.job")
def run(n: int, pad: str) -> None:
    if not books:
        books.append(Book())
    books[0].start(n)
    time.sleep(SECONDS)  # gevent's: dramatiq-gevent has patched the process
    books[0].end()


def bodies(total: int, pad: int) -> list[str]:
    """As SQSBroker.enqueue encodes a message."""
    messages = (run.message(n=number, pad="x" * pad) for number in range(total))
    return [base64.b64encode(message.encode()).decode() for message in messages]


if __name__ == "__main__":
    json.dump(bodies(int(sys.argv[1]), int(sys.argv[2])), sys.stdout)
