"""Millpond alone: how a message's cost grows with the queue, what is worked at once, the body, and a second process.

One dimension at a time, over TLS, from 10,000 messages of 450 bytes, 100 at once, 20 ms each. Where more are worked at
once, each takes longer, so that so many really are, and the rate that the sleep allows stays 5,000 messages a second.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

from bench import results, servers
from bench.consumers import CONSUMERS, PAD, plain_body
from bench.options import Options
from bench.peers.book import SECONDS
from bench.results import Row
from bench.run import WARM, Moment, consuming, throughput
from bench.servers import Server

MILLPOND = CONSUMERS[0]
#: Seconds that two processes have.
PATIENCE_SECONDS = 60
#: Messages a second that the handlers' waiting allows where many are worked at once: less than a core can do.
RATE = 5_000


@dataclass(frozen=True)
class Case:
    """One point of one dimension; `once` where one run is long enough to be a mean of its own."""

    dimension: str
    value: str
    messages: int = 10_000
    concurrency: int = 100
    pad: int = PAD
    once: bool = False

    @property
    def seconds(self) -> float:
        """What a handler waits."""
        return max(SECONDS, self.concurrency / RATE)

    def bodies(self) -> Iterator[str]:
        return (plain_body(number, self.pad) for number in range(self.messages))


CASES = [
    Case("messages in the queue", "10,000"),
    Case("messages in the queue", "100,000", messages=100_000, once=True),
    Case("messages in the queue", "1,000,000", messages=1_000_000, once=True),
    Case("at once", "10", messages=5_000, concurrency=10),
    Case("at once", "500", messages=20_000, concurrency=500),
    Case("at once", "1,000", messages=20_000, concurrency=1_000),
    Case("at once", "5,000", messages=30_000, concurrency=5_000),
    Case("body", "0.5 KiB", pad=512 - 100),
    Case("body", "16 KiB", pad=16 * 1024 - 100),
    Case("body", "256 KiB", messages=3_000, pad=256 * 1024 - 100),
]


def run(options: Options) -> None:
    rows: list[Row] = []
    with servers.millpond_local(tls=True) as server:
        for number in range(options.runs):
            for case in CASES:
                if not case.once or (number == 0 and not options.quick):
                    rows.append(one(server, case))
            rows.append(two_processes(server))
    if not options.quick:
        results.save("growth", rows)


def one(server: Server, case: Case) -> Row:
    seconds = {"BENCH_SECONDS": str(case.seconds)}
    result = throughput(MILLPOND, server, case.concurrency, case.messages, case.bodies(), **seconds)
    print(
        f"  {case.dimension} {case.value:>10}: {result.cpu_us:6.0f} us CPU a message {result.per_second:7.0f}/s, "
        f"{result.calls_per_message:.3f} requests a message, {result.peak_mib:.1f} MiB, left {result.left}",
        flush=True,
    )
    return {"dimension": case.dimension, "value": case.value} | result.to_dict()


def two_processes(server: Server) -> Row:
    """Two workers of 100 at once on one queue and one core; what counts is what both have deleted."""
    total, warm = 20_000, 2 * WARM
    with server.queue() as queue_url, ExitStack() as stack:
        server.send(queue_url, (plain_body(number) for number in range(total)))
        started = (stack.enter_context(consuming(MILLPOND, server, queue_url, 100, total)) for _ in range(2))
        processes = [process for process, _ in started]
        _wait_for(server, queue_url, total - warm)
        begin = [Moment.now(process, server) for process in processes]
        _wait_for(server, queue_url, 0)
        end = [Moment.now(process, server) for process in processes]
    cpu = sum(after.cpu - before.cpu for before, after in zip(begin, end, strict=True))
    row = {
        "dimension": "processes",
        "value": "2",
        "cpu_us": cpu / (total - warm) * 1e6,
        "per_second": (total - warm) / (end[0].time - begin[0].time),
    }
    print(f"  two processes: {row['cpu_us']:.0f} us CPU a message {row['per_second']:.0f}/s", flush=True)
    return row


def _wait_for(server: Server, queue_url: str, left: int) -> None:
    end = time.monotonic() + PATIENCE_SECONDS
    while server.left(queue_url) > left:
        if time.monotonic() > end:
            raise RuntimeError(f"more than {left} messages left after {PATIENCE_SECONDS} s")
        time.sleep(0.01)
