"""From the send to the handler's start: at 100 messages a second, and at 80 % of what the consumer can do.

The driver notes the machine's monotonic clock right before it sends, the handler when it begins; TLS, 100 at once.
`bare` is no consumer: one loop of receives that decodes nothing, the least that this server and this machine allow.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path
from statistics import quantiles

from bench import results, servers
from bench.consumers import Consumer, bodies, find
from bench.options import Options
from bench.results import Row
from bench.run import consuming
from bench.servers import Server

CONCURRENCY = 100
RATE = 100
SHARE = 0.8
SECONDS = 10
#: Messages sent and worked before the ones that count.
WARM_SECONDS = 2

BARE = Consumer("bare", "a bare receive loop", lambda job: [sys.executable, "-m", "bench.peers.bare"])


def run(options: Options) -> None:
    full = results.load().get("compare", {}).get("rows", [])
    rows: list[Row] = []
    with servers.millpond_local(tls=True) as server:
        for _ in range(options.runs):
            for consumer in [BARE, *find(options.only)]:
                rows.append(one(consumer, server, RATE, "100"))
                where = {"consumer": consumer.name, "server": "tls", "concurrency": CONCURRENCY}
                if per_second := results.middle(full, "per_second", **where):
                    rows.append(one(consumer, server, SHARE * per_second, "80 %"))
    if not options.quick:
        results.save("latency", rows)


def one(consumer: Consumer, server: Server, rate: float, load: str) -> Row:
    row: Row = {"consumer": consumer.name, "load": load, "rate": rate}
    try:
        waits = sorted(measured(consumer, server, rate))
    except RuntimeError as error:
        print(f"  {consumer.label}: FAILED: {error}", flush=True)
        return row | {"error": str(error)}
    hundredths = quantiles(waits, n=100)
    p50, p99 = hundredths[49] * 1000, hundredths[98] * 1000
    print(f"  {consumer.label:34} at {rate:6.0f}/s: p50 {p50:7.2f} ms, p99 {p99:7.2f} ms", flush=True)
    return row | {"p50_ms": p50, "p99_ms": p99, "messages": len(waits)}


def measured(consumer: Consumer, server: Server, rate: float) -> list[float]:
    """Seconds that each message waited, of those that were sent once all was warm."""
    total = int(rate * (WARM_SECONDS + SECONDS))
    made = bodies(consumer, total)
    with server.queue() as queue_url, tempfile.TemporaryDirectory() as folder:
        starts = Path(folder) / "starts"
        with consuming(consumer, server, queue_url, CONCURRENCY, total, starts=starts) as (process, marks):
            server.send(queue_url, made[:1])
            marks.wait("first", process.is_running)
            sent = paced(server, queue_url, made, rate)
            marks.wait("last", process.is_running)
            began = dict(json.loads(starts.read_text()))
    return [began[number] - sent[number] for number in range(int(rate * WARM_SECONDS), total)]


def paced(server: Server, queue_url: str, made: list[str], rate: float) -> dict[int, float]:
    """Send all but the first at this rate, up to ten a call above 100 a second; when each was sent."""
    sent: dict[int, float] = {}
    ten = 1 if rate <= RATE else 10
    due = time.monotonic()
    for first in range(1, len(made), ten):
        time.sleep(max(0.0, due - time.monotonic()))
        due += ten / rate
        now = time.monotonic()
        sent |= dict.fromkeys(range(first, min(first + ten, len(made))), now)
        server.send(queue_url, made[first : first + ten])
    return sent
