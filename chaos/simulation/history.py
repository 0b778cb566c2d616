"""What happened in one schedule, event by event: all that the rules look at."""

from __future__ import annotations

from typing import Any

import msgspec


class Event(msgspec.Struct, gc=False):
    """`what` happened at `at`; which of the other fields count depends on it.

    The world:    put, gave, duplicate, changed, deleted, letter, job, fault, calm
    A process:    boot, drain, drained, crash, still, hub_error, core_error
    Its calls:    asked (one an entry), polled, answered (one a call)
    Its messages: got, held, freed, start, thrown, end, settle, finished, abandoned, hold
    """

    at: float
    what: str
    worker: str = ""
    message: str = ""
    handle: str = ""
    call: int = 0
    value: Any = None


class History:
    """Append only. `now` is asked for each event."""

    def __init__(self, now: Any) -> None:
        self.events: list[Event] = []
        self._now = now

    def add(
        self, what: str, worker: str = "", message: str = "", handle: str = "", call: int = 0, value: Any = None
    ) -> None:
        self.events.append(Event(self._now(), what, worker, message, handle, call, value))


def story(events: list[Event], start: float, message: str = "") -> str:
    """The events as lines; where a message is named, only what concerns it: its own, its calls, and all processes."""
    general = {"boot", "drain", "drained", "crash", "still", "calm", "hub_error", "core_error"}
    calls = {event.call for event in events if event.message == message and event.call}
    own = [
        one
        for one in events
        if one.message == message or one.what in general or (not one.message and one.call in calls)
    ]
    return "\n".join(_line(event, start) for event in (own if message else events))


def _line(event: Event, start: float) -> str:
    value = "" if event.value is None else f" {event.value}"
    call = f" call {event.call}" if event.call else ""
    return f"{event.at - start:9.3f} {event.worker:3} {event.what:9} {event.handle or event.message}{call}{value}"


def message_of(handle: str) -> str:
    """A handle is the message's id and the number of its receive."""
    return handle.split("#", 1)[0]


def receive_of(handle: str) -> int:
    """The number of the receive."""
    return int(handle.split("#", 1)[1])
