"""1,000 slow clients of a worker's HTTP port: what they take from its messages, and how long a health check waits.

A worker that is looked at by nobody, and by 1,000 clients that send a byte a second or nothing, by turns; who is closed
comes again. The worker has its core to itself, 100 messages of 20 ms at once.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.request import urlopen

from bench.options import Options
from bench.page import PREPARED, free_port, working
from bench.process import SERVER_CORE, cpu_seconds, on_core
from bench.processes import Feed, feed

CLIENTS, TURNS, TURN_SECONDS = 1_000, 5, 3.0
#: What a platform waits for a health check.
PATIENCE_SECONDS = 5.0

SLOW_CLIENTS = """
import selectors, socket, sys, time
port, number = int(sys.argv[1]), int(sys.argv[2])
request = b"GET /healthz HTTP/1.1\\r\\nHost: localhost\\r\\nX: " + b"a" * 1000
selector = selectors.DefaultSelector()
sent = {}

def connect(drips):
    one = socket.socket()
    one.setblocking(False)
    one.connect_ex(("127.0.0.1", port))
    selector.register(one, selectors.EVENT_READ, drips)
    sent[one] = 0

for index in range(number):
    connect(index % 2 == 0)
last = time.monotonic()
while True:
    for key, _ in selector.select(0.05):
        try:
            gone = not key.fileobj.recv(1000)
        except OSError:
            gone = True
        if gone:
            selector.unregister(key.fileobj)
            del sent[key.fileobj]
            key.fileobj.close()
            connect(key.data)
    if time.monotonic() > last + 1:
        last = time.monotonic()
        for key in list(selector.get_map().values()):
            if key.data:
                try:
                    key.fileobj.send(request[sent[key.fileobj]:][:1])
                    sent[key.fileobj] += 1
                except OSError:
                    pass
"""


@dataclass(frozen=True)
class Turn:
    """`waits`: of health checks, in seconds."""

    per_second: float
    cpu_us: float
    waits: list[float]
    descriptors: int
    mib: float


def run(options: Options) -> None:
    with ExitStack() as stack:
        with on_core(SERVER_CORE):
            server, url = stack.enter_context(feed(PREPARED))
        port = free_port()
        pid = stack.enter_context(working(server, url, port))
        pairs = [(turn(pid, port, server), besieged(pid, port, server)) for _ in range(2 if options.quick else TURNS)]
    for name, turns in zip(("nobody", f"{CLIENTS:,} slow clients"), zip(*pairs, strict=True), strict=True):
        waits = [wait for one in turns for wait in one.waits]
        print(
            f"  {name}: {statistics.median(one.per_second for one in turns):,.0f} messages/s, "
            f"{statistics.median(one.cpu_us for one in turns):.1f} us of CPU a message; a health check "
            f"{statistics.median(waits):.2f} s, at most {max(waits):.2f} s; "
            f"{max(one.descriptors for one in turns)} descriptors, {max(one.mib for one in turns):.0f} MiB",
            flush=True,
        )
    slower = statistics.median(100 * (1 - slow.per_second / free.per_second) for free, slow in pairs)
    core = statistics.median((slow.cpu_us - free.cpu_us) * slow.per_second / 1e4 for free, slow in pairs)
    worst = max(wait for _, slow in pairs for wait in slow.waits)
    in_time = "in time" if worst < PATIENCE_SECONDS else "TOO LATE"
    print(f"  they take {core:.1f} % of a core, work is {slower:.1f} % slower, health checks are {in_time}", flush=True)


def besieged(pid: int, port: int, server: Feed) -> Turn:
    with slow_clients(port):
        time.sleep(1)
        found = turn(pid, port, server)
    urlopen(f"http://127.0.0.1:{port}/healthz", timeout=20).close()  # all of theirs before this one are over
    return found


def turn(pid: int, port: int, server: Feed) -> Turn:
    """Of some seconds, with a health check after another."""
    began, cpu, messages = time.monotonic(), cpu_seconds(pid), server.deleted()
    waits: list[float] = []
    while time.monotonic() < began + TURN_SECONDS:
        asked = time.monotonic()
        with urlopen(f"http://127.0.0.1:{port}/healthz", timeout=4 * PATIENCE_SECONDS) as answer:
            answer.read()
        waits.append(time.monotonic() - asked)
        time.sleep(0.2)
    seconds, number = time.monotonic() - began, server.deleted() - messages
    descriptors = len(os.listdir(f"/proc/{pid}/fd"))
    mib = int(Path(f"/proc/{pid}/status").read_text().partition("VmRSS:")[2].split()[0]) / 1024
    return Turn(number / seconds, 1e6 * (cpu_seconds(pid) - cpu) / number, waits, descriptors, mib)


@contextmanager
def slow_clients(port: int) -> Iterator[None]:
    """They are on the driver's core."""
    with on_core(SERVER_CORE):
        process = subprocess.Popen([sys.executable, "-S", "-c", SLOW_CLIENTS, str(port), str(CLIENTS)])
    try:
        yield
    finally:
        process.kill()
        process.wait()
