"""Calls to one table of DynamoDB by its wire protocol: the same signed calls over kept connections as SQS has."""

from __future__ import annotations

from collections.abc import Mapping
from random import uniform
from time import monotonic, sleep
from typing import Any

import msgspec

from millpond.claims.table_errors import REFUSED, RETRIED_CODES, Refused, store_error
from millpond.errors import ClaimStoreError, QueueError, Unreachable
from millpond.foreign.text import shown
from millpond.foreign.trace import describe
from millpond.sqs.connection_pool import ConnectionPool
from millpond.sqs.credentials import Credentials, credentials_loader
from millpond.sqs.endpoint import Endpoint
from millpond.sqs.http_connection import HttpAnswer
from millpond.sqs.signed_calls import AwsService, SignedCalls

DYNAMODB = AwsService("dynamodb", "DynamoDB_20120810")
#: The longest waits before the second and the third time that one call is sent.
BACK_OFF_SECONDS = (0.2, 1.0)
#: DynamoDB answers within 10 ms: one that takes this long is asked again.
TABLE_ANSWER_SECONDS = 5.0
#: All of one call, every time that it is sent: the message waits meanwhile in a slot.
TABLE_CALL_SECONDS = 15.0

_encode = msgspec.json.Encoder().encode


class WireTable:
    """One table. It keeps `connections`, and opens more where more calls are under way."""

    def __init__(self, table: str, endpoint: Endpoint, connections: int) -> None:
        self.table = table
        self.region = endpoint.region
        self.url = endpoint.url
        kept = ConnectionPool(endpoint.url, connections, endpoint.ca_file)
        self._calls = SignedCalls(
            endpoint.url, endpoint.region, Credentials(credentials_loader(endpoint)), kept, DYNAMODB
        )

    def call(self, name: str, **parameters: Any) -> dict[str, Any]:
        """The answer to a call on the table. Raises Refused, and ClaimStoreError for every other failure.

        What DynamoDB has not answered, or refused for now, is sent again: it may have been done the first time.
        """
        body = _encode({"TableName": self.table, **parameters})
        end = monotonic() + TABLE_CALL_SECONDS
        for longest in BACK_OFF_SECONDS:
            try:
                return self._once(name, body, end)
            except ClaimStoreError as error:
                if error.code not in RETRIED_CODES or monotonic() + longest >= end:
                    raise
            sleep(uniform(longest / 2, longest))
        return self._once(name, body, end)

    def _once(self, name: str, body: bytes, end: float) -> dict[str, Any]:
        try:
            answer = self._calls.answer(name, body, min(TABLE_ANSWER_SECONDS, end - monotonic()))
            if answer.status == 200:
                return _read(answer)
        except QueueError as error:
            code = "" if isinstance(error, Unreachable) else error.code
            raise store_error(self, name, code, shown(error)) from error
        except Exception as error:  # nested 10,000 deep, not JSON at all: each reader has its own errors
            raise store_error(self, name, "", f"the answer is not from DynamoDB: {describe(error)}") from error
        code, text, item = _refusal(answer)
        if code == REFUSED:
            raise Refused(item)
        raise store_error(self, name, code, text)


def _read(answer: HttpAnswer) -> dict[str, Any]:
    if b"json" not in answer.head:
        raise ValueError(f"it is {answer.header('content-type') or 'of no content type'}, not JSON")
    return msgspec.json.decode(answer.body, type=dict[str, Any])


def _refusal(answer: HttpAnswer) -> tuple[str, str, dict[str, Any] | None]:
    """The code, the text and the item of an answer that is none. The code is "" where it is not from DynamoDB."""
    try:
        said: Mapping[str, Any] = msgspec.json.decode(answer.body, type=dict[str, Any])
    except Exception:  # a proxy's page, an answer that is cut
        return "", f"HTTP status {answer.status}", None
    code = shown(str(said.get("__type", "")).rpartition("#")[2], 100)
    item = said.get("Item")
    text = shown(said.get("message") or said.get("Message") or f"HTTP status {answer.status}")
    return code, text, item if isinstance(item, dict) else None
