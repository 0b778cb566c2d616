"""SQS's own move of a whole dead-letter queue: for letters that SQS put there itself, each back to its source."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import msgspec

from millpond.dead_letters.mover import SLICE_SECONDS, Moved
from millpond.dead_letters.sweep import Stop
from millpond.errors import AccessDenied, QueueError, Throttled, Unreachable
from millpond.foreign.number import number_within
from millpond.foreign.text import shown
from millpond.sqs.queue import CALL_SECONDS
from millpond.sqs.sqs_queue import SqsQueue

#: MaxNumberOfMessagesPerSecond (SQS API reference).
MAX_RATE = 500
#: How often its state is asked for, and how long it may go unanswered until we leave it to itself.
TASK_ASK_SECONDS, SILENT_SECONDS = 1.0, 60.0
#: Messages that one task can count.
MAX_TASK_MESSAGES = 10**12


class StartedTask(msgspec.Struct, rename="pascal"):
    task_handle: str = ""


class TaskState(msgspec.Struct, rename="pascal"):
    """A task as SQS lists it. `status`: RUNNING, COMPLETED, CANCELLING, CANCELLED or FAILED."""

    status: str = ""
    approximate_number_of_messages_moved: Any = 0
    failure_reason: str = ""
    task_handle: str = ""

    @property
    def moved(self) -> int:
        """About how many letters it has moved."""
        return number_within(self.approximate_number_of_messages_moved, 0, MAX_TASK_MESSAGES, 0)


class TaskStates(msgspec.Struct, rename="pascal"):
    results: list[TaskState] = []


def start_task(queue: SqsQueue, rate: int = 0) -> str:
    """Start the move of all letters to their sources; returns its handle. Raises QueueError where SQS refuses."""
    request: dict[str, Any] = {"SourceArn": queue.attributes().get("QueueArn", "")}
    if rate:
        request["MaxNumberOfMessagesPerSecond"] = min(rate, MAX_RATE)
    started: StartedTask = _call(queue, "StartMessageMoveTask", request, StartedTask)
    return started.task_handle


def follow_task(
    queue: SqsQueue, handle: str, stop: Stop, advance: Callable[[int], object] = bool
) -> tuple[Moved, bool]:
    """Wait until it has ended; a stop cancels it first. Returns what it has moved, and whether it failed."""
    done, asked, last_answer = Moved(), False, time.monotonic()
    arn = queue.attributes().get("QueueArn", "")
    while True:
        try:
            if stop.asked and not asked:
                _cancel(queue, handle)
                asked = True
            task = _state(queue, arn)
            last_answer = time.monotonic()
        except QueueError as error:
            is_silent = time.monotonic() - last_answer > SILENT_SECONDS
            if is_silent or not isinstance(error, Throttled | Unreachable):
                done.stopped = f"SQS does not say how its move goes on, and it may go on: {error}"
                return done, False
        else:
            advance(task.moved - done.moved)
            done.moved = task.moved
            if task.status not in ("RUNNING", "CANCELLING"):
                done.stopped = _why_stopped(task)
                return done, task.status == "FAILED"
        _wait(stop, asked)


def _cancel(queue: SqsQueue, handle: str) -> None:
    """Ask SQS to stop it. SQS refuses that for a task that has just ended; then its state says how."""
    try:
        _call(queue, "CancelMessageMoveTask", {"TaskHandle": handle}, StartedTask)
    except (AccessDenied, Throttled, Unreachable):
        raise
    except QueueError:
        pass


def _state(queue: SqsQueue, arn: str) -> TaskState:
    """The latest task of the queue."""
    found = _call(queue, "ListMessageMoveTasks", {"SourceArn": arn, "MaxResults": 1}, TaskStates).results
    return found[0] if found else TaskState("UNKNOWN")


def _why_stopped(task: TaskState) -> str:
    if task.status == "COMPLETED":
        return ""
    if task.status == "CANCELLED":
        return "interrupted"
    return f"SQS's move ended as {shown(task.status)}: {shown(task.failure_reason) or 'it gave no reason'}"


def _wait(stop: Stop, asked: bool) -> None:
    end = time.monotonic() + TASK_ASK_SECONDS
    while time.monotonic() < end and (asked or not stop.asked):
        time.sleep(SLICE_SECONDS)


def _call(queue: SqsQueue, name: str, request: dict[str, Any], answer: type[Any]) -> Any:
    return queue.sqs.call(name, request, CALL_SECONDS, lambda body: msgspec.json.decode(body, type=answer))
