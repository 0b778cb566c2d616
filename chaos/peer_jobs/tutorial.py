"""The loop of most tutorials: boto3 under gevent, one receive loop, a pool of greenlets, one delete a message.

As they have it: no handling of errors or signals, boto3's own time-outs (60 s) and retries. A handler that raises
leaves its message to the visibility time-out, and the queue's redrive policy makes a dead letter of it in the end.
"""

from gevent import monkey

monkey.patch_all()

import json  # noqa: E402
import os  # noqa: E402
from typing import Any  # noqa: E402

import boto3  # noqa: E402
import gevent  # noqa: E402
from botocore.config import Config  # noqa: E402
from gevent.pool import Pool  # noqa: E402

from chaos.peer_jobs.work import CONCURRENCY, WAIT_SECONDS, Work, tell_ready  # noqa: E402

queue_url = os.environ["CHAOS_QUEUE_URL"]
work = Work()
# Without max_pool_connections (10) boto3 opens and closes a connection for most of the deletes.
sqs = boto3.client(
    "sqs", endpoint_url=os.environ["CHAOS_ENDPOINT"], config=Config(max_pool_connections=CONCURRENCY + 1)
)


def handle(message: dict[str, Any]) -> None:
    payload = json.loads(message["Body"])["payload"]
    work.start(payload["n"])
    gevent.sleep(payload["ms"] / 1000)
    verdict = work.end(payload["n"], int(message["Attributes"]["ApproximateReceiveCount"]), rejects=False)
    if verdict in ("fail", "retry", "reject"):
        raise ValueError(verdict)
    sqs.delete_message(QueueUrl=queue_url, ReceiptHandle=message["ReceiptHandle"])


def main() -> None:
    pool = Pool(CONCURRENCY)
    tell_ready()
    while True:
        answer = sqs.receive_message(
            QueueUrl=queue_url,
            MaxNumberOfMessages=10,
            WaitTimeSeconds=WAIT_SECONDS,
            MessageSystemAttributeNames=["ApproximateReceiveCount"],
        )
        for message in answer.get("Messages", []):
            pool.spawn(handle, message)


if __name__ == "__main__":
    main()
