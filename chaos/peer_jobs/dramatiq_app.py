"""dramatiq with dramatiq-sqs, by dramatiq-gevent.

Middleware as its README names it (Prometheus is left out: nobody asks that server); Retries with the back-off of the
others. `dead_letter=True`: what is not to be retried (`throws`) goes to its own <queue>_dlq; without it such a message
is deleted. `visibility_timeout`: 12 hours is its default, it has no heartbeat, and its README asks only that a message
be worked on in that time; here it is longer than the longest job. Its long poll is the worker's time-out, 1 s.
boto3's time-outs and retries as in careful.py: what else is given to SQSBroker goes to boto3.
"""

from __future__ import annotations

import base64
import json
import os
import sys
import time

import dramatiq
from botocore.config import Config
from dramatiq.middleware import (
    AgeLimit,
    Callbacks,
    CurrentMessage,
    Pipelines,
    Retries,
    ShutdownNotifications,
    TimeLimit,
)
from dramatiq_sqs import SQSBroker

from chaos.peer_jobs.work import (
    CONCURRENCY,
    CONNECT_SECONDS,
    READ_SECONDS,
    VISIBILITY_SECONDS,
    WAIT_SECONDS,
    Work,
    tell_ready,
)


class Rejected(Exception):
    """Not to be retried."""


class Ready(dramatiq.Middleware):
    """Says when the worker works."""

    def after_worker_boot(self, broker: dramatiq.Broker, worker: dramatiq.Worker) -> None:
        tell_ready()


class Attempt(CurrentMessage):
    """Which attempt this is; dramatiq counts the retries that it has sent."""

    def number(self) -> int:
        message = self.get_current_message()
        return 1 + int(message.options.get("retries", 0)) if message else 1


attempt = Attempt()
broker = SQSBroker(
    middleware=[
        AgeLimit(),
        TimeLimit(),
        ShutdownNotifications(),
        Callbacks(),
        Pipelines(),
        Retries(min_backoff=1_000, max_backoff=4_000, max_retries=4),
        attempt,
        Ready(),
    ],
    dead_letter=True,
    visibility_timeout=VISIBILITY_SECONDS,
    endpoint_url=os.environ.get("CHAOS_ENDPOINT"),
    config=Config(
        max_pool_connections=CONCURRENCY + 1,
        connect_timeout=CONNECT_SECONDS,
        read_timeout=WAIT_SECONDS + READ_SECONDS,
        retries={"mode": "standard", "total_max_attempts": 5},
    ),
)
dramatiq.set_broker(broker)
works: list[Work] = []  # made in the worker's process, which dramatiq forks from the one that loads this


@dramatiq.actor(queue_name=os.environ["CHAOS_QUEUE"], actor_name="chaos.job", throws=(Rejected,))
def run(n: int, ms: int) -> None:
    if not works:
        works.append(Work())
    work = works[0]
    work.start(n)
    try:
        time.sleep(ms / 1000)  # gevent's: dramatiq-gevent has patched the process
    except BaseException:
        work.cut(n)
        raise
    match work.end(n, attempt.number(), rejects=True):
        case "fail":
            raise ValueError("planned")
        case "retry":
            raise dramatiq.errors.Retry("planned", delay=1_000)
        case "reject":
            raise Rejected


def bodies(jobs: list[tuple[int, int]]) -> list[str]:
    """As SQSBroker.enqueue encodes a message."""
    return [base64.b64encode(run.message(n=n, ms=ms).encode()).decode() for n, ms in jobs]


if __name__ == "__main__":
    json.dump(bodies(json.load(sys.stdin)), sys.stdout)
