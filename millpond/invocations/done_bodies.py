"""DoneBodies: the large bodies of one batch, which are deleted once their messages are."""

from __future__ import annotations

from collections.abc import Sequence

from millpond.engine.body_remover import BodyRemover
from millpond.engine.delivery import Delivery
from millpond.invocations.records_queue import RecordsQueue
from millpond.sqs.entries import results_of
from millpond.sqs.limits import MAX_BATCH


class DoneBodies:
    """Lambda deletes what is done only after the answer, and nothing runs here then.

    A body that went before that would be lost where the answer does not arrive: its message would come again, with a
    pointer to nothing. So these messages are deleted here, at SQS, and each body after its message.
    """

    def __init__(self, queue: RecordsQueue, remover: BodyRemover) -> None:
        self._queue = queue
        self._remover = remover
        self._done: list[Delivery] = []

    def settled(self, deliveries: Sequence[Delivery]) -> None:
        """Take note of what is done and had a body in S3."""
        self._done += [delivery for delivery in deliveries if delivery.bodies]

    def delete(self) -> None:
        """Delete the messages, and the bodies of those whose delete SQS has confirmed; the caller limits that."""
        done = [one for one in self._done if one.received.message_id in self._queue.done]
        for first in range(0, len(done), MAX_BATCH):
            batch = done[first : first + MAX_BATCH]
            results = results_of(self._queue.delete_now, [one.received.receipt_handle for one in batch])
            self._remover.settled([one for one, failure in zip(batch, results, strict=True) if failure is None])
        self._remover.close()
