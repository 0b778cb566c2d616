"""The loop of most tutorials: boto3 under gevent, one receive loop, a pool of greenlets, one delete a message."""

from gevent import monkey

monkey.patch_all()

import json  # noqa: E402
import os  # noqa: E402

import boto3  # noqa: E402
import gevent  # noqa: E402
from botocore.config import Config  # noqa: E402
from gevent.pool import Pool  # noqa: E402

from bench.peers.book import SECONDS, Book  # noqa: E402

queue_url = os.environ["BENCH_QUEUE_URL"]
concurrency = int(os.environ["BENCH_CONCURRENCY"])
book = Book()
# Without max_pool_connections (10) boto3 opens and closes a connection for most of the deletes.
config = Config(max_pool_connections=concurrency + 1)
sqs = boto3.client("sqs", endpoint_url=os.environ["BENCH_ENDPOINT"], config=config)


def handle(message: dict[str, str]) -> None:
    payload = json.loads(message["Body"])["payload"]
    book.start(payload["n"])
    gevent.sleep(SECONDS)
    book.end()
    sqs.delete_message(QueueUrl=queue_url, ReceiptHandle=message["ReceiptHandle"])


def main() -> None:
    pool = Pool(concurrency)
    while True:
        answer = sqs.receive_message(QueueUrl=queue_url, MaxNumberOfMessages=10, WaitTimeSeconds=20)
        for message in answer.get("Messages", []):
            pool.spawn(handle, message)


if __name__ == "__main__":
    main()
