"""KeptLocalSqs: the local SQS of `--reload`, which outlives the workers that are started again and again."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any

#: Where it is: set in a worker that is started by `--reload`.
KEPT_LOCAL_VARIABLE = "MILLPOND_LOCAL"
#: It is on this machine, and answers at once.
KEPT_LOCAL_SECONDS = 10.0


class KeptLocalSqs:
    """Makes the queues of a worker at `url`. A queue that is there keeps its messages, and gets the new attributes."""

    def __init__(self, url: str) -> None:
        self.url = url

    def create_queue(self, name: str, attributes: Mapping[str, str] | None = None) -> str:
        """The queue's URL. Raises OSError."""
        try:
            answer = self._call("CreateQueue", {"QueueName": name, "Attributes": dict(attributes or {})})
        except urllib.error.HTTPError:  # it is there with other attributes
            answer = self._call("GetQueueUrl", {"QueueName": name})
            self._call("SetQueueAttributes", {"QueueUrl": answer["QueueUrl"], "Attributes": dict(attributes or {})})
        return str(answer["QueueUrl"])

    def close_polls(self) -> None:
        """Leave its polls open: they are short, and the drain waits for them."""

    def _call(self, operation: str, fields: Mapping[str, Any]) -> dict[str, Any]:
        headers = {"Content-Type": "application/x-amz-json-1.0", "X-Amz-Target": f"AmazonSQS.{operation}"}
        request = urllib.request.Request(self.url, json.dumps(fields).encode(), headers)  # noqa: S310  http, of ours
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=KEPT_LOCAL_SECONDS) as answer:
            return dict(json.loads(answer.read() or b"{}"))
