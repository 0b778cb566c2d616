"""The text of `worker.py status` and `top`: one snapshot as a sentence and three tables."""

from __future__ import annotations

from collections.abc import Sequence

from millpond.observe.last_hour import MinuteSummary
from millpond.observe.last_minute import ERRORS
from millpond.observe.screen import plain_table
from millpond.process.dump import worker_line
from millpond.process.failure_groups import FailureGroup
from millpond.process.snapshot import QueueSnapshot, RunningSnapshot, Snapshot, TypeSnapshot

#: Handlers that are listed one by one.
MAX_SHOWN_RUNNING = 20
#: Errors that are listed, and characters of each.
MAX_SHOWN_FAILING, MAX_FAILING_ERROR = 5, 120


def status_page(now: Snapshot, before: Snapshot | None = None) -> list[str]:
    """Its lines. `before`: an earlier snapshot of the same process, from which rates are reckoned."""
    lines = [worker_line(now.worker).text]
    if now.queues:
        lines += ["", *plain_table(QUEUE_COLUMNS, [_queue_row(queue, now, before) for queue in now.queues])]
    if now.types:
        timed = any(kind.minute is not None for kind in now.types)
        rows = [_type_row(kind, _minute_row(kind.minute) if timed else ()) for kind in now.types]
        columns = [*TYPE_COLUMNS[:4], *(MINUTE_COLUMNS if timed else ()), *TYPE_COLUMNS[4:]]
        lines += ["", *plain_table(columns, rows)]
    if now.failures:
        rows = [_failing_row(group, now) for group in now.failures[:MAX_SHOWN_FAILING]]
        lines += ["", *plain_table(FAILING_COLUMNS, rows)]
    if now.running:
        lines += ["", *plain_table(RUNNING_COLUMNS, [_running_row(one) for one in now.running[:MAX_SHOWN_RUNNING]])]
        if (left := now.running_number - MAX_SHOWN_RUNNING) > 0:
            lines.append(f"and {left} more")
    return lines


QUEUE_COLUMNS = (
    *("queue", "state", "in hand", "ready", "held", "oldest"),
    *("done/s", "succeeded", "failed", "waiting", "dead", "counted"),
)
TYPE_COLUMNS = ("type", "handler", "running", "held", "succeeded", "retried", "dead-lettered", "limits", "breaker")
#: Of the last minute, where the live page is on: else nobody keeps the times.
MINUTE_COLUMNS = ("a minute", "failed", "run p50", "p95")
FAILING_COLUMNS = ("failing", "queue", "count", "last", "example", "error")
RUNNING_COLUMNS = ("running", "queue", "event id", "attempt", "seconds", "lease left", "stands at")


def _queue_row(queue: QueueSnapshot, now: Snapshot, before: Snapshot | None) -> Sequence[str]:
    outcomes, depth = queue.outcomes, queue.depth
    failed = sum(number for cause, number in queue.causes.items() if cause in ERRORS)
    return (
        queue.name,
        queue.state,
        f"{queue.in_hand:,}",
        f"{queue.ready:,}",
        f"{queue.held:,}",
        f"{queue.oldest_in_hand_seconds:.0f} s",
        _rate(queue, now, before),
        f"{outcomes.get('succeeded', 0):,}",
        f"{failed:,}",
        _count(depth.visible if depth is not None else None),
        _count(depth.dead_letters if depth is not None else None),
        f"{max(0.0, now.taken - depth.asked):.0f} s ago" if depth is not None else "",
    )


def _count(number: int | None) -> str:
    return "?" if number is None else f"{number:,}"


def _rate(queue: QueueSnapshot, now: Snapshot, before: Snapshot | None) -> str:
    """Messages that ended in a second, since the earlier snapshot; over the whole life where there is none."""
    earlier = next((one for one in before.queues if one.name == queue.name), None) if before is not None else None
    seconds = now.taken - before.taken if before is not None else now.worker.uptime_seconds
    ended = sum(queue.outcomes.values()) - (sum(earlier.outcomes.values()) if earlier is not None else 0)
    return f"{ended / seconds:,.1f}" if seconds > 0 else "?"


def _type_row(kind: TypeSnapshot, minute: Sequence[str]) -> Sequence[str]:
    limits = [f"{kind.rate:g}/s"] if kind.rate else []
    limits += [f"{kind.concurrency} at once"] if kind.concurrency else []
    breaker = f"{kind.breaker}: {kind.breaker_reason}" if kind.breaker_reason else kind.breaker
    outcomes = kind.outcomes
    return (
        kind.event_type,
        kind.handler,
        f"{kind.running:,}",
        f"{kind.held:,}",
        *minute,
        *(f"{outcomes.get(name, 0):,}" for name in ("succeeded", "retried", "dead_lettered")),
        ", ".join(limits) or "-",
        breaker,
    )


def _minute_row(minute: MinuteSummary | None) -> Sequence[str]:
    if minute is None or not minute.seconds:
        return ("0", "", "", "")
    times = (minute.run_p50, minute.run_p95)
    return (
        f"{60 * minute.ended / minute.seconds:,.0f}",
        f"{minute.failed_percent:.1f} %",
        *("" if one is None else f"{one:.3f} s" if one < 1 else f"{one:.1f} s" for one in times),
    )


def _failing_row(group: FailureGroup, now: Snapshot) -> Sequence[str]:
    return (
        group.event_type,
        group.last_queue,
        f"{group.count:,}",
        f"{max(0.0, now.taken - group.last):.0f} s ago",
        group.last_event_id,
        group.last_error[:MAX_FAILING_ERROR],
    )


def _running_row(one: RunningSnapshot) -> Sequence[str]:
    return (
        one.event_type,
        one.queue,
        one.event_id,
        f"{one.attempt}",
        f"{one.seconds:.1f}",
        f"{one.lease_seconds_left:.0f} s",
        one.stands_at,
    )
