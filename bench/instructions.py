"""What a message costs in instructions: the whole worker, an e-mail, the engine alone; and which code takes them.

Counted by callgrind from the 3,000th message on, with time and network in lockstep, so that a busy machine changes
nothing. The steps, bytecodes and frames by file and by function, are counted in the same lockstep by sys.monitoring.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench import callgrind, mail, results, servers
from bench.consumers import CONSUMERS, Job, plain_body
from bench.environment import ROOT
from bench.marks import Marks
from bench.options import Options
from bench.results import Row
from tests import steps

#: Every connection is open before the first that counts: a handshake over TLS is as dear as fifty messages.
WARM, AFTER, MESSAGES = 3_000, 1_000, 5_000
MARK = json.dumps({"event_type": "bench.mark", "payload": None})
#: Counted so often: what differs is the order in which answers come that were under way at the same time.
MOST_RUNS = 3
ENGINE_AT_ONCE = 100


@dataclass(frozen=True)
class Case:
    """One worker. `pipelining`: of the mail server; None where handlers sleep 20 ms and mail nothing."""

    name: str
    server: str
    concurrency: int
    pipelining: bool | None = None


CASES = [
    Case("a job", "tls", 100),
    Case("a job", "tls", 500),
    Case("a job", "plain", 100),
    Case("a job", "plain", 500),
    Case("an e-mail, PIPELINING", "plain", 100, pipelining=True),
    Case("an e-mail, one by one", "plain", 100, pipelining=False),
]


def run(options: Options) -> None:
    if reason := callgrind.missing():
        print(f"  skipped: {reason}", flush=True)
        return
    runs = min(options.runs, MOST_RUNS)
    rows = [one(case) for _ in range(runs) for case in (CASES[:1] if options.quick else CASES)]
    rows += [engine() for _ in range(runs)]
    rows += stepped(CASES[0])
    if not options.quick:
        results.save("instructions", rows)


def one(case: Case) -> Row:
    with job(case) as (consumer, command):
        counted = callgrind.instructions(command, consumer.environ(), consumer.folder)
    return told(case.name, case.server, case.concurrency, counted)


def engine() -> Row:
    """Receive, handlers that wait for a turn, deletes: against a queue in memory, on a clock that stands still."""
    command = [sys.executable, "-m", "bench.engine", str(MESSAGES), str(ENGINE_AT_ONCE)]
    with tempfile.TemporaryDirectory() as folder:
        environ = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}
        counted = callgrind.instructions(command, environ, Path(folder))
    return told("the engine alone", "none", ENGINE_AT_ONCE, counted)


def told(name: str, server: str, concurrency: int, counted: Counter[str]) -> Row:
    libraries = {library: number / MESSAGES for library, number in counted.most_common(8)}
    total = counted.total() / MESSAGES
    parts = ", ".join(f"{library} {number:,.0f}" for library, number in libraries.items())
    print(f"  {name}, {server}, {concurrency} at once: {total:,.0f} instructions ({parts})", flush=True)
    return {"what": name, "server": server, "concurrency": concurrency, "instructions": total, "libraries": libraries}


def stepped(case: Case) -> list[Row]:
    """A row for each function of this worker; none below Python 3.12."""
    if steps.MISSING:
        print(f"  no table of steps: {steps.MISSING}", flush=True)
        return []
    with job(case) as (consumer, command), callgrind.lockstep() as more:
        file = consumer.folder / "steps.json"
        command[1:2] = ["-m", "bench.stepping", str(file)]
        environ = {**consumer.environ(), **more}
        subprocess.run(command, cwd=consumer.folder, env=environ, check=True, stdout=subprocess.DEVNULL)
        found = {name: steps.Cost(*cost) / MESSAGES for name, cost in json.loads(file.read_text()).items()}
    for name, cost in sorted(found.items(), key=lambda one: -one[1].bytecodes)[:30]:
        print(f"  {cost.bytecodes:7.1f} bytecodes {cost.frames:6.2f} frames  {name}", flush=True)
    total = sum(found.values(), steps.Cost(0, 0))
    print(f"  {total.bytecodes:7.1f} bytecodes {total.frames:6.2f} frames a message in all", flush=True)
    return [
        {"function": name, "bytecodes": round(cost.bytecodes, 2), "frames": round(cost.frames, 3)}
        for name, cost in found.items()
        if cost.bytecodes > 0.01
    ]


@contextmanager
def job(case: Case) -> Iterator[tuple[Job, list[str]]]:
    """The worker's run and its command: a server with messages, marks among them; for mail a server of that too."""
    consumer, body = (CONSUMERS[0], plain_body) if case.pipelining is None else (mail.MILLPOND, mail.body)
    with ExitStack() as stack:
        server = stack.enter_context(servers.millpond_local(tls=case.server == "tls"))
        url = stack.enter_context(server.queue())
        server.send(url, marked(body, WARM, MESSAGES, AFTER))
        options = {}
        if case.pipelining is not None:
            options["BENCH_SMTP"] = str(stack.enter_context(mail.sink(case.pipelining)).port)
        marks = Marks()
        stack.callback(marks.close)
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        made = Job(server, url, case.concurrency, 0, marks.port, marks.statsd_port, folder, options=options)
        command = consumer.command(made)
        config = folder / "config.toml"
        config.write_text(config.read_text().replace("handlers = [", 'handlers = ["bench.peers.mark", '))
        yield made, command


def marked(body: Callable[[int], str], *groups: int) -> Iterable[str]:
    """So many messages in each group, and a mark before each."""
    number = 0
    for group in groups:
        yield MARK
        yield from map(body, range(number, number + group))
        number += group
