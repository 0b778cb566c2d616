"""One schedule of idempotent handlers: copies of events, a store that fails, and processes that stop, end and crash."""

from __future__ import annotations

import json
from random import Random
from typing import Any

import msgspec

from chaos.claimed.table import Table, TableLink
from chaos.simulation.plan import Happening, Plan, Script, draw
from chaos.simulation.schedule import Schedule
from chaos.simulation.worker import Worker
from millpond.app.routing import Route
from millpond.engine.claiming import Claiming
from millpond.message import Message
from millpond.sqs.queue import Entry

#: The share of messages that are copies of an event which was sent before.
COPIES = 0.25
#: How far apart the clocks of two processes are at the most: less than the stated margin.
APART_SECONDS = 4.0


class ClaimedPlan(msgspec.Struct):
    """What a seed decides besides its Plan."""

    copies: float
    apart_seconds: float  # the clocks of two processes, at most
    outages: list[tuple[float, float]]  # of the store: when, and for how long


def draw_claimed(seed: int) -> tuple[Plan, ClaimedPlan]:
    """The plan of a seed, with faults on the way to the store in some of them."""
    chance = Random(-2 * seed - 1)
    plan = draw(seed)
    if plan.hold:
        plan = draw(seed + 1_000_000)
    rates = dict(plan.fault_rate)
    if chance.random() < 0.6:
        rates["claims"] = chance.choice((0.02, 0.1, 0.3))
    plan = msgspec.structs.replace(
        plan,
        workers=max(2, plan.workers),
        visibility=max(12, plan.visibility),
        fault_rate=rates,
        happenings=plan.happenings + _happenings(chance),
        long=chance.choice((plan.long, 0.2, 0.4)),
    )
    outages = [
        (chance.uniform(0.0, 40.0), chance.choice((1.0, 8.0, 40.0, 120.0))) for _ in range(chance.choice((0, 0, 1, 2)))
    ]
    return plan, ClaimedPlan(chance.choice((0.0, COPIES, COPIES)), chance.choice((0.0, 0.5, APART_SECONDS)), outages)


def _happenings(chance: Random) -> list[Happening]:
    """A process stands still for longer than its claims last, or crashes in the middle of work."""
    return [
        Happening(chance.uniform(0.5, 50.0), what, chance.randrange(2), chance.choice((5.0, 30.0, 60.0)))
        for what in ("still", "still", "crash", "drain")
        if chance.random() < 0.3
    ]


class ClaimedWorker(Worker):
    """A process whose one handler is idempotent; it writes down which token each run has, and each effect."""

    def __init__(self, *arguments: Any, table: Table, ahead_seconds: float) -> None:
        self._table = table
        super().__init__(*arguments)
        own_time = self.clock.time
        self.clock.time = lambda: own_time() + ahead_seconds  # type: ignore[method-assign]

    def _route(self) -> Route:
        return msgspec.structs.replace(super()._route(), idempotent=True)

    def _claiming(self) -> Claiming | None:
        return Claiming(TableLink(self.name, self._table, self._network, self.clock), self.clock)

    def _perform(self, script: Script, message: Message, handle: str) -> str:
        delivery = self.consumer.hand.deliveries[message.id]
        own, token = delivery.received.receipt_handle, delivery.claim.token if delivery.claim is not None else ""
        self.record("begun", message.event_id, own, (message.id, token))
        result = super()._perform(script, message, handle)
        self.record("effect", message.event_id, own, (message.id, token))
        return result


class ClaimedSchedule(Schedule):
    """The world of one plan, with one store."""

    def __init__(self, plan: Plan, claimed: ClaimedPlan) -> None:
        super().__init__(plan)
        self._claimed = claimed
        self._chance = Random(-2 * plan.seed - 2)
        self._events: list[str] = []
        self.table = Table()
        self.events: dict[str, str] = {}  # message -> its event

    def _set_up(self) -> None:
        super()._set_up()
        for at, seconds in self._claimed.outages:
            self.clock.timer(at, lambda: self._turn(down=True))
            self.clock.timer(at + seconds, lambda: self._turn(down=False))

    def _turn(self, *, down: bool) -> None:
        self.table.down = down
        self.history.add("store", value="down" if down else "up")

    def _calm(self) -> None:
        super()._calm()
        self.table.down = False

    def _put(self, group: str, kind: str) -> None:
        if kind != "work":
            super()._put(group, kind)
            return
        if self._events and self._chance.random() < self._claimed.copies:
            event_id = self._chance.choice(self._events)
        else:
            event_id = f"e{len(self._events) + 1}"
            self._events.append(event_id)
        body = json.dumps({"event_type": kind, "event_id": event_id, "payload": 0})
        self.events[self.queue.put(Entry(body, group_id=group), kind)] = event_id

    def _worker(self, name: str) -> Worker:
        world = (self.plan, self.clock, self.history, self.queue, self.letters, self.network)
        ahead_seconds = self._chance.uniform(0.0, self._claimed.apart_seconds)
        return ClaimedWorker(name, *world, table=self.table, ahead_seconds=ahead_seconds)
