"""Reads a history into its tale: one pass through the events, in their order."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import msgspec

from chaos.simulation.history import Event, History
from chaos.simulation.lives import Life, ReadPoll, SentEntry, Settled, Tale
from chaos.simulation.plan import Plan

#: As the engine has it: an answer may have been on its way this long.
MARGIN_SECONDS = 1.0


def read(plan: Plan, history: History) -> Tale:
    """The tale of a history."""
    return _Reader(plan, history.events).read()


class _Reader:
    """Goes through the events once, in order."""

    def __init__(self, plan: Plan, events: list[Event]) -> None:
        of_kind: dict[str, list[Event]] = defaultdict(list)
        self.tale = Tale(
            plan, events, of_kind, [], {}, defaultdict(list), {}, {}, defaultdict(list), {}, {}, set(), set()
        )
        self._lease_seconds = plan.visibility - min(MARGIN_SECONDS, plan.visibility / 4)
        self._current: dict[tuple[str, str], Life] = {}  # by worker and message
        self._before: dict[tuple[str, str], Life] = {}  # the one before that
        self._by_handle: dict[tuple[str, str], Life] = {}
        self._calls: dict[int, list[tuple[Life | None, SentEntry]]] = defaultdict(list)
        self._polls: dict[int, ReadPoll] = {}
        self._received: dict[str, ReadPoll] = {}  # by handle
        self._open: dict[str, set[Life]] = defaultdict(set)
        self._faulty_receives: set[int] = set()
        self._read_late: set[int] = set()

    def read(self) -> Tale:
        take: dict[str, Callable[[Event], None]] = {
            name[4:]: getattr(self, name) for name in dir(self) if name.startswith("_on_")
        }
        of_kind = self.tale.of_kind
        for event in self.tale.events:
            of_kind[event.what].append(event)
            taker = take.get(event.what)
            if taker is not None:
                taker(event)
        return self.tale

    # The world

    def _on_put(self, event: Event) -> None:
        group, kind = event.value
        self.tale.puts[event.message] = (len(self.tale.puts), group, kind)

    def _on_deleted(self, event: Event) -> None:
        if event.value[0]:
            self.tale.deleted[event.message] = event.at

    def _on_fault(self, event: Event) -> None:
        self.tale.explained.add(event.message)
        if not event.message:
            self._faulty_receives.add(event.call)

    def _on_gave(self, event: Event) -> None:
        self.tale.until[event.handle] = event.value
        if event.call in self._faulty_receives:
            self.tale.explained.add(event.message)
            self.tale.misled.add(event.message)
        if event.call in self._read_late:
            self.tale.explained.add(event.message)

    def _on_changed(self, event: Event) -> None:
        seconds, failure = event.value
        if not failure and event.at < self.tale.until[event.handle]:
            self.tale.until[event.handle] = event.at + seconds

    def _on_duplicate(self, event: Event) -> None:
        self.tale.explained.add(event.message)
        self.tale.misled.add(event.message)

    # Processes

    def _on_crash(self, event: Event) -> None:
        self.tale.gone[event.worker] = event.at
        self._explain_open(event.worker)

    def _on_drained(self, event: Event) -> None:
        self._on_crash(event)

    def _on_drain(self, event: Event) -> None:
        self.tale.drains[event.worker] = event

    def _on_still(self, event: Event) -> None:
        stills, since, until = self.tale.stills[event.worker], event.at, event.at + event.value
        if stills and stills[-1][1] >= since:  # one goes over into the next
            since, before = stills.pop()
            until = max(until, before)
        stills.append((since, until))
        self._explain_open(event.worker)
        # What an open poll brings may be somebody else's by the time that it is read.
        self._read_late.update(call for call, poll in self._polls.items() if poll.ended == math.inf)

    def _explain_open(self, worker: str) -> None:
        self.tale.explained.update(life.message for life in self._open[worker])

    # Calls

    def _on_polled(self, event: Event) -> None:
        poll = self._polls[event.call] = ReadPoll(event.at, event.at + event.value[1])
        self.tale.polls[event.worker].append(poll)

    def _on_asked(self, event: Event) -> None:
        name, seconds = event.value
        by_handle = self._by_handle.get((event.worker, event.handle)) if event.handle else None
        life = by_handle or self._current.get((event.worker, event.message))
        ask = SentEntry(event.call, name, event.handle, seconds, event.at)
        if life is not None:
            life.asks.append(ask)
        self._calls[event.call].append((life, ask))

    def _on_answered(self, event: Event) -> None:
        name, error, results = event.value
        if name == "receive":
            poll = self._polls[event.call]
            poll.ended, poll.lost = event.at, error in ("Unreachable", "cut")
            self._received.update(dict.fromkeys(results or (), poll))
            return
        for index, (life, ask) in enumerate(self._calls.pop(event.call, ())):
            ask.ended, ask.error = event.at, error
            failure = None if error else results[index]
            ask.failure = failure.code if failure is not None else ""
            if life is not None and name == "change_visibility":
                self._extended(life, ask, failure)

    def _extended(self, life: Life, ask: SentEntry, failure: Any) -> None:
        if ask.handle != life.handle or ask.ended >= life.lost_at:
            return
        if failure is not None and failure.lease_lost:
            life.lost = ask.ended
        elif ask.done and not _is_given_back(life):
            life.deadline = ask.sent + (ask.seconds or 0)

    # Messages

    def _on_got(self, event: Event) -> None:
        place = (event.worker, event.message)
        given = self._handed_out(event)
        deadline = given + self._lease_seconds
        if event.value == "redelivered":
            life = self._current[place]
            life.handles.append((event.at, event.handle))
            life.handle, life.deadline, life.lost, life.renewed = event.handle, deadline, math.inf, event.at
        elif event.value == "refused":  # it came as a new one, and leaves those in hand as they are
            self._current[place] = self._before[place]
            return
        else:
            life = Life(event.worker, event.message, event.handle, event.at, event.handle, deadline)
            self.tale.lives.append(life)
            self._open[event.worker].add(life)
            self._before[place] = self._current.get(place, life)
            self._current[place] = life
        life.given.append((event.at, given))
        self._by_handle[event.worker, event.handle] = life

    def _handed_out(self, event: Event) -> float:
        """When SQS has given it out, as far as its worker can know: an answer can have waited to be read."""
        stills = self.tale.stills.get(event.worker)
        still = stills[-1] if stills else (math.inf, 0.0)
        read = still[0] if still[0] <= event.at <= still[1] else event.at
        poll = self._received[event.handle]
        return max(poll.sent, min(read, poll.until))

    def _life(self, event: Event) -> Life:
        return self._by_handle[event.worker, event.handle]

    def _on_start(self, event: Event) -> None:
        life = self._life(event)
        life.start, life.start_deadline = event.at, life.lost_at
        life.start_until = self.tale.until[life.handle]

    def _on_thrown(self, event: Event) -> None:
        life = self._life(event)
        life.thrown.append((event.at, event.value))

    def _on_end(self, event: Event) -> None:
        life = self._life(event)
        life.end, life.result = event.at, event.value

    def _on_held(self, event: Event) -> None:
        """It may run again: what it has run so far is told by a life of its own."""
        life = self._life(event)
        life.held.append(event.at)
        if life.start < math.inf:
            self.tale.lives.append(msgspec.structs.replace(life, over=event.at, settled=[], held=[]))
            life.start = life.start_deadline = life.start_until = life.end = math.inf
            life.result, life.thrown = "", []

    def _on_freed(self, event: Event) -> None:
        self._life(event).freed.append(event.at)

    def _on_settle(self, event: Event) -> None:
        self._life(event).settled.append(Settled(event.at, *event.value))

    def _on_finished(self, event: Event) -> None:
        life = self._life(event)
        life.over, life.how = event.at, event.value
        self._open[event.worker].discard(life)

    def _on_abandoned(self, event: Event) -> None:
        self._on_finished(event)


def _is_given_back(life: Life) -> bool:
    """From then on no answer of a beat counts."""
    return bool(life.settled) and life.settled[-1].name in ("retried", "released")
