"""What code costs in steps: bytecodes and Python frames by function, the same on every machine and under any load."""

from __future__ import annotations

import sys
import sysconfig
from collections import defaultdict
from collections.abc import Sequence
from functools import cache
from itertools import islice
from pathlib import Path
from types import CodeType
from typing import NamedTuple
from unittest.mock import patch

import gevent
import gevent.event

from millpond.hub import pool
from millpond.sqs.queue import Failure, Received
from tests.rig import Rig
from tests.virtual import VirtualClock, settle

ROOT = Path(__file__).parent.parent
#: Why a test is skipped; "" where steps can be counted.
MISSING = "" if sys.version_info >= (3, 12) else "steps are counted by sys.monitoring, which Python has from 3.12 on"


class Cost(NamedTuple):
    """Of one function, or of all together."""

    bytecodes: float
    frames: float

    def __add__(self, other: object) -> Cost:
        assert isinstance(other, Cost)
        return Cost(self.bytecodes + other.bytecodes, self.frames + other.frames)

    def __sub__(self, other: Cost) -> Cost:
        return Cost(self.bytecodes - other.bytecodes, self.frames - other.frames)

    def __truediv__(self, messages: int) -> Cost:
        return Cost(self.bytecodes / messages, self.frames / messages)


class Steps:
    """Counts in all greenlets and threads while its `with` block runs; all runs many times slower in it."""

    def __init__(self) -> None:
        self._codes: dict[int, CodeType] = {}  # by id: to compare two code objects means to compare their bytes
        self._bytecodes: dict[int, int] = {}
        self._frames: defaultdict[int, int] = defaultdict(int)

    def __enter__(self) -> Steps:
        bytecodes, frames, codes = self._bytecodes, self._frames, self._codes

        def step(code: CodeType, _: int) -> None:
            try:
                bytecodes[id(code)] += 1
            except KeyError:
                bytecodes[id(code)], codes[id(code)] = 1, code

        def start(code: CodeType, _: int) -> None:
            frames[id(code)] += 1

        monitoring = sys.monitoring
        monitoring.use_tool_id(monitoring.PROFILER_ID, "steps")
        monitoring.register_callback(monitoring.PROFILER_ID, monitoring.events.INSTRUCTION, step)
        monitoring.register_callback(monitoring.PROFILER_ID, monitoring.events.PY_START, start)
        monitoring.set_events(monitoring.PROFILER_ID, monitoring.events.INSTRUCTION | monitoring.events.PY_START)
        return self

    def __exit__(self, *_: object) -> None:
        sys.monitoring.set_events(sys.monitoring.PROFILER_ID, 0)
        sys.monitoring.free_tool_id(sys.monitoring.PROFILER_ID)

    def by_function(self) -> dict[str, Cost]:
        """By file and name: "millpond/engine/consumer.py: Consumer.work"."""
        found: defaultdict[str, Cost] = defaultdict(lambda: Cost(0, 0))
        for key, code in self._codes.items():
            name = f"{_short(code.co_filename)}: {code.co_qualname}"
            found[name] += Cost(self._bytecodes[key], self._frames[key])
        return dict(found)

    def total(self) -> Cost:
        """Without what stands around the code that is counted: the tests' own."""
        counted = [cost for name, cost in self.by_function().items() if not name.startswith("tests/")]
        return sum(counted, Cost(0, 0))


@cache
def _short(file: str) -> str:
    """From this project's folder on, or from where packages are: "gevent/hub.py", "ssl.py"."""
    for folder in (sysconfig.get_path("purelib"), sysconfig.get_path("stdlib"), str(ROOT)):
        if file.startswith(folder):
            return file.removeprefix(folder)[1:]
    return file


class Tray:
    """Fulfils Queue: so many messages, ten a receive and a turn of the hub each; every delete is confirmed."""

    url = "http://queue.test/000000000000/q"

    def __init__(self, messages: int) -> None:
        self.messages = messages
        self.deleted = 0
        body = '{"event_type": "job", "event_id": "%d", "payload": {"n": %d, "pad": "' + 350 * "x" + '"}}'
        made = [Received(f"m{n}", f"h{n}", body % (n, n), 1, 1_700_000_000_000) for n in range(messages)]
        self._rest = iter(made)

    def receive(self, number: int, wait_seconds: int, visibility_seconds: int, attempt_id: str = "") -> list[Received]:
        gevent.sleep(0)
        taken = list(islice(self._rest, number))
        if not taken:
            gevent.event.Event().wait()  # as a long poll does
        return taken

    def delete(self, receipt_handles: Sequence[str]) -> list[Failure | None]:
        gevent.sleep(0)
        self.deleted += len(receipt_handles)
        return [None] * len(receipt_handles)


def engine(tray: Tray, at_once: int) -> None:
    """The engine alone, from the receive of the tray's messages to their deletes: no server, no wire.

    The clock stands still and a handler waits for a turn of the hub, so that each run takes the same steps.
    """
    handlers = {"job": lambda job: gevent.sleep(0)}
    rig = Rig(VirtualClock(), handlers, concurrency=at_once, prefetch=at_once, queue=tray, takes_message=False)
    with patch.object(pool, "TURN_SECONDS", 3600.0):  # a slot's turn is as long as the machine is slow
        rig.consumer.pollers.start()
        settle()
    assert (tray.deleted, len(rig.ended), rig.crashes) == (tray.messages, tray.messages, [])
