"""Celery with -P gevent on SQS.

Its optimizing guide: a large prefetch for many short tasks (its default is four times the concurrency), results off
where nobody reads them. Its SQS page: predefined_queues, no remote control or events, which SQS has not, so no gossip
or mingle either. kombu's SQS page: polling_interval 0 to rely on long polls alone, of 20 s. And acks_late, since every
other consumer here deletes a message only after its work.
"""

from __future__ import annotations

import base64
import json
import os
import sys
import time
from typing import Any
from urllib.parse import urlsplit

from celery import Celery

from bench.peers.book import SECONDS, Book

QUEUE = os.environ["BENCH_QUEUE"]


def transport_options() -> dict[str, Any]:
    queue = {
        "url": os.environ["BENCH_QUEUE_URL"],
        "access_key_id": os.environ["AWS_ACCESS_KEY_ID"],
        "secret_access_key": os.environ["AWS_SECRET_ACCESS_KEY"],
    }
    return {
        "region": os.environ["AWS_DEFAULT_REGION"],
        "is_secure": os.environ["BENCH_ENDPOINT"].startswith("https"),
        "predefined_queues": {QUEUE: queue},
        "wait_time_seconds": 20,
        "polling_interval": 0,
    }


IS_WORKER = "BENCH_ENDPOINT" in os.environ
app = Celery("bench")
app.conf.update(
    broker_url=f"sqs://{urlsplit(os.environ['BENCH_ENDPOINT']).netloc}" if IS_WORKER else "memory://",
    broker_transport_options=transport_options() if IS_WORKER else {},
    broker_connection_retry_on_startup=True,
    task_default_queue=QUEUE,
    task_acks_late=True,
    task_ignore_result=True,
    worker_send_task_events=False,
    worker_enable_remote_control=False,
)
book = Book() if IS_WORKER else None


@app.task(name="bench.job")
def run(n: int, pad: str) -> None:
    assert book is not None
    book.start(n)
    time.sleep(SECONDS)  # gevent's, once the pool has patched the process
    book.end()


def bodies(total: int, pad: int) -> list[str]:
    """What Celery's producer sends: through its transport in memory, then encoded as its SQS transport does it."""
    with app.connection_for_write() as connection:
        channel = connection.default_channel
        for number in range(total):
            run.apply_async(kwargs={"n": number, "pad": "x" * pad}, connection=connection)
        queue = channel._queue_for(QUEUE)
        return [base64.b64encode(json.dumps(queue.get()).encode()).decode() for _ in range(total)]


if __name__ == "__main__":
    json.dump(bodies(int(sys.argv[1]), int(sys.argv[2])), sys.stdout)
