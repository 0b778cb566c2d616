"""The proxy between workers and queue, a process of its own: `python -m chaos.proxy`.

It prints its URL; then it takes orders on standard input, one line of JSON each, answers each with a line, and ends
where standard input does. See proxy_process.py for who starts it.
"""

from __future__ import annotations

import argparse
import socket
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import gevent
import msgspec
from gevent.fileobject import FileObject
from gevent.server import StreamServer
from gevent.socket import socket as Socket  # noqa: N812  a class

from chaos import answers
from chaos.fault_log import FaultLog, ReceiveLog
from chaos.faults import TAKEN, Fault, FaultPlan
from chaos.handles import Handles, Number
from chaos.http import HttpMessage, Wire
from chaos.moment import now
from chaos.upstream import Upstream

#: Receives that hang at once, at most: each holds one of a worker's polls until that gives up.
MAX_HUNG = 3
#: A message is handed out again this soon after it was handed out first.
DUPLICATE_SECONDS = 0.02


class Proxy:
    """Passes calls on, and does to some of them what the plan says.

    A worker is known by the path of its endpoint: http://127.0.0.1:1234/<worker>. Planned faults spare it until
    its first message has come through; ordered ones (`fail`) spare nobody.
    """

    def __init__(self, upstream: Upstream, plan: FaultPlan, log: FaultLog, receives: ReceiveLog) -> None:
        self.plan = plan
        self.ordered: dict[str, str] = {}
        self._upstream = upstream
        self._log = log
        self._receives = receives
        self._handles = Handles()
        self._calls: Counter[str] = Counter()
        self._begun: set[str] = set()
        self._hung = 0
        self._strikes: dict[str, Callable[[Wire, Struck], bool]] = {
            "reset before it was taken": self._reset,
            "reset after it was taken": self._reset,
            "500, taken": lambda wire, _: _say(wire, answers.broken("500 Internal Server Error")),
            "503, not taken": lambda wire, _: _say(wire, answers.broken("503 Service Unavailable")),
            "throttled": lambda wire, struck: _say(wire, answers.refused(answers.THROTTLES, struck.fault.chance)),
            "denied": lambda wire, struck: _say(wire, answers.refused(answers.DENIALS, struck.fault.chance)),
            "truncated body, taken": self._truncate,
            "HTML for an answer, not taken": lambda wire, _: _say(wire, answers.html()),
            "noise for an answer, taken": lambda wire, struck: _say(wire, answers.noise(struck.fault.chance)),
            "slow": self._delay,
            "hung": self._hang,
        }

    def converse(self, sock: Socket, _address: object = None) -> None:
        """One connection of a worker, to its end."""
        wire = Wire(sock)
        with suppress(OSError):  # either side went away
            while (request := wire.next()) is not None and self._step(wire, request):
                pass
        wire.close()

    def _step(self, wire: Wire, request: HttpMessage) -> bool:
        """One call. Returns whether the connection goes on."""
        operation = request.operation
        fault = self._fault(operation, request)
        if fault is None:
            answer = self._upstream.call(request.bytes)
            if answer.ok:
                self._passed(operation, request, answer)
            wire.send(answer.bytes)
            return True
        if fault.kind.startswith("entries failed"):
            return self._fail_entries(wire, Struck(fault, operation, request))
        if fault.kind == "duplicate":
            return self._duplicate(wire, Struck(fault, operation, request))
        is_taken = fault.kind in TAKEN or (fault.kind == "hung" and fault.chance < 0.5)
        struck = Struck(fault, operation, request, self._upstream.call(request.bytes) if is_taken else None)
        self._log_fault(struck, self._concerned(struck))
        return self._strikes[fault.kind](wire, struck)

    def _fault(self, operation: str, request: HttpMessage) -> Fault | None:
        number = self._calls[operation]
        self._calls[operation] = number + 1
        if operation in self.ordered:
            return Fault(self.ordered[operation], 0.0)
        fault = self.plan.fault(operation, number)
        if fault is None or request.worker not in self._begun:
            return None
        return None if fault.kind == "hung" and self._hung >= MAX_HUNG else fault

    def _passed(self, operation: str, request: HttpMessage, answer: HttpMessage) -> None:
        if operation == "ReceiveMessage":
            if handles := self._handles.received(answer.body):
                self._begun.add(request.worker)
                self._receives.write(now(), self._handles.numbers(handles))
        elif operation in ("DeleteMessageBatch", "DeleteMessage") and b'"Failed"' not in answer.body:
            self._handles.deleted(request.body)

    def _concerned(self, struck: Struck) -> list[Number]:
        if struck.operation != "ReceiveMessage":
            return self._handles.asked(struck.request.body)
        if struck.answer is None or not struck.answer.ok:
            return []
        return self._handles.numbers(self._handles.received(struck.answer.body))

    def _log_fault(self, struck: Struck, messages: list[Number], moment: float | None = None) -> None:
        self._log.write(moment or now(), struck.fault.kind, struck.operation, struck.request.worker, messages)

    # The strikes. Each returns whether the connection goes on.

    def _reset(self, wire: Wire, _struck: Struck) -> bool:
        wire.reset()
        return False

    def _truncate(self, wire: Wire, struck: Struck) -> bool:
        assert struck.answer is not None
        whole = struck.answer.bytes
        wire.send(whole[: len(struck.answer.head) + len(struck.answer.body) // 2])
        return False

    def _delay(self, wire: Wire, struck: Struck) -> bool:
        assert struck.answer is not None
        gevent.sleep(struck.fault.seconds)
        return _say(wire, struck.answer.bytes)

    def _hang(self, wire: Wire, _struck: Struck) -> bool:
        self._hung += 1
        try:
            wire.socket.recv(1)  # until the worker gives up
        finally:
            self._hung -= 1
        return False

    def _fail_entries(self, wire: Wire, struck: Struck) -> bool:
        """Some entries of a batch are reported as failed; they are done or they are not."""
        batch = msgspec.json.decode(struck.request.body)
        entries = batch["Entries"]
        chosen = entries[: 1 + int(struck.fault.chance * len(entries))]
        ids = {entry["Id"] for entry in chosen}
        self._log_fault(struck, self._handles.asked(msgspec.json.encode({"Entries": chosen})))
        if struck.fault.kind.endswith("not done"):
            batch["Entries"] = [entry for entry in entries if entry["Id"] not in ids]
        done: dict[str, Any] = {}
        if batch["Entries"]:
            answer = self._upstream.ask(struck.operation, msgspec.json.encode(batch))
            if not answer.ok:
                return _say(wire, answer.bytes)
            done = msgspec.json.decode(answer.body)
        return _say(wire, answers.failed(sorted(ids), done))

    def _duplicate(self, wire: Wire, struck: Struck) -> bool:
        """Soon after it is handed out, a message is handed out again."""
        answer = self._upstream.call(struck.request.bytes)
        handles = self._handles.received(answer.body) if answer.ok else []
        if handles:
            handle = handles[int(struck.fault.chance * len(handles))]
            gevent.spawn_later(struck.fault.chance * DUPLICATE_SECONDS, self._show_again, struck, handle)
        return _say(wire, answer.bytes)

    def _show_again(self, struck: Struck, handle: str) -> None:
        numbers, moment = self._handles.numbers([handle]), now()
        queue_url = msgspec.json.decode(struck.request.body)["QueueUrl"]
        change = {"QueueUrl": queue_url, "ReceiptHandle": handle, "VisibilityTimeout": 0}
        if numbers and self._upstream.ask("ChangeMessageVisibility", msgspec.json.encode(change)).ok:
            self._log_fault(struck, numbers, moment)


class Struck:
    """A call with its fault, and what the queue has answered, where it was asked."""

    def __init__(self, fault: Fault, operation: str, request: HttpMessage, answer: HttpMessage | None = None) -> None:
        self.fault = fault
        self.operation = operation
        self.request = request
        self.answer = answer


def _say(wire: Wire, data: bytes) -> bool:
    wire.send(data)
    return True


def obey(proxy: Proxy, order: dict[str, Any]) -> None:
    """One order: see ProxyProcess, whose methods they are."""
    match order["do"]:
        case "fail":
            proxy.ordered[order["operation"]] = order["kind"]
        case "heal":
            proxy.ordered.clear()
        case "plan":
            proxy.plan = msgspec.convert(order["plan"], FaultPlan)


def main() -> None:
    options = arguments()
    logs = FaultLog(options.log), ReceiveLog(options.passed)
    serve(Proxy(Upstream(*options.upstream), options.plan, *logs))


def arguments() -> argparse.Namespace:
    """What a proxy is started with."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--upstream", required=True, type=_address, help="the URL of what is behind it")
    parser.add_argument("--log", required=True, type=Path, help="the file that faults are written to")
    parser.add_argument("--passed", required=True, type=Path, help="the file for what came through")
    plan = partial(msgspec.json.decode, type=FaultPlan)
    parser.add_argument("--plan", required=True, type=plan, help="a FaultPlan, in JSON")
    return parser.parse_args()


def _address(url: str) -> tuple[str, int]:
    where = urlsplit(url)
    return where.hostname or "", where.port or 80


def serve(proxy: Proxy) -> None:
    """Until standard input ends."""
    server = StreamServer(_listener(), proxy.converse)
    server.start()
    print(f"http://127.0.0.1:{server.server_port}", flush=True)
    for line in FileObject(sys.stdin.buffer, "rb", close=False):
        obey(proxy, msgspec.json.decode(line))
        print("done", flush=True)


def _listener() -> Socket:
    listener = Socket()
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # connections inherit it
    listener.bind(("127.0.0.1", 0))
    listener.listen(256)
    return listener


if __name__ == "__main__":
    main()
