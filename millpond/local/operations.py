"""The requests and answers of each operation as they travel (awsJson1.0)."""

from __future__ import annotations

import msgspec

from millpond.local.stored import UserAttribute


class ApiRequest(msgspec.Struct, rename="pascal"):
    """What an SDK sends; a key that is not named here is ignored."""


class QueueRequest(ApiRequest):
    """A call to one queue. `queue_url`: its URL, or its name alone."""

    queue_url: str = ""


class CreateQueue(ApiRequest):
    queue_name: str = ""
    attributes: dict[str, str] = {}


class GetQueueUrl(ApiRequest):
    queue_name: str = ""


class ListQueues(ApiRequest):
    queue_name_prefix: str = ""
    max_results: int | None = None
    next_token: str = ""


class ListDeadLetterSourceQueues(QueueRequest):
    max_results: int | None = None
    next_token: str = ""


DeleteQueue = PurgeQueue = QueueRequest


class GetQueueAttributes(QueueRequest):
    attribute_names: list[str] = []


class SetQueueAttributes(QueueRequest):
    attributes: dict[str, str] = {}


class BatchEntry(QueueRequest):
    """A request that is also an entry of a batch: there it has an `id`, and no `queue_url`."""

    id: str = ""


class SendMessage(BatchEntry):
    message_body: str = ""
    delay_seconds: int | None = None
    message_attributes: dict[str, UserAttribute] = {}
    message_system_attributes: dict[str, UserAttribute] = {}
    message_group_id: str | None = None
    message_deduplication_id: str | None = None


class SendMessageBatch(QueueRequest):
    entries: list[SendMessage] = []


class ReceiveMessage(QueueRequest):
    attribute_names: list[str] = []
    message_system_attribute_names: list[str] = []
    message_attribute_names: list[str] = []
    max_number_of_messages: int = 1
    visibility_timeout: int | None = None
    wait_time_seconds: int | None = None
    receive_request_attempt_id: str | None = None


class DeleteMessage(BatchEntry):
    receipt_handle: str = ""


class DeleteMessageBatch(QueueRequest):
    entries: list[DeleteMessage] = []


class ChangeMessageVisibility(BatchEntry):
    receipt_handle: str = ""
    visibility_timeout: int | None = None


class ChangeMessageVisibilityBatch(QueueRequest):
    entries: list[ChangeMessageVisibility] = []


class StartMessageMoveTask(ApiRequest):
    source_arn: str | None = None
    destination_arn: str | None = None
    max_number_of_messages_per_second: int | None = None


class ListMessageMoveTasks(ApiRequest):
    source_arn: str | None = None
    max_results: int | None = None


class CancelMessageMoveTask(ApiRequest):
    task_handle: str = ""


class ApiAnswer(msgspec.Struct, rename="pascal", omit_defaults=True):
    """What an SDK receives; SQS leaves out what is empty."""


class QueueUrl(ApiAnswer):
    queue_url: str


class QueueUrls(ApiAnswer):
    queue_urls: list[str] = []
    next_token: str = ""


class SourceQueueUrls(ApiAnswer):
    queue_urls: list[str] = msgspec.field(name="queueUrls")  # as in SQS's model, and always there
    next_token: str = ""


class QueueAttributes(ApiAnswer):
    attributes: dict[str, str] = {}


class Sent(ApiAnswer):
    """Also an entry of a batch, with its `id`."""

    message_id: str
    body_md5: str = msgspec.field(name="MD5OfMessageBody")
    attributes_md5: str = msgspec.field(name="MD5OfMessageAttributes", default="")
    system_attributes_md5: str = msgspec.field(name="MD5OfMessageSystemAttributes", default="")
    id: str = ""
    sequence_number: str = ""


class EntryDone(ApiAnswer):
    """An entry of a batch that was done, with no result."""

    id: str


class Failed(ApiAnswer):
    """An entry of a batch that was refused."""

    id: str
    code: str
    message: str
    sender_fault: bool


class BatchAnswer(ApiAnswer):
    successful: list[Sent | EntryDone] = []
    failed: list[Failed] = []


class ReceivedMessage(ApiAnswer):
    message_id: str
    receipt_handle: str
    body_md5: str = msgspec.field(name="MD5OfBody")
    body: str
    attributes: dict[str, str] = {}
    attributes_md5: str = msgspec.field(name="MD5OfMessageAttributes", default="")
    message_attributes: dict[str, UserAttribute] = {}


class ReceivedMessages(ApiAnswer):
    messages: list[ReceivedMessage] = []


class TaskStarted(ApiAnswer):
    task_handle: str


class TaskShown(ApiAnswer):
    """One move task in a list; only one that is running shows its handle."""

    source_arn: str
    status: str
    started_timestamp: int
    approximate_number_of_messages_moved: int
    approximate_number_of_messages_to_move: int
    destination_arn: str | None = None
    max_number_of_messages_per_second: int | None = None
    task_handle: str = ""
    failure_reason: str = ""


class TasksShown(ApiAnswer):
    results: list[TaskShown]


class TaskCancelled(ApiAnswer):
    approximate_number_of_messages_moved: int


class Nothing(ApiAnswer):
    """The answer of a call without a result."""
