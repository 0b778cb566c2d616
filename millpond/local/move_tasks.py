"""MoveTasks: StartMessageMoveTask, ListMessageMoveTasks and CancelMessageMoveTask, with AWS's refusals.

The refusals are in the words that localstack recorded on AWS (test_sqs_move_task.snapshot.json).
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections import deque
from collections.abc import Callable, Mapping

import msgspec

from millpond.local.attributes import queue_name
from millpond.local.local_move import MAX_RATE, LocalMove, MoveStatus
from millpond.local.local_queue import Alarm, LocalQueue
from millpond.local.operations import (
    CancelMessageMoveTask,
    ListMessageMoveTasks,
    StartMessageMoveTask,
    TaskCancelled,
    TaskShown,
    TasksShown,
    TaskStarted,
)
from millpond.local.sqs_error import SqsError, invalid_parameter, missing_parameter

#: Tasks of one queue that are remembered, and the greatest MaxResults.
MAX_TASKS = 10


class TaskHandle(msgspec.Struct, rename="camel"):
    """What a handle says, as JSON in base 64; AWS's has the same two keys."""

    task_id: str
    source_arn: str


class RunningTask:
    """A task and its alarm: it rings until the task is over."""

    def __init__(self, task: LocalMove, alarm: Alarm, now: float) -> None:
        self.task = task
        self._alarm = alarm
        alarm(self, now)

    def advance(self, now: float) -> None:
        """Let the task go on."""
        again = self.task.step(now)
        if again is not None:
            self._alarm(self, again)

    def cancel(self, now: float) -> None:
        """Cancel it: it ends at once. Raises SqsError for a task that is not running."""
        self.task.cancel()
        self._alarm(self, now)


class MoveTasks:
    """The ten last tasks of each queue, the newest first; `queues` are the account's, by name."""

    def __init__(self, queues: Mapping[str, LocalQueue], clock: Callable[[], float], alarm: Alarm) -> None:
        self._queues = queues
        self._clock = clock
        self._alarm = alarm
        self._tasks: dict[LocalQueue, deque[RunningTask]] = {}

    def start(self, request: StartMessageMoveTask) -> TaskStarted:
        """Start a task; its first letter goes after the answer."""
        destination, rate = request.destination_arn, request.max_number_of_messages_per_second
        if rate is not None and not 1 <= rate <= MAX_RATE:
            raise _out_of_range("MaxNumberOfMessagesPerSecond", MAX_RATE)
        source = self._queue("SourceArn", request.source_arn)
        if not any(queue.dead_letters is source for queue in self._queues.values()):
            raise invalid_parameter("Source queue must be configured as a Dead Letter Queue.")
        if destination is not None:
            _check_pair(source, self._queue("DestinationArn", destination))
        tasks = self._tasks.setdefault(source, deque(maxlen=MAX_TASKS))
        if tasks and tasks[0].task.is_active:
            text = "There is already a task running. Only one active task is allowed for a source queue arn at a given"
            raise invalid_parameter(f"{text} time.")
        now = self._clock()
        task = LocalMove(source, self._find, now, destination_arn=destination, rate=rate)
        tasks.appendleft(RunningTask(task, self._alarm, now))
        return TaskStarted(_handle(task))

    def show(self, request: ListMessageMoveTasks) -> TasksShown:
        """The last tasks of a queue: one, if MaxResults does not ask for more."""
        count = 1 if request.max_results is None else request.max_results
        if not 1 <= count <= MAX_TASKS:
            raise _out_of_range("MaxResults", MAX_TASKS)
        tasks = list(self._tasks.get(self._queue("SourceArn", request.source_arn), ()))
        return TasksShown([_shown(running.task) for running in tasks[:count]])

    def cancel(self, request: CancelMessageMoveTask) -> TaskCancelled:
        """Cancel the task; what it has moved stays where it is."""
        handle = _read_handle(request.task_handle)
        source = self._queue("SourceArn", handle.source_arn)
        for running in self._tasks.get(source, ()):
            if running.task.id == handle.task_id:
                running.cancel(self._clock())
                return TaskCancelled(running.task.moved)
        raise SqsError("ResourceNotFoundException", "Task does not exist.")

    def forget(self, queue: LocalQueue) -> None:
        """Forget the tasks of a queue that is deleted; one that runs ends at its next letter."""
        self._tasks.pop(queue, None)

    def _find(self, arn: str) -> LocalQueue | None:
        return self._queues.get(queue_name(arn))

    def _queue(self, parameter: str, arn: str | None) -> LocalQueue:
        if arn is None:
            raise missing_parameter(parameter)
        if not arn.startswith("arn:") or len(arn.split(":")) != 6:
            form = "arn:<partition>:<service>:<region>:<account-id>:<resource-id>"
            raise invalid_parameter(f"You must use this format to specify the {parameter}: {form}")
        queue = self._find(arn)
        if queue is None:
            text = f"The resource that you specified for the {parameter} parameter doesn't exist."
            raise SqsError("ResourceNotFoundException", text)
        return queue


def _check_pair(source: LocalQueue, destination: LocalQueue) -> None:
    if source is destination:
        raise invalid_parameter("Source queue arn and destination queue arn cannot be the same.")
    if (source.settings.fifo is None) != (destination.settings.fifo is None):
        raise invalid_parameter("The source queue and destination queue must be of the same queue type.")


def _out_of_range(name: str, greatest: int) -> SqsError:
    reason = f"You must enter a number that's between 1 and {greatest}."
    return invalid_parameter(f"Value for parameter {name} is invalid. Reason: {reason}")


def _handle(task: LocalMove) -> str:
    return b64encode(msgspec.json.encode(TaskHandle(task.id, task.source_arn))).decode()


def _read_handle(text: str) -> TaskHandle:
    if not text:
        raise missing_parameter("TaskHandle")
    try:
        return msgspec.json.decode(b64decode(text, validate=True), type=TaskHandle)
    except (ValueError, RecursionError) as error:  # base64's and msgspec's errors are ValueErrors
        raise invalid_parameter("Value for parameter TaskHandle is invalid.") from error


def _shown(task: LocalMove) -> TaskShown:
    return TaskShown(
        task.source_arn,
        task.status.value,
        int(task.started * 1000),
        task.moved,
        task.to_move,
        task.destination_arn,
        task.rate,
        _handle(task) if task.status is MoveStatus.RUNNING else "",
        task.failure_reason,
    )
