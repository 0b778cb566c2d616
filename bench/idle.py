"""What a consumer asks of SQS while its queue is empty: calls in a minute, all consumers side by side."""

from __future__ import annotations

import time
from contextlib import ExitStack

from bench import results, servers
from bench.consumers import find
from bench.options import Options
from bench.process import tree_cpu_seconds
from bench.results import Row
from bench.run import consuming

CONCURRENCY = 100
#: Until a consumer has started and its first polls stand; then a few of the longest polls (20 s).
START_SECONDS, SECONDS = 10, 60


def run(options: Options) -> None:
    with ExitStack() as stack:
        watched = []
        for consumer in find(options.only):  # a server of its own each: the calls are counted by server
            server = stack.enter_context(servers.millpond_local(tls=False))
            queue_url = stack.enter_context(server.queue())
            process, _ = stack.enter_context(consuming(consumer, server, queue_url, CONCURRENCY, 1))
            watched.append((consumer, server, queue_url, process))
        time.sleep(START_SECONDS)
        before = [
            (sum(server.calls(url).values()), tree_cpu_seconds(process.pid)) for _, server, url, process in watched
        ]
        time.sleep(SECONDS)
        rows: list[Row] = []
        for (consumer, server, url, process), (calls, cpu) in zip(watched, before, strict=True):
            per_hour = (sum(server.calls(url).values()) - calls) * 3600 / SECONDS
            busy = (tree_cpu_seconds(process.pid) - cpu) / SECONDS
            print(f"  {consumer.label:34} {per_hour:7.0f} requests an idle hour, {busy:.2%} of a core", flush=True)
            rows.append({"consumer": consumer.name, "calls_per_hour": per_hour, "core_share": busy})
    if not options.quick:
        results.save("idle", rows)
