"""Every consumer on the same full queue: CPU a message, messages a second, requests a message, memory, start.

A round is one run of each consumer, one after the other; then the next round begins, so that what else the machine
does meets them all.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from bench import environment, results, servers
from bench.consumers import Consumer, find
from bench.options import Options
from bench.results import Row
from bench.run import throughput
from bench.servers import Server

#: Messages of one run by concurrency: two seconds' work or more of the fastest.
MESSAGES = {100: 10_000, 500: 50_000}
QUICK = ["millpond", "fanferro", "sqs-consumer", "tutorial"]


def run(options: Options) -> None:
    consumers = list(find(options.only or (QUICK if options.quick else [])))
    rows: list[Row] = []
    for kind in ("tls", "plain", *([] if options.quick else ["fauxqs"])):
        with started(kind) as server:
            if server:
                rows += against(server, kind, consumers, options.runs)
        if not options.quick:
            results.save("compare", rows)


def against(server: Server, kind: str, consumers: list[Consumer], rounds: int) -> list[Row]:
    """All rounds at 100 at once, then at 500."""
    rows: list[Row] = []
    for concurrency in MESSAGES:
        for number in range(rounds):
            print(f"{kind}, {concurrency} at once, round {number + 1}", flush=True)
            rows += [one(consumer, server, kind, concurrency) for consumer in consumers]
    return rows


@contextmanager
def started(kind: str) -> Iterator[Server | None]:
    """None for one that this machine cannot run."""
    if kind != "fauxqs":
        with servers.millpond_local(tls=kind == "tls") as server:
            yield server
    elif environment.node():
        with servers.fauxqs() as server:
            yield server
    else:
        print("fauxqs: skipped: needs Node, npm and its packages", flush=True)
        yield None


def one(consumer: Consumer, server: Server, kind: str, concurrency: int) -> Row:
    """One run, told in one line. A consumer that fails is told too, and has no figures."""
    messages = min(MESSAGES[concurrency], consumer.most)
    row: Row = {"consumer": consumer.name, "server": kind, "concurrency": concurrency, "messages": messages}
    try:
        result = throughput(consumer, server, concurrency, messages)
    except RuntimeError as error:
        print(f"  {consumer.label}: FAILED: {error}", flush=True)
        return row | {"error": str(error)}
    calls = "" if result.calls_per_message is None else f"{result.calls_per_message:.3f} requests a message, "
    print(
        f"  {consumer.label:34} {result.cpu_us:7.0f} us CPU a message {result.per_second:8.0f}/s, {calls}"
        f"{result.peak_mib:.0f} MiB, first message after {result.start_seconds:.2f} s, server {result.server_busy:.0%}"
        f"{f', LEFT {result.left}' if result.left else ''}",
        flush=True,
    )
    return row | result.to_dict()
