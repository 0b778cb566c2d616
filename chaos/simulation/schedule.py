"""Runs one schedule: the plan's world from its first message to the last delete, and then a drain."""

from __future__ import annotations

import json
import logging
import random
from collections.abc import Iterator
from contextlib import contextmanager
from random import Random
from typing import Any

import gevent

from chaos.simulation.clock import WorldClock
from chaos.simulation.history import History
from chaos.simulation.link import Network
from chaos.simulation.plan import Happening, Plan
from chaos.simulation.sqs import LetterBox, SimulatedQueue
from chaos.simulation.worker import Worker
from millpond.hub import pool
from millpond.sqs.queue import Entry
from tests.virtual import settle

#: Seconds after the faults have stopped within which all must be done.
PATIENCE_SECONDS = 5_000.0


class Schedule:
    """The world of one plan. `run` returns its history."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        chance = Random(plan.seed + 1)
        self.clock = WorldClock(plan.together)
        self.history = History(self.clock.now)
        self.queue = SimulatedQueue(self.clock, self.history, chance, fifo=plan.fifo, duplicates=plan.duplicates)
        self.letters = LetterBox(plan.fifo)
        self.network = Network(plan, self.clock, self.history, chance)
        self.workers: list[Worker] = []  # all that ever were
        self.serving: list[Worker] = []  # by place; another takes the place of one that ends

    def run(self) -> History:
        with _alone(self.plan.seed, self.history):
            try:
                self._set_up()
                self._live()
                self._end()
            finally:
                for worker in self.workers:
                    worker.remove()
                settle()
        return self.history

    def _set_up(self) -> None:
        for when, group, kind in self.plan.puts:
            self.clock.timer(when, lambda group=group, kind=kind: self._put(group, kind))
        for _ in range(self.plan.workers):
            self.serving.append(self._boot())
        for happening in self.plan.happenings:
            self.clock.timer(happening.at, lambda happening=happening: self._happen(happening))
        self.clock.timer(self.plan.calm_at, self._calm)

    def _put(self, group: str, kind: str) -> None:
        body = "{" if kind == "torn" else json.dumps({"event_type": kind, "payload": 0})
        self.queue.put(Entry(body, group_id=group), kind)

    def _boot(self) -> Worker:
        name = f"w{len(self.workers) + 1}"
        worker = self._worker(name)
        self.workers.append(worker)
        worker.start()
        settle()  # this moment, not the next
        return worker

    def _worker(self, name: str) -> Worker:
        return Worker(name, self.plan, self.clock, self.history, self.queue, self.letters, self.network)

    def _happen(self, happening: Happening) -> None:
        worker = self.serving[happening.worker]
        if happening.what == "drain":
            worker.drain()
        elif happening.what == "crash":
            worker.crash()
        elif not worker.over:
            worker.record("still", value=happening.seconds)
            worker.clock.stand_still(happening.seconds)

    def _calm(self) -> None:
        """From now on nothing goes wrong any more."""
        self.network.calm = True
        self.queue.duplicates = 0.0
        self.history.add("calm")

    def _live(self) -> None:
        """Until every message is done."""
        end = self.clock.now() + self.plan.calm_at + PATIENCE_SECONDS
        all_put = self.clock.now() + max(when for when, _, _ in self.plan.puts)
        while self.clock.now() < end and self.clock.step():
            for place, worker in enumerate(self.serving):
                if worker.over:
                    worker.remove()
                    self.serving[place] = self._boot()
            if self.queue.is_empty() and self.clock.now() > all_put and self._is_idle():
                break

    def _is_idle(self) -> bool:
        """Also what a worker has sent that is gone by now: it can still come."""
        if self.network.on_their_way:
            return False
        return all(not worker.consumer.in_hand and not worker.draining for worker in self.serving)

    def _end(self) -> None:
        """Everybody drains."""
        self._calm()
        for worker in self.serving:
            worker.drain()
        settle()
        end = self.clock.now() + self.plan.drain_seconds + 120.0
        while self.clock.now() < end and not all(worker.over for worker in self.serving) and self.clock.step():
            pass
        left = [one.id for one in self.queue.messages.values()]
        self.history.add("the end", value=left)


@contextmanager
def _alone(seed: int, history: History) -> Iterator[None]:
    """What is the process's own, as a schedule needs it: chance by its seed, no real time, a silent log."""
    hub, turn_seconds, state = gevent.get_hub(), pool.TURN_SECONDS, random.getstate()
    level = logging.root.manager.disable

    def handle_error(context: Any, kind: Any, value: Any, trace: Any) -> None:
        if not isinstance(context, gevent.Greenlet):  # those tell their process
            history.add("hub_error", value=repr(value))

    random.seed(seed)
    pool.TURN_SECONDS = float("inf")
    logging.disable(logging.CRITICAL)
    hub.handle_error = handle_error
    try:
        yield
    finally:
        del hub.handle_error
        logging.disable(level)
        pool.TURN_SECONDS = turn_seconds
        random.setstate(state)
