"""The proxy between workers and the table of claims, a process of its own: `python -m chaos.claim_proxy`.

It is the proxy of the queue with another log: every write that reached the table, by which token, and whether the table
took it. Writes of one record go to the table one after another, so that the log has them in the table's own order; moto
has threads, and its conditions hold only so. proxy_process.py starts it.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from pathlib import Path
from typing import Any, Literal

import gevent
import msgspec
from gevent.lock import BoundedSemaphore

from chaos import http
from chaos.chance import chance
from chaos.fault_log import FaultLog, ReceiveLog
from chaos.faults import Fault
from chaos.http import HttpMessage, Wire
from chaos.moment import now
from chaos.proxy import Proxy, Struck, arguments, serve
from chaos.upstream import Upstream

_STATUS = re.compile(rb"^HTTP/1\.\d (\d+ [^\r]*)")
_PATH = re.compile(rb"^POST \S+ ")

#: The share of writes that are late, and how late at least: the lease that they were for has ended by then, with the
#: margin of the clocks, where the visibility time-out is 3 s.
LATE_SHARE, LATE_SECONDS = 0.08, 9.0

What = Literal["claim", "renew", "done", "release"]


class ClaimWrite(msgspec.Struct, frozen=True):
    """One write that reached the table. `stale`: another token had claimed the record since this one did."""

    moment: float
    worker: str
    key: str
    what: What
    token: str
    taken: bool
    stale: bool


class ClaimTable(Upstream):
    """The way to the table. A connection for each call: moto's server keeps none."""

    def __init__(self, host: str, port: int, log: Path) -> None:
        super().__init__(host, port)
        self._file = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        self._turns: defaultdict[str, BoundedSemaphore] = defaultdict(BoundedSemaphore)
        self._owners: dict[str, str] = {}

    def call(self, data: bytes) -> HttpMessage:
        head, _, body = data.partition(b"\r\n\r\n")
        request = HttpMessage(head + b"\r\n\r\n", body)
        if request.operation != "UpdateItem":
            return self._pass(request)
        wanted = msgspec.json.decode(body)
        with self._turns[wanted["Key"]["id"]["S"]]:
            answer = self._pass(request)
            self._write_down(request, wanted, answer.ok)
            return answer

    def _pass(self, request: HttpMessage) -> HttpMessage:
        wire = self._connect()
        try:
            wire.send(_PATH.sub(b"POST / ", request.bytes))
            answer = wire.next()
        finally:
            wire.close()
        if answer is None:
            raise ConnectionError("the table's server has ended")
        status = _STATUS.match(answer.head)
        assert status is not None
        data = http.answer(answer.body, status[1].decode())
        return HttpMessage(data[: len(data) - len(answer.body)], answer.body)

    def _write_down(self, request: HttpMessage, wanted: dict[str, Any], taken: bool) -> None:
        key, token = wanted["Key"]["id"]["S"], wanted["ExpressionAttributeValues"][":token"]["S"]
        what, stale = _what(request), self._owners.get(key, token) != token
        if what == "claim" and taken:
            self._owners[key] = token
        write = ClaimWrite(now(), request.worker, key, what, token, taken, stale and what != "claim")
        os.write(self._file, msgspec.json.encode(write) + b"\n")


class ClaimProxy(Proxy):
    """Spares nobody: what a worker does at boot is no UpdateItem.

    One fault more than the queue's proxy has: a write that is `late`. Its sender waits for an answer until it gives up,
    and long after that it reaches the table; whoever sent it may be dead by then, and the claim another's.
    """

    def _fault(self, operation: str, request: HttpMessage) -> Fault | None:
        self._begun.add(request.worker)
        return super()._fault(operation, request)

    def _step(self, wire: Wire, request: HttpMessage) -> bool:
        number, plan = self._calls["UpdateItem"], self.plan
        drawn = chance(plan.seed, "late", number)
        if request.operation != "UpdateItem" or drawn >= LATE_SHARE * plan.scale or _what(request) == "claim":
            return super()._step(wire, request)
        self._calls["UpdateItem"] = number + 1
        self._log_fault(Struck(Fault("late", drawn), "UpdateItem", request), [])
        seconds = LATE_SECONDS * (1 + chance(plan.seed, "how late", number) / 2)
        gevent.spawn_later(seconds, self._upstream.call, request.bytes)
        wire.socket.recv(1)  # until it gives up
        return False


def _what(request: HttpMessage) -> What:
    """Which write of the protocol this is, by what it sets."""
    wanted = msgspec.json.decode(request.body)
    update, names = wanted["UpdateExpression"], wanted.get("ExpressionAttributeNames", {})
    for short, name in names.items():
        update = re.sub(rf"{re.escape(short)}\b", name, update)
    sets = update.partition(" REMOVE ")[0]
    if re.search(r"\btoken = ", sets):
        return "claim"
    if re.search(r"\bdone_at = ", sets):
        return "done"
    return "release" if re.search(r"\bfailures = ", sets) else "renew"


def read(path: Path) -> list[ClaimWrite]:
    """All writes so far, in the table's order."""
    lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    decode = msgspec.json.Decoder(ClaimWrite).decode
    return [decode(line) for line in lines]


def main() -> None:
    options = arguments()
    table = ClaimTable(*options.upstream, options.passed)
    serve(ClaimProxy(table, options.plan, FaultLog(options.log), ReceiveLog(Path(os.devnull))))


if __name__ == "__main__":
    main()
