"""10,000 messages of 20 ms at concurrency 100: time, CPU per message, requests."""

from __future__ import annotations

import time

from bench.rig import config, fill, mark, said, server, worker
from tests.worker_process import LocalQueues, WorkerProcess

MESSAGES = 10_000
SECONDS = 0.02
CONCURRENCY = 100
RUNS = 5


def run() -> None:
    with server() as queues:
        for prefetch in (0, 100):
            for number in range(RUNS):
                once(queues, f"p{prefetch}-{number}", prefetch)


def once(queues: LocalQueues, name: str, prefetch: int) -> None:
    url = queues.create(name)
    fill(queues, name, MESSAGES, (SECONDS, SECONDS))
    queue = f"prefetch = {prefetch}\nwait_seconds = 1"
    text = config(url, queue=queue, worker=f"concurrency = {CONCURRENCY}", job=f"total = {MESSAGES}")
    began = time.monotonic()
    with worker(text, "--until-empty") as process:
        code = process.exit_code(120)
    print(f"prefetch {prefetch}: {told(process, began)}, left {queues.counts(name)}, exit {code}", flush=True)


def told(process: WorkerProcess, began: float) -> str:
    """What the marks of one run say."""
    ideal = MESSAGES * SECONDS / CONCURRENCY
    (first, _), (_, cpu), (last, all_cpu) = [mark(process, name) for name in ("first", "thousandth", "last")]
    micros = (all_cpu - cpu) / (MESSAGES - 1_000) * 1e6
    return (
        f"{last - first:.2f} s (the sleep alone {ideal:.2f} s, x{(last - first) / ideal:.2f}), start to first message "
        f"{first - began:.2f} s, {micros:.0f} us CPU a message, {said(process, 'books')[0]}"
    )


if __name__ == "__main__":
    run()
