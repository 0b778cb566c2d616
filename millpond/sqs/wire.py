"""SQS by its wire protocol."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from millpond.errors import QueueError, Unanswered, Unreachable
from millpond.foreign.text import shown
from millpond.foreign.trace import describe
from millpond.sqs import answers
from millpond.sqs.http_connection import TOO_LARGE
from millpond.sqs.queue import CALL_SECONDS
from millpond.sqs.requests import Request, as_json
from millpond.sqs.shapes import MAX_TOLD
from millpond.sqs.signed_calls import SignedCalls, moment_of
from millpond.sqs.sqs_queue import Sqs

Read = TypeVar("Read")


class WireSqs(SignedCalls, Sqs):
    """SQS at one endpoint, for all its queues."""

    client = "wire"

    def call(self, name: str, request: Request, seconds: float, read: Callable[[bytes | bytearray], Read]) -> Read:
        body = as_json(request)
        try:
            answer = self.answer(name, body, seconds)
            if answer.status != 200:
                raise answers.error_of(answer.status, answer.header("x-amzn-query-error"), answer.body)
            if b"json" not in answer.head:
                raise ValueError(f"it is {answer.header('content-type') or 'of no content type'}, not JSON")
            return read(answer.body)
        except QueueError as error:
            raise type(error)(f"{name}: {shown(error, MAX_TOLD)}", error.code) from error
        except MemoryError as error:
            raise Unreachable(f"{name}: no memory for the answer", TOO_LARGE) from error
        except Exception as error:  # nested 10,000 deep, numbers of 5,000 digits: each reader has its own errors
            raise Unanswered(f"{name}: the answer is not from SQS: {describe(error)}") from error

    def date(self, request: Request) -> float | None:
        answer = self.answer("GetQueueAttributes", as_json(request), CALL_SECONDS)
        return moment_of(answer.header("date"))
