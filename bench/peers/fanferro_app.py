"""fanferro (Rust core under asyncio): concurrency, one poller for 50 at once, its own prefetch, msgspec for bodies.

Its guide names these options. Between 1 and 20 pollers its cost at 500 at once was the same within the noise.
"""

import asyncio
import logging
import os

import fanferro
import msgspec

from bench.peers.book import SECONDS, Book

concurrency = int(os.environ["BENCH_CONCURRENCY"])
book = Book()


class Job(msgspec.Struct):
    n: int
    pad: str


class Event(msgspec.Struct):
    event_type: str
    event_id: str
    payload: Job


async def handle(event: Event) -> None:
    book.start(event.payload.n)
    await asyncio.sleep(SECONDS)
    book.end()


async def main() -> None:
    logging.basicConfig(level=logging.WARNING)
    client = fanferro.Client(endpoint_url=os.environ["BENCH_ENDPOINT"])
    queue = client.queue(url=os.environ["BENCH_QUEUE_URL"])
    consumer = client.consumer(queue, handle, concurrency=concurrency, pollers=max(1, concurrency // 50))
    async with client:
        await consumer.run()


if __name__ == "__main__":
    asyncio.run(main())
