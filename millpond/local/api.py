"""Api: one call of the JSON protocol, from its name and its bytes to the bytes of its answer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from millpond.local import operations
from millpond.local.account import Account
from millpond.local.attributes import ACCOUNT_ID
from millpond.local.convert import received
from millpond.local.local_poll import LocalPoll
from millpond.local.local_queue import LocalQueue
from millpond.local.sqs_error import SqsError

#: What the header X-Amz-Target begins with.
TARGET_PREFIX = "AmazonSQS."

#: Waits until the poll is answered or its seconds are over, and takes it out of the queue's line.
PollWait = Callable[[LocalQueue, LocalPoll], object]
Operation = Callable[[Account, Any], msgspec.Struct]

_encode = msgspec.json.Encoder().encode
# These two errors are not SQS's own; they come from the framework below it.
_FRAMEWORK_ERRORS = frozenset({"SerializationException", "UnknownOperationException"})


class Api:
    """Every operation by its name. `base_url` (http://127.0.0.1:9324) begins the queue URLs in the answers."""

    def __init__(self, account: Account, wait: PollWait) -> None:
        self._account = account
        self._wait = wait

    def call(self, target: str, body: bytes | bytearray, base_url: str) -> bytes:
        """The answer to one call. Raises SqsError if it is refused."""
        name = target.removeprefix(TARGET_PREFIX)
        if name not in _DECODERS or not target.startswith(TARGET_PREFIX):
            text = f"millpond.local has no operation {target!r}: the header X-Amz-Target is {TARGET_PREFIX}<Operation>."
            raise SqsError("UnknownOperationException", text)
        try:
            request = _DECODERS[name].decode(body or b"{}")
        except (ValueError, RecursionError) as error:  # msgspec's errors are ValueErrors
            raise SqsError("SerializationException", f"The request is not a {name}: {error}") from error
        if name == "ReceiveMessage":
            return _encode(self._receive(request))
        if name in _PLAIN:
            return _encode(_PLAIN[name](self._account, request))
        return _encode(self._with_urls(name, request, f"{base_url}/{ACCOUNT_ID}/"))

    def _receive(self, request: operations.ReceiveMessage) -> operations.ReceivedMessages:
        queue, poll = self._account.receive_message(request)
        if poll.receipts is None:
            self._wait(queue, poll)
        return received(poll, request)

    def _with_urls(self, name: str, request: Any, base: str) -> msgspec.Struct:
        if name == "CreateQueue":
            return operations.QueueUrl(base + self._account.create_queue(request))
        if name == "GetQueueUrl":
            return operations.QueueUrl(base + self._account.get_queue_url(request))
        if name == "ListQueues":
            names, token = self._account.list_queues(request)
            return operations.QueueUrls([base + name for name in names], token)
        names, token = self._account.list_dead_letter_source_queues(request)
        return operations.SourceQueueUrls([base + name for name in names], token)


def error_body(error: SqsError) -> bytes:
    """The answer to a call that is refused."""
    namespace = "com.amazon.coral.service" if error.shape in _FRAMEWORK_ERRORS else "com.amazonaws.sqs"
    return _encode({"__type": f"{namespace}#{error.shape}", "message": error.text})


_PLAIN: dict[str, Operation] = {
    "CancelMessageMoveTask": Account.cancel_message_move_task,
    "ChangeMessageVisibility": Account.change_message_visibility,
    "ChangeMessageVisibilityBatch": Account.change_message_visibility_batch,
    "DeleteMessage": Account.delete_message,
    "DeleteMessageBatch": Account.delete_message_batch,
    "DeleteQueue": Account.delete_queue,
    "GetQueueAttributes": Account.get_queue_attributes,
    "ListMessageMoveTasks": Account.list_message_move_tasks,
    "PurgeQueue": Account.purge_queue,
    "SendMessage": Account.send_message,
    "SendMessageBatch": Account.send_message_batch,
    "SetQueueAttributes": Account.set_queue_attributes,
    "StartMessageMoveTask": Account.start_message_move_task,
}
_WITH_URLS = ("CreateQueue", "GetQueueUrl", "ListDeadLetterSourceQueues", "ListQueues")

_DECODERS: dict[str, msgspec.json.Decoder[Any]] = {
    name: msgspec.json.Decoder(getattr(operations, name)) for name in (*_PLAIN, *_WITH_URLS, "ReceiveMessage")
}
