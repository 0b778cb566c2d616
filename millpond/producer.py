"""Producer: sends messages from any application, patched by gevent or not."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Iterator, Sequence
from time import sleep
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import uuid4

from msgspec import structs

from millpond.backoff import call_seconds, whole_seconds
from millpond.errors import QueueError, SendError, Throttled, Unreachable
from millpond.message import MAX_DELAY_SECONDS, envelope_text
from millpond.queue import MAX_BATCH, MAX_BYTES, Entry, dedup_id_of, is_fifo

if TYPE_CHECKING:
    from millpond.sqs import SqsQueue

#: Times that a call is made, and an entry offered, before it counts as failed: over in a few seconds, since a web
#: request waits for it.
ATTEMPTS = 3
#: Connections kept open, one for each thread that sends at the same moment; further ones are closed after their call.
CONNECTIONS = 50

# Held while clients are made. A fork can come while another thread holds it: the child has its own.
_connecting = threading.Lock()


def _unlock_child() -> None:
    global _connecting
    _connecting = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_unlock_child)


class Job(NamedTuple):
    """One message to send. `delay`: seconds, 0 to 900. `group`: its MessageGroupId. `event_id`: None makes one."""

    event_type: str
    payload: Any
    delay: float = 0
    group: str | None = None
    event_id: str | None = None

    def __repr__(self) -> str:
        return "<Job>"


class Producer:
    """Sends to one queue. Make one and keep it: all threads share its connections, a forked child makes its own.

    Nothing is loaded and nothing connects before the first send. `region` and `endpoint_url` are needed only where
    the URL does not tell them.
    """

    def __init__(self, url: str, *, region: str = "", endpoint_url: str = "") -> None:
        if not str(url).startswith(("https://", "http://")):
            raise ValueError(f"Producer({url!r}): the URL of a queue is needed, https://...")
        self.url = url
        self._region = region
        self._endpoint_url = endpoint_url
        self._connected: tuple[int, SqsQueue] | None = None  # with the process that made it

    def send(
        self,
        event_type: str,
        payload: Any,
        delay: float = 0,
        group: str | None = None,
        event_id: str | None = None,
    ) -> str:
        """Send one message and return its event_id. `payload` is anything that msgspec makes JSON of.

        `delay`: seconds until it is visible, 0 to 900. A FIFO queue needs a `group` and knows no delay; there SQS drops
        what comes with an event_id of the last five minutes. Raises ValueError or TypeError for a message that no queue
        would take, QueueError where the call fails, SendError where SQS refuses the message. A send whose answer got
        lost is made again: a message can arrive twice, with one event_id.
        """
        return self.send_many([Job(event_type, payload, delay, group, event_id)])[0]

    def send_many(self, messages: Iterable[Job | tuple[Any, ...]]) -> list[str]:
        """Send many messages, ten to a call, and return their event_ids in order.

        Each is a Job, or a tuple of a Job's fields: ("invoice.created", payload). Where one of them is wrong
        (ValueError, TypeError) none is sent. SendError names those that were not sent, by index; all others were.
        QueueError: the calls failed, and none was sent.
        """
        jobs = [Job(*message) for message in messages]
        event_ids = [str(job.event_id or uuid4().hex) for job in jobs]
        make = _fifo_entry if is_fifo(self.url) else _entry
        entries = [make(job, event_id) for job, event_id in zip(jobs, event_ids, strict=True)]
        if entries:
            _Sending(self._queue(), entries).run()
        return event_ids

    def _queue(self) -> SqsQueue:
        connected = self._connected
        if connected is None or connected[0] != os.getpid():
            with _connecting:
                connected = self._connected
                if connected is None or connected[0] != os.getpid():
                    self._connected = connected = (os.getpid(), self._connect())
        return connected[1]

    def _connect(self) -> SqsQueue:
        from millpond.sqs import connect  # botocore: 0.2 s that an application pays at its first send

        sqs = connect(
            self.url,
            region=self._region,
            endpoint_url=self._endpoint_url,
            wait_seconds=0,
            polls=1,
            settles=CONNECTIONS,
        )
        return sqs.queue(self.url)


class _Sending:
    """One send_many on its way: what is still to be sent, and what was refused, by index."""

    def __init__(self, queue: SqsQueue, entries: Sequence[Entry]) -> None:
        self._queue = queue
        self._entries = entries
        self._unsent = dict(enumerate(entries))
        self._refused: dict[int, str] = {}

    def run(self) -> None:
        cause: QueueError | None = None
        try:
            for batch in batches(self._entries):
                self._send(batch)
        except QueueError as error:
            if len(self._unsent) == len(self._entries):
                raise
            cause = error
        failed = self._refused | dict.fromkeys(self._unsent, str(cause))
        if failed:
            raise SendError(sorted(failed.items())) from cause

    def _send(self, batch: Sequence[int]) -> None:
        for attempt in range(1, ATTEMPTS + 1):
            error = self._offer(batch, last=attempt == ATTEMPTS)
            batch = [index for index in batch if index in self._unsent]
            if not batch:
                return
            sleep(call_seconds(attempt, error))

    def _offer(self, batch: Sequence[int], *, last: bool) -> QueueError | None:
        """One call. An error that may pass is returned, unless this was the last attempt."""
        try:
            results = self._queue.send([self._unsent[index] for index in batch])
        except (Throttled, Unreachable) as error:
            if last:
                raise
            return error
        for index, failure in zip(batch, results, strict=True):
            if failure is None or failure.sender_fault or last:
                del self._unsent[index]
            if failure is not None and index not in self._unsent:
                self._refused[index] = f"{failure.code}: {failure.text}"
        return None


def batches(entries: Sequence[Entry]) -> Iterator[list[int]]:
    """The entries' indexes, in order, as many to a call as SQS takes: 10, and 1 MiB together."""
    batch: list[int] = []
    room = MAX_BYTES
    for index, size in enumerate(entry.size for entry in entries):
        if len(batch) == MAX_BATCH or size > room:
            yield batch
            batch, room = [], MAX_BYTES
        batch.append(index)
        room -= size
    if batch:
        yield batch


def _entry(job: Job, event_id: str) -> Entry:
    if not isinstance(job.event_type, str) or not job.event_type:
        raise ValueError(f"event_type={job.event_type!r}: the type of a message is a text")
    if not 0 <= job.delay <= MAX_DELAY_SECONDS:
        raise ValueError(
            f"delay={job.delay}: SQS delays a message by 0 to {MAX_DELAY_SECONDS} seconds; "
            "EventBridge Scheduler sends to a queue at any later time"
        )
    entry = Entry(
        envelope_text(job.event_type, event_id, job.payload),
        delay_seconds=whole_seconds(job.delay),
        group_id=job.group or "",
    )
    if entry.size > MAX_BYTES:
        raise ValueError(f"the message has {entry.size:,} bytes, SQS takes {MAX_BYTES:,}: send where the data is")
    return entry


def _fifo_entry(job: Job, event_id: str) -> Entry:
    if not job.group:
        raise ValueError("a FIFO queue needs a group: messages of one group are handled one after another")
    if job.delay:
        raise ValueError(f"delay={job.delay}: a FIFO queue delays no single message (DelaySeconds is the queue's own)")
    return structs.replace(_entry(job, event_id), dedup_id=dedup_id_of(event_id))
