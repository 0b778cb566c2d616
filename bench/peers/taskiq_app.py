"""taskiq with taskiq-aio-sqs: one worker process, ten messages a receive, async tasks up to the concurrency."""

from __future__ import annotations

import asyncio
import json
import os
import sys

from taskiq_aio_sqs import SQSBroker

from bench.peers.book import SECONDS, Book

IS_WORKER = "BENCH_ENDPOINT" in os.environ
broker = SQSBroker(
    os.environ["BENCH_QUEUE"],
    endpoint_url=os.environ.get("BENCH_ENDPOINT"),
    region_name=os.environ["AWS_DEFAULT_REGION"],
    wait_time_seconds=20,
    max_number_of_messages=10,
)
books: list[Book] = []  # made in the worker's process, not in its parent


@broker.task(task_name="bench.job")
async def run(n: int, pad: str) -> None:
    if not books:
        books.append(Book())
    books[0].start(n)
    await asyncio.sleep(SECONDS)
    books[0].end()


def bodies(total: int, pad: int) -> list[str]:
    """As SQSBroker.kick sends a message."""
    kicker = run.kicker()
    made = (kicker._prepare_message(n=number, pad="x" * pad) for number in range(total))
    return [broker.formatter.dumps(message).message.decode() for message in made]


if __name__ == "__main__":
    json.dump(bodies(int(sys.argv[1]), int(sys.argv[2])), sys.stdout)
