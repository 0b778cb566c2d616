"""A queue with visibility, in memory and on the test's clock: what an engine test needs to see and to break."""

from __future__ import annotations

import heapq
import itertools
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
from gevent.event import Event

from millpond.hub.clock import Clock
from millpond.sqs.answers import UNCOUNTED_BYTES
from millpond.sqs.queue import Entry, Failure, Received

TOO_LATE = Failure("InvalidParameterValue", "DelaySeconds must be >= 0 and <= 900.", sender_fault=True)

DEDUPLICATION_SECONDS = 300.0


class Stored(msgspec.Struct):
    """One message in the fake."""

    id: str
    entry: Entry
    visible_at: float
    sent_ms: int = 1
    receives: int = 0
    handle: str = ""


class FakeQueue:
    """Fulfils millpond.sqs.queue.Queue. `calls` counts; `script` says what goes wrong.

    script[name] is a list of what the next calls of that name do: an exception is raised, a Failure is every entry's
    answer, a callable is called first. `gates[name]` holds the answers of calls of that name while it is not set.
    As SQS it holds back what is sent with a delay, and drops a deduplication id that came within five minutes.
    As SQS it moves what was received `max_receive_count` times (0: never) to `dead`, without a word: `moved` has them.
    """

    def __init__(self, clock: Clock, url: str = "http://queue.test/000000000000/q") -> None:
        self.url = url
        self.clock = clock
        self.messages: dict[str, Stored] = {}
        self.deleted: Counter[str] = Counter()
        self.calls: Counter[str] = Counter()
        self.batches: defaultdict[str, list[list[Any]]] = defaultdict(list)
        self.script: defaultdict[str, list[Any]] = defaultdict(list)
        self.gates: dict[str, Event] = {}
        self.on_call: Callable[[str], object] = lambda name: None
        self.max_receive_count = 0
        self.dead: FakeQueue | None = None
        self.moved: list[str] = []
        self._deduplicated: dict[str, float] = {}  # deduplication id -> until when it is known
        self._ids = itertools.count(1)
        self._numbers = itertools.count(1)
        self._order: list[tuple[float, int, Stored]] = []
        self._arrival = Event()

    def put(self, body: str, number: int = 1, **more: Any) -> list[str]:
        ids = [f"m{next(self._numbers)}" for _ in range(number)]
        for one in ids:
            self.messages[one] = Stored(one, Entry(body, **more), 0.0, round(self.clock.time() * 1000))
            self._hide(self.messages[one], self.messages[one].entry.delay_seconds)
        self._arrival.set()
        return ids

    def _hide(self, one: Stored, seconds: float) -> None:
        one.visible_at = self.clock.now() + seconds
        heapq.heappush(self._order, (one.visible_at, next(self._ids), one))

    def visible(self) -> list[str]:
        return [one.id for one in self.messages.values() if one.visible_at <= self.clock.now()]

    def _enter(self, name: str, batch: Sequence[Any]) -> Failure | None:
        self.calls[name] += 1
        self.batches[name].append(list(batch))
        self.on_call(name)
        step = self.script[name].pop(0) if self.script[name] else None
        if name in self.gates:
            self.gates[name].wait()
        if isinstance(step, BaseException):
            raise step
        if callable(step):
            step()
        return step if isinstance(step, Failure) else None

    def receive(
        self, max_messages: int, wait_seconds: int, visibility_seconds: int, attempt_id: str = ""
    ) -> list[Received]:
        self._enter("receive", [max_messages])
        end = self.clock.now() + wait_seconds
        while not (found := self._take(max_messages, visibility_seconds)) and self.clock.now() < end:
            self._arrival.clear()
            self._wait(end)
        return found

    def _wait(self, end: float) -> None:
        woken = self.clock.event()
        self._arrival.rawlink(lambda _: woken.set())
        next_visible = self._order[0][0] if self._order else end
        woken.wait(max(0.001, min(end, next_visible) - self.clock.now()))

    def _take(self, number: int, visibility_seconds: int) -> list[Received]:
        found: list[Received] = []
        while self._order and self._order[0][0] <= self.clock.now() and len(found) < number:
            visible_at, _, one = heapq.heappop(self._order)
            if one.id not in self.messages or one.visible_at != visible_at:
                continue  # deleted, or its visibility was changed since
            if 0 < self.max_receive_count <= one.receives:
                self._move(one)
                continue
            one.receives += 1
            one.handle = f"{one.id}#{one.receives}"
            self._hide(one, visibility_seconds)
            found.append(
                Received(
                    one.id,
                    one.handle,
                    one.entry.body,
                    one.receives,
                    one.sent_ms,
                    one.entry.group_id,
                    one.entry.trace_header,
                    one.entry.attributes,
                    size=size if (size := len(one.entry.body)) > UNCOUNTED_BYTES else 0,
                )
            )
        return found

    def _move(self, one: Stored) -> None:
        del self.messages[one.id]
        self.moved.append(one.id)
        if self.dead is not None:
            self.dead.put(one.entry.body, group_id=one.entry.group_id, attributes=one.entry.attributes)

    def delete(self, receipt_handles: Sequence[str]) -> list[Failure | None]:
        failure = self._enter("delete", receipt_handles)
        if failure is not None:
            return [failure] * len(receipt_handles)
        return [self._delete(handle) for handle in receipt_handles]

    def _delete(self, handle: str) -> Failure | None:
        one = self.messages.get(handle.split("#")[0])
        if one is not None and one.handle == handle:  # as AWS: an old handle is answered 200 and deletes nothing
            del self.messages[one.id]
            self.deleted[one.id] += 1
        return None

    def change_visibility(self, changes: Sequence[tuple[str, int]]) -> list[Failure | None]:
        failure = self._enter("change_visibility", changes)
        if failure is not None:
            return [failure] * len(changes)
        return [self._extend(handle, seconds) for handle, seconds in changes]

    def _extend(self, handle: str, seconds: int) -> Failure | None:
        one = self.messages.get(handle.split("#")[0])
        if one is None or one.handle != handle:
            return Failure("InvalidParameterValue", "not available for visibility timeout change", True)
        if one.visible_at > self.clock.now():  # as AWS: too late, answered 200, and nothing happens
            self._hide(one, seconds)
            self._arrival.set()
        return None

    def send(self, entries: Sequence[Entry]) -> list[Failure | None]:
        failure = self._enter("send", entries)
        return [failure or self._send(entry) for entry in entries]

    def _send(self, entry: Entry) -> Failure | None:
        if not 0 <= entry.delay_seconds <= 900:
            return TOO_LATE
        if entry.dedup_id:
            if self._deduplicated.get(entry.dedup_id, 0.0) > self.clock.now():
                return None  # answered as if it were taken
            self._deduplicated[entry.dedup_id] = self.clock.now() + DEDUPLICATION_SECONDS
        self.put(
            **{
                name: getattr(entry, name)
                for name in ("body", "delay_seconds", "group_id", "trace_header", "attributes")
            }
        )
        return None

    def attributes(self) -> dict[str, str]:
        return {}


class ListOwner:
    """Owns leases whose items are lists: each gets what becomes of its lease."""

    def lease_lost(self, item: list[Any]) -> None:
        item.append("lost")

    def lease_extended(self, item: list[Any]) -> None:
        pass

    def let_go_ended(self, item: list[Any], failure: Failure | None) -> None:
        item.append(failure)

    def has_room(self) -> None:
        pass
