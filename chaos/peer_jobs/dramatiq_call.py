"""dramatiq with dramatiq-sqs, its broker as in dramatiq_app but with Retries as they are by default: twenty of them,
15 s of back-off at the least, and 15 min at the most, which is as long as SQS delays a message. Its rate limiters need
a Redis or a memcached; it has no idempotency."""

from __future__ import annotations

import os
import time

import dramatiq
from dramatiq.middleware import Retries

from chaos.peer_jobs.call import AFTER_SECONDS, call
from chaos.peer_jobs.dramatiq_app import broker

# The actor of dramatiq_app has the name too.
broker.actors.pop("chaos.job")
broker.middleware[:] = [Retries(max_backoff=900_000) if isinstance(one, Retries) else one for one in broker.middleware]


@dramatiq.actor(queue_name=os.environ["CHAOS_QUEUE"], actor_name="chaos.job")
def run(n: int, ms: int) -> None:
    time.sleep(ms / 1000)
    call(n)
    time.sleep(AFTER_SECONDS)
