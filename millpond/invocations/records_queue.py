"""RecordsQueue: the queue of one invocation's records, from which Lambda deletes what is done."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from millpond.sqs.queue import Failure
from millpond.sqs.sqs_queue import Sqs, SqsQueue


class RecordsQueue(SqsQueue):
    """What is deleted is noted, in `done`, and no call is made: Lambda deletes what is not reported as failed.

    Every other call goes to SQS. `ids`: the message id of each receipt handle.
    """

    def __init__(self, url: str, sqs: Sqs, ids: Mapping[str, str]) -> None:
        super().__init__(url, sqs)
        self.done: set[str] = set()
        self._ids = ids

    def delete(self, receipt_handles: Sequence[str]) -> list[Failure | None]:
        self.done.update(self._ids[handle] for handle in receipt_handles)
        return [None] * len(receipt_handles)

    def delete_now(self, receipt_handles: Sequence[str]) -> list[Failure | None]:
        """Delete them at SQS, before Lambda does."""
        return super().delete(receipt_handles)
