"""Celery with -P gevent on SQS.

Its FAQ and "Tasks" page for work that must not be lost: acks_late, and `autoretry_for` with `retry_backoff` and jitter,
or a task that fails is acknowledged and gone. acks_late with worker_prefetch_multiplier 1, as its optimizing guide
says. Its SQS page: predefined_queues (so the visibility time-out is the queue's own attribute, and is longer than the
longest task and the longest countdown, as it asks), no events, remote control, gossip or mingle, which SQS has not.
polling_interval 0: long polls alone. A rejection is `Reject(requeue=False)`: kombu leaves such a message where the
queue has a redrive policy, "SQS redelivers the message until it has been received maxReceiveCount times".
task_reject_on_worker_lost changes nothing under gevent, one process. `client-config`: time-outs and retries as in
careful.py. broker_connection_max_retries None: it never gives its broker up (it does after 100 by default).
"""

from __future__ import annotations

import base64
import json
import os
import sys
import time
from typing import Any

from celery import Celery, Task
from celery.exceptions import Reject
from celery.signals import worker_ready

from chaos.peer_jobs.work import CONCURRENCY, CONNECT_SECONDS, READ_SECONDS, WAIT_SECONDS, Work, tell_ready

QUEUE = os.environ["CHAOS_QUEUE"]
IS_WORKER = "CHAOS_ENDPOINT" in os.environ


def transport_options() -> dict[str, Any]:
    queue = {
        "url": os.environ["CHAOS_QUEUE_URL"],
        "access_key_id": os.environ["AWS_ACCESS_KEY_ID"],
        "secret_access_key": os.environ["AWS_SECRET_ACCESS_KEY"],
    }
    return {
        "region": os.environ["AWS_DEFAULT_REGION"],
        "is_secure": False,
        "predefined_queues": {QUEUE: queue},
        "wait_time_seconds": WAIT_SECONDS,
        "polling_interval": 0,
        "client-config": {
            "max_pool_connections": CONCURRENCY + 1,
            "connect_timeout": CONNECT_SECONDS,
            "read_timeout": WAIT_SECONDS + READ_SECONDS,
            "retries": {"mode": "standard", "total_max_attempts": 5},
        },
    }


app = Celery("chaos")
app.conf.update(
    # Without a host kombu leaves the endpoint to boto3, which has it from AWS_ENDPOINT_URL_SQS, with its path.
    broker_url="sqs://" if IS_WORKER else "memory://",
    broker_transport_options=transport_options() if IS_WORKER else {},
    broker_connection_retry_on_startup=True,
    broker_connection_max_retries=None,
    task_default_queue=QUEUE,
    task_acks_late=True,
    worker_prefetch_multiplier=1,
    task_ignore_result=True,
    worker_send_task_events=False,
    worker_enable_remote_control=False,
)
work = Work() if IS_WORKER else None


@worker_ready.connect
def _ready(**_: object) -> None:
    tell_ready()


@app.task(
    name="chaos.job",
    bind=True,
    autoretry_for=(ValueError,),
    max_retries=4,
    retry_backoff=1,
    retry_backoff_max=4,
    retry_jitter=True,
)
def run(task: Task, n: int, ms: int) -> None:
    assert work is not None
    work.start(n)
    try:
        time.sleep(ms / 1000)  # gevent's, once the pool has patched the process
    except BaseException:
        work.cut(n)
        raise
    match work.end(n, task.request.retries + 1, rejects=False):
        case "fail":
            raise ValueError("planned")
        case "retry":
            raise task.retry(countdown=1)
        case "reject":
            raise Reject("planned", requeue=False)


def bodies(jobs: list[tuple[int, int]]) -> list[str]:
    """What Celery's producer sends: through its transport in memory, then encoded as its SQS transport does it."""
    with app.connection_for_write() as connection:
        channel = connection.default_channel
        for n, ms in jobs:
            run.apply_async(kwargs={"n": n, "ms": ms}, connection=connection)
        queue = channel._queue_for(QUEUE)
        return [base64.b64encode(json.dumps(queue.get()).encode()).decode() for _ in jobs]


if __name__ == "__main__":
    json.dump(bodies(json.load(sys.stdin)), sys.stdout)
