"""The way of one process to its queues: a network on which everything can go wrong."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Sequence
from functools import partial
from random import Random
from typing import Any

import msgspec
from gevent.event import Event as GeventEvent

from chaos.simulation.clock import ProcessClock, WorldClock
from chaos.simulation.history import History, message_of
from chaos.simulation.plan import Plan
from chaos.simulation.sqs import LetterBox, SimulatedQueue, WaitingPoll
from millpond.app.dead_letter import ATTRIBUTE
from millpond.errors import QueueError, Throttled, Unreachable
from millpond.sqs.queue import MISSING, Entry, Failure, Received

INTERNAL = Failure("InternalError", "simulated")
REFUSED = Failure("InvalidMessageContents", "simulated", True)


class Fate(msgspec.Struct):
    """What becomes of one call. `there` and `back` are seconds."""

    kind: str
    there: float
    back: float


class Network:
    """Draws the fate of each call, until the faults stop."""

    def __init__(self, plan: Plan, clock: WorldClock, history: History, chance: Random) -> None:
        self.plan = plan
        self.clock = clock
        self.history = history
        self.chance = chance
        self.calls = itertools.count(1)
        self.on_their_way = 0  # calls that SQS has not heard of yet
        self.calm = False

    def fate(self, name: str) -> Fate:
        chance = self.chance
        fate = Fate("", 0.003 + chance.random() * 0.03, 0.003 + chance.random() * 0.03)
        if not self.calm and chance.random() < self.plan.fault_rate.get(name, 0.0):
            fate.kind = chance.choice(self.plan.fault_kinds)
            if fate.kind == "slow_there":
                fate.there += chance.choice((0.5, 2.0, 6.0, 12.0)) * chance.random()
            elif fate.kind == "slow_back":
                fate.back += chance.choice((0.5, 2.0, 6.0, 12.0)) * chance.random()
        return fate


class Answer:
    """Of one call: awaited in the process, put by a timer of its clock."""

    def __init__(self) -> None:
        self._there = GeventEvent()
        self._value: Any = None

    def put(self, value: Any) -> None:
        self._value = value
        self._there.set()

    def wait(self) -> Any:
        self._there.wait()
        return self._value


class Link:
    """Fulfils millpond.sqs.queue.Queue for one process and one queue."""

    def __init__(self, worker: str, queue: SimulatedQueue | LetterBox, network: Network, clock: ProcessClock) -> None:
        self.url = f"http://sqs.test/000000000000/q{'.fifo' if queue.fifo else ''}"
        self._worker = worker
        self._queue: Any = queue
        self._network = network
        self._history = network.history
        self._clock = clock
        self._letters = isinstance(queue, LetterBox)

    # Queue

    def receive(
        self, max_messages: int, wait_seconds: int, visibility_seconds: int, attempt_id: str = ""
    ) -> list[Received]:
        call = next(self._network.calls)
        self._history.add("polled", self._worker, call=call, value=(max_messages, wait_seconds, attempt_id))

        def serve(done: Callable[[Any], object]) -> None:
            poll = WaitingPoll(self._worker, call, max_messages, visibility_seconds, done, attempt_id)
            self._queue.poll(poll, wait_seconds)

        found: list[Received] = self._call("receive", call, [], serve)
        return found

    def delete(self, receipt_handles: Sequence[str]) -> list[Failure | None]:
        steps = [partial(self._queue.delete, handle) for handle in receipt_handles]
        return self._batch("delete", [(message_of(handle), handle, None) for handle in receipt_handles], steps)

    def change_visibility(self, changes: Sequence[tuple[str, int]]) -> list[Failure | None]:
        steps = [partial(self._queue.change, handle, seconds) for handle, seconds in changes]
        return self._batch(
            "change_visibility", [(message_of(handle), handle, seconds) for handle, seconds in changes], steps
        )

    def send(self, entries: Sequence[Entry]) -> list[Failure | None]:
        name = "letter" if self._letters else "job"
        steps = [partial(self._put, name, entry) for entry in entries]
        return self._batch(name, [(origin(entry), "", None) for entry in entries], steps)

    def attributes(self) -> dict[str, str]:
        return {}

    def _put(self, name: str, entry: Entry, worker: str, call: int) -> Failure | None:
        network = self._network
        if self._letters and _reason(entry) is None:
            return REFUSED  # one that was refused with its reason is refused without it as well
        if self._letters and not network.calm and network.chance.random() < network.plan.refused_letters:
            self._history.add("fault", worker, origin(entry), call=call, value="refused")
            return REFUSED
        self._history.add(name, worker, origin(entry), call=call, value=_reason(entry))
        self._queue.put(entry, name)
        return None

    # A call

    def _batch(
        self, name: str, entries: list[tuple[str, str, int | None]], steps: list[Callable[[str, int], Failure | None]]
    ) -> list[Failure | None]:
        call = next(self._network.calls)
        for message, handle, seconds in entries:
            self._history.add("asked", self._worker, message, handle, call, (name, seconds))
        kind = ""

        def serve(done: Callable[[Any], object]) -> None:
            done([self._step(step, kind, call) for step in steps])

        fate = self._network.fate("send" if name in ("letter", "job") else name)
        kind = fate.kind
        found: list[Failure | None] = self._call(name, call, [entry[0] for entry in entries], serve, fate)
        return found

    def _step(self, step: Callable[[str, int], Failure | None], kind: str, call: int) -> Failure | None:
        """One entry, at the server. A fault of single entries hits about half of them."""
        hit = kind in ("partial", "lie") and self._network.chance.random() < 0.5
        if hit and kind == "partial":
            return INTERNAL
        result = step(self._worker, call)
        return self._network.chance.choice((INTERNAL, MISSING)) if hit and result is None else result

    def _call(
        self,
        name: str,
        call: int,
        messages: list[str],
        serve: Callable[[Callable[[Any], object]], object],
        fate: Fate | None = None,
    ) -> Any:
        """Send, wait, and read the answer; `messages` are those that a fault of this call explains things of."""
        fate = fate or self._network.fate(name)
        if fate.kind:
            for message in messages or [""]:
                self._history.add("fault", self._worker, message, call=call, value=f"{name} {fate.kind}")
        answer = Answer()
        self._send(fate, serve, answer)
        try:
            value = answer.wait()
        except BaseException:
            self._ended(name, call, "cut", None)
            raise
        if isinstance(value, QueueError):
            self._ended(name, call, type(value).__name__, None)
            raise value
        self._ended(name, call, "", value)
        return value

    def _ended(self, name: str, call: int, error: str, value: Any) -> None:
        if not self._clock.dead:
            if name == "receive":
                value = value and [received.receipt_handle for received in value]
            self._history.add("answered", self._worker, call=call, value=(name, error, value))

    def _send(self, fate: Fate, serve: Callable[[Callable[[Any], object]], object], answer: Answer) -> None:
        world, kind = self._network.clock, fate.kind

        def back(value: Any) -> None:
            if kind == "lost_after":
                value = Unreachable("simulated: the connection broke")
            if kind != "hangs":
                self._clock.timer(fate.back, lambda: answer.put(value))

        def arrive() -> None:
            self._network.on_their_way -= 1
            serve(back)

        if kind == "lost_before":
            self._clock.timer(fate.there, lambda: answer.put(Unreachable("simulated: no connection")))
        elif kind == "error":
            world.timer(fate.there, lambda: back(Unreachable("simulated: 500", "InternalError")))
        elif kind == "throttled":
            world.timer(fate.there, lambda: back(Throttled("simulated", "RequestThrottled")))
        else:
            self._network.on_their_way += 1
            world.timer(fate.there, arrive)


def origin(entry: Entry) -> str:
    """The message that a dead letter is the copy of, or that a follow-up was left behind by; "" where nothing tells."""
    reason = _reason(entry)
    if reason is not None and reason["message_id"]:
        return str(reason["message_id"])
    try:
        return str(json.loads(entry.body)["event_id"]).split("/")[0]
    except (ValueError, KeyError):  # a dead letter without its reason
        return ""


def _reason(entry: Entry) -> dict[str, str] | None:
    attribute = entry.attributes.get(ATTRIBUTE)
    return None if attribute is None else json.loads(attribute.value)
