"""fanferro (Rust core under asyncio), as its guide has it.

"Safe by default": heartbeats at a third of the visibility time-out, retries with back-off, a graceful drain at
SIGTERM, and time-outs of its calls; the dead-letter queue is that of the queue's redrive policy. `Reject` is a dead
letter at once, `Retry(delay=)` and `Discard` are what they say. max_attempts stays below the queue's maxReceiveCount,
as its guide asks. The drain is as long as that of the others (its own default is 30 s).
"""

import asyncio
import logging
import os

import fanferro
import msgspec

from chaos.peer_jobs.work import (
    CONCURRENCY,
    DRAIN_SECONDS,
    VISIBILITY_SECONDS,
    WAIT_SECONDS,
    Work,
    tell_ready,
)

work = Work()


class Job(msgspec.Struct):
    n: int
    ms: int


class Event(msgspec.Struct):
    payload: Job


async def handle(message: fanferro.Message[Event]) -> None:
    job = message.body.payload
    work.start(job.n)
    try:
        await asyncio.sleep(job.ms / 1000)
    except asyncio.CancelledError:
        work.cut(job.n)
        raise
    match work.end(job.n, message.attempt, rejects=True):
        case "fail":
            raise ValueError("planned")
        case "retry":
            raise fanferro.Retry(delay=1)
        case "reject":
            raise fanferro.Reject("planned")
        case "discard":
            raise fanferro.Discard("planned")


async def main() -> None:
    logging.basicConfig(level=logging.WARNING)
    client = fanferro.Client(endpoint_url=os.environ["CHAOS_ENDPOINT"])
    queue = client.queue(url=os.environ["CHAOS_QUEUE_URL"])
    backoff = fanferro.Backoff.exponential(initial=1, maximum=4)
    consumer = client.consumer(
        queue,
        handle,
        concurrency=CONCURRENCY,
        wait_time=WAIT_SECONDS,
        visibility_timeout=VISIBILITY_SECONDS,
        retry=fanferro.RetryPolicy(max_attempts=4, backoff=backoff),
        shutdown=fanferro.ShutdownPolicy(drain_timeout=DRAIN_SECONDS, cancel_timeout=2),
    )
    async with client:
        tell_ready()
        await client.run(consumer)


if __name__ == "__main__":
    asyncio.run(main())
