"""Dump: all that a process does at one moment, written into its log for a person."""

from __future__ import annotations

import logging
import sys
import traceback
from collections.abc import Iterator
from types import FrameType
from typing import Any, NamedTuple

import gevent

from millpond.engine.delivery import Delivery
from millpond.engine.handler_call import HANDLER_CODE
from millpond.observe import log
from millpond.observe.screen import counted
from millpond.process.observer import Observer, running_of
from millpond.process.snapshot import QueueSnapshot, RunningSnapshot, TypeSnapshot, WorkerSnapshot

#: Frames of one handler's stack, the innermost ones.
MAX_STACK_FRAMES = 20
#: Between two lines: whoever reads the log keeps up, and the work goes on.
BETWEEN_LINES_SECONDS = 0.002


class DumpLine(NamedTuple):
    """One event of a dump."""

    event: str
    text: str
    fields: dict[str, Any]


def dump_line(event: str, text: str, **fields: Any) -> DumpLine:
    """One of its lines."""
    return DumpLine(event, text, fields)


class Dump:
    """One dump. All of it is read at once, and then written line by line.

    `frame`: where the main thread stands, for a dump from a signal's handler while no other greenlet has a turn.
    """

    def __init__(self, observer: Observer) -> None:
        self._observer = observer

    def write(self) -> None:
        """Write it, and let the others run between the lines."""
        for line in self._lines(None):
            log.on_demand(logging.INFO, line.event, line.text, **line.fields)
            gevent.sleep(BETWEEN_LINES_SECONDS)

    def write_at_once(self, frame: FrameType | None) -> None:
        """Write it without a pause: the hub stands still."""
        for line in self._lines(frame):
            log.on_demand(logging.INFO, line.event, line.text, **line.fields)

    def _lines(self, frame: FrameType | None) -> list[DumpLine]:
        snapshot, handlers = self._observer.take(), list(self._handlers(frame))
        left = snapshot.running_number - len(handlers)
        end = f"the dump ends here: {counted(len(handlers), 'handler')}"
        end += f", those that have run for longest; {left} more are left out" if left else ""
        return [
            worker_line(snapshot.worker),
            *(queue_line(queue) for queue in snapshot.queues),
            *(type_line(kind) for kind in snapshot.types),
            *handlers,
            dump_line("dump.ended", end, handlers=len(handlers), left_out=left),
        ]

    def _handlers(self, frame: FrameType | None) -> Iterator[DumpLine]:
        now = self._observer.now()
        for delivery in self._observer.longest_running():
            yield handler_line(running_of(delivery, now), stack_of(delivery, frame))


def worker_line(worker: WorkerSnapshot) -> DumpLine:
    """The process in a sentence."""
    text = (
        f"{worker.name} (pid {worker.pid}, version {worker.version}) is {worker.state}, "
        f"up for {worker.uptime_seconds:.0f} s: {worker.slots_busy} of {worker.slots} slots busy, "
        f"{counted(worker.in_hand, 'message')} in hand, {worker.permits_free} permits free, "
        f"{worker.memory_bytes / 2**20:.0f} MiB of memory; the hub was blocked {counted(worker.hub_blocked, 'time')}"
    )
    return dump_line(
        "dump.worker",
        text,
        state=worker.state,
        slots_busy=worker.slots_busy,
        slots=worker.slots,
        in_hand=worker.in_hand,
        permits_free=worker.permits_free,
    )


def queue_line(queue: QueueSnapshot) -> DumpLine:
    """A queue in a sentence."""
    last = "no receive has come back yet"
    if queue.last_receive_seconds is not None:
        last = f"the last receive that came back began {queue.last_receive_seconds:.0f} s ago"
    calls = ", ".join(f"{number} {kind}" for kind, number in queue.under_way.items())
    leases = ", ".join(f"{number} {state}" for state, number in sorted(queue.leases.items())) or "none"
    text = (
        f"{queue.name} is {queue.state}: {queue.in_hand} in hand ({queue.ready} ready, {queue.held} held), the oldest "
        f"for {queue.oldest_in_hand_seconds:.0f} s; {counted(queue.polls_open, 'poll')} open, {last}; "
        f"leases: {leases}; batches under way: {calls}; intake {queue.intake}"
    )
    return dump_line(
        "dump.queue",
        text,
        queue=queue.name,
        in_hand=queue.in_hand,
        ready=queue.ready,
        held=queue.held,
        polls_open=queue.polls_open,
    )


def type_line(kind: TypeSnapshot) -> DumpLine:
    """A type in a sentence."""
    breaker = f"its breaker is {kind.breaker}"
    if kind.breaker_reason:
        breaker += f" ({kind.breaker_reason}; the next one tries in {kind.breaker_seconds:.0f} s)"
    limits = [f"{kind.rate:g} a second"] if kind.rate else []
    limits += [f"{kind.concurrency} at once"] if kind.concurrency else []
    text = f"{kind.event_type} ({kind.handler}): {kind.running} running, {kind.held} held; {breaker}"
    text += f"; at most {' and '.join(limits)}" if limits else ""
    return dump_line("dump.type", text, type=kind.event_type, running=kind.running, breaker=kind.breaker)


def handler_line(running: RunningSnapshot, stack: str) -> DumpLine:
    """A handler that runs, with its stack."""
    limit = f" of {running.limit_seconds:g}" if running.limit_seconds else ""
    text = (
        f"{running.event_type} has run for {running.seconds:.1f}{limit} s, attempt {running.attempt}; "
        f"its lease lasts for {running.lease_seconds_left:.0f} s more"
    )
    text += "; it was interrupted, and still runs" if running.interrupted else ""
    text += f"; it stands at {running.stands_at}" if running.stands_at else ""
    return dump_line(
        "dump.handler",
        text,
        queue=running.queue,
        type=running.event_type,
        event_id=running.event_id,
        message_id=running.message_id,
        attempt=running.attempt,
        seconds=running.seconds,
        traceback=stack,
    )


def stack_of(delivery: Delivery, frame: FrameType | None = None) -> str:
    """The handler's own stack, the innermost frame last. `frame`: of the main thread, where the handler is in it."""
    try:
        if delivery.thread:
            frame = sys._current_frames().get(delivery.thread)
        elif delivery.greenlet.gr_frame is not None:
            frame = delivery.greenlet.gr_frame
        frames = []
        while frame is not None and frame.f_code is not HANDLER_CODE:
            frames.append((frame, frame.f_lineno))
            frame = frame.f_back
        if frame is None:
            return ""
        kept = frames[:MAX_STACK_FRAMES][::-1]
        return "".join(traceback.StackSummary.extract(iter(kept)).format())
    except Exception:  # a thread goes on meanwhile: its frames may be of something else by now
        return ""
