"""What a gate holds: one probe at a time, tried again and again; no more at once than may be; none for too long."""

from __future__ import annotations

import math
from collections import defaultdict

from chaos.simulation.history import Event
from chaos.simulation.lives import Life, Tale
from chaos.simulation.rules.rule import EPSILON, SLACK_SECONDS, Findings, rule
from chaos.simulation.sqs import size_of
from chaos.simulation.worker import BREAKER, MAX_BYTES


class Model:
    """What one worker's breaker must be, by what its handlers said."""

    def __init__(self) -> None:
        self.is_open = False
        self.opened_at = -math.inf
        self.probes: dict[str, float] = {}  # of this opening, by handle: when each began
        self.last_probe = (
            ""  # of these, while it runs: what fails in an older one, that nobody waits for, shows nothing
        )
        self.started: dict[str, float] = {}
        self.let_in: dict[str, float] = {}  # from the line, when

    def start(self, event: Event) -> bool:
        """False: it may not begin, another probe is waited for."""
        self.started[event.handle] = event.at
        if not self.is_open:
            return True
        at = self.let_in.get(event.handle, event.at)
        waits = any(at < began + BREAKER.probe_limit_seconds - EPSILON for began in self.probes.values())
        self.probes[event.handle] = at
        self.last_probe = event.handle
        return not waits

    def end(self, event: Event, interrupted: bool) -> None:
        began = self.started.get(event.handle, math.inf)
        was_probe = self.probes.pop(event.handle, None) is not None
        was_last = event.handle == self.last_probe
        self.last_probe = "" if was_last else self.last_probe
        if interrupted:
            return
        if event.value == "Unavailable" and not self.is_open and began > self.opened_at:
            self.is_open, self.opened_at = True, event.at
            self.probes.clear()
        elif event.value == "Unavailable" and was_last:
            self.probes.clear()  # what still runs of these is a straggler now
        elif event.value == "done" and was_probe:
            self.is_open = False


@rule
def one_probe_at_a_time(tale: Tale) -> Findings:
    """Once a handler has said Unavailable one message at a time begins, until one of these has succeeded."""
    models: dict[str, Model] = defaultdict(Model)
    thrown: dict[str, set[str]] = defaultdict(set)
    for event in tale.events:
        model = models[event.worker]
        if event.what == "freed":
            model.let_in[event.handle] = event.at
        elif event.what == "start":
            thrown[event.worker].discard(event.handle)
            if not model.start(event):
                yield event.at, event.message, f"{event.handle} begins beside another probe of {event.worker}"
        elif event.what == "thrown":
            thrown[event.worker].add(event.handle)
        elif event.what == "end":
            model.end(event, event.handle in thrown[event.worker])


@rule
def what_is_held_is_tried(tale: Tale) -> Findings:
    """While a worker holds a message, it begins another now and then: after the longest wait between two probes."""
    longest = BREAKER.max_probe_seconds + BREAKER.probe_limit_seconds + SLACK_SECONDS
    held: dict[str, set[str]] = defaultdict(set)
    since: dict[str, float] = {}
    for event in tale.events:
        worker = event.worker
        if held[worker] and worker not in tale.drains and tale.plan.at_once is None:
            until = min(event.at, tale.gone_at(worker))
            if until - since[worker] > longest + tale.still(worker, since[worker], until):
                yield until, "", f"{worker} holds {len(held[worker])} messages and has begun none for {longest:.1f} s"
                return
        if event.what in ("start", "drain") or (event.what == "held" and not held[worker]):
            since[worker] = event.at
        if event.what == "held":
            held[worker].add(event.handle)
        elif event.what == "freed":
            held[worker].discard(event.handle)


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
    for event in tale.events:
        if event.what in ("held", "freed"):
            held[event.worker] += size_of(event.message) * (1 if event.what == "held" else -1)
        elif event.what == "settle" and event.value[2] == "unavailable" and event.worker not in tale.drains:
            life = lives[event.worker, event.handle]
            is_full = held[event.worker] >= MAX_BYTES // 2
            if event.at < min(life.lost_at, _held_until(tale, life, event.at)) - EPSILON and not is_full:
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
    since = max([life.got, *(when for when, _ in life.handles if when <= at)])
    return since + tale.plan.max_hold - tale.plan.visibility
