"""What the page with a viewer costs a message, and what being one of several workers costs.

Steps (bytecodes) are counted in lockstep, as in `instructions`: a busy machine changes nothing. CPU is that of one
worker that is looked at by four viewers, as many as a worker has, and by none, by turns: a quarter of the difference is
one viewer's. The work is that of `compare`: 100 messages of 20 ms at once, StatsD on. A viewer is a process that reads
the stream of events.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from socket import create_server, socketpair

from bench import callgrind, servers
from bench.consumers import CONSUMERS, MILLPOND, Job, plain_body
from bench.environment import ROOT
from bench.instructions import marked
from bench.marks import Marks
from bench.options import Options
from bench.process import ALL_CORES, CONSUMER_CORE, SERVER_CORE, cpu_seconds, on_core
from bench.processes import Feed, await_ready, feed
from millpond.process.live_page import MAX_VIEWERS
from millpond.process.member import PARENT_VARIABLE
from tests import steps

AT_ONCE = 100
#: What it may cost.
MOST_PERCENT = 2.0
#: Messages that are stepped: a second of the worker's clock. Which answers come together is chance, and makes some runs
#: dearer by 2 %: of so many the cheapest one counts.
WARM, MESSAGES, AFTER, RUNS = 1_000, 5_000, 500, 3
PREPARED, TURNS, TURN_SECONDS = 5_000, 6, 2.0


@dataclass(frozen=True)
class Case:
    """One worker."""

    name: str
    has_page: bool = False
    viewers: int = 0
    has_parent: bool = False


ALONE = Case("without the page")
CASES = [
    ALONE,
    Case("with the page, nobody looks", has_page=True),
    Case("with the page and one viewer", has_page=True, viewers=1),
    Case("one of several workers", has_parent=True),
]


def run(options: Options) -> None:
    if reason := steps.MISSING or callgrind.missing():
        print(f"  no steps: {reason}", flush=True)
    else:
        report_steps(1 if options.quick else RUNS)
    report_viewers(2 if options.quick else TURNS)


# Steps


def report_steps(runs: int) -> None:
    os.sched_setaffinity(0, ALL_CORES)
    with ThreadPoolExecutor(len(ALL_CORES)) as pool:
        counted = list(pool.map(bytecodes, CASES * runs))
    os.sched_setaffinity(0, {SERVER_CORE})
    found = {case: min(counted[index :: len(CASES)]) for index, case in enumerate(CASES)}
    for case, number in found.items():
        more = "" if case is ALONE else f", {verdict(100 * (number / found[ALONE] - 1))}"
        print(f"  {case.name}: {number:,.1f} bytecodes a message{more}", flush=True)


def bytecodes(case: Case) -> float:
    """Of a message."""
    with ExitStack() as stack:
        server = stack.enter_context(servers.millpond_local(tls=False))
        url = stack.enter_context(server.queue())
        server.send(url, marked(plain_body, WARM, MESSAGES, AFTER))
        marks = Marks()
        stack.callback(marks.close)
        more = stack.enter_context(callgrind.lockstep())
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        job = Job(server, url, AT_ONCE, 0, marks.port, marks.statsd_port, folder)
        command = CONSUMERS[0].command(job)
        file = folder / "steps.json"
        command[1:2] = ["-m", "bench.stepping", str(file)]
        config = folder / "config.toml"
        text = config.read_text().replace("handlers = [", 'handlers = ["bench.peers.mark", ')
        port = free_port()
        config.write_text(left_alone(text) + (page_at(port) if case.has_page else ""))
        seat = stack.enter_context(seated()) if case.has_parent else -1
        environ = {**job.environ(), **more} | ({PARENT_VARIABLE: f"{seat} 1 []"} if case.has_parent else {})
        for _ in range(case.viewers):
            stack.enter_context(viewer(port))
        subprocess.run(
            command, cwd=folder, env=environ, check=True, stdout=subprocess.DEVNULL, pass_fds=[seat][: case.has_parent]
        )
        return sum(cost[0] for cost in json.loads(file.read_text()).values()) / MESSAGES


@contextmanager
def seated() -> Iterator[int]:
    """The descriptor of a link to a parent that says nothing."""
    ours, theirs = socketpair()
    with ours, theirs:
        os.set_blocking(theirs.fileno(), True)  # gevent has made it non-blocking, as no parent does
        yield theirs.fileno()


# Viewers


def report_viewers(turns: int) -> None:
    with ExitStack() as stack:
        with on_core(SERVER_CORE):
            server, url = stack.enter_context(feed(PREPARED))
        port = free_port()
        pid = stack.enter_context(working(server, url, port))

        def cpu_us() -> float:
            """Of a message, in one turn."""
            time.sleep(0.5)  # viewers have all that was until now; or they have gone
            cpu, messages = cpu_seconds(pid), server.deleted()
            time.sleep(TURN_SECONDS)
            return 1e6 * (cpu_seconds(pid) - cpu) / (server.deleted() - messages)

        def looked_at() -> float:
            with ExitStack() as viewers:
                looking = [viewers.enter_context(viewer(port)) for _ in range(MAX_VIEWERS)]
                cost = cpu_us()
                if any(one.poll() is not None for one in looking):
                    raise RuntimeError("the page has cut a viewer off")
                return cost

        pairs = [(cpu_us(), looked_at()) for _ in range(turns)]
    more = sorted(100 * (seen / unseen - 1) / MAX_VIEWERS for unseen, seen in pairs)
    middle = statistics.median(unseen for unseen, _ in pairs)
    each = " ".join(f"{one:+.2f}" for one in more)
    print(f"  one viewer: {verdict(statistics.median(more))} of {middle:.1f} us of CPU a message ({each})", flush=True)


@contextmanager
def working(server: Feed, url: str, port: int) -> Iterator[int]:
    """A worker with its page on this port, at work on that queue; its process."""
    with ExitStack() as stack:
        marks = Marks()
        stack.callback(marks.close)
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        job = Job(server, url, AT_ONCE, 0, marks.port, marks.statsd_port, folder)
        log = '[log]\nformat = "json"\nsucceeded_per_second = 0\n'
        (folder / "config.toml").write_text(left_alone(MILLPOND.format(job=job, client="wire")) + page_at(port) + log)
        command = [sys.executable, str(ROOT / "worker.py"), "-c", str(folder / "config.toml")]
        with on_core(CONSUMER_CORE), (folder / "log").open("wb") as file:
            process = subprocess.Popen(command, cwd=folder, env=job.environ(), stdout=file, stderr=file)
        stack.callback(process.wait)
        stack.callback(process.kill)
        await_ready(folder / "log", 1, process)
        time.sleep(1)
        yield process.pid


#: Tries until the page is there: its first line is the answer's.
VIEWER = """
import socket, sys, time
for _ in range(600):
    try:
        connection = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
        break
    except OSError:
        time.sleep(0.05)
connection.sendall(b"GET /events HTTP/1.1\\r\\nHost: localhost\\r\\n\\r\\n")
while data := connection.recv(262144):
    pass
"""


@contextmanager
def viewer(port: int) -> Iterator[subprocess.Popen[bytes]]:
    """Somebody who reads the stream of events, in a process of its own."""
    with on_core(SERVER_CORE):
        process = subprocess.Popen([sys.executable, "-S", "-c", VIEWER, str(port)])
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def left_alone(config: str) -> str:
    """Nobody on this machine looks at this worker by `worker.py status`: it takes a snapshot for each."""
    return config.replace("[worker]", "[worker]\ncontrol = false")


def page_at(port: int) -> str:
    return f'[http]\nlisten = "127.0.0.1:{port}"\n'


def free_port() -> int:
    with create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


def verdict(more: float) -> str:
    return f"{more:+.2f} % ({'within' if more <= MOST_PERCENT else 'MORE than'} {MOST_PERCENT:g} %)"
