"""What nobody on gevent can go below: greenlets, timer and decode with no queue; bare calls with nothing parsed."""

from __future__ import annotations

import json
import os
import subprocess
import sys

from bench import results, servers
from bench.consumers import CONSUMERS, plain_body
from bench.options import Options
from bench.process import CONSUMER_CORE, on_core
from bench.results import Row
from bench.run import throughput
from bench.servers import Server

#: Receives of ten, and then as many deletes of ten.
CALLS = 1_000
MESSAGES = {100: 10_000, 500: 50_000}


def run(options: Options) -> None:
    """Millpond runs in the same rounds, so that the multiple is of the same minutes."""
    rows: list[Row] = []
    for kind in ("tls", "plain"):
        with servers.millpond_local(tls=kind == "tls") as server:
            for _ in range(options.runs):
                rows += [one(server, kind, concurrency) for concurrency in MESSAGES]
    if not options.quick:
        results.save("floor", rows)


def one(server: Server, kind: str, concurrency: int) -> Row:
    with server.queue() as queue_url:
        server.send(queue_url, (plain_body(number) for number in range(CALLS * 10)))
        raw = measured(server, queue_url, concurrency)
    millpond = throughput(CONSUMERS[0], server, concurrency, MESSAGES[concurrency]).cpu_us
    floor = raw["message_us"] + (raw["receive_us"] + raw["delete_us"]) / 10
    print(
        f"  {kind}, {concurrency} at once: greenlet, timer and decode {raw['message_us']:.1f} us a message, receive of "
        f"ten {raw['receive_us']:.0f}, delete of ten {raw['delete_us']:.0f}: floor {floor:.1f} us a message; "
        f"Millpond {millpond:.1f}: {millpond / floor:.2f} times the floor",
        flush=True,
    )
    return {"server": kind, "concurrency": concurrency, "floor_us": floor, "millpond_us": millpond, **raw}


def measured(server: Server, queue_url: str, concurrency: int) -> dict[str, float]:
    """`python -m bench.bare_calls`, on the consumers' core."""
    environ = {**os.environ, "BENCH_CA": str(server.ca or "")}
    command = [sys.executable, "-m", "bench.bare_calls", queue_url, str(CALLS), str(concurrency)]
    with on_core(CONSUMER_CORE):
        done = subprocess.run(command, env=environ, capture_output=True, text=True, check=True)
    return {name: float(value) for name, value in json.loads(done.stdout).items()}
