"""The same loop by somebody who has been bitten: what AWS's and boto3's guides say about reliability, in 80 lines.

Time-outs that fit the long poll and boto3's "standard" retries (its default mode is the old one); a failed receive is
logged and asked again after a second; a handler that fails makes its message visible again after a second (AWS: "set
the visibility timeout to 0 or a short delay"); SIGTERM ends the receives, and what runs may end.
"""

from gevent import monkey

monkey.patch_all()

import json  # noqa: E402
import logging  # noqa: E402
import os  # noqa: E402
import signal  # noqa: E402
from typing import Any  # noqa: E402

import boto3  # noqa: E402
import gevent  # noqa: E402
import gevent.event  # noqa: E402
from botocore.config import Config  # noqa: E402
from gevent.pool import Pool  # noqa: E402

from chaos.peer_jobs.work import (  # noqa: E402
    CONCURRENCY,
    CONNECT_SECONDS,
    DRAIN_SECONDS,
    READ_SECONDS,
    WAIT_SECONDS,
    Work,
    tell_ready,
)

queue_url = os.environ["CHAOS_QUEUE_URL"]
work = Work()
sqs = boto3.client(
    "sqs",
    endpoint_url=os.environ["CHAOS_ENDPOINT"],
    config=Config(
        max_pool_connections=CONCURRENCY + 1,
        connect_timeout=CONNECT_SECONDS,
        read_timeout=WAIT_SECONDS + READ_SECONDS,
        retries={"mode": "standard", "total_max_attempts": 5},
    ),
)
ending = gevent.event.Event()


def handle(message: dict[str, Any]) -> None:
    handle_ = {"QueueUrl": queue_url, "ReceiptHandle": message["ReceiptHandle"]}
    try:
        do(message)
    except ValueError:
        sqs.change_message_visibility(VisibilityTimeout=1, **handle_)
    else:
        sqs.delete_message(**handle_)


def do(message: dict[str, Any]) -> None:
    payload = json.loads(message["Body"])["payload"]
    work.start(payload["n"])
    gevent.sleep(payload["ms"] / 1000)
    verdict = work.end(payload["n"], int(message["Attributes"]["ApproximateReceiveCount"]), rejects=False)
    if verdict in ("fail", "retry", "reject"):
        raise ValueError(verdict)


def receive() -> list[dict[str, Any]]:
    try:
        answer = sqs.receive_message(
            QueueUrl=queue_url,
            MaxNumberOfMessages=10,
            WaitTimeSeconds=WAIT_SECONDS,
            MessageSystemAttributeNames=["ApproximateReceiveCount"],
        )
    except Exception:
        logging.exception("receive failed")
        ending.wait(1)
        return []
    return list(answer.get("Messages", []))


def main() -> None:
    pool = Pool(CONCURRENCY)
    gevent.signal_handler(signal.SIGTERM, ending.set)
    tell_ready()
    while not ending.is_set():
        for message in receive():
            pool.spawn(handle, message)
    pool.join(timeout=DRAIN_SECONDS + 5)  # its longest job takes six seconds


if __name__ == "__main__":
    main()
