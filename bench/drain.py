"""SIGTERM in the middle of 2,000 messages of 0 to 3 s each, drain_seconds 5: nothing invisible, nothing twice."""

from __future__ import annotations

import signal
import time

from bench.rig import Server, Worker, config, server

MESSAGES = 2_000
DRAIN_SECONDS = 5


def run() -> None:
    with server() as one:
        for wait_seconds in (1, 20):
            for concurrency, prefetch in ((100, 0), (100, 50), (2_500, 0)):
                once(one, wait_seconds, concurrency, prefetch)


def once(one: Server, wait_seconds: int, concurrency: int, prefetch: int) -> None:
    url = one.queue()
    one.fill(url, MESSAGES, (0, 3))
    text = config(
        url,
        queue=f"wait_seconds = {wait_seconds}\nprefetch = {prefetch}",
        worker=f"concurrency = {concurrency}\ndrain_seconds = {DRAIN_SECONDS}",
        job="tell_each = true",
    )
    worker = Worker(text)
    worker.expect(MESSAGES // 4, "handled", 60)
    began = time.monotonic()
    worker.signal(signal.SIGTERM)
    code = worker.wait(DRAIN_SECONDS + 10)
    seconds = time.monotonic() - began
    counts = one.counts(url)
    hidden_for = wait_until_visible(one, url)
    ended = [message.split()[1] for message in worker.messages("handled")]
    stopped = next(line for line in worker.lines if line.get("event") == "worker.stopped")
    second = Worker(text.replace(f"concurrency = {concurrency}", "concurrency = 1000"), "--until-empty")
    second.wait(120)
    again = [message.split()[1] for message in second.messages("handled")]
    twice = len(ended) + len(again) - len(set(ended) | set(again))
    print(
        f"wait {wait_seconds} s, concurrency {concurrency}, prefetch {prefetch}: out in {seconds:.2f} s, exit {code}; "
        f"deleted {MESSAGES - sum(counts.values())}, visible at once {counts['Visible']}, "
        f"invisible {counts['NotVisible']} (for {hidden_for:.0f} s); released {stopped.get('released', 0)}; "
        f"handled to the end twice {twice}, never {MESSAGES - len(set(ended) | set(again))}",
        flush=True,
    )


def wait_until_visible(one: Server, url: str) -> float:
    """Seconds until nothing is in flight any more."""
    began = time.monotonic()
    while one.counts(url)["NotVisible"] and time.monotonic() - began < 90:
        time.sleep(0.2)
    return time.monotonic() - began


if __name__ == "__main__":
    run()
