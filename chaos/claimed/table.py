"""The store of a schedule, and the way of one process to it, on which calls fail, are lost or late."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from chaos.simulation.clock import ProcessClock
from chaos.simulation.link import Answer, Fate, Network
from millpond.claims.claim import ClaimRecord, TableFinding
from millpond.claims.memory import MemoryClaims
from millpond.errors import ClaimStoreError

#: Of one call, as the table's own client has it.
CALL_SECONDS = 15.0
KEPT_SECONDS = 7 * 86_400.0


class Table:
    """The store itself, in the world: each write is one step. While it is `down` it answers no call."""

    def __init__(self) -> None:
        self.down = False
        self.records = MemoryClaims(KEPT_SECONDS)


class TableLink:
    """Fulfils millpond.claims.claim.ClaimStore for one process.

    History: `wanted` when a call is made, `wrote` when its write is done at the store, `heard` when its answer is read.
    """

    def __init__(self, worker: str, table: Table, network: Network, clock: ProcessClock) -> None:
        self._worker = worker
        self._table = table
        self._network = network
        self._history = network.history
        self._clock = clock

    def claim(self, key: str, token: str, digest: str, lease_until: float, now: float) -> Any:
        return self._call("claim", token, lease_until, key, token, digest, lease_until, now)

    def renew(self, key: str, token: str, lease_until: float, now: float) -> bool:
        return bool(self._call("renew", token, lease_until, key, token, lease_until, now))

    def complete(self, key: str, token: str, now: float) -> bool:
        return bool(self._call("complete", token, None, key, token, now))

    def release(self, key: str, token: str, failures: int | None, now: float) -> bool:
        return bool(self._call("release", token, failures, key, token, failures, now))

    def read(self, key: str) -> ClaimRecord | None:
        raise NotImplementedError

    def remove(self, key: str, token: str) -> bool:
        raise NotImplementedError

    def check(self) -> list[TableFinding]:
        return []

    def _call(self, name: str, token: str, more: Any, key: str, *arguments: Any) -> Any:
        event, call = key.split(" ", 1)[1], next(self._network.calls)
        self._note("wanted", event, call, (name, token, more))
        fate = self._network.fate("claims")
        if fate.kind:
            self._history.add("fault", self._worker, event, call=call, value=f"claims {fate.kind}")
        answer = Answer()

        def write() -> Any:
            result = getattr(self._table.records, name)(key, *arguments)
            self._history.add("wrote", self._worker, event, call=call, value=(name, token, more, result, arguments[-1]))
            return result

        self._send(fate, write, answer)
        timer = self._clock.timer(CALL_SECONDS, lambda: answer.put(ClaimStoreError("simulated: no answer")))
        value = answer.wait()
        timer.cancel()
        self._note("heard", event, call, (name, token, value))
        if isinstance(value, ClaimStoreError):
            raise value
        return value

    def _note(self, what: str, event: str, call: int, value: Any) -> None:
        if not self._clock.dead:
            self._history.add(what, self._worker, event, call=call, value=value)

    def _send(self, fate: Fate, write: Callable[[], Any], answer: Answer) -> None:
        kind, world = fate.kind, self._network.clock

        def back(value: Any) -> None:
            if kind in ("lost_after", "lie"):
                value = ClaimStoreError("simulated: the connection broke")
            if kind != "hangs":
                self._clock.timer(fate.back, lambda: answer.put(value))

        def arrive() -> None:
            self._network.on_their_way -= 1
            back(ClaimStoreError("simulated: it is down") if self._table.down else write())

        if kind == "lost_before":
            self._clock.timer(fate.there, lambda: answer.put(ClaimStoreError("simulated: no connection")))
        elif kind in ("error", "throttled", "partial"):
            world.timer(fate.there, lambda: back(ClaimStoreError("simulated: 500")))
        else:
            self._network.on_their_way += 1
            world.timer(fate.there, arrive)
