"""Producer: sends messages from any application, patched by gevent or not."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable, Sequence
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import uuid4

from msgspec import structs

from millpond.errors import QueueError, SendError, Throttled, Unanswered, Unreachable
from millpond.foreign import spans
from millpond.foreign.trace_context import NO_TRACE
from millpond.hub.backoff import call_back_off_seconds, whole_seconds
from millpond.hub.home import Errand, home, hub_thread, system, thread_beside
from millpond.message import envelope_text
from millpond.sqs.entries import batches
from millpond.sqs.limits import MAX_BYTES, MAX_DELAY_SECONDS
from millpond.sqs.queue import CALL_SECONDS, Entry, dedup_id_of
from millpond.sqs.queue_url import NAMELESS, has_name, is_fifo

if TYPE_CHECKING:
    from millpond.sqs.sqs_queue import SqsQueue

#: How often a call is made, and an entry offered, before it counts as failed: a few seconds, since a web request waits.
ATTEMPTS = 3
#: The time for one send, retries included: what a web request can wait.
TIMEOUT_SECONDS = 3.0
#: With less time than this left, no call begins.
LEAST_CALL_SECONDS = 0.05
#: From this share of its time on, a send that ends counts as having waited all of it.
SPENT_SHARE = 0.8
#: Connections that are kept, one for each thread that sends at a time; others are closed after their call.
CONNECTIONS = 50

# Held while a client begins to be made. Another thread may hold it at a fork: the child has its own.
_connecting = system("_thread", "allocate_lock")()
# In the place of a thread's id: the client is for all threads.
_ALL = -1


def _unlock_child() -> None:
    global _connecting
    _connecting = system("_thread", "allocate_lock")()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_unlock_child)


class Outgoing(NamedTuple):
    """One message to send. `delay`: seconds, 0 to 900. `group`: its MessageGroupId. `event_id`: None makes one."""

    event_type: str
    payload: Any
    delay: float = 0
    group: str | None = None
    event_id: str | None = None

    def __repr__(self) -> str:
        return "<Outgoing>"


class Producer:
    """Sends to one queue. Make one and keep it: all threads share its connections, a forked child makes its own.

    Greenlets and real threads beside them (gevent's ThreadPool, thread=True) can share it too. Nothing is loaded, and
    nothing connects, before the first send. `region` and `endpoint_url` are needed only where the URL does not say
    them. `timeout`: the seconds that one send may take, with its retries, connecting and looking for keys; `send_many`
    has as much for each ten messages.
    """

    def __init__(self, url: str, *, region: str = "", endpoint_url: str = "", timeout: float = TIMEOUT_SECONDS) -> None:
        if not str(url).startswith(("https://", "http://")):
            raise ValueError(f"Producer({url!r}): the URL of a queue is needed, https://...")
        if not has_name(url):
            raise ValueError(f"Producer({url!r}): {NAMELESS}")
        self.url = url
        self._region = region
        self._endpoint_url = endpoint_url
        self._timeout = _checked(timeout)
        self._connected: dict[tuple[int, int], SqsQueue] = {}  # by the process that made it, and the thread
        self._connects: dict[int, Errand[SqsQueue]] = {}

    def send(
        self,
        event_type: str,
        payload: Any,
        delay: float = 0,
        group: str | None = None,
        event_id: str | None = None,
        *,
        timeout: float | None = None,
    ) -> str:
        """Send one message and return its event_id. `payload` is anything that msgspec makes JSON of.

        `delay`: seconds until it is visible, 0 to 900. A FIFO queue needs a `group` and knows no delay; there SQS drops
        what comes with an event_id of the last five minutes. Raises ValueError or TypeError for a message that no queue
        would take, QueueError where the call fails, SendError where SQS refuses the message. A send whose answer got
        lost is made again: a message can arrive twice, with one event_id. `timeout`: seconds, instead of the Producer's
        own; where they are over, QueueError says whether the message may have been sent all the same.
        """
        (sent,) = self.send_many([Outgoing(event_type, payload, delay, group, event_id)], timeout=timeout)
        return sent

    def send_many(self, messages: Iterable[Outgoing | tuple[Any, ...]], *, timeout: float | None = None) -> list[str]:
        """Send many messages, ten to a call, and return their event_ids in order.

        Each is an Outgoing, or a tuple of its fields: ("invoice.created", payload). Where one of them is wrong
        (ValueError, TypeError) none is sent. SendError names those that were not sent, by index; all others were.
        QueueError: the calls failed, and none was sent; where it says that they may have been, a part of them was.
        `timeout`: seconds for all of them together, instead of the Producer's own for each ten.
        """
        sending = _Sending(self._timeout, None if timeout is None else _checked(timeout))
        outgoing = [_outgoing(index, message) for index, message in enumerate(messages)]
        event_ids = [str(message.event_id or uuid4().hex) for message in outgoing]
        make = _fifo_entry if is_fifo(self.url) else _entry
        entries = [make(message, event_id) for message, event_id in zip(outgoing, event_ids, strict=True)]
        if entries:
            with spans.sending(self.url, len(entries), outgoing[0].event_type, event_ids[0]) as trace:
                traced = [entry.with_trace(trace, MAX_BYTES) for entry in entries] if trace is not NO_TRACE else entries
                sending.run(self._queue(sending.ends_by()), traced)
        return event_ids

    def _queue(self, end: float = math.inf) -> SqsQueue:
        """The queue by the client of all threads; by one of this thread where the SDK's sockets are gevent's."""
        pid, thread = os.getpid(), thread_beside()
        queue = self._connected.get((pid, _ALL)) or self._connected.get((pid, thread))
        return queue or self._wait(pid, thread, end)

    def _wait(self, pid: int, thread: int, end: float) -> SqsQueue:
        try:
            queue = self._connect() if thread else self._connecting(pid).result(end - monotonic())
        except TimeoutError:
            raise Unreachable("the settings of the AWS SDK were not read in time") from None
        except BaseException:
            self._connects.pop(pid, None)  # the next send looks again
            raise
        shared = queue.sqs.client == "wire" or not hub_thread()
        return self._connected.setdefault((pid, _ALL if shared else thread), queue)

    def _connecting(self, pid: int) -> Errand[SqsQueue]:
        with _connecting:
            if pid not in self._connects:
                self._connects[pid] = Errand(self._connect, home())
            return self._connects[pid]

    def _connect(self) -> SqsQueue:
        from millpond.sqs.clients import connect  # botocore: 0.2 s that an application pays at its first send

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
    """One send_many: what is still to be sent, and what was refused, by index.

    `timeout`: seconds for each ten messages, or `whole` for all of them, from now on.
    """

    def __init__(self, timeout: float, whole: float | None) -> None:
        self._timeout = timeout
        self._began = monotonic()
        self._whole = None if whole is None else self._began + whole
        self._unsent: dict[int, Entry] = {}
        self._refused: dict[int, str] = {}
        self._unanswered = False
        self._tries: int  # for the ten that are on their way

    def ends_by(self) -> float:
        """The moment by which the next ten must be sent."""
        return self._whole if self._whole is not None else self._began + self._timeout

    def run(self, queue: SqsQueue, entries: Sequence[Entry]) -> None:
        self._unsent = dict(enumerate(entries))
        cause: QueueError | None = None
        try:
            for batch in batches(entries):
                self._send(queue, batch)
                self._began = monotonic()
        except QueueError as error:
            cause = self._as_raised(error)
            if len(self._unsent) == len(entries):
                raise cause from error
        failed = self._refused | dict.fromkeys(self._unsent, str(cause))
        if failed:
            raise SendError(sorted(failed.items())) from cause

    def _as_raised(self, error: QueueError) -> QueueError:
        if not self._unanswered:
            return error
        text = re.sub(r"no answer in [0-9.e+-]+ s", self._waited(), str(error))
        return Unanswered(f"{text}; it may have been sent all the same", error.code)

    def _waited(self) -> str:
        """How long the caller has waited: all its time where the rest was too short for another try."""
        limit, waited = self.ends_by() - self._began, monotonic() - self._began
        tries = f" ({self._tries} tries)" if self._tries > 1 else ""
        return f"no answer in {limit if waited > limit * SPENT_SHARE else waited:.2g} s{tries}"

    def _send(self, queue: SqsQueue, batch: Sequence[int]) -> None:
        end = self.ends_by()
        self._tries = 0
        for attempt in range(1, ATTEMPTS + 1):
            error = self._offer(queue, batch, end, last=attempt == ATTEMPTS)
            batch = [index for index in batch if index in self._unsent]
            if not batch:
                return
            sleep(min(call_back_off_seconds(attempt, error), max(0.0, end - monotonic()) / 2))

    def _offer(self, queue: SqsQueue, batch: Sequence[int], end: float, *, last: bool) -> QueueError | None:
        """Make one call. Returns an error that may pass; raises it on the last attempt, and where no time is left."""
        left = end - monotonic()
        last = last or left < LEAST_CALL_SECONDS
        seconds = min(CALL_SECONDS, max(LEAST_CALL_SECONDS, left if last else left / 2))
        self._tries += 1
        try:
            results = queue.send([self._unsent[index] for index in batch], seconds)
        except (Throttled, Unreachable) as error:
            self._unanswered |= isinstance(error, Unanswered)
            if last or end - monotonic() < LEAST_CALL_SECONDS:
                raise
            return error
        for index, failure in zip(batch, results, strict=True):
            if failure is None or failure.sender_fault or last:
                del self._unsent[index]
            if failure is not None and index not in self._unsent:
                self._refused[index] = f"{failure.code}: {failure.text}"
        return None


def _checked(timeout: float) -> float:
    if not timeout > 0:
        raise ValueError(f"timeout={timeout}: it is a number of seconds above 0")
    return timeout


def _outgoing(index: int, message: Any) -> Outgoing:
    if not isinstance(message, tuple | list):
        raise TypeError(f"messages[{index}]: an Outgoing or a tuple is wanted, not {type(message).__name__!r}")
    if not 2 <= len(message) <= len(Outgoing._fields):
        names = Outgoing._fields
        raise TypeError(f"messages[{index}]: 2 to {len(names)} values are wanted ({', '.join(names)})")
    return Outgoing(*message)


def _entry(message: Outgoing, event_id: str) -> Entry:
    if not isinstance(message.event_type, str) or not message.event_type:
        raise ValueError(f"event_type={message.event_type!r}: the type of a message is a text that is not empty")
    if not isinstance(message.delay, int | float):
        raise TypeError(f"delay={message.delay!r}: a number of seconds is wanted")
    if not isinstance(message.group, str | None):
        raise TypeError(f"group={message.group!r}: a group is a text")
    if not 0 <= message.delay <= MAX_DELAY_SECONDS:
        raise ValueError(
            f"delay={message.delay}: SQS delays a message by 0 to {MAX_DELAY_SECONDS} seconds; "
            "EventBridge Scheduler sends to a queue at any later time"
        )
    entry = Entry(
        envelope_text(message.event_type, event_id, message.payload),
        delay_seconds=whole_seconds(message.delay),
        group_id=message.group or "",
    )
    if entry.size > MAX_BYTES:
        raise ValueError(f"the message has {entry.size:,} bytes, SQS takes {MAX_BYTES:,}: send a link to the data")
    return entry


def _fifo_entry(message: Outgoing, event_id: str) -> Entry:
    if not message.group:
        raise ValueError("a FIFO queue needs a group: messages of one group are handled one after another")
    if message.delay:
        raise ValueError(
            f"delay={message.delay}: a FIFO queue delays no single message (DelaySeconds is the queue's own)"
        )
    return structs.replace(_entry(message, event_id), dedup_id=dedup_id_of(event_id))
