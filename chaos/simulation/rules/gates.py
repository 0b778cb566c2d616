"""What a gate holds: one probe at a time, tried again and again; no more at once than may be; none for too long."""

from __future__ import annotations

import math
from collections import defaultdict

from chaos.simulation.history import Event
from chaos.simulation.lives import Life, Tale
from chaos.simulation.plan import ASKED_SECONDS
from chaos.simulation.rules.rule import EPSILON, SLACK_SECONDS, Findings, rule
from chaos.simulation.sqs import size_of
from chaos.simulation.worker import BREAKER, MAX_BYTES

#: How a handler ends that shows that the other side may still be down.
PROBE_FAILED = frozenset({"Unavailable", "ValueError", "Retry", "TimeLimitExceeded"})


class Model:
    """What one worker's breaker must be, by what its handlers said. Messages go by their id, not by a receive's handle:
    one that is redelivered while it is held begins by another handle."""

    def __init__(self) -> None:
        self.is_open = False
        self.opened_at = -math.inf
        self.reopened_at = -math.inf  # what was let in before must not begin after
        self.probes: dict[str, float] = {}  # of this opening: when each was let in
        self.newest = ""  # of these, begun or not yet
        self.started: dict[str, float] = {}
        self.let_in: dict[str, float] = {}  # from the line, and not begun yet: when

    def free(self, event: Event) -> None:
        self.let_in[event.message] = event.at
        self.newest = event.message

    def settle(self, event: Event) -> None:
        if self.let_in.pop(event.message, None) is not None and self.newest == event.message:
            self.newest = ""  # it lost its lease before it began, say

    def start(self, event: Event) -> bool:
        """False: it may not begin, another probe is waited for."""
        self.started[event.message] = event.at
        was_held = event.message in self.let_in
        at = self.let_in.pop(event.message, event.at)
        if not self.is_open:
            return True
        limit = BREAKER.probe_limit_seconds - EPSILON
        waits = any(began <= at < began + limit for began in self.probes.values())
        self.probes[event.message] = at
        if not was_held:
            self.newest = event.message
        return not waits and at >= self.reopened_at - EPSILON

    def end(self, event: Event, interrupt: str) -> None:
        """An older probe, for which nobody waits any more, closes the breaker; its failure changes nothing."""
        began = self.started.get(event.message, math.inf)
        was_probe = self.probes.pop(event.message, None) is not None
        how = interrupt or event.value
        if not self.is_open:
            if how == "Unavailable" and began > self.opened_at:
                self.is_open, self.opened_at = True, event.at
                self._open(event.at)
        elif was_probe and how == "done":
            self.is_open = False
        elif was_probe and how in PROBE_FAILED and event.message == self.newest:
            self._open(event.at)

    def _open(self, at: float) -> None:
        self.reopened_at = at
        self.probes.clear()  # what still runs of these is a straggler now
        self.newest = ""


@rule
def one_probe_at_a_time(tale: Tale) -> Findings:
    """Once a handler has said Unavailable one message at a time begins, until one of these has succeeded."""
    models: dict[str, Model] = defaultdict(Model)
    thrown: dict[tuple[str, str], str] = {}  # the first interrupt of each run, by worker and message
    for event in tale.events:
        model, run = models[event.worker], (event.worker, event.message)
        if event.what == "freed":
            model.free(event)
        elif event.what == "settle":
            model.settle(event)
        elif event.what == "start":
            thrown.pop(run, None)
            if not model.start(event):
                yield event.at, event.message, f"{event.handle} begins beside another probe of {event.worker}"
        elif event.what == "thrown":
            thrown.setdefault(run, event.value)
        elif event.what == "end":
            model.end(event, thrown.get(run, ""))


class Waiting:
    """What one worker holds, what runs there, and what is at work: begun or being settled."""

    def __init__(self, tale: Tale) -> None:
        self._puts = tale.puts if tale.plan.fifo else {}
        self._slots = tale.plan.concurrency
        self._running: set[str] = set()
        self.held: set[str] = set()
        self._at_work: set[str] = set()
        self.since = 0.0  # none that could be tried was held before, or one has begun

    def number(self) -> int:
        """How many could be tried: without a free slot none could, nor what stands behind one of its group at work."""
        if len(self._running) >= self._slots:
            return 0
        if not self._puts:
            return len(self.held)
        busy = {self._group(message) for message in self._at_work}
        return sum(self._group(message) not in busy for message in self.held)

    def _group(self, message: str) -> str:
        return self._puts[message][1]

    def learn(self, event: Event) -> None:
        if event.what == "held":
            self.held.add(event.message)
            self._at_work.discard(event.message)
        elif event.what == "freed":
            self.held.discard(event.message)
        elif event.what in ("start", "settle"):
            self._at_work.add(event.message)
            if event.what == "start":
                self._running.add(event.handle)
        elif event.what == "end":
            self._running.discard(event.handle)
        elif event.what in ("finished", "abandoned"):
            self._at_work.discard(event.message)


@rule
def what_is_held_is_tried(tale: Tale) -> Findings:
    """While a worker holds a message, it begins another now and then: after the longest wait between two probes."""
    longest = max(BREAKER.max_probe_seconds, *ASKED_SECONDS) + BREAKER.probe_limit_seconds + SLACK_SECONDS
    workers: dict[str, Waiting] = defaultdict(lambda: Waiting(tale))
    for event in tale.events if tale.plan.at_once is None else ():
        worker, waiting = event.worker, workers[event.worker]
        number = waiting.number()
        if number and not tale.drains_at(worker, waiting.since):
            until = min(event.at, tale.gone_at(worker))
            if until - waiting.since > longest + tale.still(worker, waiting.since, until):
                yield until, "", f"{worker} holds {number} messages and has begun none for {longest:.1f} s"
                return
        waiting.learn(event)
        if event.what == "start" or not number:
            waiting.since = event.at


@rule
def no_more_at_once(tale: Tale) -> Findings:
    """Of a type with a concurrency no more run at once in one worker."""
    running: dict[str, set[str]] = defaultdict(set)
    for event in tale.events if tale.plan.at_once is not None else ():
        if event.what == "start":
            running[event.worker].add(event.handle)
            if len(running[event.worker]) > (tale.plan.at_once or 0):
                yield event.at, event.message, f"{len(running[event.worker])} run at once in {event.worker}"
        elif event.what == "end":
            running[event.worker].discard(event.handle)


@rule
def an_outage_costs_no_receive(tale: Tale) -> Findings:
    """What fails because the server is down is held: it goes back in a drain, past its time, or without room."""
    lives = {(life.worker, life.key): life for life in tale.lives if life.settled}
    held: dict[str, int] = defaultdict(int)  # bytes
    had_no_room: dict[tuple[str, str], bool] = {}  # when it ended: as it goes back, another may have left the line
    for event in tale.events:
        if event.what in ("held", "freed"):
            held[event.worker] += size_of(event.message) * (1 if event.what == "held" else -1)
        elif event.what == "end":
            had_no_room[event.worker, event.message] = held[event.worker] >= MAX_BYTES // 2
        elif event.what == "settle" and event.value[2] == "unavailable":
            life = lives[event.worker, event.handle]
            is_late = event.at >= min(life.lost_at, _held_until(tale, life, event.at)) - EPSILON
            is_allowed = is_late or had_no_room[event.worker, event.message] or tale.drains_at(event.worker, event.at)
            if not is_allowed:
                yield event.at, life.message, f"{life.key} says Unavailable, and goes back"


@rule
def held_for_so_long(tale: Tale) -> Findings:
    """None is held past max_hold_seconds, less the visibility time-out for which it could still run."""
    for life in tale.lives:
        for at in life.held:
            until = _held_until(tale, life, at) + tale.plan.visibility / 3 + SLACK_SECONDS
            freed = min((one for one in life.freed if one >= at), default=math.inf)
            end = min(freed, tale.gone_at(life.worker), tale.events[-1].at, life.lost_at)
            if end > until + tale.still(life.worker, until, end):
                yield until, life.message, f"{life.key} is held for {end - life.got:.1f} s"


def _held_until(tale: Tale, life: Life, at: float) -> float:
    """By its newest receive at that moment."""
    given = [given for read, given in life.given if read <= at]
    return given[-1] + tale.plan.max_hold - tale.plan.visibility
