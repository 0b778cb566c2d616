"""AWS Powertools for Lambda (Python): its batch processor, idempotency and circuit breaker, in Lambda's place a loop.

The loop does what Lambda's event source mapping does: batches of ten, one "invocation" at a time in each thread; what
is not in `batchItemFailures` is deleted, the rest is visible again after the visibility time-out, which is six times
the function's time-out, as AWS asks. In a batch the processor does one record after the other. The breaker is around
the call alone, and an open one fails the record; the idempotency key is the producer's event id. Both keep their state
in DynamoDB, with their defaults.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import threading
import time
from typing import Any

import boto3
from aws_lambda_powertools.utilities.batch import BatchProcessor, EventType, process_partial_response
from aws_lambda_powertools.utilities.circuit_breaker import circuit_breaker
from aws_lambda_powertools.utilities.circuit_breaker.persistence import CircuitBreakerDynamoDBPersistence
from aws_lambda_powertools.utilities.data_classes.sqs_event import SQSRecord
from aws_lambda_powertools.utilities.idempotency import DynamoDBPersistenceLayer, IdempotencyConfig, idempotent_function

from chaos.peer_jobs import call as downstream
from chaos.peer_jobs.work import CONCURRENCY, VISIBILITY_SECONDS, WAIT_SECONDS, tell_ready

FUNCTION_SECONDS = VISIBILITY_SECONDS / 6
QUEUE_URL = os.environ["CHAOS_QUEUE_URL"]
ending = threading.Event()
store = DynamoDBPersistenceLayer(table_name="claims")
circuits = CircuitBreakerDynamoDBPersistence(table_name="circuits")
config = IdempotencyConfig(event_key_jmespath="event_id")


class Context:
    """Of one invocation, as far as it is asked."""

    function_name = "chaos"

    def __init__(self) -> None:
        self._end = time.monotonic() + FUNCTION_SECONDS

    def get_remaining_time_in_millis(self) -> int:
        return int(1000 * (self._end - time.monotonic()))


@circuit_breaker(name="downstream", persistence_store=circuits)
def call(n: int) -> None:
    downstream.call(n)


@idempotent_function(data_keyword_argument="event", config=config, persistence_store=store)
def once(event: dict[str, Any]) -> None:
    time.sleep(event["payload"]["ms"] / 1000)
    call(event["payload"]["n"])
    time.sleep(downstream.AFTER_SECONDS)


def handle(record: SQSRecord) -> None:
    once(event=json.loads(record.body))


def invoke(messages: list[dict[str, Any]]) -> list[str]:
    """One invocation; the ids that failed."""
    records = [{"messageId": one["MessageId"], "body": one["Body"], "attributes": {}} for one in messages]
    context = Context()
    config.register_lambda_context(context)
    processor = BatchProcessor(EventType.SQS, raise_on_entire_batch_failure=False)
    answer = process_partial_response({"Records": records}, handle, processor, context)
    return [failure["itemIdentifier"] for failure in answer["batchItemFailures"]]


def poll(sqs: Any) -> None:
    while not ending.is_set():
        answer = sqs.receive_message(QueueUrl=QUEUE_URL, MaxNumberOfMessages=10, WaitTimeSeconds=WAIT_SECONDS)
        if messages := answer.get("Messages", []):
            failed = invoke(messages)
            done = [one for one in messages if one["MessageId"] not in failed]
            entries = [{"Id": one["MessageId"], "ReceiptHandle": one["ReceiptHandle"]} for one in done]
            if entries:
                sqs.delete_message_batch(QueueUrl=QUEUE_URL, Entries=entries)


def main() -> None:
    logging.basicConfig(level=logging.ERROR)
    sqs = boto3.client("sqs", endpoint_url=os.environ["CHAOS_ENDPOINT"])
    threads = [threading.Thread(target=poll, args=[sqs], daemon=True) for _ in range(CONCURRENCY // 5)]
    signal.signal(signal.SIGTERM, lambda *_: ending.set())
    for thread in threads:
        thread.start()
    tell_ready()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    main()
