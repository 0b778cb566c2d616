"""Snapshot: one process at one moment, in numbers and names. Status, page, top, dump and /metrics all read it."""

from __future__ import annotations

from typing import Literal

import msgspec

from millpond.observe.last_hour import MinuteSummary
from millpond.process.failure_groups import FailureGroup

WorkerState = Literal["booting", "running", "quiet", "draining"]


class SnapshotPart(msgspec.Struct, frozen=True, kw_only=True):
    """A part of a Snapshot: plain values, so that it is JSON as it stands."""


class WorkerSnapshot(SnapshotPart, frozen=True, kw_only=True):
    """The process. `started` is in seconds since the epoch; `stuck`: slots that were written off.

    `bytes_in_hand` counts large messages only; `memory_bytes`: resident now; without /proc the most ever.
    """

    name: str
    version: str
    pid: int
    started: float
    uptime_seconds: float
    state: WorkerState
    why: str  # it drains: a signal, "empty", "refused", "crash"
    slots_busy: int
    slots: int
    permits_free: int
    in_hand: int
    memory_bytes: int
    bytes_in_hand: int
    max_bytes_in_hand: int
    hub_blocked: int
    leases_rescued: int
    stuck: int
    log_level: str
    minute: MinuteSummary | None = None  # where the page is on, and something has ended


class QueueDepth(SnapshotPart, frozen=True, kw_only=True):
    """What SQS said of a queue, `asked` (seconds since the epoch). None: it does not say."""

    asked: float
    visible: int | None = None
    in_flight: int | None = None
    delayed: int | None = None
    oldest_seconds: float | None = None
    dead_letters: int | None = None
    backlog_per_worker: float | None = None


class QueueSnapshot(SnapshotPart, frozen=True, kw_only=True):
    """One queue. Its outcomes are those since the start; `under_way`: calls that are to settle messages.

    `last_receive_seconds`: since the last receive began that came back; None where none has. `rightly_silent`: none may
    begin, since it is quiet, all permits are in hand, or a breaker is open.
    """

    name: str
    url: str
    state: str  # receiving, quiet, stopped
    in_hand: int
    ready: int
    held: int
    oldest_in_hand_seconds: float
    polls_open: int
    pollers: int
    last_receive_seconds: float | None
    failing_receives: int  # in a row
    intake: str
    weight: float
    received: int
    outcomes: dict[str, int]
    causes: dict[str, int]
    redelivered: int
    abandoned: int
    requests: int
    requests_per_1000: float
    leases: dict[str, int]
    under_way: dict[str, int]
    depth: QueueDepth | None
    rightly_silent: bool = False


class TypeSnapshot(SnapshotPart, frozen=True, kw_only=True):
    """One message type. `rate` and `concurrency` are 0 where there is no limit; `held`: they stand in its line."""

    event_type: str
    handler: str
    running: int
    held: int
    rate: float
    concurrency: int
    breaker: str
    breaker_reason: str
    breaker_seconds: float  # until the next probe
    outcomes: dict[str, int]
    causes: dict[str, int] = {}
    minute: MinuteSummary | None = None  # where the page is on, and some of it have ended


class RunningSnapshot(SnapshotPart, frozen=True, kw_only=True):
    """A message whose handler runs. Texts from the wire are escaped and cut; `stands_at`: file, line, function.

    `body`: one line of it, where [http] show_bodies allows that, and the page asks.
    """

    event_type: str
    event_id: str
    message_id: str
    queue: str
    attempt: int
    seconds: float
    limit_seconds: float
    lease_seconds_left: float
    interrupted: bool
    stands_at: str
    body: str = ""


class Snapshot(SnapshotPart, frozen=True, kw_only=True):
    """One process, `taken` at (seconds since the epoch). `running`: those that have run for longest, at most 100 of
    `running_number`.
    """

    taken: float
    worker: WorkerSnapshot
    queues: list[QueueSnapshot]
    types: list[TypeSnapshot]
    running: list[RunningSnapshot]
    running_number: int
    failures: list[FailureGroup] = []  # of the last hour, the last one first


def snapshot_json(snapshot: Snapshot) -> bytes:
    """As GET /status answers it."""
    return msgspec.json.encode(snapshot)


def read_snapshot(text: bytes) -> Snapshot:
    """The snapshot of another process, perhaps of another version. Raises msgspec.DecodeError."""
    return msgspec.json.decode(text, type=Snapshot)
