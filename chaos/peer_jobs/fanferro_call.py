"""fanferro, as its guide has it: "Downstream temporarily down: raise fanferro.Retry(delay=30)".

max_attempts below the queue's maxReceiveCount, as it asks; `RateLimit` where the rate is known. Its idempotency
middleware, with the one store that it brings (in memory, for single processes), by the producer's own event id.
"""

import asyncio
import logging
import os

import fanferro
import msgspec
from fanferro.idempotency import idempotent

from chaos.peer_jobs.call import AFTER_SECONDS, CALL_SECONDS, PORT, RATE, Busy
from chaos.peer_jobs.work import CONCURRENCY, DRAIN_SECONDS, VISIBILITY_SECONDS, WAIT_SECONDS, tell_ready


class Job(msgspec.Struct):
    n: int
    ms: int


class Event(msgspec.Struct):
    event_id: str
    payload: Job


async def call(n: int) -> None:
    async with asyncio.timeout(CALL_SECONDS):
        reader, writer = await asyncio.open_connection("127.0.0.1", PORT)
        writer.write(f"{n}\n".encode())
        answer = await reader.read(100)
        writer.close()
    if answer == b"busy\n":
        raise Busy
    if answer != b"ok\n":
        raise ConnectionError("no answer")


async def handle(message: fanferro.Message[Event]) -> None:
    job = message.body.payload
    await asyncio.sleep(job.ms / 1000)
    try:
        await call(job.n)
    except (OSError, Busy) as error:
        raise fanferro.Retry(str(error), delay=30) from error
    await asyncio.sleep(AFTER_SECONDS)


async def main() -> None:
    logging.basicConfig(level=logging.ERROR)
    client = fanferro.Client(endpoint_url=os.environ["CHAOS_ENDPOINT"])
    consumer = client.consumer(
        client.queue(url=os.environ["CHAOS_QUEUE_URL"]),
        handle,
        concurrency=CONCURRENCY,
        wait_time=WAIT_SECONDS,
        visibility_timeout=VISIBILITY_SECONDS,
        retry=fanferro.RetryPolicy(max_attempts=4, backoff=fanferro.Backoff.exponential(initial=2, maximum=300)),
        rate_limit=fanferro.RateLimit(RATE, 1) if RATE else None,
        middleware=[idempotent(key=lambda message: message.body.event_id)],
        shutdown=fanferro.ShutdownPolicy(drain_timeout=DRAIN_SECONDS, cancel_timeout=2),
    )
    async with client:
        tell_ready()
        await client.run(consumer)


if __name__ == "__main__":
    asyncio.run(main())
