"""SIGTERM in the middle of 2,000 messages of 0 to 3 s each, drain_seconds 5: nothing invisible, nothing twice."""

from __future__ import annotations

import signal
import time

from bench.rig import config, fill, said, server, wait_until, worker
from tests.worker_process import LocalQueues

MESSAGES = 2_000
DRAIN_SECONDS = 5


def run() -> None:
    with server() as queues:
        for wait_seconds in (1, 20):
            for concurrency, prefetch in ((100, 0), (100, 50), (2_500, 0)):
                once(queues, wait_seconds, concurrency, prefetch)


def once(queues: LocalQueues, wait_seconds: int, concurrency: int, prefetch: int) -> None:
    name = f"w{wait_seconds}-c{concurrency}-p{prefetch}"
    url = queues.create(name, max_receive_count=1_000)
    fill(queues, name, MESSAGES, (0, 3))
    queue = f"wait_seconds = {wait_seconds}\nprefetch = {prefetch}"
    text = config(url, queue=queue, worker=f"concurrency = {concurrency}\ndrain_seconds = 5", job="tell_each = true")
    with worker(text) as process:
        wait_until(lambda: len(said(process, "handled")) > MESSAGES // 4, 60)
        began = time.monotonic()
        process.signal(signal.SIGTERM)
        code = process.exit_code(DRAIN_SECONDS + 10)
        seconds = time.monotonic() - began
    visible, hidden, _ = queues.counts(name)
    hidden_for = wait_until(lambda: queues.counts(name)[1] == 0, 90)
    ended = [message.split()[1] for message in said(process, "handled")]
    released = process.all("worker.stopped")[0].get("released", 0)
    again = the_rest(config(url, worker="concurrency = 1000", job="tell_each = true", queue="wait_seconds = 1"))
    both = set(ended) | set(again)
    print(
        f"wait {wait_seconds} s, concurrency {concurrency}, prefetch {prefetch}: out in {seconds:.2f} s, exit {code}; "
        f"deleted {MESSAGES - visible - hidden}, visible at once {visible}, "
        f"invisible {hidden} (for {hidden_for:.0f} s); released {released}; "
        f"handled to the end twice {len(ended) + len(again) - len(both)}, never {MESSAGES - len(both)}",
        flush=True,
    )


def the_rest(text: str) -> list[str]:
    """What a second worker handles to the end."""
    with worker(text, "--until-empty") as process:
        process.exit_code(120)
    return [message.split()[1] for message in said(process, "handled")]


if __name__ == "__main__":
    run()
