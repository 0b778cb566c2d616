"""A history as the rules of claims read it: what was written at the store, what ran, and what had an effect."""

from __future__ import annotations

import math
from collections import defaultdict
from typing import Any

import msgspec

from chaos.simulation.history import Event
from chaos.simulation.plan import Plan


class Write(msgspec.Struct, frozen=True):
    """A write that was done at the store, or refused there. `now`: by the clock of who asked for it."""

    at: float
    event: str
    name: str
    token: str
    more: Any  # of a claim or renewal its lease_until, of a release the number of failures
    answer: Any
    now: float

    @property
    def is_claimed(self) -> bool:
        return self.name == "claim" and type(self.answer).__name__ == "Claimed"


class Run(msgspec.Struct, eq=False):
    """One run of a handler under a claim."""

    worker: str
    event: str
    message: str
    handle: str
    token: str
    begun: float
    interrupted: bool = False
    effect: float = math.inf  # of a handler that goes on in spite of an interrupt none counts
    settled: tuple[float, str, str, int] | None = None  # when, outcome, cause, follow-ups
    over: float = math.inf
    how: str = ""


class ClaimTale(msgspec.Struct, eq=False):
    """A history, read. `stills` and `gone` are those of the processes."""

    plan: Plan
    events: list[Event]
    event_of: dict[str, str]  # message -> event
    of_kind: dict[str, list[Event]]
    writes: list[Write]
    runs: list[Run]
    stills: dict[str, list[tuple[float, float]]]
    gone: dict[str, float]
    drains: dict[str, float]
    by_token: dict[str, list[Write]]
    by_event: dict[str, list[Write]]

    def stood_still(self, worker: str, begin: float, end: float) -> bool:
        return any(since <= end and until >= begin for since, until in self.stills.get(worker, ()))

    def of_token(self, token: str) -> list[Write]:
        return self.by_token.get(token, [])

    def is_troubled(self, event: str) -> bool:
        """Whether any call that concerns this event went wrong, or a process that had it in hand did."""
        messages = {message for message, its_event in self.event_of.items() if its_event == event}
        return any(fault.message == event or fault.message in messages for fault in self.of_kind["fault"])


def read(plan: Plan, events: list[Event], event_of: dict[str, str]) -> ClaimTale:
    """The tale of a history."""
    of_kind: dict[str, list[Event]] = defaultdict(list)
    tale = ClaimTale(
        plan, events, event_of, of_kind, [], [], defaultdict(list), {}, {}, defaultdict(list), defaultdict(list)
    )
    open_runs: dict[tuple[str, str], Run] = {}  # by worker and message
    for event in events:
        of_kind[event.what].append(event)
        match event.what:
            case "wrote":
                write = Write(event.at, event.message, *event.value)
                tale.writes.append(write)
                tale.by_token[write.token].append(write)
                tale.by_event[write.event].append(write)
            case "still":
                tale.stills[event.worker].append((event.at, event.at + event.value))
            case "crash" | "drained":
                tale.gone[event.worker] = event.at
            case "drain":
                tale.drains[event.worker] = event.at
            case "begun":
                message, token = event.value
                run = Run(event.worker, event.message, message, event.handle, token, event.at)
                tale.runs.append(run)
                open_runs[event.worker, message] = run
            case "effect":
                # Else it was written off before: it has gone on in spite of every interrupt.
                running = open_runs.get((event.worker, event.value[0]))
                if running is not None and not running.interrupted and running.handle == event.handle:
                    running.effect = event.at
            case _:
                ended = open_runs.get((event.worker, event.message))
                if ended is not None and (event.what == "thrown" or ended.handle == event.handle):
                    _end(ended, event)
                    if ended.over < math.inf:
                        del open_runs[event.worker, event.message]
    return tale


def _end(run: Run, event: Event) -> None:
    if event.what == "thrown":
        run.interrupted = True
    elif event.what == "settle":
        name, _, cause, follow_ups = event.value
        run.settled = (event.at, name, cause, follow_ups)
    elif event.what == "finished":
        run.over, run.how = event.at, event.value
    elif event.what == "abandoned":
        run.over, run.how = event.at, "abandoned"
