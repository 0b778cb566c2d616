"""Workers whose handlers are idempotent, at one store of claims that can fail: what the tests of claims share."""

from __future__ import annotations

import json
from collections import defaultdict
from typing import Any

from gevent.event import Event

from millpond.claims.claim import Answer, ClaimRecord
from millpond.claims.memory import MemoryClaims
from millpond.errors import ClaimStoreError
from tests.fakes import FakeQueue
from tests.rig import Rig

DOWN = ClaimStoreError("the table claims does not answer: look at its region")
#: How long a record is kept.
KEPT_SECONDS = 7 * 86_400.0


class Store:
    """A ClaimStore in memory. `calls` has (name, token, more, answer), in the order of the writes.

    `down`: each call fails, with nothing written. `script[name]`: what the next calls of that name do: "lost" writes,
    and fails then; any other error is raised before. `gates[name]` holds the answers of calls of that name until set.
    """

    def __init__(self, clock: Any, seconds: float = 0.0) -> None:
        self.clock = clock
        self.seconds = seconds  # that each answer takes
        self.down = False
        self.calls: list[tuple[str, str, Any, Any]] = []
        self.script: defaultdict[str, list[Any]] = defaultdict(list)
        self.gates: dict[str, Event] = {}
        self.memory = MemoryClaims(KEPT_SECONDS)

    def claim(self, key: str, token: str, digest: str, lease_until: float, now: float) -> Answer:
        answer: Answer = self._do("claim", token, lease_until, key, token, digest, lease_until, now)
        return answer

    def renew(self, key: str, token: str, lease_until: float, now: float) -> bool:
        return bool(self._do("renew", token, lease_until, key, token, lease_until, now))

    def complete(self, key: str, token: str, now: float) -> bool:
        return bool(self._do("complete", token, None, key, token, now))

    def release(self, key: str, token: str, failures: int | None, now: float) -> bool:
        return bool(self._do("release", token, failures, key, token, failures, now))

    def _do(self, name: str, token: str, more: Any, *arguments: Any) -> Any:
        step = self.script[name].pop(0) if self.script[name] else None
        if self.seconds:
            self.clock.sleep(self.seconds)
        if name in self.gates:
            self.gates[name].wait()
        if callable(step):
            step()
        if self.down or isinstance(step, BaseException):
            raise step or DOWN
        answer = getattr(self.memory, name)(*arguments)
        self.calls.append((name, token, more, answer))
        if step == "lost":
            raise DOWN
        return answer

    def names(self) -> list[str]:
        return [name for name, _, _, _ in self.calls]

    def record(self, key: str) -> ClaimRecord | None:
        return self.memory.read(key)

    def read(self, key: str) -> ClaimRecord | None:
        raise NotImplementedError

    def remove(self, key: str, token: str) -> bool:
        raise NotImplementedError

    def check(self) -> list[Any]:
        raise NotImplementedError


class Effects:
    """A handler that takes `seconds` and then has its effect; `done` has the ids of the messages that had it.

    `steps`: what the next runs do instead of succeeding: an exception is raised, a callable is called with the message.
    """

    def __init__(self, clock: Any, seconds: float = 0.0, steps: list[Any] | None = None) -> None:
        self.clock = clock
        self.seconds = seconds
        self.steps = steps or []
        self.begun: list[tuple[float, str]] = []
        self.done: list[str] = []
        self.raised: list[str] = []  # the interrupts that came into it

    def __call__(self, payload: Any, message: Any) -> None:
        self.begun.append((self.clock.now(), message.id))
        try:
            if self.seconds:
                self.clock.sleep(self.seconds)
        except BaseException as error:
            self.raised.append(type(error).__name__)
            raise
        step = self.steps.pop(0) if self.steps else None
        if isinstance(step, BaseException) or (isinstance(step, type) and issubclass(step, BaseException)):
            raise step
        if step is not None:
            step(message)
        self.done.append(message.id)


def body(event_id: str = "e1", payload: Any = None) -> str:
    return json.dumps({"event_type": "job", "event_id": event_id, "payload": payload})


def worker(clock: Any, store: Store, handler: Any, queue: FakeQueue | None = None, **settings: Any) -> Rig:
    """A worker that receives; a second one of the same queue gets that of the first."""
    rig = Rig(clock, {"job": handler}, queue=queue, store=store, **settings)
    rig.consumer.pollers.start()
    return rig
