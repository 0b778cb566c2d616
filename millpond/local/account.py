"""Account: the queues by name, and every operation on them, without I/O."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from millpond.local import batches, operations
from millpond.local.attributes import FIFO_SUFFIX, SETTABLE, FifoSettings, LocalQueueSettings, as_attributes, parse
from millpond.local.batches import MAX_BATCH
from millpond.local.convert import attempt_id, check_fifo_batch, parcel
from millpond.local.fifo import FifoQueue
from millpond.local.local_poll import LocalPoll
from millpond.local.local_queue import MAX_HOLD_SECONDS, Alarm, LocalQueue
from millpond.local.move_tasks import MoveTasks
from millpond.local.sqs_error import SqsError, invalid_parameter, invalid_value, missing_parameter
from millpond.local.stored import MAX_BYTES, size_bytes

#: The longest long poll, in seconds.
MAX_WAIT_SECONDS = 20
#: Names in one page of a list.
MAX_PAGE = 1000

_QUEUE_NAME = re.compile(r"[A-Za-z0-9_-]{1,80}")
_FIFO_QUEUE_NAME = re.compile(r"[A-Za-z0-9_-]{1,75}\.fifo")
_COUNTED = (
    "ApproximateNumberOfMessages",
    "ApproximateNumberOfMessagesNotVisible",
    "ApproximateNumberOfMessagesDelayed",
)
_READABLE = SETTABLE | {*_COUNTED, "All", "CreatedTimestamp", "LastModifiedTimestamp", "QueueArn"}


class Account:
    """All queues of one server. `clock` gives seconds since 1970."""

    def __init__(self, clock: Callable[[], float], alarm: Alarm) -> None:
        self._clock = clock
        self._alarm = alarm
        self._queues: dict[str, LocalQueue] = {}
        self._moves = MoveTasks(self._queues, clock, alarm)
        self._waits = True

    def create_queue(self, request: operations.CreateQueue) -> str:
        """The queue's name. A queue that exists is left as it is, if no given attribute differs."""
        name = request.queue_name
        is_fifo = request.attributes.get("FifoQueue", "").lower() == "true"
        check_name(name, is_fifo)
        if name in self._queues:
            _check_same(self._queues[name].settings, request.attributes)
        else:
            settings = parse(request.attributes, LocalQueueSettings(fifo=FifoSettings() if is_fifo else None))
            target = self._redrive_target(settings)
            make = FifoQueue if is_fifo else LocalQueue
            queue = self._queues[name] = make(name, settings, self._clock(), self._alarm)
            queue.dead_letters = target
        return name

    def get_queue_url(self, request: operations.GetQueueUrl) -> str:
        """The queue's name."""
        return self._find(request.queue_name, "QueueName").name

    def list_queues(self, request: operations.ListQueues) -> tuple[list[str], str]:
        """The names, sorted, and the token of the next page ("" for none)."""
        names = [name for name in self._queues if name.startswith(request.queue_name_prefix)]
        return _page(names, request.max_results, request.next_token)

    def list_dead_letter_source_queues(self, request: operations.ListDeadLetterSourceQueues) -> tuple[list[str], str]:
        """The queues whose dead letters go to this one, as list_queues() gives them."""
        target = self._queue(request)
        names = [queue.name for queue in self._queues.values() if queue.dead_letters is target]
        return _page(names, request.max_results, request.next_token)

    def delete_queue(self, request: operations.QueueRequest) -> operations.Nothing:
        """Delete it with its messages, and answer its polls. Queues that redrive to it keep their messages."""
        gone = self._queue(request)
        del self._queues[gone.name]
        gone.close_polls()
        self._moves.forget(gone)
        for queue in self._queues.values():
            if queue.dead_letters is gone:
                queue.dead_letters = None
        return operations.Nothing()

    def purge_queue(self, request: operations.QueueRequest) -> operations.Nothing:
        self._queue(request).purge(self._clock())
        return operations.Nothing()

    def get_queue_attributes(self, request: operations.GetQueueAttributes) -> operations.QueueAttributes:
        queue = self._queue(request)
        for name in request.attribute_names:
            if name not in _READABLE:
                raise SqsError("InvalidAttributeName", f"Unknown Attribute {name}.")
        counts = queue.counts(self._clock())
        shown = {
            **as_attributes(queue.settings),
            **dict(zip(_COUNTED, map(str, (counts.visible, counts.in_flight, counts.delayed)), strict=True)),
            "CreatedTimestamp": str(int(queue.created)),
            "LastModifiedTimestamp": str(int(queue.modified)),
            "QueueArn": queue.arn,
        }
        wanted = set(request.attribute_names)
        return operations.QueueAttributes(shown if "All" in wanted else {k: v for k, v in shown.items() if k in wanted})

    def set_queue_attributes(self, request: operations.SetQueueAttributes) -> operations.Nothing:
        queue = self._queue(request)
        settings = parse(request.attributes, queue.settings)
        queue.dead_letters = self._redrive_target(settings)
        queue.settings = settings
        queue.modified = self._clock()
        return operations.Nothing()

    def send_message(self, request: operations.SendMessage) -> operations.Sent:
        queue = self._queue(request)
        limit = queue.settings.max_message_bytes
        if size_bytes(request.message_body, request.message_attributes) > limit:
            raise _too_long("One or more parameters are invalid", limit)
        now = self._clock()
        sent = _admit(request, queue, now)
        queue.advance(now)
        return sent

    def send_message_batch(self, request: operations.SendMessageBatch) -> operations.BatchAnswer:
        queue = self._queue(request)
        batches.check(request.entries, "SendMessage")
        if queue.settings.fifo:
            check_fifo_batch(request.entries, queue.settings.fifo)
        sizes = {e.id: size_bytes(e.message_body, e.message_attributes) for e in request.entries}
        total, limit = sum(sizes.values()), queue.settings.max_message_bytes
        if total > MAX_BYTES:
            text = f"Batch requests cannot be longer than {MAX_BYTES} bytes. You have sent {total} bytes."
            raise SqsError("BatchRequestTooLong", text)
        now = self._clock()

        def admit(entry: operations.SendMessage) -> operations.Sent:
            if sizes[entry.id] > limit:
                raise _too_long("One or more parameters cannot be validated", limit)
            return _admit(entry, queue, now)

        answer = batches.each(request.entries, admit)
        queue.advance(now)
        return answer

    def receive_message(self, request: operations.ReceiveMessage) -> tuple[LocalQueue, LocalPoll]:
        """A poll that is answered, or waits in the queue's line until the caller calls `queue.leave(poll)`."""
        queue = self._queue(request)
        wait_seconds = queue.settings.wait_seconds if request.wait_time_seconds is None else request.wait_time_seconds
        if not 1 <= request.max_number_of_messages <= MAX_BATCH:
            reason = f"Must be between 1 and {MAX_BATCH}, if provided."
            raise invalid_value("MaxNumberOfMessages", request.max_number_of_messages, reason)
        if not 0 <= wait_seconds <= MAX_WAIT_SECONDS:
            reason = f"Must be >= 0 and <= {MAX_WAIT_SECONDS}, if provided."
            raise invalid_value("WaitTimeSeconds", wait_seconds, reason)
        if request.visibility_timeout is not None:
            _check_visibility(request.visibility_timeout)
        attempt = attempt_id(request, queue.settings)
        wait_seconds = wait_seconds if self._waits else 0
        poll = LocalPoll(request.max_number_of_messages, request.visibility_timeout, wait_seconds, attempt)
        queue.receive(poll, self._clock())
        return queue, poll

    def delete_message(self, request: operations.DeleteMessage) -> operations.Nothing:
        self._queue(request).delete(_handle(request), self._clock())
        return operations.Nothing()

    def delete_message_batch(self, request: operations.DeleteMessageBatch) -> operations.BatchAnswer:
        queue, now = self._queue(request), self._clock()
        batches.check(request.entries, "DeleteMessage")

        def delete(entry: operations.DeleteMessage) -> operations.EntryDone:
            queue.delete(_handle(entry), now)
            return operations.EntryDone(entry.id)

        return batches.each(request.entries, delete)

    def change_message_visibility(self, request: operations.ChangeMessageVisibility) -> operations.Nothing:
        self._queue(request).change_visibility(_handle(request), _timeout(request), self._clock())
        return operations.Nothing()

    def change_message_visibility_batch(
        self, request: operations.ChangeMessageVisibilityBatch
    ) -> operations.BatchAnswer:
        queue, now = self._queue(request), self._clock()
        batches.check(request.entries, "ChangeMessageVisibility")

        def change(entry: operations.ChangeMessageVisibility) -> operations.EntryDone:
            queue.change_visibility(_handle(entry), _timeout(entry), now)
            return operations.EntryDone(entry.id)

        return batches.each(request.entries, change)

    def start_message_move_task(self, request: operations.StartMessageMoveTask) -> operations.TaskStarted:
        return self._moves.start(request)

    def list_message_move_tasks(self, request: operations.ListMessageMoveTasks) -> operations.TasksShown:
        return self._moves.show(request)

    def cancel_message_move_task(self, request: operations.CancelMessageMoveTask) -> operations.TaskCancelled:
        return self._moves.cancel(request)

    def close_polls(self) -> None:
        """Answer every waiting poll now, and let no later one wait."""
        self._waits = False
        for queue in self._queues.values():
            queue.close_polls()

    def _queue(self, request: operations.QueueRequest) -> LocalQueue:
        return self._find(request.queue_url.rpartition("/")[2], "QueueUrl")

    def _find(self, name: str, parameter: str) -> LocalQueue:
        if not name:
            raise missing_parameter(parameter)
        if name not in self._queues:
            raise SqsError("QueueDoesNotExist", "The specified queue does not exist.")
        return self._queues[name]

    def _redrive_target(self, settings: LocalQueueSettings) -> LocalQueue | None:
        redrive = settings.redrive
        if redrive is None:
            return None
        target = self._queues.get(redrive.target)
        if target is None:
            raise invalid_value("RedrivePolicy", redrive.target_arn, "Dead letter target does not exist.")
        if (target.settings.fifo is None) != (settings.fifo is None):
            reason = "Dead-letter queue must be same type of queue as the source."
            raise invalid_value("RedrivePolicy", redrive.target_arn, reason)
        return target


def check_name(name: str, is_fifo: bool) -> None:
    """Raises SqsError for a name that no queue can have."""
    if not name:
        raise missing_parameter("QueueName")
    allowed = "can only include alphanumeric characters, hyphens, or underscores"
    if is_fifo and not _FIFO_QUEUE_NAME.fullmatch(name):
        reason = f"The name of a FIFO queue {allowed}, must end with {FIFO_SUFFIX} suffix and be 1 to 80 in length"
        raise invalid_value("QueueName", name, reason)
    if not is_fifo and not _QUEUE_NAME.fullmatch(name):
        hint = "; a name with .fifo needs the attribute FifoQueue=true" if name.endswith(FIFO_SUFFIX) else ""
        raise invalid_value("QueueName", name, f"{allowed.capitalize()}. 1 to 80 in length{hint}")


def _admit(entry: operations.SendMessage, queue: LocalQueue, now: float) -> operations.Sent:
    message, delay_seconds, sent = parcel(entry, queue.settings, now)
    known_as = queue.admit(message, delay_seconds, now)
    if known_as:
        sent.message_id, sent.sequence_number = known_as
    return sent


def _handle(entry: operations.DeleteMessage | operations.ChangeMessageVisibility) -> str:
    if not entry.receipt_handle:
        raise missing_parameter("ReceiptHandle")
    return entry.receipt_handle


def _timeout(entry: operations.ChangeMessageVisibility) -> int:
    if entry.visibility_timeout is None:
        raise missing_parameter("VisibilityTimeout")
    return _check_visibility(entry.visibility_timeout)


def _check_visibility(seconds: int) -> int:
    if not 0 <= seconds <= MAX_HOLD_SECONDS:
        raise invalid_value("VisibilityTimeout", seconds, f"Must be >= 0 and <= {MAX_HOLD_SECONDS}, if provided.")
    return seconds


def _too_long(text: str, limit: int) -> SqsError:
    return invalid_parameter(f"{text}. Reason: Message must be shorter than {limit} bytes.")


def _check_same(settings: LocalQueueSettings, attributes: Mapping[str, str]) -> None:
    wanted, present = as_attributes(parse(attributes, settings)), as_attributes(settings)
    for name in attributes:
        if wanted.get(name) != present.get(name):
            text = f"A queue already exists with the same name and a different value for attribute {name}"
            raise SqsError("QueueNameExists", text)


def _page(names: list[str], max_results: int | None, token: str) -> tuple[list[str], str]:
    """The token is the last name of the page before."""
    size = MAX_PAGE if max_results is None else max_results
    if not 1 <= size <= MAX_PAGE:
        raise invalid_value("MaxResults", size, f"MaxResults must be an integer between 1 and {MAX_PAGE}.")
    rest = sorted(name for name in names if name > token)
    return rest[:size], rest[size - 1] if len(rest) > size else ""
